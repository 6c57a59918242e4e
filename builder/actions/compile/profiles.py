"""max_batch_size, preferred batch sizes and ranges of named dims → TensorRT optimization profiles, checked; pure.

TensorRT itself reports few mistakes here and some only after the build: an unknown input's name is ignored,
a size beyond what the model was made for builds silently, sizes of one named dim that disagree fail late.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from tritonsmith.builder.base.dim_relations import ranges_with_relations
from tritonsmith.builder.base.errors import SpecError, Where, unknown
from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.base.tensors import Dim, TensorSpec

Sizes = tuple[int, int, int]
"""(min, opt, max)"""


@dataclass(frozen=True, slots=True)
class ShapeRange(JsonForm):
    """Whole shapes of one input, batch dimension included."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OptimizationProfile:
    """shapes: input name → range; inputs without a dynamic dimension are left out, as TensorRT knows theirs."""

    shapes: Mapping[str, ShapeRange]

    def as_dict(self) -> dict[str, dict[str, list[int]]]:
        """JSON form, as in an engine's sidecar."""
        return {name: shape.as_dict() for name, shape in self.shapes.items()}


ProfileForm = Annotated[
    OptimizationProfile,
    PlainSerializer(OptimizationProfile.as_dict),
    BeforeValidator(lambda shapes: {"shapes": shapes}),
]
"""A field's type where an optimization profile travels as JSON."""


@dataclass(frozen=True, slots=True)
class StatedProfile:
    """An optimization profile as a spec may state it; what it leaves out is derived.

    batch:  sizes of the batch dimension.
    dims:   named dim → sizes, narrower than the model's own range.
    inputs: input name → whole shapes (min, opt, max); wins over batch and dims.
    """

    batch: Sizes | None = None
    dims: Mapping[str, Sizes] = field(default_factory=dict)
    inputs: Mapping[str, ShapeRange] = field(default_factory=dict)


def derive_profiles(
    inputs: Sequence[TensorSpec],
    *,
    max_batch_size: int,
    dynamic_dims: Mapping[str, Sizes],
    relations: Mapping[str, str] | None = None,
    preferred_batch_sizes: Sequence[int] = (),
    stated: Sequence[StatedProfile] = (),
    profile_per_preferred: bool = False,
    model: str = "the model",
    where: Where | None = None,
) -> tuple[OptimizationProfile, ...]:
    """The profiles to build with; empty when no input has a dynamic dimension.

    inputs: whole shapes, batch dimension first when max_batch_size > 0.
    dynamic_dims: name → (min, opt, max), what the model was made for; no profile may go beyond.
    relations: name → what it follows from (builder.base.dim_relations); TensorRT looks whether a profile keeps to it.
    Without `stated`: one profile over all sizes, tuned for the largest preferred batch size (max_batch_size
    without one); with profile_per_preferred, one such profile for each preferred batch size: all take every
    batch size, and Triton runs a batch on the one whose opt shape is nearest.
    Raises SpecError: range_missing, profile_unknown_input, profile_unknown_dim, profile_order, profile_rank,
    profile_static_dim, profile_beyond_range, profile_inconsistent, profile_batch, profile_coverage.
    """
    relations = dict(relations or {})
    dynamic_dims = {name: sizes for name, sizes in dynamic_dims.items() if name not in relations}
    check = _Check(tuple(inputs), max_batch_size, dynamic_dims, model, where, relations)
    if not any(_is_dynamic(dim) for tensor in inputs for dim in tensor.shape):
        check.refuse_names(stated)
        return ()
    wanted = tuple(stated) or _default_profiles(
        max_batch_size, preferred_batch_sizes, profile_per_preferred, check
    )
    check.refuse_names(wanted)
    profiles = tuple(check.profile(number, given) for number, given in enumerate(wanted))
    missing = uncovered(profiles, inputs, max_batch_size, dynamic_dims)
    if missing is not None:
        raise check.error(
            f"no optimization profile takes {missing}, and requests of that size are allowed",
            "profile_coverage",
            seen="; ".join(str(profile.as_dict()) for profile in profiles),
            fix="widen a profile, or lower max_batch_size or the range in dynamic_dims",
        )
    return profiles


