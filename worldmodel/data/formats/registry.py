"""Formats by name. Their libraries come with the extra `formats`, and are imported only when a format is used.

A user's package adds a format with `register("format", name, entry)` (`worldmodel.core.registry`). An entry takes the
path of a data set and returns a `Source`. It can be a subclass of `Source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from worldmodel.core.errors import UserError, choices_message, how_to_install
from worldmodel.core.registry import Registry
from worldmodel.data.formats.source import Source

if TYPE_CHECKING:
    from worldmodel.data.formats.exporting import ExportOptions
    from worldmodel.data.store.reader import TrajectoryStore

_LIBRARIES = ("av", "h5py", "numcodecs", "pyarrow")
_FILLED = "diffusion_policy"  # the only format in which chunks may be missing
VIDEO: Final = "video"  # the only format that is sampled at any rate
_HERE = "worldmodel.data.formats"
OURS: Final[dict[str, str | Callable[..., Source]]] = {
    "lerobot": f"{_HERE}.lerobot:LeRobotSource",
    "robomimic": f"{_HERE}.robomimic:RobomimicSource",
    "minari": f"{_HERE}.minari:MinariSource",
    "diffusion_policy": f"{_HERE}.diffusion_policy:DiffusionPolicySource",
    "folder": f"{_HERE}.folder:FolderSource",
    VIDEO: f"{_HERE}.videos:VideoSource",
}
FORMATS: Final = Registry[Callable[..., Source]]("format", "format", OURS)
EXPORTS: Final = ("lerobot",)


def open_source(format_name: str, path: Path, fill_missing: bool = False, rate_hz: float | None = None) -> Source:
    """Open a data set for reading.

    Args:
        format_name: one of `FORMATS`.
        path: where it is.
        fill_missing: read missing chunks as zarr's fill value, instead of an error (diffusion_policy).
        rate_hz: rows per second that are sampled (video). Other formats have the rows that they have.

    Raises:
        FormatError: when the data set is damaged, or of another format.
        UserError: when the path does not exist, the format is unknown, or its library is not installed.
    """
    if fill_missing and format_name != _FILLED:
        raise UserError(f"--fill-missing: only the format {_FILLED} has it, not {format_name}")
    with _naming_what_is_missing(format_name):
        entry = FORMATS.get(format_name)
        if not path.exists():
            raise UserError(f"nothing is at {path}: expected a data set of the format {format_name}")
        if format_name == VIDEO:
            return entry(path, rate_hz)
        return entry(path, fill_missing=True) if fill_missing else entry(path)


def export(
    format_name: str, store: TrajectoryStore, target: Path, options: ExportOptions, progress: Callable[[int, int], None]
) -> None:
    """Write a store in another format. Raises UserError as the format's own function does."""
    if format_name not in EXPORTS:
        raise UserError(choices_message("format", format_name, EXPORTS))
    with _naming_what_is_missing(format_name):
        from worldmodel.data.formats.lerobot_export import export_lerobot

        export_lerobot(store, target, options, progress)


@contextmanager
def _naming_what_is_missing(format_name: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _LIBRARIES:
            raise
        raise UserError(
            f"the format {format_name} needs {library}, which is not installed: {how_to_install('formats')}"
        ) from error
