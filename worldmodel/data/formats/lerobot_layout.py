"""The columns of an exported LeRobotDataset of version 3.0, in the form that its files describe them."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
import pyarrow as pa

from worldmodel.core.spec import CameraSpec, EnvironmentSpec
from worldmodel.data.formats.lerobot import ACTION, BOOKKEEPING, PROPRIO, REWARD, STATE, TASK

DONE: Final = "next.done"


def camera_key(name: str) -> str:
    """LeRobot's name for the column of a camera's images."""
    return f"observation.images.{name}"


def features_of(spec: EnvironmentSpec, images: str, rate: float, has_reward: bool) -> dict[str, dict[str, Any]]:
    """The `features` of `info.json`, by name. `images` is `video` or `png`, and `rate` is in rows per second."""
    features = {camera_key(camera.name): _picture(camera, images, rate) for camera in spec.cameras}
    for name, dtype, size, names in (
        (PROPRIO, "float32", spec.proprio_size, [f"proprio_{i}" for i in range(spec.proprio_size)]),
        (STATE, "float64", spec.state_size, [f"state_{i}" for i in range(spec.state_size)]),
        (ACTION, "float32", spec.action.size, list(spec.action.names)),
    ):
        if size:
            features[name] = {"dtype": dtype, "shape": [size], "names": names}
    if has_reward:
        features[REWARD] = {"dtype": "float32", "shape": [1], "names": None}
    features[DONE] = {"dtype": "bool", "shape": [1], "names": None}
    for name in BOOKKEEPING:
        features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    return features


def _picture(camera: CameraSpec, images: str, rate: float) -> dict[str, Any]:
    told: dict[str, Any] = {
        "dtype": "video" if images == "video" else "image",
        "shape": list(camera.shape),
        "names": ["height", "width", "channels"],
    }
    if images == "video":
        told["info"] = {
            "video.height": camera.height,
            "video.width": camera.width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": rate,
            "video.channels": 3,
            "has_audio": False,
        }
    return told


def schema_of(features: dict[str, dict[str, Any]]) -> pa.Schema:
    """Columns of the Parquet files with the rows, which do not include videos."""
    fields = []
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        if feature["dtype"] == "image":
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        else:
            kind = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
            if feature["shape"] != [1]:
                kind = pa.list_(kind, feature["shape"][0])
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def tasks_table(texts: list[str]) -> pa.Table:
    """A table in pandas' format with the text as its index, by which LeRobot finds a task."""
    index = TASK
    kinds = {"task_index": ("int64", "int64"), index: ("unicode", "object")}
    described = [
        {
            "name": None if name == index else name,
            "field_name": name,
            "pandas_type": p,
            "numpy_type": n,
            "metadata": None,
        }
        for name, (p, n) in kinds.items()
    ]
    pandas = {"index_columns": [index], "column_indexes": [], "columns": described}
    table = pa.table({"task_index": pa.array(range(len(texts)), pa.int64()), index: pa.array(texts, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
