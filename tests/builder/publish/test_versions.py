"""Which versions are served, kept, next and surplus; what a user's own version_policy means at a destination."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.errors import GateError, UsageError
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.builder.publish.destinations.versions import (
    CLAIM,
    FAILED,
    PROVENANCE,
    ModelState,
    Policy,
    is_placeholder,
    manifest,
    policy_of,
    rollback_target,
    source_version,
    surplus,
    versions_to_serve,
)

STATED = 'name: "m"\nbackend: "onnxruntime"\nmax_batch_size: 4\n'


def state(
    *versions: int,
    served: tuple[int, ...] = (),
    failed: tuple[int, ...] = (),
    unfinished: dict[int, float] | None = None,
    previous: dict[int, list[int]] | None = None,
) -> ModelState:
    """Versions with one file each, as a destination would tell of them."""
    files = {f"{n}/model.onnx": 5 for n in versions} | {f"{n}/{PROVENANCE}": 9 for n in versions}
    files |= {f"{n}/{FAILED}": 1 for n in failed} | {f"{n}/{CLAIM}": 1 for n in unfinished or {}}
    return ModelState(
        "m",
        files,
        tuple(sorted({*versions, *(unfinished or {})})),
        {
            n: {"files": {"model.onnx": {"bytes": 5}}, "previous": (previous or {}).get(n, [])}
            for n in versions
        },
        manifest(STATED, served, "models.yaml") if served else None,
        claimed_s=unfinished or {},
    )


POLICIES = [
    ("nothing said is the latest", "", 7, (7,)),
    ("latest 1", "version_policy { latest { num_versions: 1 } }", 7, (7,)),
    ("latest 2 takes the one before with it", "version_policy { latest { num_versions: 2 } }", 7, (6, 7)),
    ("latest of more than there are", "version_policy { latest { num_versions: 9 } }", 7, (3, 4, 6, 7)),
    ("all is all that is kept", "version_policy { all { } }", 7, (3, 4, 6, 7)),
    (
        "specific is the build's own number, and here the new one",
        "version_policy { specific { versions: 1 } }",
        7,
        (7,),
    ),
    ("nothing above the one that is rolled back to", "version_policy { all { } }", 4, (3, 4)),
    (
        "latest 2 below the one that is rolled back to",
        "version_policy { latest { num_versions: 2 } }",
        4,
        (3, 4),
    ),
]


@pytest.mark.parametrize(("sentence", "policy", "newest", "expected"), POLICIES, ids=[p[0] for p in POLICIES])
def test_a_policy_as_published_versions(
    sentence: str, policy: str, newest: int, expected: tuple[int, ...]
) -> None:
    meant = policy_of(model_config_from_text(STATED + policy))
    assert versions_to_serve(meant, newest, (3, 4, 6, 7)) == expected


def test_all_is_no_more_than_is_kept() -> None:
    assert versions_to_serve(Policy("all"), 7, (3, 4, 6), keep=2) == (6, 7)


SOURCES = [
    ("one version, whatever its number", "", {3}, 3),
    ("the newest of several is what Triton served", "", {1, 2, 10}, 10),
    ("the one that is named", "version_policy { specific { versions: 2 } }", {1, 2}, 2),
    (
        "two are served: which is the newer cannot be told",
        "version_policy { latest { num_versions: 2 } }",
        {1, 2},
        None,
    ),
    ("all of two", "version_policy { all { } }", {1, 2}, None),
]


@pytest.mark.parametrize(("sentence", "policy", "present", "expected"), SOURCES, ids=[s[0] for s in SOURCES])
def test_the_version_of_a_build(sentence: str, policy: str, present: set[int], expected: int | None) -> None:
    config = model_config_from_text(STATED + policy)
    if expected is not None:
        assert source_version(config, present, Path("config.pbtxt")) == expected
        return
    with pytest.raises(GateError) as caught:
        source_version(config, present, Path("config.pbtxt"))
    assert caught.value.code == "several_versions" and caught.value.exit_code == 4


def test_the_config_is_the_manifest() -> None:
    text = manifest(STATED + "version_policy { all { } }", [4, 3], "models.yaml")
    assert state(3, 4, served=(3, 4)).served == (3, 4)
    assert list(model_config_from_text(text).version_policy.specific.versions) == [3, 4]
    assert model_config_from_text(text).max_batch_size == 4 and not is_placeholder(text)
    nothing = manifest(STATED, [], "models.yaml")
    assert is_placeholder(nothing) and model_config_from_text(nothing).version_policy.HasField("specific")


def test_a_number_is_never_given_twice() -> None:
    assert ModelState("m").next_number == 1
    assert state(1, 2, served=(1,)).next_number == 3, "after a rollback too"
    assert state(1, unfinished={7: 10.0}, served=(1,)).next_number == 8, "above what nobody finished"


DAY = 24 * 3600.0
SURPLUS: list[tuple[str, ModelState, int, Policy, tuple[int, ...]]] = [
    ("the newest stay", state(1, 2, 3, 4, served=(4,)), 3, Policy("latest"), (1,)),
    ("what is served stays, however old", state(1, 2, 3, 4, served=(1,)), 2, Policy("latest"), (2,)),
    ("one is kept: only what is served", state(1, 2, 3, served=(3,)), 1, Policy("latest"), (1, 2)),
    ("a policy of two keeps two", state(1, 2, 3, served=(2, 3)), 1, Policy("latest", 2), (1,)),
    ("the highest number stays: it is not given again", state(1, 2, 3, served=(1,), failed=(3,)), 1, Policy("latest"), ()),
    ("a failed one takes no good one's place", state(1, 2, 3, 4, served=(4,), failed=(2, 3)), 2, Policy("latest"), (2, 3)),
    ("an unfinished one may be somebody's upload", state(1, served=(1,), unfinished={2: 60.0}), 1, Policy("latest"), ()),
    ("a day later it is nobody's", state(1, 3, served=(3,), unfinished={2: DAY + 1}), 2, Policy("latest"), (2,)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "there", "keep", "policy", "expected"), SURPLUS, ids=[s[0] for s in SURPLUS]
)
def test_what_may_go(
    sentence: str, there: ModelState, keep: int, policy: Policy, expected: tuple[int, ...]
) -> None:
    assert surplus(there, keep, policy) == expected


def test_where_a_rollback_leads() -> None:
    there = state(1, 2, 3, 4, served=(4,), failed=(3,), previous={4: [2], 2: [1]})
    assert rollback_target(there, None, "/models") == 2, "what was served before, not the number below"
    assert rollback_target(there, 1, "/models") == 1
    assert rollback_target(there, 3, "/models") == 3, "a failed one when it is asked for by its number"
    back = state(1, 2, 4, served=(2,), previous={4: [2], 2: [1]})
    assert rollback_target(back, None, "/models") == 1, "back once more"


REFUSALS: list[tuple[str, ModelState, int | None, str, tuple[Any, ...]]] = [
    ("a version that is not there", state(1, 2, served=(2,)), 9, "unknown_version", ("1",)),
    ("the one that is served", state(1, 2, served=(2,)), 2, "served_already", ("1",)),
    ("an unfinished one", state(1, 2, served=(2,), unfinished={3: 1.0}), 3, "unknown_version", ("1",)),
    ("nothing before the first", state(1, served=(1,)), None, "no_previous_version", ()),
    ("the one before is gone", state(1, 4, served=(4,), previous={4: [3]}), None, "no_previous_version", ("1",)),
    ("failed ones are marked", state(1, 2, 3, served=(2,), failed=(3,)), 9, "unknown_version", ("1", "3 (failed)")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "there", "wanted", "code", "valid"), REFUSALS, ids=[r[0] for r in REFUSALS]
)
def test_a_rollback_to_nowhere_says_where_to(
    sentence: str, there: ModelState, wanted: int | None, code: str, valid: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        rollback_target(there, wanted, "/models")
    assert (caught.value.code, caught.value.valid) == (code, valid)


def test_words_for_people() -> None:
    there = state(1, 2, 3, served=(3,), failed=(2,), unfinished={4: 1.0})
    torn = ModelState(
        "m", {**there.files, "1/model.onnx": 4}, there.numbers, there.provenance, there.config_text
    )
    assert [there.state_of(n) for n in (1, 2, 3, 4)] == ["kept", "failed", "served", "unfinished"]
    assert torn.state_of(1) == "damaged" and torn.complete == (2, 3)
    assert ModelState("m", {"1/model.onnx": 5}, (1,)).state_of(1) == "foreign" and there.state_of(9) == "gone"


def test_what_somebody_else_put_there_is_foreign() -> None:
    by_hand = {"1/model.onnx": 5, "config.pbtxt": 3}
    assert ModelState("m", by_hand, (1,), {}, STATED).is_foreign
    assert ModelState("m", {"1/model.onnx": 5}, (1,)).is_foreign, "Triton completes a config by itself"
    assert not ModelState("m").is_foreign
    assert not state(1, served=(1,)).is_foreign
    killed = ModelState("m", {f"1/{CLAIM}": 1}, (1,), {}, manifest(STATED, [], "s"), claimed_s={1: 3.0})
    assert not killed.is_foreign, "our own first upload, killed"
