"""Formats by name. Their libraries come with the extra `formats`, and are imported only when a format is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from worldmodel.core.errors import UserError, choices_message, how_to_install
from worldmodel.data.formats.source import Source

if TYPE_CHECKING:
    from worldmodel.data.formats.exporting import ExportOptions
    from worldmodel.data.store.reader import TrajectoryStore

_LIBRARIES = ("av", "h5py", "numcodecs", "pyarrow")
EXPORTS: Final = ("lerobot",)


def open_source(format_name: str, path: Path, fill_missing: bool = False) -> Source:
    """Open a data set for reading.

    Args:
        format_name: one of `SOURCES`.
        path: where it is.
        fill_missing: read chunks that are missing as what zarr says, rather than refuse them (diffusion_policy).

    Raises:
        FormatError: when it is damaged, or of another format.
        UserError: when there is nothing, the format is unknown, or its library is not installed.
    """
    if format_name not in SOURCES:
        raise UserError(choices_message("format", format_name, SOURCES))
    if not path.exists():
        raise UserError(f"nothing is at {path}: expected a data set of the format {format_name}")
    with _naming_what_is_missing(format_name):
        return SOURCES[format_name](path, fill_missing)


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


def _lerobot(path: Path, _: bool) -> Source:
    from worldmodel.data.formats.lerobot import LeRobotSource

    return LeRobotSource(path)


def _robomimic(path: Path, _: bool) -> Source:
    from worldmodel.data.formats.robomimic import RobomimicSource

    return RobomimicSource(path)


def _minari(path: Path, _: bool) -> Source:
    from worldmodel.data.formats.minari import MinariSource

    return MinariSource(path)


def _diffusion_policy(path: Path, fill_missing: bool) -> Source:
    from worldmodel.data.formats.diffusion_policy import DiffusionPolicySource

    return DiffusionPolicySource(path, fill_missing)


def _folder(path: Path, _: bool) -> Source:
    from worldmodel.data.formats.folder import FolderSource

    return FolderSource(path)


SOURCES: Final[Mapping[str, Callable[[Path, bool], Source]]] = {
    "lerobot": _lerobot,
    "robomimic": _robomimic,
    "minari": _minari,
    "diffusion_policy": _diffusion_policy,
    "folder": _folder,
}