def uncovered(
    profiles: Sequence[OptimizationProfile],
    inputs: Sequence[TensorSpec],
    max_batch_size: int,
    dynamic_dims: Mapping[str, Sizes],
) -> str | None:
    """The smallest sizes within max_batch_size and dynamic_dims that none of the profiles takes, as people read them."""
    places: dict[str, tuple[str, int]] = {}
    ranges: dict[str, tuple[int, int]] = {}
    for tensor in inputs:
        for axis, dim in enumerate(tensor.shape):
            is_batch = axis == 0 and max_batch_size > 0 and _is_dynamic(dim)
            name = "batch" if is_batch else str(dim)
            if name not in places and (is_batch or name in dynamic_dims):
                places[name] = (tensor.name, axis)
                ranges[name] = (1, max_batch_size) if is_batch else dynamic_dims[name][::2]
    spans = [
        {dim: (p.shapes[name].min[axis], p.shapes[name].max[axis]) for dim, (name, axis) in places.items()}
        for p in profiles
    ]
    # Between two neighbouring bounds of profiles nothing changes, so the lower ends of all such cells stand for all sizes.
    ends = [
        sorted(
            {low, *(end for span in spans for end in (span[dim][0], span[dim][1] + 1) if low <= end <= high)}
        )
        for dim, (low, high) in ranges.items()
    ]
    for sizes in itertools.product(*ends):
        point = dict(zip(ranges, sizes, strict=True))
        if not any(all(low <= point[dim] <= high for dim, (low, high) in span.items()) for span in spans):
            return ", ".join(f"{dim} {size}" for dim, size in point.items())
    return None


def _default_profiles(
    max_batch_size: int, preferred: Sequence[int], each: bool, check: _Check
) -> tuple[StatedProfile, ...]:
    if max_batch_size <= 0:
        return (StatedProfile(),)
    for size in preferred:
        if not 1 <= size <= max_batch_size:
            raise check.error(
                f"preferred batch size {size} is not within max_batch_size",
                "profile_batch",
                seen=size,
                valid=(f"1..{max_batch_size}",),
            )
    opts = sorted(set(preferred)) or [max_batch_size]
    chosen = opts if each else opts[-1:]
    return tuple(StatedProfile(batch=(1, opt, max_batch_size)) for opt in chosen)


