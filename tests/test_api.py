"""`import tritonsmith`: the functions do what the commands do, on the same types, and print nothing on stdout."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import pydoc
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import pytest
from typing_extensions import assert_type

import tritonsmith
from tests import onnx_models
from tests.conftest import ROOT, Run
from tests.perf.fake_server import fake_server
from tritonsmith import api
from tritonsmith.api.live import LoadSettings, SweepSettings
from tritonsmith.builder.base.errors import (
    BuildError,
    GateError,
    SpecError,
    ToolError,
    TritonsmithError,
    UnexpectedError,
    one_for,
)
from tritonsmith.builder.base.text.tabular import html_of
from tritonsmith.builder.build.context import BuildOptions
from tritonsmith.perf.load.load_test import LoadTest
from tritonsmith.perf.server.spec import ServerSpec
from tritonsmith.perf.sweep.plan import SweepSpec

T = TypeVar("T")


@pytest.fixture(name="project")
def _project(tmp_path: Path, cache_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One good model in the working directory, and a cache that no other test sees."""
    monkeypatch.setenv("TRITONSMITH_CACHE", str(cache_directory))
    monkeypatch.chdir(tmp_path)
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text("models:\n  m:\n    source: {onnx: m.onnx}\n")
    return tmp_path


def with_a_bad_model(project: Path) -> None:
    (project / "models.yaml").write_text(
        "models:\n  m:\n    source: {onnx: m.onnx}\n  bad:\n    source: {onnx: bad.onnx}\n"
    )
    (project / "bad.onnx").write_bytes(b"not a graph")


def in_a_running_loop(work: Callable[[], T]) -> T:
    """As a notebook runs a cell: in a coroutine of a loop that leaves Ctrl-C to Python."""

    async def cell() -> T:
        return work()

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(cell())
    finally:
        loop.close()


