"""The documentation: links lead somewhere, what it shows runs, and it is written as CONTRIBUTING.md asks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.documentation import DOCS, MADE, blocks, broken_links, code_of, pages, prose
from tests.source_tree import ROOT

# The front door is short; what it says is told in `docs/`.
MOST_WORDS_OF_THE_README = 900
README = ROOT / "README.md"


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= MOST_WORDS_OF_THE_README
    assert broken_links(README) == []


@pytest.mark.parametrize("page", pages(), ids=named)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# What it is\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#what-it-is) [b](other.md#where) [c](nowhere.md) [d](https://x.org)\n")
    assert broken_links(page) == ["other.md#where", "nowhere.md"]


@pytest.mark.parametrize("page", pages(), ids=named)
def test_python_in_it_is_python(page):
    for text in blocks(page, "python"):
        ast.parse(text)
    for text in blocks(page, "yaml"):
        yaml.safe_load(text)


def test_every_page_is_in_the_navigation():
    # `!!python` tags do not occur, so that the safe loader will do.
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | MADE


def test_the_reference_names_modules_that_exist():
    missing = []
    for page in sorted((DOCS / "api").glob("*.md")):
        for module in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            path = ROOT.joinpath(*module.split("."))
            if not path.with_suffix(".py").exists():
                missing.append(module)
    assert missing == []


@pytest.mark.parametrize("page", [p for p in pages() if p.name != "recordings.md"], ids=named)
def test_prose_has_whole_sentences(page):
    """Reasons are given in sentences of their own, not after colons and semicolons, and nothing is left to guess."""
    text = prose(page)
    words = len(text.split())
    assert "…" not in text and "..." not in text
    lists_and_tables = re.sub(r"^(\||- |#|\d\.|:::).*$", "", text, flags=re.MULTILINE)
    assert len(re.findall(r"[;:]\s", lists_and_tables)) <= max(2, 0.01 * words)


def test_the_ten_lines_run(capsys):
    first = blocks(DOCS / "python.md", "python")[0]
    assert blocks(README, "python")[0] == first
    exec(compile(first.replace("print(", "shapes.append("), "python.md", "exec"), {"shapes": (shapes := [])})
    assert [shape.shape for shape in shapes] == [(5, 12), (12, 2)]
    assert len([line for line in first.splitlines() if line]) <= 14


def test_the_ten_lines_end_without_a_word(tmp_path):
    """Nobody closes the environment in them, and EGL printed two tracebacks when Python ended."""
    (tmp_path / "ten.py").write_text(blocks(README, "python")[0])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, tmp_path / "ten.py"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_examples_of_environments_are_whole_files():
    for name in ("fetch_push", "pusht"):
        files = code_of(DOCS / "environments.md", name)
        assert f"{name}.py" in files
        assert len("".join(files.values()).splitlines()) <= 60


def test_the_example_package_is_what_the_page_shows():
    """Lines that a page shows of a file are lines of that file, but for annotations."""

    def plain(text: str) -> list[str]:
        without = re.sub(
            r": (Tensor|Search|ActionLimits|CartConfig|torch\.Generator|np\.random\.Generator)\b", "", text
        )
        return [line.strip() for line in re.sub(r" -> \w+:", ":", without).splitlines() if line.strip()]

    folder = ROOT / "examples" / "plugin" / "worldmodel_example"
    shown = code_of(DOCS / "extending.md", "planner")["examples/plugin/worldmodel_example/planner.py"]
    assert set(plain(shown)) <= set(plain((folder / "planner.py").read_text()))


def test_options_are_listed_for_every_command(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    import docs_pages

    assert set(docs_pages.COMMANDS) >= {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    text = docs_pages.options_page()
    assert "## wm plan" in text and "hydra" not in text.lower()
    assert docs_pages.linked("[a](../EXPERIMENTS.md) [b](docs/robot.md)") == "[a](experiments.md) [b](robot.md)"
