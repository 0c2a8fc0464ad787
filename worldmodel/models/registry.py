"""The families of world models, and how one is loaded.

A new family is a folder with a `WorldModel` and one line in `FAMILIES`, or a package of the user that calls
`worldmodel.core.registry.register("family", name, Family(...))`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config
from worldmodel.core.registry import Registry
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.clips import Split
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.base import PatchGrid
from worldmodel.models.contract import WorldModel
from worldmodel.models.stages import Stage
from worldmodel.models.tuning import TuningConfig

# The family of checkpoints that name none, which were made before families existed.
FIRST_FAMILY: Final = "keypoint"


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of world models.

    Attributes:
        name: the name in `family=` and in config.json.
        config: a frozen dataclass of the family's options in `worldmodel.train`. It has one field for each section,
            annotated with the frozen dataclass of that section. The field `trainer` is the `TrainerConfig` of the last
            stage, and its seed is the seed of the whole training.
        shapes: `(options, encoder) → values`. It returns the sizes of a model with those options, as plain values.
        build: `(spec, values) → model`. It returns a model of those sizes with random weights. `values` may come from
            an untrusted file. Values that make no sense raise UserError, KeyError, TypeError or ValueError. Loading
            stops `build` when it makes more or larger tensors than the checkpoint has.
        stages: `(options, store, split) → stages` of the training, in their order. It raises UserError for options or
            data that cannot be trained on, before anything is written.
        from_format_1: `values → (new values, function from old to new tensor names)`, for checkpoints of format 1.
            None for a family without them.
        further_stages: as `stages`, for a model with the weights of a finished training. None for a family whose
            training cannot go on from one.
        tuned_stages: as `stages`, of a training that also tunes the encoder. None for a family that cannot.
    """

    name: str
    config: type[Any]
    shapes: Callable[[Any, PatchGrid], dict[str, Any]]
    build: Callable[[EnvironmentSpec, Mapping[str, Any]], WorldModel]
    stages: Callable[[Any, TrajectoryStore, Split], Sequence[Stage]]
    from_format_1: Callable[[Mapping[str, Any]], tuple[dict[str, Any], Callable[[str], str]]] | None = None
    further_stages: Callable[[Any, TrajectoryStore, Split], Sequence[Stage]] | None = None
    tuned_stages: Callable[[Any, TrajectoryStore, Split, TuningConfig], Sequence[Stage]] | None = None

    def read_options(self, config: Mapping[str, Any]) -> Any:
        """An instance of `config` from the sections of a command's options. Raises UserError for what does not fit."""
        hints = typing.get_type_hints(self.config)
        sections = {
            field.name: from_config(hints[field.name], config[field.name], field.name)
            for field in dataclasses.fields(self.config)
        }
        try:
            return self.config(**sections)
        except ValueError as error:  # some sections contradict each other
            raise UserError(str(error)) from error


FAMILIES: Final[Registry[Family]] = Registry(
    "family",
    "family",
    {
        "keypoint": "worldmodel.models.keypoint.family:KEYPOINT",
        "tokens": "worldmodel.models.tokens.family:TOKENS",
        "vjepa2_ac": "worldmodel.models.vjepa2_ac.family:VJEPA2_AC",
    },
    Family,
)


def load_model(name_or_path: str, device: torch.device) -> WorldModel:
    """A shipped world model by name, or one of any family from a folder. It is ready for planning.

    Raises:
        UserError: for a model that does not exist, is damaged, has an unknown family, or was made by a newer program.
            Also for one that refers to the weights of an encoder which are not there, or are others.
    """
    stored = checkpoint.read_config(checkpoint.resolve(name_or_path), "world_model")
    name = stored.config.get("family", FIRST_FAMILY)
    if not isinstance(name, str) or name not in FAMILIES:
        choices = ", ".join(FAMILIES.names())
        raise UserError(f"{stored.folder} holds a model of family {name!r:.40}: choose from {choices}")
    family = FAMILIES.get(name)
    renamed: Callable[[str], str] = str
    try:
        spec, values = EnvironmentSpec.from_dict(stored.config["environment"]), stored.config["model"]
        if stored.version == 1:
            if family.from_format_1 is None:
                raise UserError(f"there was no family {name} in format 1")
            values, renamed = family.from_format_1(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise stored.not_described(error) from error
    model = stored.build(lambda: family.build(spec, values), renamed)
    assert isinstance(model, WorldModel)
    try:
        model.check_weights()
    except UserError as error:
        raise UserError(f"{stored.folder}: {error}") from error
    model.encoder.fetch_weights()
    model.folder = stored.folder.resolve()
    return model.eval().requires_grad_(False).to(device)
