"""Optimization profiles: what is derived, and every mistake that TensorRT itself would not tell, or not in time."""

from __future__ import annotations

from typing import Any

import pytest

from tritonsmith.builder.actions.compile import (
    OptimizationProfile,
    ShapeRange,
    StatedProfile,
    derive_profiles,
    instance_groups_with_profiles,
)
from tritonsmith.builder.actions.compile.profiles import uncovered
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config

FP32 = dtype_from_config("TYPE_FP32")
IDS = TensorSpec("ids", FP32, ("batch", "seq"))
MASK = TensorSpec("mask", FP32, ("batch", "seq"))
TOTAL = TensorSpec("total", FP32, ("batch", "total"))
FRAMES = TensorSpec("frames", FP32, ("batch", 1024))
BARE = TensorSpec("bare", FP32, (-1, -1))
FIXED = TensorSpec("fixed", FP32, (1, 3))
SEQ = {"seq": (1, 32, 256)}


def profiles(inputs: tuple[TensorSpec, ...] = (IDS, MASK), **settings: Any) -> list[Any]:
    settings = {"max_batch_size": 16, "dynamic_dims": SEQ, **settings}
    return [profile.as_dict() for profile in derive_profiles(inputs, **settings)]


def shape(low: Any, best: Any, high: Any) -> dict[str, list[int]]:
    return {"min": list(low), "opt": list(best), "max": list(high)}


@pytest.mark.parametrize(
    ("inputs", "settings", "expected"),
    [
        # One profile over every size; tuned for max_batch_size without a preferred one.
        ((FRAMES,), {}, [{"frames": shape((1, 1024), (16, 1024), (16, 1024))}]),
        # The largest preferred batch size is what it is tuned for.
        ((FRAMES,), {"preferred_batch_sizes": [8, 4]}, [{"frames": shape((1, 1024), (8, 1024), (16, 1024))}]),
        # One profile a preferred size: each takes every batch.
        (
            (FRAMES,),
            {"preferred_batch_sizes": [8, 4], "profile_per_preferred": True},
            [
                {"frames": shape((1, 1024), (4, 1024), (16, 1024))},
                {"frames": shape((1, 1024), (8, 1024), (16, 1024))},
            ],
        ),
        # A named dim has one range wherever it stands.
        (
            (IDS, MASK),
            {},
            [{name: shape((1, 1), (16, 32), (16, 256)) for name in ("ids", "mask")}],
        ),
        # Stated parts win, the rest is derived.
        (
            (IDS,),
            {"stated": [StatedProfile(batch=(1, 4, 16)), StatedProfile(dims={"seq": (1, 8, 16)})]},
            [
                {"ids": shape((1, 1), (4, 32), (16, 256))},
                {"ids": shape((1, 1), (16, 8), (16, 16))},
            ],
        ),
        # Without batching the first dim is like any other; a fixed input needs no shape.
        ((FIXED, IDS), {"max_batch_size": 0, "dynamic_dims": {**SEQ, "batch": (2, 2, 2)}},
         [{"ids": shape((2, 1), (2, 32), (2, 256))}]),
        # A dim that follows from others follows in every profile, whatever range it has by itself.
        ((IDS, TOTAL),
         {"dynamic_dims": {**SEQ, "total": (1, 9, 999)}, "relations": {"total": "2*seq + 1"},
          "stated": [StatedProfile(), StatedProfile(dims={"seq": (4, 8, 16)})]},
         [{"ids": shape((1, 1), (16, 32), (16, 256)), "total": shape((1, 3), (16, 65), (16, 513))},
          {"ids": shape((1, 4), (16, 8), (16, 16)), "total": shape((1, 9), (16, 17), (16, 33))}]),
        # Nothing dynamic, no profile.
        ((FIXED,), {"max_batch_size": 0}, []),
    ],
)  # fmt: skip
def test_profiles_are_derived(inputs: Any, settings: dict[str, Any], expected: list[Any]) -> None:
    derived = profiles(inputs, **settings)
    assert derived == expected


def whole(low: Any, best: Any, high: Any, name: str = "ids") -> StatedProfile:
    return StatedProfile(inputs={name: ShapeRange(low, best, high)})


