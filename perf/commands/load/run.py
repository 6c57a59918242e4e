"""(a target, a load test) → the test run, its record kept, what came out said; the exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import GateError, TritonsmithError, UsageError, Where
from tritonsmith.builder.base.text.console import activity, emit_json, emit_text, note, progress
from tritonsmith.builder.commands.failures import show_error
from tritonsmith.perf.load.load_test import LoadTest, run_load_test, server_at
from tritonsmith.perf.load.rate import find_load_rate
from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.load.runs.generator import Progress
from tritonsmith.perf.records.schedule import Load, Open, load_from_dict
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.tokens.run import TokenOptions, run_token_test
from tritonsmith.perf.tokens.text import any_result_as_dict, text_of_any


def run(target: str, test: LoadTest, output: Path | None, format_: str) -> int:
    """Serve what is to be served, test, say what came out; the exit code."""
    return _run(target, test, run_load_test, output, format_)


def run_by_tokens(
    target: str, test: LoadTest, tokens: TokenOptions, output: Path | None, format_: str
) -> int:
    """The same of a language model's load by tokens."""

    def tested(url: str, test: LoadTest, show: Callable[[Progress], None]) -> LoadTestResult:
        return run_token_test(url, test, tokens, show)

    return _run(target, test, tested, output, format_)


def _run(
    target: str,
    test: LoadTest,
    tested: Callable[[str, LoadTest, Callable[[Progress], None]], LoadTestResult],
    output: Path | None,
    format_: str,
) -> int:
    check_output(output)
    first = "asking the server" if "://" in target else "starting the server"
    with progress(first, share=True) as bar, ExitStack() as stack:
        served = stack.enter_context(server_at(target))

        def show(now: Progress) -> None:
            failed = f", {now.failed:,} failed" if now.failed else ""
            bar(f"{test.model or 'load'}  {now.requests:,} requests{failed}", now.done, 1.0)

        result = tested(served.http_url, served.known_to(test), show)
        if "://" not in target:
            bar("stopping the server", 0, None)
    return tell(result, load_from_dict(result.records.header.load), output, format_)


def check_output(output: Path | None) -> None:
    """UsageError, before the test, when its record could not be kept where it is to be."""
    if output is None:
        return
    if output.is_dir():
        raise UsageError(
            "the record is one file, and this is a directory",
            code="bad_output",
            where=Where(output),
            fix=f"-o {output / 'load.npz'}",
        )
    there = next(parent for parent in output.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError("nothing can be written there", code="bad_output", where=Where(there))


def tell(
    result: LoadTestResult,
    load: Load,
    output: Path | None,
    format_: str,
    *,
    lead: str = "",
    more: Mapping[str, Any] | None = None,
    gate: TritonsmithError | None = None,
) -> int:
    """Keep the record and say the result, in one JSON document or as text; the exit code.

    A record that cannot be written costs the exit code, never the numbers.
    """
    error = gate
    if output is not None:
        try:
            result.save(output)
        except TritonsmithError as refused:
            error = refused
    if format_ == "json":
        said = {**any_result_as_dict(result), **(more or {})}
        emit_json(said if error is None else said | {"error": error.as_dict()})
    elif gate is not None:
        emit_text(lead)
    else:
        emit_text(f"{lead}\n{text_of_any(result, load)}" if lead else text_of_any(result, load))
    if error is not None:
        show_error(error)
    if output is not None and (error is None or error is gate):
        note(f"every request is in {output}")
    if result.records.header.interrupted:
        return 130
    if error is not None:
        return error.exit_code
    # A server that closes every connection at once gets no request, and none has failed.
    return 1 if result.records.failures() or result.died or not len(result.records) else 0


def run_search(
    target: str,
    test: LoadTest,
    limit_ms: float,
    output: Path | None,
    format_: str,
) -> int:
    """Find the highest rate that keeps the limit, say it and its test; the exit code."""
    check_output(output)
    with ExitStack() as stack:
        with activity("asking the server" if "://" in target else "starting the server"):
            served = stack.enter_context(server_at(target))
        stack.enter_context(activity("looking for the highest rate that keeps the limit"))
        found, best = find_load_rate(
            served.http_url,
            served.known_to(test),
            limit_ms,
            lambda probe: note(f"{probe.rate_per_s:10,.1f}/s  {probe.outcome}: {probe.why}"),
            note,
        )
    load = Open(found.rate_per_s or 1.0, "poisson", test.data.seed)
    is_missed = found.rate_per_s is None and not found.interrupted
    missed = GateError(found.sentence.rstrip("."), code="slo_missed") if is_missed else None
    more = {"slo": json_of(found)}
    code = tell(best, load, output, format_, lead=found.sentence, more=more, gate=missed)
    return 130 if found.interrupted else code
