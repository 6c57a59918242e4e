"""A language model from a spec to a sweep of its engine, by the commands that a user types, on a real tritonserver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.tiny_gguf import tiny_gguf
from tritonsmith.perf.sweep.run_record import load_run

pytestmark = [pytest.mark.server, pytest.mark.nightly]

SPEC = """\
models:
  chat:
    source: {llm: tiny.gguf}
    engine: {max_model_len: 256, max_num_seqs: 8, enable_prefix_caching: true}
"""


@pytest.mark.parametrize("placement", ["side_by_side", "in_place"])
def test_an_engines_settings_are_swept_by_tokens(tmp_path: Path, tritonsmith: Run, placement: str) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "models.yaml").write_text(SPEC)
    assert tritonsmith("build", cwd=tmp_path).returncode == 0
    told = tmp_path / "model_repository" / "chat" / "1" / "model.json"
    before = told.read_bytes()
    ran = tritonsmith(
        *("sweep", "-m", "chat", "--set", "engine.max_num_seqs=1", "-c", "1,8", "--rounds", "2"),
        *("--duration", "1s", "--warmup", "300ms", "--isl", "12", "--osl", "16", "--placement", placement),
        *("--dollars-per-hour", "1", "-o", "out", "--format", "json"),
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert told.read_bytes() == before
    run = load_run(tmp_path / "out")
    assert {t.trial.arm_id for t in run.trials} == {"arm00", "arm01", "arm02"}
    for trial in run.trials:
        assert trial.error is None, trial.error
        assert trial.tokens is not None and trial.summary is not None
        assert set(trial.tokens.counted_by) == {"server"}
        assert set(trial.tokens.output_lengths.values()) == {16.0}
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert all(row["output_tokens_per_s"] > row["throughput_per_s"] > 0 for row in rows)
    assert all(row["ttft_p50_ns"] > 0 and row["dollars_per_million_output_tokens"] > 0 for row in rows)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Time to the first token" in page and "Output tokens a second" in page