@pytest.mark.parametrize(
    ("code", "inputs", "settings"),
    [
        # A dynamic dim without a range, named or not.
        ("range_missing", (IDS,), {"dynamic_dims": {}}),
        ("range_missing", (BARE,), {}),
        # TensorRT ignores shapes of inputs that the network does not have.
        ("profile_unknown_input", (IDS,), {"stated": [whole((1, 1), (1, 1), (16, 2), name="id")]}),
        ("profile_unknown_input", (FIXED,), {"max_batch_size": 0, "stated": [whole((1,), (1,), (1,), name="x")]}),
        ("profile_unknown_dim", (IDS,), {"stated": [StatedProfile(dims={"sequence": (1, 2, 3)})]}),
        # Longer than the position table builds silently.
        ("profile_beyond_range", (IDS,), {"stated": [StatedProfile(dims={"seq": (1, 32, 512)})]}),
        ("profile_beyond_range", (IDS,), {"stated": [whole((1, 1), (8, 8), (32, 256))]}),
        # Batches that no profile takes: above, below, between; and lengths.
        ("profile_coverage", (FRAMES,), {"stated": [StatedProfile(batch=(1, 4, 8))]}),
        ("profile_coverage", (FRAMES,), {"stated": [StatedProfile(batch=(2, 4, 16))]}),
        ("profile_coverage", (FRAMES,),
         {"stated": [StatedProfile(batch=(1, 2, 4)), StatedProfile(batch=(8, 8, 16))]}),
        ("profile_coverage", (IDS,), {"stated": [StatedProfile(dims={"seq": (1, 32, 255)})]}),
        ("profile_batch", (FRAMES,), {"preferred_batch_sizes": [32]}),
        ("profile_order", (IDS,), {"stated": [StatedProfile(dims={"seq": (64, 32, 128)})]}),
        ("profile_rank", (IDS,), {"stated": [whole((1,), (8,), (16,))]}),
        ("profile_static_dim", (FRAMES,),
         {"stated": [whole((1, 512), (8, 1024), (16, 1024), name="frames")]}),
        ("profile_inconsistent", (IDS, TOTAL),
         {"relations": {"total": "2*seq"}, "stated": [StatedProfile(dims={"total": (1, 2, 3)})]}),
        ("profile_inconsistent", (IDS, MASK), {"stated": [whole((1, 1), (16, 64), (16, 256))]}),
    ],
)  # fmt: skip
def test_what_tensorrt_would_not_tell_is_refused(code: str, inputs: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as refused:
        profiles(inputs, model="minilm", **settings)
    assert refused.value.code == code
    assert str(refused.value).startswith("minilm: ")


def test_groups_run_all_profiles_unless_they_say_which() -> None:
    groups = [{"count": 2, "kind": "KIND_GPU"}, {"count": 1, "profile": ["1"]}]
    assert instance_groups_with_profiles(groups, 2) == [
        {"count": 2, "kind": "KIND_GPU", "profile": ["0", "1"]},
        {"count": 1, "profile": ["1"]},
    ]
    assert "profile" not in groups[0]
    assert instance_groups_with_profiles([{"count": 1}], 1) == [{"count": 1}]
    with pytest.raises(SpecError, match="names optimization profile '2'") as refused:
        instance_groups_with_profiles([{"profile": ["2"]}], 2)
    assert refused.value.valid == ("0", "1")


def test_inputs_without_batching_are_not_in_a_profile() -> None:
    assert derive_profiles((FIXED,), max_batch_size=0, dynamic_dims={}) == ()
    assert OptimizationProfile({}).as_dict() == {}


def boxes(*sizes: tuple[tuple[int, int], tuple[int, int]]) -> list[OptimizationProfile]:
    """Profiles over (batch, seq)."""
    return [
        OptimizationProfile({"ids": ShapeRange((b[0], s[0]), (b[1], s[1]), (b[1], s[1]))}) for b, s in sizes
    ]


@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        (boxes(((1, 16), (1, 256))), None),
        # Short texts in large batches, long ones alone: together not all, as a long text in a batch of two.
        (boxes(((1, 16), (1, 64)), ((1, 1), (1, 256))), "batch 2, seq 65"),
        (boxes(((1, 16), (1, 64)), ((1, 16), (65, 256))), None),
        (boxes(((1, 8), (1, 256)), ((9, 16), (1, 100)), ((9, 16), (101, 256))), None),
        (boxes(((1, 8), (1, 256)), ((9, 16), (1, 100)), ((9, 16), (102, 256))), "batch 9, seq 101"),
    ],
)
def test_profiles_together_take_every_request_or_the_smallest_they_do_not_is_told(
    profiles: Any, expected: str | None
) -> None:
    assert uncovered(profiles, (IDS,), 16, SEQ) == expected
