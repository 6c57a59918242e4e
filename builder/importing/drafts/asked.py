"""What a user says of models that `init` cannot know: flags → frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tritonsmith.builder.base.errors import UsageError, unknown
from tritonsmith.builder.base.tensors import DTYPES, Dim, TensorSpec

if TYPE_CHECKING:
    from tritonsmith.builder.cache.cache import Cache

Preset = Literal["image", "text", "audio"]
_TYPES = {name: dtype for dtype in DTYPES for name in (dtype.kserve, dtype.config, dtype.config[5:])}


@dataclass(frozen=True, slots=True)
class Asked:
    """What holds for every model that is drafted.

    name:            of the model, where there is one; None for that of its file or callable.
    preset:          where to start from.
    trust:           pickles may be loaded.
    inputs, outputs: as stated, without the batch; a source that tells its own has no need of them.
    cache:           where a trial's artifacts go, for the build to find; None for none.
    """

    name: str | None = None
    preset: Preset | None = None
    trust: bool = False
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    cache: Cache | None = None

    @property
    def of_one_model(self) -> tuple[str, ...]:
        """The flags that can hold for one model alone."""
        given = {"--name": self.name, "--input": self.inputs, "--output-tensor": self.outputs}
        return tuple(flag for flag, value in given.items() if value)


def tensors_from_flags(texts: Sequence[str], flag: str) -> tuple[TensorSpec, ...]:
    """`x:FP32:3,height,-1` → TensorSpec, without the batch; UsageError bad_tensor."""
    return tuple(_tensor(text, flag) for text in texts)


def _tensor(text: str, flag: str) -> TensorSpec:
    # A name may have colons in it.
    name, dtype, dims = text.rsplit(":", 2) if text.count(":") >= 2 else ("", "", "")
    if not name:
        raise _bad(text, flag, f"{flag} is NAME:TYPE:DIMS, without the batch")
    if dtype not in _TYPES:
        known = unknown(dtype, [d.kserve for d in DTYPES])
        raise UsageError(f"{flag} {text}: there is no type {dtype!r}", code="bad_tensor", **known)
    sizes: list[Dim] = []
    for dim in filter(None, dims.split(",")):
        if dim.isascii() and dim.removeprefix("-").isdigit():
            sizes.append(int(dim))
        elif dim.isidentifier():
            sizes.append(dim)
        else:
            sizes.append(0)
    if any(isinstance(size, int) and size != -1 and size < 1 for size in sizes):
        raise _bad(text, flag, f"{flag} {text}: a dimension is a size, a name or -1")
    return TensorSpec(name, _TYPES[dtype], tuple(sizes))


def _bad(text: str, flag: str, message: str) -> UsageError:
    return UsageError(message, code="bad_tensor", seen=text, fix=f"{flag} x:FP32:3,height,width")
