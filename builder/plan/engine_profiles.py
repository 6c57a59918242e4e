"""(a variant as stated, the model's tensors) → its TensorRT engine's optimization profiles and options, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tritonsmith.builder.actions.compile import (
    CompileOptions,
    OptimizationProfile,
    ShapeRange,
    StatedProfile,
    derive_profiles,
    instance_groups_with_profiles,
    options_from_dict,
)
from tritonsmith.builder.actions.compile.profiles import Sizes, uncovered
from tritonsmith.builder.base.dim_relations import relation_from_text, with_found
from tritonsmith.builder.base.errors import SpecError, Where
from tritonsmith.builder.base.tensors import TensorSpec, tensor_from_dict
from tritonsmith.builder.model_config.model_config import DEFAULT_MAX_BATCH_SIZE, batches
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec
from tritonsmith.builder.spec.variant_spec import DynamicDim, ProfileSpec, Variant


def engine_profiles(
    model: ModelSpec, name: str, record: Mapping[str, Any], spec: RepositorySpec
) -> tuple[OptimizationProfile, ...]:
    """The profiles of the variant's engine.

    record: of the model's artifact, for its tensors. SpecError: derive_profiles'; profile_index for an instance group
    that names a profile which there will not be, profile_coverage for one whose profiles do not take every request.
    """
    inputs, outputs = ([tensor_from_dict(t) for t in record[kind]] for kind in ("inputs", "outputs"))
    variant, subject = model.variants[name], f"{model.name}/{name}"
    config = model.config.as_proto_json()
    key = ("variants", name, "optimization_profiles") if variant.optimization_profiles else ("variants", name)
    where = spec.where(model.name, *key)
    preferred = config.get("dynamic_batching", {}).get("preferred_batch_size", ())
    if variant.profile_per_preferred_batch_size and not preferred:
        raise SpecError(
            f"{subject}: profile_per_preferred_batch_size, and no preferred_batch_size is stated",
            code="profile_batch",
            where=where,
            fix="dynamic_batching: {preferred_batch_size: [4, 8]}",
        )
    max_batch_size = _max_batch_size(model, (*inputs, *outputs))
    relations = _relations(model, record, inputs)
    ranges = {n: sizes for n, sizes in model.dim_ranges.items() if n not in relations}
    profiles = derive_profiles(
        inputs,
        max_batch_size=max_batch_size,
        dynamic_dims=ranges,
        relations=relations,
        preferred_batch_sizes=preferred,
        stated=[_stated(profile) for profile in variant.optimization_profiles],
        profile_per_preferred=variant.profile_per_preferred_batch_size,
        model=subject,
        where=where,
    )
    at = spec.where(model.name, "instance_group")
    groups = instance_groups_with_profiles(config.get("instance_group", ()), len(profiles), subject, at)
    for number, group in enumerate(groups if profiles else ()):
        run = [int(index) for index in group.get("profile", ("0",))]
        missing = uncovered([profiles[index] for index in run], inputs, max_batch_size, ranges)
        if missing is not None:
            raise SpecError(
                f"{subject}: instance group {number} runs optimization profile {', '.join(map(str, run))}, "
                f"which takes no {missing}: such a request would fail there",
                code="profile_coverage",
                where=at,
                fix="leave out its profile, so that it runs all",
            )
    return profiles


def _relations(model: ModelSpec, record: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Dims that follow from others, as stated or as the export found; not those of 32*k, where k is no dim and has no
    range."""
    every = with_found(model.dim_relations, record.get("relations", {}))
    known = {*model.dynamic_dims, *(dim for tensor in inputs for dim in tensor.dynamic_names)}
    return {name: text for name, text in every.items() if known.issuperset(relation_from_text(text).names)}


def _max_batch_size(model: ModelSpec, tensors: Sequence[TensorSpec]) -> int:
    """As config.pbtxt will have it."""
    if model.max_batch_size is not None:
        return model.max_batch_size
    return DEFAULT_MAX_BATCH_SIZE if batches(tensors) else 0


def _sizes(dim: DynamicDim) -> Sizes:
    return dim.min, dim.opt or dim.max, dim.max


def _stated(profile: ProfileSpec) -> StatedProfile:
    return StatedProfile(
        batch=None if profile.batch is None else _sizes(profile.batch),
        dims={name: _sizes(dim) for name, dim in profile.dims.items()},
        inputs={name: ShapeRange(shape.min, shape.opt, shape.max) for name, shape in profile.inputs.items()},
    )


def engine_options(variant: Variant, where: Where | None = None) -> CompileOptions:
    """TensorRT's settings; TF32 is off at precision fp32 and on at tf32, else as stated.

    In a graph of another precision, TF32 is for the nodes that stay fp32.
    """
    options = options_from_dict(variant.engine, where)
    wanted = variant.row.tf32
    if wanted is not None and "tf32" not in variant.engine:
        return replace(options, tf32=wanted)
    if wanted is not None and options.tf32 != wanted:
        raise SpecError(
            f"precision {variant.precision} and engine: {{tf32: {str(options.tf32).lower()}}} contradict each other",
            code="precision_option",
            where=where,
            fix=f"precision: {'tf32' if options.tf32 else 'fp32'}, and no tf32 under engine",
        )
    return options
