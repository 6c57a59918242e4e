"""A response cache as an arm, on a server of the sweep's own: judged on requests that repeat as stated."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onnx_models import add_model, model, tensor
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.base.errors import ToolError, TritonsmithError, UsageError
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.data.repeat import Repeat
from tritonsmith.perf.load.load_test import LoadTest, run_load_test, server_at
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server import control
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.launch import ServerSpec
from tritonsmith.perf.server.process.response_cache import DEFAULT_CACHE_BYTES, cache_size_bytes
from tritonsmith.perf.sweep.plan import Arm, SweepSpec, Trial, spec_from_mapping
from tritonsmith.perf.sweep.repeats import repeating_of, with_repeat
from tritonsmith.perf.sweep.run import SweepOptions, run_sweep
from tritonsmith.perf.sweep.run.session import sweep_target
from tritonsmith.perf.sweep.run_record import RunResult
from tritonsmith.perf.sweep.target import SweepTarget
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [128] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [128] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
CACHED = CONFIG + "response_cache { enable: true }\n"
CACHE = {"response_cache.enable": [True]}


def chain(layers: int) -> Any:
    """x times as many matrices: work that a cache spares."""
    from onnx import helper

    weights = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32) / 128**0.5
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    return model(nodes, [tensor("x", ["batch", 128])], [tensor("y", ["batch", 128])], {"w": weights})


def swept(repository: Path, output: Path, **changes: Any) -> RunResult:
    if environment.ready() is None:
        pytest.skip("no embedded tritonserver: tritonsmith server install")
    quick = {"concurrency": [4], "rounds": 3, "duration_s": 0.3, "warmup_s": 0.05, "space": CACHE}
    spec = SweepSpec.model_validate({"model": "m", **quick, **changes})
    return sweep_target(spec, SweepTarget("embedded", repository), DataOptions(), output, command="")


def hit_share(run: RunResult, arm: str) -> float:
    counted = [t.server for t in run.trials if t.server and t.trial.arm_id == arm]
    hits, misses = sum(c.cache_hits for c in counted), sum(c.cache_misses for c in counted)
    return hits / max(1, hits + misses)


@pytest.mark.server
@pytest.mark.nightly
def test_a_cache_is_judged_on_requests_that_do_not_repeat_where_nothing_is_stated(tmp_path: Path) -> None:
    add_model(tmp_path / "models", "m", chain(2), CONFIG)
    run = swept(tmp_path / "models", tmp_path / "run", rounds=1)
    assert [arm.label for arm in run.arms[2:]] == ["enable True"]
    assert run.spec.repeat == "0" and not run.arm_errors, run.arm_errors
    assert hit_share(run, "arm02") == 0.0 and run.verdict.outcome != "winner"
    assert any("no two requests are the same, as an arm has a response cache" in n for n in run.notes)
    assert any(n.startswith("Requests that the response cache answered: 0 % of ") for n in run.notes)


@pytest.mark.server
@pytest.mark.nightly
def test_a_cache_wins_on_requests_that_repeat_as_stated_and_not_on_others(tmp_path: Path) -> None:
    add_model(tmp_path / "models", "m", chain(200), CONFIG)
    run = swept(tmp_path / "models", tmp_path / "zipf", repeat="zipf:1.1:1000")
    assert (run.verdict.outcome, run.verdict.arm_id) == ("winner", "arm02"), run.verdict
    assert 0.4 < hit_share(run, "arm02") < 1.0 and hit_share(run, "arm00") == 0.0
    run = swept(tmp_path / "models", tmp_path / "none")
    assert run.verdict.outcome != "winner" and hit_share(run, "arm02") == 0.0
    third = swept(tmp_path / "models", tmp_path / "third", repeat="0.3", rounds=1)
    assert hit_share(third, "arm02") == pytest.approx(0.3, abs=0.05)


@pytest.mark.server
@pytest.mark.nightly
def test_an_arm_with_a_cache_is_out_on_a_server_that_was_started_without_one(
    triton: LiveTriton, tmp_path: Path
) -> None:
    triton.load("uncached", chain(1), CONFIG)
    spec = SweepSpec(model="uncached", space=CACHE, concurrency=(1,), rounds=1, duration_s=0.1, warmup_s=0)
    run = run_sweep(spec, triton.server, SweepOptions((triton.repository,), triton.repository, tmp_path))
    control.unload_model(triton.http_url, "uncached")
    assert list(run.arm_errors) == ["arm02"]
    assert "started without a cache" in run.arm_errors["arm02"]
    assert {t.trial.arm_id for t in run.trials} == {"arm00", "arm01"}


@pytest.mark.server
def test_a_repository_that_asks_for_a_cache_is_served_with_one_and_load_says_how_requests_repeat(
    tmp_path: Path,
) -> None:
    if environment.ready() is None:
        pytest.skip("no embedded tritonserver: tritonsmith server install")
    add_model(tmp_path, "m", chain(1), CACHED)
    shares = {}
    with server_at(str(tmp_path)) as served:
        for repeat in (Repeat(0.5), Repeat(), None):
            test = LoadTest("m", Closed(2), duration_s=None, requests=1000, warmup_s=0.0, repeat=repeat)
            result = run_load_test(served.http_url, served.known_to(test))
            assert result.server is not None and result.server.failed == 0
            looked_up = result.server.cache_hits + result.server.cache_misses
            shares[result.records.header.repeat] = result.server.cache_hits / looked_up
    assert shares["0"] == 0.0 and shares["0.5"] == pytest.approx(0.5, abs=0.06) and shares[""] > 0.9


def test_what_asks_for_a_cache_and_what_is_said_where_there_is_no_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, caches = tmp_path / "models", tmp_path / "caches"
    add_model(models, "plain", chain(1), CONFIG)
    spec = ServerSpec(repositories=(models,))
    assert cache_size_bytes(spec, caches) == 0
    add_model(models, "asks", chain(1), CACHED)
    add_model(models, "off", chain(1), CACHED.replace("true", "false"))
    (models / "broken").mkdir()
    (models / "broken" / "config.pbtxt").write_text("response_cache {")
    assert cache_size_bytes(spec, None) == DEFAULT_CACHE_BYTES
    own = ServerSpec(repositories=(models,), extra_args=("--cache-config=local,size=9",))
    assert cache_size_bytes(own, caches) == 0
    assert not capsys.readouterr().err
    assert cache_size_bytes(spec, caches) == 0
    assert "asks: response_cache is enabled, and this server has no library" in capsys.readouterr().err
    with pytest.raises(ToolError, match="no response cache") as error:
        cache_size_bytes(ServerSpec(repositories=(models,), cache_size_bytes=1024), caches)
    assert error.value.code == "cache_library_missing"
    (caches / "local").mkdir(parents=True)
    (caches / "local" / "libtritoncache_local.so").touch()
    assert cache_size_bytes(spec, caches) == DEFAULT_CACHE_BYTES


@pytest.mark.parametrize(
    ("config", "changes", "repeat", "said"),
    [
        ({}, {"space": {"instance_group.count": [2]}}, None, []),
        ({}, {"space": {"instance_group.count": [2]}, "repeat": "0.3"}, "0.3", ["30 % of the requests repeat one before (--"]),
        ({}, {"space": {"instance_group.count": [2]}, "repeat": "pool"}, "pool", []),
        ({}, {}, "0", ["no two requests are the same, as an arm has a response cache (--repeat 0)"]),
        ({"response_cache": {"enable": True}}, {"space": {}}, "0", ["as an arm has a response cache"]),
        ({}, {"repeat": "zipf:1.1:500"}, "zipf:1.1:500", ["each request is one of 500"]),
        ({}, {"repeat": "pool"}, "pool", ["a response cache holds them all"]),
    ],
)  # fmt: skip
def test_requests_do_not_repeat_where_an_arm_has_a_cache_and_nothing_else_is_stated(
    config: dict[str, Any], changes: dict[str, Any], repeat: str | None, said: list[str]
) -> None:
    spec = SweepSpec.model_validate({"model": "m", "space": CACHE, **changes})
    rows = np.random.default_rng(0).uniform(size=(4, 1, 8)).astype(np.float32)
    payloads = [InferPayload("m", (tensor_from_array("x", row),)) for row in rows]
    told, notes = with_repeat(spec, [Arm("arm00", "current config", {}, config, True)], [payloads])
    assert told.repeat == repeat and len(notes) == len(said)
    assert all(text in note for text, note in zip(said, notes, strict=True)), notes
    # The same order for every arm of a round at a load point, other requests for each arm; others the next round.
    known: dict[str, int] = {}
    first, twin, later = (
        repeating_of(told, Trial(n, round_, arm, 4), known)
        for n, (round_, arm) in enumerate([(0, "arm00"), (0, "arm01"), (1, "arm00")])
    )
    if first is None or twin is None or later is None:
        assert repeat in (None, "pool")
        return
    assert first.seed == twin.seed != later.seed and first.first == later.first != twin.first


@pytest.mark.parametrize("changes", [{"sequences": True}, {"shared_memory": "system"}])
def test_a_load_of_requests_that_are_not_made_one_by_one_does_not_vary_them(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="made one by one") as error:
        run_load_test("http://127.0.0.1:9", LoadTest("m", Closed(1), repeat=Repeat(), **changes))
    assert error.value.code == "bad_repeat"


def test_answers_of_the_data_and_a_cache_do_not_go_together_unsaid() -> None:
    with pytest.raises(UsageError, match="no two requests are the same") as error:
        with_repeat(SweepSpec(model="m", space=CACHE, max_wrong=0.0), [], [])
    assert "--repeat pool" in str(error.value.fix)


@pytest.mark.parametrize(
    ("changes", "seen"), [({"repeat": "1.5"}, "1.5"), ({"repeat": "0.3", "max_wrong": 0.0}, "max_wrong")]
)
def test_what_a_sweep_refuses(changes: dict[str, Any], seen: str) -> None:
    with pytest.raises(TritonsmithError) as error:
        spec_from_mapping({"model": "m", "space": CACHE, **changes})
    assert error.value.exit_code == 2 and seen in str(error.value.seen)
