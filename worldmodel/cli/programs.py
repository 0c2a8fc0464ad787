"""The list of commands, with the module, purpose and configuration file of each."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Final

NAME: Final = "wm"


@dataclasses.dataclass(frozen=True)
class Program:
    """One command.

    Attributes:
        module: module with the command's `main`, imported on use. `python -m <module>` runs it, too.
        purpose: purpose of the command, in one line.
        config: file of `configs/` with its options; None if the command parses its own options.
    """

    module: str
    purpose: str
    config: str | None


PROGRAMS: Final = {
    "collect": Program("envs.collect", "record exploration: camera frames, actions and proprioception", "collect"),
    "clips": Program("envs.clips", "make labelled clips of moving objects, to probe encoders with", "clips"),
    "pretrain": Program("worldmodel.pretrain", "learn a frozen encoder from the recorded frames", "pretrain"),
    "train": Program("worldmodel.train", "learn a world model on the frozen encoder", "train"),
    "probe": Program("worldmodel.probe", "measure an encoder's features with linear probes", "probe"),
    "physics": Program("worldmodel.physics", "compare the surprise at possible and impossible clips", "physics"),
    "features": Program("worldmodel.features", "write an encoder's features, for other programs", "features"),
    "export": Program("worldmodel.export", "write an encoder in the ONNX format, for programs without torch", "export"),
    "decode": Program("worldmodel.decode", "learn to show what a world model imagines", "decode"),
    "landmarks": Program("worldmodel.landmarks", "find sub-goals for far goals in a recording", "landmarks"),
    "inverse": Program("worldmodel.inverse", "learn to propose actions toward a goal", "inverse"),
    "remember": Program("planning.remember", "keep recorded actions, which planners evaluate too", "remember"),
    "practise": Program("planning.practise", "record a model's own plans, from which it can learn on", "practise"),
    "rounds": Program("planning.rounds", "practise and learn on, several times, with the gain of each", "rounds"),
    "plan": Program("planning.run", "act until a goal image is reached", "run"),
    "evaluate": Program("planning.evaluate", "success rates on a manifest, beside baselines and an oracle", "evaluate"),
    "calibrate": Program("planning.calibrate", "thresholds of the monitor, from successful runs", "calibrate"),
    "compare": Program("planning.compare", "compare two evaluations of the same pairs, pair by pair", "compare"),
    "manifest": Program("planning.manifest", "draw and freeze pairs of start and goal for evaluation", "manifest"),
    "data": Program("worldmodel.data", "inspect, verify, view, convert and repair recordings", None),
    "physics_clips": Program("envs.physics_clips", "make clips of possible and impossible physics", "physics_clips"),
    "goal": Program("envs.goal", "make a goal image by exploring", "goal"),
}
_NAMES: Final = {program.module: name for name, program in PROGRAMS.items()}


def is_typed_short() -> bool:
    """Whether the user typed `wm ...` rather than `python -m ...`."""
    return Path(sys.argv[0] if sys.argv else "").stem == NAME


def as_typed(text: str) -> str:
    """`text` with commands such as `python -m envs.collect` as `wm collect`, if the user typed `wm`."""
    if not is_typed_short():
        return text

    def short(found: re.Match[str]) -> str:
        name = _NAMES.get(found[1])
        return found[0] if name is None else f"{NAME} {name}"

    return re.sub(r"python -m ([a-z]+(?:\.[a-z_]+)+)", short, text)
