"""Where the clips of a pretraining come from: one trajectory store, or a mix of videos and stores.

A source is opened in two steps, since a run begins only after its identity is known, and frames are decoded only for a
run that goes on.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.progress import Counting
from worldmodel.core.ranks import here, in_turn
from worldmodel.core.spec import CAMERA, CameraSpec, EnvironmentSpec
from worldmodel.data.augmentation import AugmentationConfig
from worldmodel.data.clips import ClipConfig, ClipSampler, FrameClips, Split, split_episodes
from worldmodel.data.store.files import address_in
from worldmodel.data.store.layout import image_column
from worldmodel.data.store.reader import TrajectoryStore, recovered_path
from worldmodel.data.videos.catalogue import catalogue_file, survey
from worldmodel.data.videos.clips import VideoConfig, WorkerClips
from worldmodel.data.videos.draws import Mix, Source, StoreRows, StoreSource, VideoSource
from worldmodel.data.videos.listing import SUFFIXES, is_list, require_there
from worldmodel.data.videos.workers import Workers, require_av
from worldmodel.encoders.jepa.task import ClipSource
from worldmodel.encoders.probe import ProbeData, probe_data
from worldmodel.training.recordings import load_cameras

_PROBE_PER_CLIP = 2  # frames of a clip that the probe sees: its first and its last, since neighbours are alike


@dataclasses.dataclass(frozen=True)
class ClipOptions:
    """What every source needs to know.

    Attributes:
        clips: length and strides of clips.
        videos: options of decoding in other processes.
        batch_size: clips per step of all ranks.
        steps: steps of the training.
        seed: seed of the clips and of the choice of frames for the probe.
        probe_frames: frames for the probe.
        held_out_fraction: fraction of the episodes of a recording that is held out to test the probe.
        frames_at: how many frames of its clips a step needs. None for all of them. Frames that are decoded for every
            clip are then not read in vain.
    """

    clips: ClipConfig
    videos: VideoConfig
    batch_size: int
    steps: int
    seed: int
    probe_frames: int
    held_out_fraction: float
    frames_at: Callable[[int], int] | None = None


@dataclasses.dataclass(frozen=True)
class OpenedClips:
    """What a training reads.

    Attributes:
        clips: the clips of a step.
        probe: frames for the probe, by camera.
        canonical: the same clips without distractors; None if there are none.
        summary: returns a line on what was left out, for the end of the training; empty if there is none.
    """

    clips: ClipSource
    probe: Mapping[str, ProbeData]
    canonical: ClipSource | None = None
    summary: Callable[[], str] = str


class PretrainSource(abc.ABC):
    """A source of clips. It ends what it has started at the end of a `with` block.

    Attributes:
        cameras: sizes of the clips.
        made_for: what the checkpoint says about them: the environment, or only the sizes.
    """

    cameras: tuple[CameraSpec, ...]
    made_for: EnvironmentSpec | tuple[CameraSpec, ...]

    def __init__(self) -> None:
        self._opened = ExitStack()

    @abc.abstractmethod
    def identities(self) -> dict[str, str]:
        """Hashes of the content, for `run.json`."""

    @abc.abstractmethod
    def open(self) -> OpenedClips:
        """Prepare the clips and the frames for the probe."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


def is_recording(path: str) -> bool:
    """Whether `data=path` names a trajectory store. Anything else is a folder or list of videos, or one video.

    A path where nothing is counts as a store, unless it has the suffix of a video or list.
    """
    if address_in(path) is not None:
        return True
    place = Path(path)
    if place.is_dir():
        return (place / "zarr.json").exists() or place.suffix == ".zarr" or recovered_path(place).exists()
    return not (is_list(place) or place.suffix.lower() in SUFFIXES)


