"""`model.plan.json` beside `model.plan` → Engine: what the build knew about a TensorRT engine, which the plan hides.

    {"tensorrt": "10.16.0", "compute_capability": "9.0", "version_compatible": false,
     "hardware_compatibility": "none", "plugins": [], "devices": 1,
     "tensors": [{"name": "x", "mode": "input", "data_type": "TYPE_FP32", "shape": [-1, 4],
                  "is_shape_tensor": false, "non_linear": false}],
     "profiles": [{"x": {"min": [1, 4], "opt": [8, 4], "max": [32, 4]}}]}

Every field may be left out; shapes are whole, batch dimension included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from tritonsmith.builder.base.files.untrusted import adapter_of, json_value, read_bounded


@dataclass(frozen=True, slots=True)
class Engine:
    """A TensorRT engine, as far as its sidecar says.

    tensors:  name → {"mode": "input"|"output", "data_type", "shape", "is_shape_tensor", "non_linear"}.
    profiles: one mapping an optimization profile: input name → {"min", "opt", "max"} whole shapes.
    devices:  number of GPUs that one execution spans.
    """

    path: Path
    tensorrt: str | None = None
    compute_capability: str | None = None
    version_compatible: bool = False
    hardware_compatibility: str | None = None
    plugins: tuple[str, ...] = ()
    tensors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    profiles: tuple[Mapping[str, Mapping[str, Any]], ...] = ()
    devices: int = 1


def read_engine(path: Path) -> Engine | None:
    """The sidecar; None when it cannot be read or is of another form, and the engine is then not judged."""
    try:
        data = json_value(read_bounded(path))
        return Engine(
            path=path,
            tensorrt=_text(data.get("tensorrt")),
            compute_capability=_text(data.get("compute_capability")),
            version_compatible=bool(data.get("version_compatible", False)),
            hardware_compatibility=_text(data.get("hardware_compatibility")),
            plugins=tuple(str(name) for name in data.get("plugins", ())),
            tensors={
                t["name"]: {**t, "shape": _shape(t.get("shape", ()))}
                for t in adapter_of(list[_Tensor]).validate_python(data.get("tensors", []))
            },
            profiles=tuple(_profile(profile) for profile in data.get("profiles", ())),
            devices=int(data.get("devices", 1)),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


class _Tensor(TypedDict):
    name: str
    mode: NotRequired[str]
    data_type: NotRequired[str]
    shape: NotRequired[list[int]]
    is_shape_tensor: NotRequired[bool]
    non_linear: NotRequired[bool]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _shape(value: Any) -> list[int]:
    return [int(dim) for dim in value]


def _profile(value: Any) -> dict[str, dict[str, list[int]]]:
    """Whole ranges only: a profile that lacks min, opt or max is refused with the sidecar."""
    profile = {}
    for name, shapes in value.items():
        profile[str(name)] = {key: _shape(shapes[key]) for key in ("min", "opt", "max")}
        if any(not shape for shape in profile[str(name)].values()):
            raise ValueError("an empty shape")
    return profile
