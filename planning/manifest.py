"""Draw pairs of start and goal, and freeze them for evaluation.

python -m planning.manifest env=push                  # draws 100 pairs and writes planning/manifests/push.json
python -m planning.manifest env=push seed=7 out=pairs.json
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from planning.evaluation.manifest import Manifest, ManifestConfig, draw, frozen_path, read_manifest
from planning.simulation import open_env
from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file
from worldmodel.core.options import from_config


@dataclasses.dataclass(frozen=True)
class FreezeConfig:
    """The options in `configs/manifest.yaml` beside its groups. The file explains each."""

    seed: int
    n: int
    steps_ahead: int
    out: str | None

    def __post_init__(self) -> None:
        ManifestConfig(self.seed, self.n, self.steps_ahead)  # raises for values that no manifest can have


def freeze(config: Config) -> None:
    """Run `python -m planning.manifest`. Raises UserError for input that cannot be used."""
    options = from_config(FreezeConfig, plain_options(config), "manifest")
    env, spec = open_env(config["env"])
    try:
        path = output_file(options.out or frozen_path(spec.env, spec.options))
        # Evaluations are compared by this file, so it is replaced only if `out` names it.
        frozen = read_manifest(path) if options.out is None and path.exists() else None
        asked = (options.seed, options.n, options.steps_ahead)
        if frozen is not None and (frozen.seed, len(frozen.pairs), frozen.steps_ahead) != asked:
            raise _other_pairs(path, frozen)
        with counting("draw pairs", "pairs") as progress:
            manifest = draw(env, spec.simulator, spec.options, *asked, progress=progress)
    finally:
        env.close()
    if frozen is not None and frozen != manifest:
        raise _other_pairs(path, frozen)
    manifest.write(path)
    console.print(f"{len(manifest.pairs)} pairs, {manifest.sha256[:12]}: {path}")
    console.print(next_command("planning.evaluate"))


def _other_pairs(path: Path, frozen: Manifest) -> UserError:
    return UserError(
        f"{path} holds other pairs (seed={frozen.seed} n={len(frozen.pairs)} steps_ahead={frozen.steps_ahead}, "
        f"{frozen.simulator}), on which evaluations depend: out=FILE writes to another file, or replaces FILE"
    )


main = command("manifest", goes_on=False)(freeze)

if __name__ == "__main__":
    main()