class RecordingClips(PretrainSource):
    """The clips of one trajectory store, at the size of its cameras.

    Args:
        store: the recording.
        canonical: the same episodes without distractors.
        cache: file of the decoded frames; None to read them from the store in other processes, with bounded memory.
        canonical_cache: the same for `canonical`.
        counting: shows the progress of decoding.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        canonical: TrajectoryStore | None,
        cache: Path | None,
        canonical_cache: Path | None,
        options: ClipOptions,
        counting: Counting,
    ) -> None:
        super().__init__()
        self.cameras, self.made_for = store.spec.cameras, store.spec
        self._store, self._canonical, self._options, self._counting = store, canonical, options, counting
        self._cache, self._canonical_cache = cache, canonical_cache
        if canonical is not None and (cache is None or canonical_cache is None):
            raise UserError("canonical_data needs cache and canonical_cache: the files for the decoded frames")
        clips = options.clips
        self._split = split_episodes(store.num_episodes, options.held_out_fraction, options.seed)
        strides = clips.in_control_steps(store.spec.control_step_s)
        self._sampler = ClipSampler(store.episode_ends, clips.frames, strides, options.seed, self._split.train)

    def identities(self) -> dict[str, str]:
        identities = {"store": self._store.identity}
        return identities if self._canonical is None else {**identities, "canonical": self._canonical.identity}

    def open(self) -> OpenedClips:
        options, store = self._options, self._store
        if self._cache is None:
            length, batch = options.clips.frames, options.batch_size
            draws = StoreRows(store, self._sampler, length, batch, here(), options.frames_at)
            workers = self._opened.enter_context(Workers(options.videos.workers, options.videos.patience_s))
            clips = self._opened.enter_context(
                closing(WorkerClips(draws, workers, options.videos.ahead, options.steps))
            )
            return OpenedClips(clips, _probe_of_store(store, self._split, options))
        frames, canonical = load_cameras(store, self._cache, self._counting), None
        if self._canonical is not None and self._canonical_cache is not None:
            of_canonical = load_cameras(self._canonical, self._canonical_cache, self._counting)
            canonical = FrameClips(of_canonical, self._sampler, options.batch_size, here())
        probe = probe_data(store, frames, self._split, options.probe_frames, options.seed)
        return OpenedClips(FrameClips(frames, self._sampler, options.batch_size, here()), probe, canonical)


class _StoredFrames:
    """The frames of one camera, uint8 `[R, H, W, 3]`, of which only the rows asked for are in memory."""

    def __init__(self, store: TrajectoryStore, camera: str) -> None:
        self._store, self._column = store, image_column(camera)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames in `rows`, which ascend. Every episode is compared with its checksums."""
        store, found = self._store, []
        episodes = np.searchsorted(store.episode_ends, rows, side="right")
        for episode in np.unique(episodes):
            start = store.episode_rows(int(episode)).start
            wanted = rows[episodes == episode] - start
            for block in store.episode_blocks(self._column, int(episode), store.reading(self._column)):
                found.append(block[wanted[(wanted >= 0) & (wanted < len(block))]])
                wanted = wanted - len(block)
        return np.concatenate(found)


def _probe_of_store(store: TrajectoryStore, split: Split, options: ClipOptions) -> dict[str, ProbeData]:
    frames = {camera: _StoredFrames(store, camera) for camera in store.spec.camera_names}
    return probe_data(store, frames, split, options.probe_frames, options.seed)