class TestTheModule:
    def test_the_import_is_light_until_a_name_is_asked_for(self) -> None:
        code = (
            "import sys, tritonsmith; before = set(sys.modules); tritonsmith.__version__; dir(tritonsmith);"
            "print(sorted({'numpy', 'pydantic', 'typer', 'onnx', 'tritonsmith.api'} & set(sys.modules)));"
            "from tritonsmith import plan; print(plan.__name__, 'tritonsmith.api' in sys.modules, 'onnx' in sys.modules)"
        )
        told = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
        assert told == "[]\nplan True False\n"

    def test_what_is_promised_is_there_for_readers_type_checkers_and_star_imports(self) -> None:
        tree = ast.parse((ROOT / "tritonsmith" / "__init__.py").read_text())
        of_checkers = {
            a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names
        }
        assert (
            set(tritonsmith.__all__)
            == set(api.__all__)
            == of_checkers - {"annotations", "TYPE_CHECKING", "Any"}
        )
        assert set(tritonsmith.__all__) <= set(dir(tritonsmith))
        assert all(getattr(tritonsmith, name) is getattr(api, name) for name in tritonsmith.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'plna'"):
            tritonsmith.plna  # type: ignore[attr-defined]  # noqa: B018

    def test_help_shows_every_function_with_its_signature(self) -> None:
        shown = pydoc.plain(pydoc.render_doc(tritonsmith))
        for name in ("plan", "build", "check", "serve", "load", "sweep", "compare", "publish"):
            assert f"\n    {name}(" in shown
            assert inspect.getdoc(getattr(tritonsmith, name))
        assert 'tritonsmith.serve("model_repository")' in shown

    def test_settings_are_those_of_the_types_that_the_commands_use(self) -> None:
        of_test = get_type_hints(LoadTest)
        assert get_type_hints(LoadSettings) == {
            n: t for n, t in of_test.items() if n not in ("model", "load", "pid")
        }
        assert set(get_type_hints(SweepSettings)) == set(SweepSpec.model_fields) - {"model"}
        for name in ("objective", "search", "placement"):
            assert get_type_hints(SweepSettings)[name] == SweepSpec.model_fields[name].annotation
        given = inspect.signature(tritonsmith.build).parameters
        assert set(given) - {"remote_cache", "remote_cache_read_only", "variants", "progress", "errors"} == {
            f.name for f in fields(BuildOptions) if f.name != "cache"
        }
        served = {f.name for f in fields(ServerSpec)} - {
            "kind",
            "reference",
            "repositories",
            "exit_timeout_s",
        }
        assert set(inspect.signature(tritonsmith.serve).parameters) == served | {"repository", "launch"}


def shown_code() -> dict[str, str]:
    """Every piece of Python that readers are shown: README's, the page's, the module's own."""
    pages = {name: (ROOT / name).read_text() for name in ("README.md", "docs/python.md")}
    blocks = {name: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for name, text in pages.items()}
    assert all(len(found) == 1 for found in blocks.values())
    docstring = (tritonsmith.__doc__ or "").split("\n\n", 1)[1].split("\n\nEach function")[0]
    return {"help": textwrap.dedent(docstring), **{name: found[0] for name, found in blocks.items()}}


@pytest.mark.parametrize("name", ["help", "README.md", "docs/python.md"])
def test_calls_that_readers_are_shown_fit_the_functions(name: str) -> None:
    calls = [node for node in ast.walk(ast.parse(shown_code()[name])) if isinstance(node, ast.Call)]
    calls = [call for call in calls if re.fullmatch(r"tritonsmith\.\w+", ast.unparse(call.func))]
    assert calls
    settings = {"load": get_type_hints(LoadSettings), "sweep": get_type_hints(SweepSettings)}
    for call in calls:
        function = ast.unparse(call.func).removeprefix("tritonsmith.")
        signature = inspect.signature(getattr(tritonsmith, function))
        named = {k.arg for k in call.keywords if k.arg} - settings.get(function, {}).keys()
        assert named <= set(signature.parameters), ast.unparse(call)
        signature.bind(*call.args, **dict.fromkeys(named))


@pytest.mark.nightly
@pytest.mark.server
def test_what_the_readme_shows_runs(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (project / "models.yaml").write_text("models:\n  crepe:\n    source: {onnx: m.onnx}\n")
    exec(shown_code()["README.md"], {})
    assert "crepe, concurrency 8" in capfd.readouterr().out


@pytest.mark.nightly
@pytest.mark.server
def test_a_sweep_gives_its_run_and_writes_its_report(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tritonsmith.build()
    told: list[str] = []
    result = tritonsmith.sweep(
        space={"instance_group.count": [1, 2]},
        concurrency=(1, 2),
        rounds=2,
        duration_s=0.2,
        warmup_s=0.1,
        output="swept",
        progress=lambda what, done, total: told.append(what),
    )
    assert_type(result, tritonsmith.RunResult)
    assert result.complete and result.caption() == result.verdict.sentence
    assert len(result.rows()) == len(result.trials) >= 12 and "<table>" in result._repr_html_()
    assert result.environment["command"] == "tritonsmith.sweep('model_repository', 'm', …)"
    assert (project / "swept" / "report.html").is_file() and told[0] and told[-1] == "stopping the server"
    again = tritonsmith.compare(result, "swept", arm="all")
    assert {row["finding"] for row in again.rows()} <= {"no difference", "unknown"}
    with pytest.raises(GateError) as nothing_fits:
        tritonsmith.sweep(
            space={"instance_group.count": [1, 2]}, concurrency=(1,), rounds=2, duration_s=0.2, max_p99_ms=1e-6,
        )  # fmt: skip
    assert nothing_fits.value.code == "nothing_meets_constraints" and (project / "sweep-m").is_dir()
    assert capfd.readouterr().out == ""


class TestABuild:
    def test_it_is_what_the_commands_do_and_stdout_stays_empty(
        self, project: Path, tritonsmith: Run, capfd: pytest.CaptureFixture[str]
    ) -> None:
        planned = json.loads(tritonsmith("plan", "--format", "json").stdout)
        import tritonsmith as ts

        plan = ts.plan()
        assert_type(plan, ts.BuildPlan)
        named = ("model", "action", "state", "reason", "detail")
        assert [[row[n] for n in named] for row in plan.rows()] == [
            [action[n] for n in named] for action in planned["actions"]
        ]
        told: list[tuple[str, float, float | None]] = []
        result = ts.build(progress=lambda *at: told.append(at))
        assert_type(result, ts.BuildResult)
        assert told[-1][1:] == (1, 1)
        assert [(r["model"], r["action"]) for r in result.rows()] == [("m", "exported")]
        assert (project / "model_repository" / "m" / "1" / "model.onnx").is_file()
        assert ts.plan().stale == ()
        assert "nothing to do" in tritonsmith("build").stdout
        report = ts.check()
        assert_type(report, ts.LintReport)
        assert (report.models, report.errors) == (1, [])
        published = ts.publish("served", "m")
        assert_type(published, ts.PublishResult)
        assert published.rows()[0] | {"seconds": 0, "bytes": 0} == {
            "model": "m", "action": "published", "version": 1, "served": "1", "previous": "", "removed": "",
            "bytes": 0, "seconds": 0, "live": "", "error": None,
        }  # fmt: skip
        assert ts.publish("served", dry_run=True).caption() == f"1 up to date: {project / 'served'}"
        captured = capfd.readouterr()
        assert captured.out == captured.err == ""

    def test_a_failed_model_is_raised_once_the_others_are_built_or_returned(self, project: Path) -> None:
        with_a_bad_model(project)
        with pytest.raises(TritonsmithError, match="bad") as raised:
            tritonsmith.build()
        assert (project / "model_repository" / "m" / "config.pbtxt").is_file()
        result = tritonsmith.build(errors="return")
        assert [error.code for error in result.errors] == [raised.value.code]
        assert result.rows()[1]["error"].startswith(raised.value.code)
        assert "1 failures" in result.caption()

    def test_variants_are_laid_out_beside_and_what_became_of_them_is_in_the_result(
        self, project: Path
    ) -> None:
        (project / "models.yaml").write_text(
            "models:\n  m:\n    source: {onnx: m.onnx}\n    variants: {plain: {precision: fp32}}\n    serve: plain\n"
        )
        result = tritonsmith.build(variants="variants")
        assert result.variants == (project / "variants" / "m__plain",) and not result.variant_errors
        assert (project / "variants" / "m__plain" / "config.pbtxt").is_file()
        assert [(r["variant"], r["served"]) for r in result.rows()] == [(None, None), ("plain", True)]
        assert tritonsmith.build(variants="variants").variants == result.variants

    def test_what_stands_for_several_errors_is_the_worst_and_names_the_others(self) -> None:
        gate = GateError("too far off", code="accuracy")
        bug = UnexpectedError("a bug", code="unexpected", traceback="…")
        failed = BuildError("no export", code="export_failed", seen=[1])
        assert one_for([gate]) is gate
        told = one_for([gate, failed, bug])
        assert (type(told), told.exit_code, told.details) == (
            UnexpectedError, 1, ("and accuracy: too far off", "and export_failed: no export"),
        )  # fmt: skip
        assert type(one_for([gate, failed])) is BuildError and failed.details == ()

    def test_bad_arguments_are_one_clear_error(self, project: Path) -> None:
        with pytest.raises(TritonsmithError) as unknown:
            tritonsmith.plan("models.yaml", "n")
        assert (unknown.value.code, unknown.value.seen) == ("unknown_model", "n")
        with pytest.raises(TritonsmithError) as executor:
            tritonsmith.build(executor="cloud")
        assert executor.value.code == "executor"
        with pytest.raises(TritonsmithError) as nothing:
            tritonsmith.sweep("elsewhere", "m")
        assert nothing.value.code == "repository_missing"
        (project / "model_repository").mkdir()
        with pytest.raises(SpecError, match="concurency") as setting:
            tritonsmith.sweep("model_repository", "m", concurency=(1,))  # type: ignore[call-arg]
        assert "concurrency" in str(setting.value.fix)


class TestALoadTest:
    def test_it_runs_where_a_loop_runs_already_and_its_results_compare(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with fake_server(delay_s=0.001) as server:

            def cell() -> tuple[tritonsmith.LoadTestResult, tritonsmith.LoadTestResult]:
                first = tritonsmith.load(server.url, load=2, requests=60, warmup_s=0.0)
                return first, tritonsmith.load(
                    server.url, "m", tritonsmith.Closed(2), requests=60, warmup_s=0.0
                )

            before, after = in_a_running_loop(cell)
        assert len(before.records) == 60 and not before.records.failures()
        before.save(tmp_path / "before.npz")
        comparison = tritonsmith.compare(tmp_path / "before.npz", after)
        assert_type(comparison, tritonsmith.Comparison)
        assert {row["load"] for row in comparison.rows()} == {"concurrency 2"}
        with pytest.raises(GateError, match="gate throughput>=900% at concurrency 2: ") as refused:
            tritonsmith.compare(before, after, gate="throughput>=900%", strict=True)
        assert refused.value.code == "gate_violated"
        assert capfd.readouterr().out == ""

    def test_a_ctrl_c_in_a_notebook_ends_it_and_what_was_measured_can_be_kept(self) -> None:
        for errors in ("raise", "return"):
            with fake_server(delay_s=0.001) as server:
                timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()

                def cell(url: str = server.url, errors: Any = errors) -> tritonsmith.LoadTestResult:
                    return tritonsmith.load(url, load=2, duration_s=30, warmup_s=0.0, errors=errors)

                if errors == "raise":
                    with pytest.raises(KeyboardInterrupt):
                        in_a_running_loop(cell)
                else:
                    result = in_a_running_loop(cell)
                    assert result.records.header.interrupted and len(result.records) > 0
                    assert result.caption().endswith(", interrupted")

    def test_failed_requests_are_in_the_result_and_in_its_caption(self) -> None:
        with fake_server(error_every=2) as server:
            result = tritonsmith.load(server.url, load=1, requests=20, warmup_s=0.0)
        assert sum(result.records.failures().values()) == 10
        assert result.caption().endswith("10 of 20 requests FAILED")

    def test_progress_is_shown_on_stderr_when_asked_for(self, capfd: pytest.CaptureFixture[str]) -> None:
        with fake_server() as server:
            tritonsmith.load(server.url, load=1, duration_s=0.3, warmup_s=0.0, progress=True)
        captured = capfd.readouterr()
        assert captured.out == "" and "requests: " in captured.err


class TestTables:
    def test_what_others_wrote_is_text_in_html(self, tmp_path: Path) -> None:
        model = tmp_path / "repository" / "<img src=x onerror=alert(1)>"
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text('name: "<script>alert(1)</script>"\nbackend: "onnxruntime"\n')
        report = tritonsmith.check(tmp_path / "repository")
        html = report._repr_html_()
        assert report.findings and "&lt;img src=x" in html and "&lt;script&gt;" in html
        assert "<img" not in html and "<script" not in html

    def test_long_tables_are_cut_and_say_so(self) -> None:
        html = html_of("many", [{"n": n, "took_ns": 1_500_000, "empty": None} for n in range(130)])
        assert html.count("<tr>") == 101 and "30 more rows: to_frame() has all" in html
        assert "<th>took_ms</th>" in html and "<td>1.5</td>" in html and "empty" not in html

    def test_without_pandas_to_frame_is_one_clear_error(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ToolError, match="needs pandas") as missing:
            tritonsmith.plan().to_frame()
        assert missing.value.code == "pandas_missing"
        assert "pip install pandas" in str(missing.value.fix)

    def test_frames_hold_the_rows(self, project: Path) -> None:
        pytest.importorskip("pandas", reason="a frame needs pandas: make install")
        frame = tritonsmith.plan().to_frame()
        assert list(frame["action"]) == ["export", "accuracy", "render", "lay_out"]
        with fake_server() as server:
            result = tritonsmith.load(server.url, load=1, requests=20, warmup_s=0.0)
        requests = result.records.to_frame()
        assert list(requests["latency_ns"]) == list(result.records.latency_ns) and set(
            requests["reason"]
        ) == {"ok"}
        throughput = result.to_frame().set_index("metric").loc["throughput"]
        assert (throughput["value"], throughput["unit"]) == (
            result.summary.throughput_per_s.value,
            "inferences/s",
        )