@dataclass(frozen=True, slots=True)
class _Check:
    inputs: tuple[TensorSpec, ...]
    max_batch_size: int
    ranges: Mapping[str, Sizes]
    model: str
    where: Where | None
    relations: Mapping[str, str]

    def error(
        self,
        message: str,
        code: str,
        *,
        seen: object = None,
        valid: Sequence[object] = (),
        fix: str | None = None,
    ) -> SpecError:
        return SpecError(
            f"{self.model}: {message}", code=code, where=self.where, seen=seen, valid=valid, fix=fix
        )

    def refuse_names(self, stated: Sequence[StatedProfile]) -> None:
        """TensorRT ignores a shape for an input that the network does not have."""
        names = [tensor.name for tensor in self.inputs]
        dims = {dim for tensor in self.inputs for dim in tensor.dynamic_names}
        for number, profile in enumerate(stated):
            for kind, given, known in (("input", profile.inputs, names), ("dim", profile.dims, sorted(dims))):
                for name in given:
                    if name not in known:
                        raise self.error(
                            f"optimization profile {number} names {kind} {name!r}, which the model does not have",
                            f"profile_unknown_{kind}",
                            **unknown(name, known),
                        )

    def profile(self, number: int, given: StatedProfile) -> OptimizationProfile:
        shapes: dict[str, ShapeRange] = {}
        for tensor in self.inputs:
            if tensor.name in given.inputs:
                shapes[tensor.name] = self._stated(number, tensor, given.inputs[tensor.name])
            elif any(_is_dynamic(dim) for dim in tensor.shape):
                sizes = [self._sizes(given, tensor, axis, dim) for axis, dim in enumerate(tensor.shape)]
                low, best, high = zip(*sizes, strict=True)
                shapes[tensor.name] = ShapeRange(low, best, high)
        self._within_ranges(number, shapes)
        self._consistent(number, shapes)
        return OptimizationProfile(shapes)

    def _sizes(self, given: StatedProfile, tensor: TensorSpec, axis: int, dim: Dim) -> Sizes:
        if not _is_dynamic(dim):
            assert isinstance(dim, int)
            return (dim, dim, dim)
        if axis == 0 and self.max_batch_size > 0:
            return given.batch or (1, self.max_batch_size, self.max_batch_size)
        sizes = given.dims.get(str(dim)) or self._range(str(dim), given)
        if sizes is None:
            name = repr(dim) if isinstance(dim, str) else f"without a name (dim {axis})"
            raise self.error(
                f"input {tensor.name!r} has a dynamic dim {name}, and no range is given for it",
                "range_missing",
                seen=f"{tensor.name} {list(tensor.shape)}",
                fix=(
                    f"dynamic_dims: {{{dim}: {{min: 1, opt: …, max: …}}}}"
                    if isinstance(dim, str)
                    else "name it in the spec's input, dims: [NAME], and give dynamic_dims: {NAME: {min, opt, max}}"
                ),
            )
        return sizes

    def _range(self, dim: str, given: StatedProfile) -> Sizes | None:
        """As stated for the model, or as it follows from other dims of this profile; None where neither is known."""
        known = {
            **self.ranges,
            **given.dims,
            **(
                {"batch": given.batch or (1, self.max_batch_size, self.max_batch_size)}
                if self.max_batch_size
                else {}
            ),
        }
        relations = {name: text for name, text in self.relations.items() if name not in given.dims}
        return ranges_with_relations(known, relations)[0].get(dim)

    def _stated(self, number: int, tensor: TensorSpec, shape: ShapeRange) -> ShapeRange:
        for key, sizes in (("min", shape.min), ("opt", shape.opt), ("max", shape.max)):
            if len(sizes) != len(tensor.shape):
                raise self.error(
                    f"optimization profile {number}: {key} of {tensor.name!r} has {len(sizes)} dims, "
                    f"the model's input has {len(tensor.shape)}",
                    "profile_rank",
                    seen=list(sizes),
                    valid=(list(tensor.shape),),
                )
            for size, dim in zip(sizes, tensor.shape, strict=True):
                if not _is_dynamic(dim) and size != dim:
                    raise self.error(
                        f"optimization profile {number}: {key} of {tensor.name!r} has {size} where the model has {dim}",
                        "profile_static_dim",
                        seen=list(sizes),
                        valid=(list(tensor.shape),),
                    )
        return shape

    def _within_ranges(self, number: int, shapes: Mapping[str, ShapeRange]) -> None:
        """Order, and nothing beyond what the model was made for: a larger position than its table builds silently."""
        for tensor in self.inputs:
            if tensor.name not in shapes:
                continue
            shape = shapes[tensor.name]
            for axis, (low, best, high) in enumerate(zip(shape.min, shape.opt, shape.max, strict=True)):
                at = f"optimization profile {number}, input {tensor.name!r}, dim {axis}"
                if not 0 <= low <= best <= high or best == 0:
                    raise self.error(
                        f"{at}: min <= opt <= max does not hold", "profile_order", seen=(low, best, high)
                    )
                known = self._range_of(tensor, axis)
                if known is not None and not (known[0] <= low and high <= known[1]):
                    raise self.error(
                        f"{at}: goes beyond the range of the model",
                        "profile_beyond_range",
                        seen=f"{low}..{high}",
                        valid=(f"{known[0]}..{known[1]}",),
                        fix="dynamic_dims says what the model was made for; widen it only if the model takes more",
                    )

    def _range_of(self, tensor: TensorSpec, axis: int) -> tuple[int, int] | None:
        dim = tensor.shape[axis]
        if axis == 0 and self.max_batch_size > 0 and _is_dynamic(dim):
            return (1, self.max_batch_size)
        sizes = self.ranges.get(dim) if isinstance(dim, str) else None
        return None if sizes is None else (sizes[0], sizes[2])

    def _consistent(self, number: int, shapes: Mapping[str, ShapeRange]) -> None:
        """One named dim has one size at a time; TensorRT finds the opposite only in the middle of a build."""
        seen: dict[str, tuple[str, Sizes]] = {}
        for tensor in self.inputs:
            shape = shapes.get(tensor.name)
            for axis, dim in enumerate(tensor.shape if shape is not None else ()):
                if shape is None or not isinstance(dim, str):
                    continue
                sizes = (shape.min[axis], shape.opt[axis], shape.max[axis])
                first, expected = seen.setdefault(dim, (tensor.name, sizes))
                if sizes != expected:
                    raise self.error(
                        f"optimization profile {number}: dim {dim!r} has other sizes in {tensor.name!r} "
                        f"than in {first!r}",
                        "profile_inconsistent",
                        seen=sizes,
                        valid=(expected,),
                    )
        for dim, text in self.relations.items():
            known = {name: sizes for name, (_, sizes) in seen.items() if name != dim}
            follows = ranges_with_relations(known, {dim: text})[0].get(dim)
            if dim in seen and follows is not None and follows != seen[dim][1]:
                raise self.error(
                    f"optimization profile {number}: dim {dim!r} is {text}, and has other sizes",
                    "profile_inconsistent",
                    seen=seen[dim][1],
                    valid=(follows,),
                )


def _is_dynamic(dim: Dim) -> bool:
    return isinstance(dim, str) or dim < 0
