"""A language model's arms: their texts against the current config's, their variants' accuracy, and what a report shows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.perf.report.test_report import Page, counters, run_result
from tests.perf.sweep.test_language import CHAT, CURRENT
from tests.perf.tokens.conftest import Scripted, scripted_server
from tritonsmith.builder.actions.accuracy.laid_out import (
    LanguageAccuracy,
    ServedAccuracy,
    read_accuracy,
    write_accuracy,
)
from tritonsmith.builder.base.errors import TrialError
from tritonsmith.perf.data.distribution import Span
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.report import csv_of, html_of, markdown_of, report_json, text_of
from tritonsmith.perf.report.columns import cells_of
from tritonsmith.perf.report.page.why import why_winner
from tritonsmith.perf.report.view import why_sentence
from tritonsmith.perf.server.process.ports import Ports
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.stats import Estimate
from tritonsmith.perf.sweep.answers import ArmText, same_text
from tritonsmith.perf.sweep.plan import Arm, plan_arms, spec_from_mapping
from tritonsmith.perf.sweep.run import answers_check
from tritonsmith.perf.sweep.run.answers_check import TextCheck
from tritonsmith.perf.sweep.run.arm_server import ArmServer
from tritonsmith.perf.sweep.run_record import RunResult, verdict_of
from tritonsmith.perf.tokens.metrics import TokenSummary
from tritonsmith.perf.tokens.prompts import PromptOptions, made_up
from tritonsmith.perf.tokens.triton import TritonRequests
from tritonsmith.perf.wire.payload import InferPayload

ARMS = (
    Arm("arm00", "current config", {}, {}, True),
    Arm("arm01", "current config, again", {}, {}, True),
    Arm("arm02", "q8", {}, {}, variant="q8"),
    Arm("arm03", "q4", {}, {}, variant="q4"),
)


@pytest.fixture(scope="module")
def texts() -> Iterator[Scripted]:
    yield from scripted_server()


def laid_out(root: Path, **accuracy: LanguageAccuracy | None) -> dict[str, str]:
    for name, language in accuracy.items():
        (root / name).mkdir()
        if language is not None:
            write_accuracy(root / name, ServedAccuracy("q8_0", language=language))
    return {name: str(root / name) for name in accuracy}


def checked(server: Scripted, variants: dict[str, str], script: dict[str, Any], **more: Any) -> TextCheck:
    spec = spec_from_mapping({"model": "chat", "variants": variants, "isl": 4, "osl": 8, **more})
    arm_server = ArmServer(spec, Server(host="127.0.0.1", ports=Ports(server.port, 0, 0)), None, None)
    arm_server.placement = "side_by_side"

    def requests(tokens: int) -> Sequence[InferPayload]:
        make = TritonRequests(CHAT, {"script": {"first_ms": 0, "gap_ms": 0, **script}}, {})
        prompts = made_up(PromptOptions(isl=Span(4, 4), osl=Span(tokens, tokens), count=9), None)
        return [make(prompt.messages, prompt) for prompt in prompts]

    return TextCheck(spec, arm_server, ARMS[0], requests)


def test_the_share_of_a_text_is_what_comes_before_the_first_difference() -> None:
    assert same_text(["abcd"], ["abcd"]) == 1.0
    assert same_text(["abXd", "q"], ["abcd", "q"]) == pytest.approx(3 / 5)
    assert same_text(["ab"], ["abcd"]) == same_text(["abcd"], ["ab"]) == 0.5, "a text that ends early"
    assert same_text([""], [""]) is None and same_text([], []) is None


def test_an_arms_greedy_texts_are_told_and_one_without_any_is_out(texts: Scripted, tmp_path: Path) -> None:
    told = LanguageAccuracy(0.93, 1.002)
    models = {"chat__arm02": {"text": " wx"}, "chat__arm03": {"error_after": 0}}
    check = checked(texts, laid_out(tmp_path, q8=told, q4=None), {"models": models})
    for arm in ARMS[:3]:
        check.hold(arm)
        check.hold(arm)
    with pytest.raises(TrialError, match=r"none of 4 requests was answered with a text: .*out of memory"):
        check.hold(ARMS[3])
    asked = [row["path"].split("/")[3] for row in texts.log()]
    # Twice the first of the current config: once to warm it, once to see how long it takes; and each arm once.
    assert asked == ["chat__arm00"] * 10 + ["chat__arm01"] * 4 + ["chat__arm02"] * 4 + ["chat__arm03"] * 4
    of_arms = check.of_arms(ARMS)
    assert of_arms["arm00"] == of_arms["arm01"] == ArmText(None, None, 1.0)
    # " w w w w w w w w" and " wx wx …": two characters of 24
    assert of_arms["arm02"] == ArmText(0.93, 1.002, 2 / 24)
    assert of_arms["arm03"] == ArmText()
    assert check.held == {"arm00": "", "arm01": "", "arm02": "92% of the text", "arm03": None}
    assert check.notes()[0] == (
        "q4: its accuracy is not known: it was not laid out by `tritonsmith build --variants`"
    )
    assert "(4 of up to 8 tokens)" in check.notes()[1]


def test_a_slow_model_is_asked_for_less_and_one_that_answers_nothing_for_nothing_more(
    texts: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_check, "LONGEST_TEXTS_S", 0.08)
    check = checked(texts, {}, {"gap_ms": 20})
    for arm in ARMS[:2]:
        check.hold(arm)
    tokens = [json.loads(row["asked"]["sampling_parameters"])["max_tokens"] for row in texts.log()]
    assert tokens[:2] == [8, 8] and max(tokens[2:]) < 8
    assert check.shares == {"arm00": 1.0, "arm01": 1.0}
    silent = checked(texts, {}, {"text": ""})
    for arm in ARMS:
        silent.hold(arm)
    assert len(texts.log()) == 2
    (note,) = silent.notes()
    assert "the current config answers no text: it was empty" in note


def test_a_variant_that_the_build_refused_is_out_but_where_any_answer_will_do(
    texts: Scripted, tmp_path: Path
) -> None:
    why = "token agreement 0.3271 < 0.99 (746 tokens of 16 answers)"
    variants = laid_out(tmp_path, q8=LanguageAccuracy(0.93, 1.0), q4=LanguageAccuracy(0.3271, 1.0, (why,)))
    assert read_accuracy(tmp_path / "q4") == ServedAccuracy(
        "q8_0", language=LanguageAccuracy(0.3271, 1.0, (why,))
    )
    refused = checked(texts, variants, {}).refused()
    assert refused.keys() == {"q4"} and refused["q4"].message == f"the build refused it: {why}"
    any_will_do = checked(texts, variants, {}, answers="any")
    assert any_will_do.refused() == {}
    any_will_do.hold(ARMS[0])
    assert texts.log() == [] and any_will_do.of_arms(ARMS)["arm03"].token_agreement == 0.3271


@pytest.mark.parametrize(
    ("file", "is_known"), [("/models/chat__same/1/model.gguf", True), ("/data/x/1/model.gguf", False)]
)
def test_a_variant_of_the_models_own_weights_is_the_current_config(file: str, is_known: bool) -> None:
    def told(model: str) -> dict[str, object]:
        return {**CURRENT, "engine": {"model": model, "max_num_seqs": 32}}

    current, variant, other = map(
        told, ("/models/chat/1/model.gguf", file, "/models/chat__q8/1/model.q8_0.gguf")
    )
    spec = spec_from_mapping({"model": "chat", "variants": {"same": "a", "q8": "b"}})
    plan = plan_arms(spec, current, {"same": variant, "q8": other}, {"": "1", "same": "1", "q8": "2"})
    assert [arm.variant for arm in plan.arms[2:]] == (["q8"] if is_known else ["same", "q8"])
    assert plan.arms[-1].config["engine"] == other["engine"], "what it is loaded with names its own file"


def language_run(output_tokens_per_s: Callable[[float], float] = lambda per_s: 16 * per_s) -> RunResult:
    """run_result as a language model's, whose tokens come so fast."""
    run = run_result()
    none = Estimate(None)
    quantiles = {name: Estimate(1e6) for name in ("p50", "p90", "p95", "p99", "p99.9")}
    trials = []
    for trial in run.trials:
        assert trial.summary is not None and trial.summary.throughput_per_s.value is not None
        rate = Estimate(output_tokens_per_s(trial.summary.throughput_per_s.value))
        tokens = TokenSummary(
            {"server": 9}, 900, None, rate, None, quantiles, {}, {}, quantiles, quantiles, quantiles, quantiles,
            none, none, none, 900, 1.0, 0,
        )  # fmt: skip
        trials.append(replace(trial, tokens=tokens))
    spec = run.spec.model_copy(update={"isl": 16, "osl": 16, "dollars_per_hour": 1.8})
    shown = {"arm02": ArmText(0.98, 1.003, 0.75)}
    return replace(
        run, spec=spec, trials=tuple(trials), verdict=verdict_of(spec, run.arms, trials), texts=shown
    )