class MixedClips(PretrainSource):
    """Clips of videos and stores, cropped to one size.

    Args:
        places: folders, lists or files of videos, and stores.
        weights: how likely each place is; None for the number of windows that it has.
        augmentation: crops and colours.
        catalogues: folder for the catalogues of the videos.
        counting: shows the progress of the survey.
        report: shows a line.
    """

    def __init__(
        self,
        places: Sequence[str],
        weights: Sequence[float] | None,
        augmentation: AugmentationConfig,
        catalogues: Path,
        options: ClipOptions,
        counting: Counting,
        report: Callable[[str], None],
    ) -> None:
        super().__init__()
        if not places:
            raise UserError("data is an empty list: expected folders or lists of videos, or trajectory stores")
        if weights is not None and (len(weights) != len(places) or min(weights) < 0 or not sum(weights) > 0):
            raise UserError(
                f"data_weights {list(weights)}: expected one number of at least 0 for each of {len(places)}"
            )
        height, width = options.videos.height_and_width
        self.cameras = self.made_for = (CameraSpec(CAMERA, height, width),)
        self._places, self._weights, self._augmentation = places, weights, augmentation
        self._catalogues, self._options, self._counting, self._report = catalogues, options, counting, report
        self._stores = {place: TrajectoryStore.open(place) for place in places if is_recording(place)}
        # Refuses strides that do not fit before anything is written.
        self._sources: dict[str, Source] = {p: StoreSource(s, options.clips) for p, s in self._stores.items()}
        self._videos = [place for place in dict.fromkeys(places) if place not in self._stores]
        for place in self._videos:
            require_av()
            require_there(Path(place))
        self._workers = self._opened.enter_context(Workers(options.videos.workers, options.videos.patience_s))

    def identities(self) -> dict[str, str]:
        found = {place: store.identity for place, store in self._stores.items()}
        for place in self._videos:
            found[place] = in_turn(functools.partial(self._survey, place))
        each = "\n".join(found[place] for place in self._places)
        return {"files": hashlib.sha256(each.encode()).hexdigest()}

    def open(self) -> OpenedClips:
        options = self._options
        sources = [self._sources[place] for place in self._places]
        weights = self._weights or [float(source.windows) for source in sources]
        shape = (options.clips.frames, self.cameras[0].height, self.cameras[0].width)
        values = dataclasses.asdict(self._augmentation)
        draws = Mix(sources, weights, shape, values, options.batch_size, options.seed)
        # Every rank reads all frames of the probe, since all of them judge the health of the features.
        probe = self._probe(dataclasses.replace(draws, augmentation=None, seed=options.seed + 1))
        draws = dataclasses.replace(draws, rank=here(), frames_at=options.frames_at)
        clips = WorkerClips(draws, self._workers, options.videos.ahead, options.steps)
        self._opened.enter_context(closing(clips))
        return OpenedClips(clips, probe, summary=clips.describe_refused)

    def _survey(self, place: str) -> str:
        """Look at all videos of a place. Returns its identity."""
        videos, clips = self._options.videos, self._options.clips
        root = None if videos.root is None else Path(videos.root)
        file = catalogue_file(self._catalogues, Path(place), root)
        self._catalogues.mkdir(parents=True, exist_ok=True)
        with self._counting("look at videos") as progress:
            catalogue = survey(Path(place), root, file, self._workers, progress)
        self._opened.enter_context(closing(catalogue))
        source = VideoSource(catalogue, clips, videos.short)
        done = "their last frame is repeated" if videos.short == "repeat" else "they are left out"
        short = f"; {source.num_short:,} are shorter than a clip, and {done}" if source.num_short else ""
        self._report(f"{place}: {catalogue.describe()}{short}")
        self._sources[place] = source
        return catalogue.identity

    def _probe(self, draws: Mix) -> dict[str, ProbeData]:
        """Frames that only show whether the features still vary, as videos have no recorded quantities."""
        wanted, per_step = self._options.probe_frames // 2, _PROBE_PER_CLIP * draws.batch_size
        steps = -(-wanted // per_step)
        clips = WorkerClips(draws, self._workers, self._options.videos.ahead, steps)
        with self._counting("read frames for the probe") as progress:
            frames = []
            for step in range(steps):
                frames.append(clips(step)[:, [0, -1]].reshape(-1, *draws.shape[1:], 3))
                progress(step + 1, steps)
        clips.finish()
        pixels = np.concatenate(frames)[:wanted]
        none = np.zeros((len(pixels), 0), np.float32)
        return {CAMERA: ProbeData(pixels[:1], none[:1], pixels, none)}
