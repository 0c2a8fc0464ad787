"""Finds the video files of a folder, or of a list.

A list is a text file in one of the forms that data sets are published in.

    videos/0001.mp4 17                         V-JEPA 2, VideoMAE, mmaction: a path and a label, with a space (or `::`)
    label,youtube_id,time_start,time_end,split Kinetics: this line, and then one line for each video
    [{"id": "78687", "label": "..."}, ...]     Something-Something V2: train.json, validation.json
    78687;Holding something                    Something-Something V1, and the test lists of V2

Pretraining does not use the labels, and probes do. Lists of identifiers name no files. A file is looked for under the
names in which the videos are distributed.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from worldmodel.core.errors import UserError
from worldmodel.data.formats.limits import MOST_JSON_BYTES, read_text

SUFFIXES: Final = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
LISTS: Final = (".csv", ".json", ".list", ".lst", ".txt")
_LONGEST_LINE = 10_000  # characters
_FOLDERS = ("", "videos", "20bn-something-something-v2")  # where lists of identifiers expect their videos
_KINETICS = {"youtube_id", "time_start", "time_end"}
_LABELLED = re.compile(r"(?P<path>.+?)(?:::|[ \t,](?=-?\d+$))(?P<label>.*)")
_IDENTIFIED = re.compile(r"(?P<id>\d+)(?:;(?P<label>.*))?")


@dataclasses.dataclass(frozen=True)
class Listed:
    """A video of a list.

    Attributes:
        path: its file.
        label: its class as the list gives it; None if the list gives none.
    """

    path: Path
    label: str | None = None


def is_list(path: Path) -> bool:
    """Whether `path` names a list of videos."""
    return path.suffix.lower() in LISTS


def require_there(path: Path) -> None:
    """Raises UserError if nothing is at `path`."""
    if not path.exists():
        raise UserError(f"nothing is at {path}: expected a folder of videos, a list of them, or a trajectory store")


def find_videos(path: Path, root: Path | None = None) -> Iterator[Path]:
    """The video files at `path`, which is a folder, a list, or one video file. Nothing is opened but the list.

    Args:
        path: the folder, list or file.
        root: the folder that the paths of a list are relative to, by default that of the list.

    Raises:
        UserError: when nothing is at `path`, or it is a list in an unknown form.
    """
    require_there(path)
    if path.is_dir():
        return _walk(path)
    return (video.path for video in find_listed(path, root)) if is_list(path) else iter((path,))


def find_listed(path: Path, root: Path | None = None) -> Iterator[Listed]:
    """The videos of a list with their labels. The arguments and errors are those of `find_videos`."""
    require_there(path)
    return _listed(path, path.parent if root is None else root)


def _walk(folder: Path) -> Iterator[Path]:
    """Everything under `folder` with the name of a video. Links are followed, and no folder is entered twice."""
    entered = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        try:
            status = os.stat(place)
        except OSError:  # removed meanwhile
            continue
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        # A folder with the name of a video is counted as one that cannot be read.
        yield from (Path(place, name) for name in (*files, *folders) if name.lower().endswith(SUFFIXES))


def _listed(path: Path, root: Path) -> Iterator[Listed]:
    if path.suffix.lower() == ".json":
        return (Listed(_file_of(number, root), label) for number, label in json_entries(path))
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        first = lines.readline(_LONGEST_LINE).strip().lstrip("\ufeff")
    if set(first.split(",")) >= _KINETICS:
        return _kinetics(path, root)
    if first and _IDENTIFIED.fullmatch(first):
        found = (match for match in map(_IDENTIFIED.fullmatch, _lines(path)) if match)
        return (Listed(_file_of(match["id"], root), match["label"]) for match in found)
    return _paths(path, root)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        number = 0
        while line := lines.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE or "\0" in line:
                raise UserError(f"line {number} of {path} is no path: expected `path label`, with a space")
            if line.strip():
                yield line.strip()


def _paths(path: Path, root: Path) -> Iterator[Listed]:
    for line in _lines(path):
        found = _LABELLED.fullmatch(line)
        yield Listed(root / (found["path"] if found else line).strip("\"'"), found["label"].strip() if found else None)


def json_entries(path: Path) -> Iterator[tuple[str, str | None]]:
    """Identifiers and labels in a list of Something-Something V2. Raises UserError when it is no such list.

    A label is a template such as "Holding something". In the files, what is done to is in brackets.
    """
    try:
        entries: Any = json.loads(read_text(path, MOST_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a list of videos ({error})") from error
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and str(e.get("id", "")).isdigit() for e in entries
    ):
        raise UserError(f'{path} is no list of videos: expected [{{"id": "78687", ...}}, ...]')
    return ((str(entry["id"]), _template(entry)) for entry in entries)


def _template(entry: Mapping[str, Any]) -> str | None:
    template = entry.get("template")
    return re.sub(r"[\[\]]", "", template) if isinstance(template, str) else None


def _file_of(identifier: str, root: Path) -> Path:
    """The file of a video of Something-Something."""
    return _first_there([root / folder / f"{identifier}{end}" for folder in _FOLDERS for end in (".webm", ".mp4")])


def _kinetics(path: Path, root: Path) -> Iterator[Listed]:
    """Videos are `<youtube_id>_<start>_<end>.mp4`, with six digits, in one folder or one for each split or label."""
    for row in csv.DictReader(_lines(path)):
        try:
            name = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} has a row {row!r:.80}: expected those of Kinetics") from error
        label, split = row.get("label") or "", row.get("split") or ""
        labels = dict.fromkeys(("", label, label.replace(" ", "_")))
        folders = [Path(of_split, of_label) for of_split in dict.fromkeys(("", split)) for of_label in labels]
        candidates = [root / folder / f"{name}{end}" for folder in folders for end in (".mp4", ".mkv", ".webm")]
        yield Listed(_first_there(candidates), label or None)


def _first_there(candidates: list[Path]) -> Path:
    """The first path with a file, or the first of all, which is then reported as missing."""
    return next((path for path in candidates if path.exists()), candidates[0])
