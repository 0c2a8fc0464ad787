"""Pages of the documentation that are made of other files: options of commands, architecture, experiments, changes.

A hook of MkDocs (`mkdocs.yml`); it writes nothing into `docs/`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Documents at the root of the repository, and the pages that they become.
PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "EXPERIMENTS.md": "experiments.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
# In the order in which they are used, with the program's name for them.
COMMANDS = {
    "collect": "collect",
    "clips": "clips",
    "pretrain": "pretrain",
    "train": "train",
    "probe": "probe",
    "physics": "physics",
    "physics_clips": "physics_clips",
    "features": "features",
    "export": "export",
    "decode": "decode",
    "landmarks": "landmarks",
    "inverse": "inverse",
    "remember": "remember",
    "practise": "practise",
    "rounds": "rounds",
    "goal": "goal",
    "run": "plan",
    "evaluate": "evaluate",
    "manifest": "manifest",
    "calibrate": "calibrate",
    "compare": "compare",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made of other files."""
    from mkdocs.structure.files import File  # the rest of this module does without

    made = {page: linked((ROOT / name).read_text()) for name, page in PAGES.items()}
    made["options.md"] = options_page()
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links from a page to a document at the root lead to the page that it becomes."""
    return linked(markdown)


def linked(text: str) -> str:
    """`text` with its links to documents and to `docs/` as the site has them."""
    for name, page in PAGES.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}", f"]({page}", text)
    text = text.replace("](docs/", "](")
    return re.sub(r"\]\((?:\.\./)?(LICENSE)\)", r"]", text)


def options_page() -> str:
    """Every option of every command, as the files in `configs/` explain them."""
    parts = [
        "# Options",
        "Options are written `key=value`, and `section.key=value` in a section. What follows is what the files in "
        "`configs/` say, and what `wm <command> --help` prints. A group such as `env` is one file of several, chosen "
        "by `env=<name>`.",
    ]
    for file, name in COMMANDS.items():
        path = ROOT / "configs" / f"{file}.yaml"
        if path.exists():
            header, options = split_command(path.read_text())
            purpose = f"{header[-1]}\n" if header else ""
            parts.append(f"## wm {name}\n\n{purpose}\n```yaml\n{options}\n```")
    for folder in sorted(path for path in (ROOT / "configs").iterdir() if path.is_dir()):
        choices = sorted(folder.glob("*.yaml"))
        if choices:
            parts.append(f"## The group `{folder.name}`")
        parts += [f"### {folder.name}={path.stem}\n\n```yaml\n{path.read_text().strip()}\n```" for path in choices]
    return "\n\n".join(parts) + "\n"


def split_command(text: str) -> tuple[list[str], str]:
    """The first lines of a command's file, and its options without what is Hydra's."""
    header = [line.removeprefix("# ") for line in text.partition("defaults:")[0].splitlines()]
    paragraphs = text.strip().split("\n\n")
    options = [p for p in paragraphs if not any(line in ("defaults:", "hydra:") for line in p.splitlines())]
    return header, "\n\n".join(options)
