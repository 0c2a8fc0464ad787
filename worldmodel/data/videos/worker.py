"""The process that decodes videos, and reads rows of trajectory stores, for a training.

It reads one request from standard input, as a line of JSON, and writes one answer to standard output: the length of a
header, the header in JSON, and the bytes of a clip. It ends when its input does, so it does not survive the training.
A damaged file can crash or stall this process, and nothing else.

`worldmodel.data.videos.workers` starts it. It imports neither torch nor Hydra.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.data.augmentation import AugmentationConfig, draw_crop, jitter, middle_crop

_MOST_MEMORY: Final = 6 * 2**30  # bytes of address space: frames of the largest size, their references, and libraries
_SAMPLE_BYTES: Final = 2**14  # of each end of a file, for its digest
_MOST_STORES = 64  # stores that stay open

_Answer = tuple[dict[str, Any], NDArray[np.uint8] | None]


def serve() -> None:
    """Answer requests until standard input ends."""
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    with os.fdopen(out, "wb") as answers, contextlib.suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            header, clip = _answer(json.loads(line))
            content = json.dumps({**header, "bytes": 0 if clip is None else clip.nbytes}).encode()
            answers.write(len(content).to_bytes(4, "little") + content)
            if clip is not None:
                answers.write(np.ascontiguousarray(clip).data)
            answers.flush()
    # The interpreter's own end would wait for a reader that may be gone.
    os._exit(0)


def _answer(request: dict[str, Any]) -> _Answer:
    """The answer to a request. A refused file gives `refused`, and an error that ends the training `error`."""
    do = {"look": _look, "clip": _clip, "rows": _rows}[request["do"]]
    try:
        return do(request)
    except MemoryError:
        return {"refused": f"{request['path']} takes too much memory"}, None
    except (UserError, OSError) as error:
        return {"error" if request["do"] == "rows" else "refused": str(error)}, None
    except Exception as error:  # a library may raise anything for a damaged file
        if request["do"] == "rows":
            raise
        return {"refused": f"{request['path']} cannot be read ({type(error).__name__}: {error})"}, None


def _look(request: dict[str, Any]) -> _Answer:
    from worldmodel.data.videos.decoding import Video

    path = Path(request["path"])
    digest = _digest_of_ends(path)
    try:
        with Video(path) as video:
            facts = video.facts()
    except UserError as error:
        return {"refused": str(error), "digest": digest}, None
    return {"duration_s": facts.duration_s, "rate_hz": facts.rate_hz, "digest": digest}, None


def _digest_of_ends(path: Path) -> str:
    """SHA-256 of both ends of a regular file."""
    from worldmodel.core.files import regular_file

    with regular_file(path, 2**62) as file:
        digest = hashlib.sha256(file.read(_SAMPLE_BYTES))
        file.seek(max(0, file.seek(0, 2) - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _clip(request: dict[str, Any]) -> _Answer:
    """A clip of a video, cropped while it is decoded, so that only one whole frame is in memory."""
    from worldmodel.data.videos.decoding import Video

    fitted = _Fitted(request)
    with Video(Path(request["path"])) as video:
        clip = np.stack([fitted(picture) for picture in video.frames_at(request["times"])])
    return {}, fitted.coloured(clip)


def _rows(request: dict[str, Any]) -> _Answer:
    """Rows of one camera of a store. The first clip of an episode compares all of its images with their checksums."""
    store = _open_store(request["path"])
    column, episode, rows = request["column"], request["episode"], request["rows"]
    verified = _VERIFIED.setdefault((request["path"], column), bytearray(store.num_episodes))
    if not verified[episode]:
        for _ in store.episode_blocks(column, episode, store.reading(column)):
            pass
        verified[episode] = True
    frames = store.read(column, rows[0], rows[-1] + 1)[np.array(rows) - rows[0]]
    if "size" not in request:  # the recording's own
        return {}, frames
    fitted = _Fitted(request)
    return {}, fitted.coloured(np.stack([fitted(frame) for frame in frames]))


_VERIFIED: dict[tuple[str, str], bytearray] = {}  # for each store and column, whether an episode was compared


@functools.lru_cache(_MOST_STORES)
def _open_store(path: str) -> Any:
    from worldmodel.data.store.reader import TrajectoryStore

    return TrajectoryStore.open(path)


class _Fitted:
    """Brings the frames of one clip to the size that is asked for. All of them are cropped and coloured alike."""

    def __init__(self, request: dict[str, Any]) -> None:
        given: dict[str, Any] = request["augmentation"] or {}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        self._config = AugmentationConfig(**values) if values else None
        self._rng = np.random.default_rng(request["seed"])
        self._height, self._width = request["size"]
        self._source: tuple[int, ...] = ()
        self._last: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._last is not None and self._last[0] is picture:  # a frame that is on show for longer
            return self._last[1]
        if not self._source:
            self._source = picture.shape
            ratio = self._width / self._height
            size = picture.shape[0], picture.shape[1]
            if self._config is None:
                self._crop = middle_crop(*size, ratio, ratio)
            else:
                self._crop = draw_crop(*size, self._config, self._rng)
        if picture.shape != self._source:
            raise UserError(f"frames change from {self._source[:2]} to {picture.shape[:2]}")
        fitted = self._crop.resized(picture, self._height, self._width)
        self._last = picture, fitted
        return fitted

    def coloured(self, clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return clip if self._config is None else jitter(clip, self._config, self._rng)
