"""What the records of several actions have in common, as types that a stranger's entry is held against."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.config import with_config
from typing_extensions import TypedDict

from tritonsmith.builder.base.files.untrusted import STRICT, Dependency, Distance, RelativePath, Sha256
from tritonsmith.builder.base.tensors import dtype_from_config

# Another version of tritonsmith that uses the same cache may write more.
MORE = ConfigDict(**{**STRICT, "extra": "ignore"})


def _data_type(name: str) -> str:
    try:
        return dtype_from_config(name).config
    except KeyError:
        raise ValueError("not one of Triton's data types") from None


_Dim = Annotated[int, Field(ge=-1, lt=2**63)]
DimName = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
_Tools = dict[str, str | None]


@with_config(MORE)
class _Tensor(TypedDict):
    name: Annotated[str, Field(min_length=1)]
    data_type: Annotated[str, AfterValidator(_data_type)]
    shape: list[_Dim | DimName]


@with_config(MORE)
class _Bounds(TypedDict):
    relative_l2: Distance | None
    cosine: Distance | None
    max_abs: Distance | None
    negligible_abs: Distance
    top1: Distance | None


@with_config(STRICT)
class _Deviation(TypedDict):
    output: str
    relative_l2: Distance | None
    cosine: Distance
    max_abs: Distance | None
    failure: str | None
    bounds: _Bounds
    runtime: str
    sample: str
    top1: Distance | None
    passed: bool
    violations: list[str]


@with_config(MORE)
class _Accuracy(TypedDict):
    samples: Count
    note: str | None
    deviations: list[_Deviation]


@with_config(MORE)
class SourceRecord(TypedDict):
    """Of an artifact that is served, or converted to one that is."""

    inputs: list[_Tensor]
    outputs: list[_Tensor]
    dependencies: dict[Dependency, Sha256]
    accuracy: _Accuracy
    served_files: list[RelativePath]
    samples: RelativePath | None
    tools: _Tools
