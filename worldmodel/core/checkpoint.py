"""Checkpoints: folders with `config.json` and safetensors. They contain nothing that can run code.

A folder holds a frozen encoder (`kind: encoder`), an encoder with its mask predictor (`kind: jepa`), a world model
(`kind: world_model`, which contains an encoder), or something that belongs to one world model and names its hash (such
as `kind: decoder`). `kind`, the names of registered entries, and numbers decide what is built. A checkpoint never names
a class.

`config.json` holds a digest: the SHA-256 of its own content without the digest, and of `model.safetensors`. Loading
compares the digest, so that a damaged checkpoint is refused. The digest is not a signature, because the author of the
files also wrote the digest. Therefore sizes are bounded before memory is allocated, and values are checked.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import regular_file, replacing
from worldmodel.core.strict_json import parse_json
from worldmodel.core.weights import WeightsFile, make_within, open_weights, require_sane, require_shapes

FORMAT_VERSION: Final = 2
OLD_VERSIONS: Final = (1,)  # these have no digest, but can still be read
_MOST_CONFIG: Final = 2**20  # bytes


def shipped_names() -> list[str]:
    """Names of the checkpoints that come with the package."""
    folder = resources.files("worldmodel") / "pretrained"
    return sorted(p.name for p in folder.iterdir() if (p / "config.json").is_file()) if folder.is_dir() else []


def resolve(name_or_path: str) -> Path:
    """The folder for a path or the name of a shipped checkpoint. Raises UserError when neither exists."""
    if name_or_path in shipped_names():
        return Path(str(resources.files("worldmodel") / "pretrained" / name_or_path))
    path = Path(name_or_path)
    if is_there(path):
        return path
    if path.is_dir():
        raise UserError(f"{path} is not a checkpoint: it has no config.json (is the training finished?)")
    folders = "the folder of a world model that `python -m worldmodel.train` made"
    if not shipped_names():
        raise UserError(f"unknown checkpoint '{name_or_path}': give {folders} (none is shipped)")
    raise UserError(choices_message("checkpoint", name_or_path, shipped_names()) + f", or give {folders}")


def is_there(folder: Path) -> bool:
    """Whether the folder has a `config.json` of any kind. Raises UserError for a name that no folder can have."""
    try:
        return (folder / "config.json").exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"no checkpoint can be at {str(folder)!r:.80}: {reason}") from error


def kind_of(folder: Path) -> str | None:
    """The kind of the checkpoint in `folder`, unchecked; None if there is none that can be read."""
    try:
        with regular_file(folder / "config.json", _MOST_CONFIG) as file:
            kind = parse_json(file.read(_MOST_CONFIG), str(folder)).get("kind")
    except (OSError, ValueError, AttributeError):
        return None
    return kind if isinstance(kind, str) else None


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save(folder: Path, kind: str, config: Mapping[str, Any], module: nn.Module, half: bool) -> None:
    """Write a checkpoint. `config.json` is written last and completes it.

    Args:
        folder: folder of the checkpoint, which is made if needed.
        kind: what it is, such as `encoder`, `jepa`, `world_model`, `decoder` or `landmarks`.
        config: values from which the module can be rebuilt.
        module: the module whose parameters and buffers are stored.
        half: store matrices as float16 (half the size). Statistics and vectors stay float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(name, value, half).cpu().contiguous() for name, value in module.state_dict().items()}
    content = to_bytes(tensors)
    values = _plain({"format_version": FORMAT_VERSION, "kind": kind, **config})
    (folder / "config.json").unlink(missing_ok=True)
    with replacing(folder / "model.safetensors") as file:
        file.write(content)
    with replacing(folder / "config.json") as file:
        file.write(_text({"digest": _digest(values, hashlib.sha256(content).hexdigest()), **values}))


def stored_hash(module: nn.Module) -> str:
    """`weights_hash` of `module` as it is after `save` with `half` and loading."""
    stored = copy.deepcopy(module)
    tensors = {name: _stored(name, value, True).float() for name, value in module.state_dict().items()}
    stored.load_state_dict(tensors)
    return weights_hash(stored)


def _stored(name: str, value: Tensor, half: bool) -> Tensor:
    return _halved(value) if half and value.ndim >= 2 and not name.endswith("mean") else value


