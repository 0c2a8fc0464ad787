"""Reads the documentation: its links, and the code that it shows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.source_tree import ROOT

DOCS = ROOT / "docs"
# Pages that are made when the site is built (scripts/docs_pages.py).
MADE = {"options.md", "architecture.md", "experiments.md", "changelog.md", "contributing.md"}


def pages() -> list[Path]:
    """All pages that are written by hand, and the README."""
    return [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def code_of(page: Path, name: str) -> dict[str, str]:
    """Code blocks whose title is a file called `name`, with any suffix, by that title."""
    found = re.findall(r"^```\w+ title=\"([^\"]+)\"\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return {title: text for title, text in found if Path(title).stem == name}


def prose(page: Path) -> str:
    """What people read: without code, tables' rules and addresses."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)


def broken_links(page: Path) -> list[str]:
    """Links to files that are not there, and to headings that a page does not have."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = page if not path else page.parent / path
        if target.name in MADE and not target.exists():
            continue
        if not target.exists() or (heading and target.suffix == ".md" and heading not in anchors(target)):
            found.append(link)
    return found


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return {re.sub(r"[\s]+", "-", title) for title in plain}
