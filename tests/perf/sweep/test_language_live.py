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


VARIANTS = """\
models:
  chat:
    source: {llm: tiny.gguf}
    engine: {max_model_len: 256, max_num_seqs: 8}
    variants:
      full: {}
      q8: {precision: q8_0, accuracy: {token_agreement: 0.8, perplexity_ratio: 1.1}}
      q4: {precision: q4_0, accuracy: {token_agreement: 0.99}}
    serve: [full, q8]
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
    assert all(row["output_tokens_per_s"] > 0 and row["same_text"] > 0 for row in rows)
    assert all(row["ttft_p50_ns"] > 0 and row["dollars_per_million_output_tokens"] > 0 for row in rows)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Time to the first token" in page and "Output tokens a second" in page


def test_variants_are_arms_with_their_accuracy_and_the_one_taken_is_served(
    tmp_path: Path, tritonsmith: Run
) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "models.yaml").write_text(VARIANTS)
    assert tritonsmith("build", "--variants", "variants", cwd=tmp_path).returncode == 0
    ran = tritonsmith(
        *("sweep", "-m", "chat", "--variants", "variants", "-c", "1", "--rounds", "2"),
        *("--duration", "500ms", "--warmup", "200ms", "--isl", "12", "--osl", "16", "-o", "out"),
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    run = load_run(tmp_path / "out")
    arms = {arm.label: arm for arm in run.arms}
    assert arms.keys() == {"current config", "current config, again", "q4", "q8"}
    assert "full: the same as the current config, not measured twice" in run.notes
    q8, q4 = run.texts[arms["q8"].id], run.texts[arms["q4"].id]
    assert q8.token_agreement is not None and 0.8 < q8.token_agreement < 1 and q8.same_text is not None
    assert run.texts["arm00"].token_agreement == 1.0 and run.texts["arm01"].same_text == 1.0
    assert q4.token_agreement is not None and q4.token_agreement < 0.99
    assert run.arm_errors[arms["q4"].id].startswith("the build refused it: token agreement 0.")
    assert {t.trial.arm_id for t in run.trials} == {"arm00", "arm01", arms["q8"].id}
    assert "agreement" in ran.stdout and "perplexity" in ran.stdout
    assert tritonsmith("apply", "out", "--arm", "q8", cwd=tmp_path).returncode == 0
    assert "serve: [q8, full]" in (tmp_path / "models.yaml").read_text()
    assert tritonsmith("build", cwd=tmp_path).returncode == 0
    assert (tmp_path / "model_repository" / "chat" / "1" / "tiny.q8_0.gguf").is_file()
