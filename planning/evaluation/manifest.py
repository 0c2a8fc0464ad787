"""The list of (start, goal) pairs that an evaluation runs, frozen and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from planning.environment import DrawsPairs, Environment, Floats
from worldmodel.core.errors import UserError
from worldmodel.core.files import replacing
from worldmodel.core.seeds import FIRST_EVALUATION_SEED

# Collection seeds its episodes with (seed, i). This third number gives the exploration here other random streams.
_NAMESPACE = 0x6D616E
_LATEST_START = 50  # control steps into the episode
# Larger numbers are typing errors, since they would take a day of simulation or more.
MOST_PAIRS: Final = 100_000
MOST_BUDGET: Final = 100_000


@dataclasses.dataclass(frozen=True)
class Pair:
    """The task to go from `start` to `goal`, simulator states `[N]`. `seed` is that of the episode with both."""

    seed: int
    start: tuple[float, ...]
    goal: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ManifestConfig:
    """Options of an evaluation's manifest.

    Attributes:
        seed: seed of new pairs, None for the frozen manifest.
        n: number of pairs. From the frozen manifest, these are the first n.
        steps_ahead: control steps from start to goal in the episode with both (new pairs only). A task that draws far
            pairs itself does without.
    """

    seed: int | None = None
    n: int = 100
    steps_ahead: int = 25

    def __post_init__(self) -> None:
        if self.n < 1 or self.steps_ahead < 1 or (self.seed is not None and self.seed < 0):
            raise ValueError(f"n {self.n} and steps_ahead {self.steps_ahead} must be at least 1, seed not negative")
        if self.n > MOST_PAIRS or self.steps_ahead > MOST_BUDGET:
            most = f"at most {MOST_PAIRS:,} and {MOST_BUDGET:,} are accepted"
            raise ValueError(f"n {self.n} and steps_ahead {self.steps_ahead}: {most}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Pairs, and everything that they depend on.

    Attributes:
        env: name of the environment.
        simulator: version of the simulator, since contacts differ between versions.
        options: the environment's options that change its images.
        seed: seed of the draw.
        steps_ahead: control steps from start to goal.
        pairs: the tasks.
    """

    env: str
    simulator: str
    options: dict[str, Any]
    seed: int
    steps_ahead: int
    pairs: tuple[Pair, ...]

    @property
    def sha256(self) -> str:
        """Hash of the content. Python writes floats so that they read back exactly."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def first(self, n: int) -> Manifest:
        """The manifest of the first `n` pairs. Raises UserError if there are fewer."""
        if n > len(self.pairs):
            raise UserError(
                f"manifest.n={n}: this frozen manifest of {self.env} has {len(self.pairs)} pairs; "
                "manifest.seed=N draws as many as you want"
            )
        return dataclasses.replace(self, pairs=self.pairs[:n])

    def write(self, path: Path) -> None:
        content = dataclasses.asdict(self)
        pairs = ",\n".join("  " + json.dumps(pair) for pair in content.pop("pairs"))
        head = json.dumps({**content, "sha256": self.sha256}, indent=1)[:-2]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(f'{head},\n "pairs": [\n{pairs}\n ]\n}}\n'.encode())


def read_manifest(path: Path) -> Manifest:
    """The manifest in `path`. Raises UserError if it is missing, no manifest, or changed since it was written."""
    try:
        content = json.loads(path.read_text())
        claimed = content.pop("sha256")
        pairs = tuple(Pair(p["seed"], tuple(p["start"]), tuple(p["goal"])) for p in content.pop("pairs"))
        manifest = Manifest(**content, pairs=pairs)
    except FileNotFoundError as error:
        raise UserError(f"there is no manifest {path}: 'python -m planning.manifest env=...' makes one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a manifest: {error!r}") from error
    if manifest.sha256 != claimed:
        raise UserError(
            f"{path} was changed: the hash of its content is {manifest.sha256[:12]}, and the file states {claimed[:12]}"
        )
    return manifest


def frozen_path(env: str, options: Mapping[str, Any]) -> Path:
    """Path of the frozen manifest of `env`. Every set of options that are switched on has its own.

    Options in groups, such as `vary.light`, count too.

    It is in the package if the package ships it, or if this is the project's own folder. An installed package is not a
    place for writing, so the manifests of its users are in `runs/<env>/`.
    """
    groups = (options, *(value for value in options.values() if isinstance(value, Mapping)))
    # A factor of variation can also be switched on by what it may be, such as the hues of `vary.colours`.
    switched_on = sorted(
        name
        for group in groups
        for name, value in group.items()
        if value is True or (group is options.get("vary") and value)
    )
    package = Path(str(resources.files("planning")))
    name = f"{'_'.join([env, *switched_on])}.json"
    ours = package / "manifests" / name
    is_project = (package.parent / "pyproject.toml").is_file()
    return ours if is_project or ours.is_file() else Path("runs") / env / name


def load_or_draw(
    env: Environment,
    simulator: str,
    options: dict[str, Any],
    config: ManifestConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """The frozen manifest of `env`, or new pairs if `config.seed` is given. `progress` is that of `draw`."""
    if config.seed is not None:
        return draw(env, simulator, options, config.seed, config.n, config.steps_ahead, progress)
    path = frozen_path(env.name, options)
    if not path.exists():
        raise UserError(
            f"{path.stem} has no frozen manifest: manifest.seed=1 draws fresh pairs, and `python -m planning.manifest "
            "env=...` with the same env freezes some"
        )
    return read_manifest(path).first(config.n)


def draw(
    env: Environment,
    simulator: str,
    options: dict[str, Any],
    seed: int,
    n: int = 100,
    steps_ahead: int = 25,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Draw `n` pairs from new exploratory episodes, or by the task's own draw if it has one.

    Episode i is seeded with `SeedSequence([seed, i, namespace])`. The start is a random step of the episode, and the
    goal is `steps_ahead` later. Episodes without an interesting change, and episodes that diverged, are skipped. If the
    environment tells kinds of goals apart, they take turns, so that the first pairs of a manifest have all kinds too.
    `progress(pairs, n)` is called after every episode.

    Raises:
        UserError: if hardly any episode gives a pair.
    """
    pairs: list[Pair] = []
    for index in range(100 * n):
        pair = _draw_pair(env, np.random.SeedSequence([seed, index, _NAMESPACE]), index, steps_ahead)
        if pair is not None and _is_next(env, pair, len(pairs)):
            pairs.append(pair)
        if progress is not None:
            progress(len(pairs), n)
        if len(pairs) == n:
            return Manifest(env.name, simulator, options, seed, steps_ahead, tuple(pairs))
    raise UserError(f"{len(pairs)} of {100 * n} episodes gave a goal {steps_ahead} steps ahead: expected {n}")


def _is_next(env: Environment, pair: Pair, number: int) -> bool:
    """Whether the goal is of the kind that pair `number` of a manifest has."""
    kinds = env.goal_kinds
    return not kinds or env.goal_kind(np.array(pair.start), np.array(pair.goal)) == kinds[number % len(kinds)]


def _draw_pair(env: Environment, entropy: np.random.SeedSequence, index: int, steps_ahead: int) -> Pair | None:
    rng = np.random.default_rng(entropy)
    drawn = env.draw_pair(rng) if isinstance(env, DrawsPairs) else None
    if drawn is not None:
        return Pair(index, tuple(drawn[0].tolist()), tuple(drawn[1].tolist()))
    env.reset(seed=int(rng.integers(FIRST_EVALUATION_SEED, 2**32)))
    explorer = env.explorer(rng)
    start_step = int(rng.integers(_LATEST_START))
    start: Floats = env.get_state()
    for step in range(start_step + steps_ahead):
        if step == start_step:
            start = env.get_state()
        _, _, terminated, _, _ = env.step(explorer.act(env))
        if terminated:
            return None
    goal = env.get_state()
    return Pair(index, tuple(start.tolist()), tuple(goal.tolist())) if env.is_interesting(start, goal) else None