def _halved(value: Tensor) -> Tensor:
    """A tensor in float16, or unchanged if it has numbers that are too large for float16."""
    half = value.half()
    return half if bool(half.isfinite().all()) else value


def _plain(value: Any) -> Any:
    """Plain values. Numbers that are not finite and undecodable bytes in file names become text, as JSON needs."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _text(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _digest(values: Mapping[str, Any], weights: str) -> str:
    """SHA-256 over `values` without their digest, and over the SHA-256 of the file of weights."""
    canonical = {key: value for key, value in values.items() if key != "digest"}
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode() + weights.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Stored:
    """A checkpoint of which only `config.json` has been read.

    Attributes:
        folder: folder of the checkpoint.
        version: version of its format.
        config: content of `config.json`, which is untrusted.
    """

    folder: Path
    version: int
    config: dict[str, Any]

    def build(self, make: Callable[[], nn.Module], renamed: Callable[[str], str] = lambda name: name) -> nn.Module:
        """The module that `make` builds, with the stored weights in place.

        Args:
            make: builds the module from `config`, with random weights.
            renamed: the present name of a tensor in the file.

        Raises:
            UserError: when the files do not fit each other or the digest, or hold values that make no sense.
        """
        path = self.folder / "model.safetensors"
        with open_weights(path) as file:
            with torch.random.fork_rng(devices=[]):  # drawing initial weights must not change the caller's random state
                module: nn.Module = self._described(lambda: make_within(make, file))
            wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
            require_shapes({renamed(name): shape for name, shape in file.shapes.items()}, wanted, path)
            tensors = {renamed(name): value for name, value in self._read(file).items()}
        require_sane(tensors, path)
        module.load_state_dict({name: value.to(torch.float32) for name, value in tensors.items()})
        return module

    def _read(self, file: WeightsFile) -> dict[str, Tensor]:
        tensors, weights = file.read()
        if self.version == FORMAT_VERSION and self.config.get("digest") != _digest(self.config, weights):
            raise UserError(
                f"{self.folder} is damaged: its files are not those that its digest in config.json was made of"
            )
        return tensors

    def _described(self, make: Callable[[], Any]) -> Any:
        """The result of `make`. Its errors about `config` become UserErrors of one line."""
        try:
            return make()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self.not_described(error) from error

    def not_described(self, error: Exception) -> UserError:
        """A UserError for values in `config.json` that are missing or make no sense."""
        what = str(self.config.get("kind")).replace("_", " ")
        article = "an" if what[:1] == "e" else "a"
        reason = f"{error} is missing" if isinstance(error, KeyError) else (str(error).splitlines() or ["?"])[0]
        return UserError(f"{self.folder / 'config.json'} does not describe {article} {what}: {reason}")


def read_companion(folder: Path, kind: str, world_model: nn.Module, missing: str, foreign: str) -> Stored:
    """Read and check the `config.json` of what was made for `world_model`, and holds its hash.

    Raises:
        UserError: with the line `missing` if nothing is there, with `foreign` if it was made for another world model,
            and as `read_config`.
    """
    if not is_there(folder):
        raise UserError(missing)
    stored = read_config(folder, kind)
    if stored.config.get("world_model") != weights_hash(world_model):
        raise UserError(foreign)
    return stored


def read_config(folder: Path, kind: str) -> Stored:
    """Read and check `config.json`. Raises UserError for one that is damaged, newer, or of another kind."""
    path = folder / "config.json"
    try:
        with regular_file(path, _MOST_CONFIG) as file:
            content = file.read(_MOST_CONFIG)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    config = parse_json(content, str(path))
    version = config.get("format_version") if isinstance(config, dict) else None
    if type(version) is not int or version not in (FORMAT_VERSION, *OLD_VERSIONS):
        raise UserError(f"{folder} has checkpoint format {version!r:.40}, this program reads {FORMAT_VERSION}")
    if config.get("kind") != kind:
        raise UserError(f"{folder} holds a checkpoint of kind {config.get('kind')!r:.40}, expected '{kind}'")
    if version == FORMAT_VERSION and _text(config) != content:
        # The digest covers values. The same values can be written in other ways, after an edit or damage.
        raise UserError(f"{folder} is damaged: its config.json is not as it was written")
    return Stored(folder, version, config)
