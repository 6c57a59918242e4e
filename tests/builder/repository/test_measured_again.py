"""A model that is built again and comes out the same changes nothing in the lock file."""

from __future__ import annotations

from dataclasses import replace

from tritonsmith.builder.repository.lock import Accuracy, LockedModel, LockedVariant, measured_again

KEY = "0" * 64
NEAR: Accuracy = {"samples": 8, "cosine": 0.9999999999998, "max_abs": 3.3e-7, "relative_l2": 4.7e-7}
AGAIN: Accuracy = {"samples": 8, "cosine": 0.9999999999997, "max_abs": 4.8e-7, "relative_l2": 5.8e-7}
FAR: Accuracy = {**AGAIN, "relative_l2": 2e-3}


def entry(accuracy: Accuracy, variant: Accuracy = NEAR, **changes: object) -> LockedModel:
    fp16: LockedVariant = {
        "key": KEY,
        "parameters": {"dims": [1, 2]},
        "tools": {},
        "dependencies": {},
        "accuracy": variant,
    }
    made = LockedModel({"dims": [1, 2]}, {}, {}, KEY, {}, {"1/model.onnx": KEY}, accuracy, {"fp16": fp16})
    return replace(made, **changes)  # type: ignore[arg-type]


def test_deviations_near_rounding_stay_as_they_were_recorded() -> None:
    before = entry(NEAR)
    assert measured_again(before, entry(AGAIN, AGAIN)) is before
    made = replace(entry(AGAIN), parameters={"dims": (1, 2)})
    assert measured_again(before, made) is before, "what was made has tuples where what was read has lists"


def test_what_else_changed_is_recorded_with_what_was_measured() -> None:
    before = entry(NEAR)
    for after in (
        entry(FAR),
        entry(NEAR, FAR),
        entry({**AGAIN, "samples": 9}),
        entry({**AGAIN, "cosine": 0.97}),
        entry(AGAIN, files={"1/model.onnx": "1" * 64}),
        entry(AGAIN, variants={}),
        entry({"samples": 0, "note": "nothing was compared"}),
    ):
        assert measured_again(before, after) is after
    assert measured_again(None, before) is before


def test_an_agreement_or_a_perplexity_that_is_another_is_recorded() -> None:
    told: Accuracy = {
        "token_agreement": 0.98,
        "perplexity_ratio": 1.003,
        "perplexity": 12.5,
        "answer_tokens": 768,
    }
    before = entry(NEAR, told)
    assert measured_again(before, entry(NEAR, {**told, "perplexity": 12.5001})) is before
    for after in (
        entry(NEAR, {**told, "token_agreement": 0.95}),
        entry(NEAR, {**told, "perplexity_ratio": 1.02}),
    ):
        assert measured_again(before, after) is after