def test_a_report_of_a_language_model_has_tokens_and_nothing_of_tritons_batches() -> None:
    run = language_run()
    page, markdown, lines = Page(html_of(run)).text, markdown_of(run), text_of(run)
    rows = report_json(run)["points"]
    for text in (
        "Realised batch sizes",
        "Time inside the server",
        "computed for",
        "inferences/s",
        "Inferences/s",
        "$ / million ",
    ):
        assert text not in page.replace("$ / million tokens", "") and text not in lines, text
    assert "| batch |" not in markdown and "| $ / million |" not in markdown and "queue ms" not in markdown
    assert "$ / million tokens" in markdown and "Cost of a million output tokens" in page
    gone = {
        "throughput_per_s",
        "mean_batch_size",
        "mean_queue_ns",
        "mean_compute_ns",
        "dollars_per_million_inferences",
    }
    names = next(csv.reader(io.StringIO(csv_of(run))))
    assert not gone & rows[0].keys() and not gone & set(names)
    best = next(row for row in rows if row["arm"] == "arm02")
    assert best["dollars_per_million_output_tokens"] == pytest.approx(
        1.8 / 3600 / best["output_tokens_per_s"] * 1e6
    )
    assert (best["token_agreement"], best["perplexity_ratio"], best["same_text"]) == (0.98, 1.003, 0.75)
    assert "98.0 %" in page and "×1.003" in page and "75.0 %" in page
    assert "98.0 %" in lines and "agreement" in lines
    assert why_sentence(run, cells_of(run), 8) is None
    # Counters that would be a reason of another model.
    quick = replace(counters(4), mean_compute_infer_us=90.0)
    trials = tuple(replace(t, server=quick if t.trial.arm_id == "arm02" else t.server) for t in run.trials)
    counted = replace(run, trials=trials)
    assert why_winner(counted, cells_of(counted)) is None
    by_inferences = replace(counted, spec=run_result().spec)
    assert "of execution instead of" in (why_winner(by_inferences, cells_of(by_inferences)) or "")
    # Of another model they are there, and these are not.
    plain = run_result()
    assert "Realised batch sizes" in html_of(plain) and why_sentence(plain, cells_of(plain), 8)
    assert not any(text in text_of(plain) for text in ("agreement", "same text", "TTFT"))


def test_a_round_without_a_whole_answer_leaves_one_estimate_of_the_rate() -> None:
    """Long answers in short rounds: tokens came in every round, a whole answer in some."""
    run = language_run(lambda per_s: 80.0)
    rows = report_json(run)["points"]
    assert {round(row["output_tokens_per_s"]) for row in rows} == {80}
    assert not any("throughput_per_s" in row for row in rows)


def test_how_the_arms_answer_is_kept_with_the_run() -> None:
    run = language_run()
    assert typed(RunResult, json_of(run)).texts == run.texts
    before = {name: value for name, value in json_of(run).items() if name != "texts"}
    assert typed(RunResult, before).texts == {}, "a run that an earlier version kept"
