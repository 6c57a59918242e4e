"""A load test's result → JSON and what people read."""

from __future__ import annotations

from typing import Any

from tritonsmith.builder.base.files.http_ask import SIGN_IN
from tritonsmith.builder.base.text.text_layout import table
from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.records.schedule import Load, load_label
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.stats import Estimate, Summary, Validity
from tritonsmith.perf.wire.target import UNKNOWN_CALLER

_MOST_REASONS = 8


def result_as_dict(result: LoadTestResult) -> dict[str, Any]:
    """JSON form; `failures` counts the warm-up's too, `summary` is of the measurement alone."""
    header, use = result.records.header, result.resources
    energy_j = None if use is None else use.energy_per_inference_j(_inferences(result))
    return {
        "model": header.model,
        "url": header.url,
        "protocol": header.protocol,
        "seed": header.seed,
        "failures": result.records.failures(),
        "summary": json_of(result.summary),
        "why_no_server": result.why_no_server or None,
        "server": json_of(result.server),
        "members": {name: json_of(counters) for name, counters in result.members.items()},
        "resources": None if use is None else json_of(use) | {"energy_per_inference_j": energy_j},
        "stubs_died": list(result.died),
        "interrupted": header.interrupted,
        "environment": dict(header.environment),
    }


def text_of_result(result: LoadTestResult, load: Load) -> str:
    """The verdict first, failures before any number; then throughput, latency, server and client."""
    summary = result.summary
    lines = verdict_lines(result, load)
    lines.append(f"  throughput  {number(summary.throughput_per_s, 1.0, 'inferences/s')}")
    lines += _goodput_lines(summary)
    label = "latency   "
    if not summary.answered:
        lines.append("  latency     unknown: no request was answered")
    for name, estimate in summary.latency_ns.items() if summary.answered else ():
        lines.append(f"  {label}  {name:<5} {number(estimate, 1e-6, 'ms')}")
        label = " " * 10
    lines += _mean_and_max_lines(summary)
    lines += step_lines(summary)
    lines += _stream_lines(summary)
    return "\n".join([*lines, *seen_lines(result)])


def verdict_lines(result: LoadTestResult, load: Load) -> list[str]:
    """What stands before every number: the verdict, failures, what else speaks against the numbers."""
    header, summary = result.records.header, result.summary
    lines = [
        f"{summary.validity.verdict.value}  {header.model}, {load_label(load)}, {_protocol(result)}, "
        f"{summary.duration_s:.1f} s, seed {header.seed}"
    ]
    failures = result.records.failures()
    if failures:
        failed = sum(failures.values())
        early = failed - sum(summary.failures.values())
        where = f", {early:,} of them in the warm-up" if early else ""
        lines.append(f"  FAILED      {failed:,} of {len(result.records):,} requests{where}")
        kinds = list(failures.items())
        lines += [f"              {count:,} × {reason}" for reason, count in kinds[:_MOST_REASONS]]
        if others := kinds[_MOST_REASONS:]:
            requests = sum(count for _, count in others)
            lines.append(f"              {requests:,} × {len(others):,} other reasons; --format json has all")
        if any(reason.startswith(UNKNOWN_CALLER) for reason in failures):
            lines.append(f"  give        {SIGN_IN}")
    lines += [f"  STUB DIED   {sentence}" for sentence in result.died]
    if summary.warmup_requests:
        lines.append(
            f"  warm-up     {summary.warmup_requests:,} requests in {summary.warmup_s:.1f} s were still "
            "settling and are left out"
        )
    if header.interrupted:
        lines.append("  interrupted before its time; the numbers are of what was done")
    return lines + _validity_lines(summary.validity)


def seen_lines(result: LoadTestResult) -> list[str]:
    """What stands behind the numbers: the server's side, what it used, what the client cost."""
    return [*_server_lines(result), *_member_lines(result), *_resource_lines(result), _client_line(result)]


def _validity_lines(validity: Validity) -> list[str]:
    """The cause and what to do about it, then what else speaks against the numbers, then what they do not show."""
    lines = [f"  because     {reason}" for reason in validity.reasons[:1]]
    if validity.recommendation:
        lines.append(f"  try         {validity.recommendation}")
    lines += [f"  also        {reason}" for reason in validity.reasons[1:]]
    return lines + [f"  note        {note}" for note in validity.notes]


def _mean_and_max_lines(summary: Summary) -> list[str]:
    lines = []
    if summary.max_latency_ns is not None:
        most = Estimate(summary.max_latency_ns)
        lines += [
            f"  {'':10}  mean  {number(summary.mean_latency_ns, 1e-6, 'ms')}",
            f"  {'':10}  max   {number(most, 1e-6, 'ms')}",
        ]
    traffic = [
        f"{word} {number(Estimate(value), 1e-6, 'MB/s')}"
        for word, value in (("sent", summary.sent_bytes_per_s), ("received", summary.received_bytes_per_s))
        if value is not None
    ]
    return [*lines, f"  traffic     {', '.join(traffic)}"] if traffic else lines


def _goodput_lines(summary: Summary) -> list[str]:
    goodput = summary.goodput
    if goodput is None:
        return []
    words = {"latency": "", "first": "first response ", "between": "between responses "}
    limits = ", ".join(f"{words[name]}≤ {limit / 1e6:g} ms" for name, limit in goodput.limits_ns.items())
    share = "" if goodput.share is None else f", {percent(goodput.share)} of the requests"
    return [
        f"  goodput     {number(goodput.per_s, 1.0, 'inferences/s')}",
        f"              within {limits}{share}",
    ]


def step_lines(summary: Summary, unit: str = "inferences/s") -> list[str]:
    """A row a step: what was asked, what came, its tail."""
    closed = summary.load.get("kind") == "closed"
    rows = []
    for step in summary.steps:
        tail = ", ".join(
            f"{name} {'-' if e.value is None else f'{e.value / 1e6:.3g}'}"
            for name, e in step.latency_ns.items()
            if name in ("p50", "p99")
        )
        failed = f", {step.failed:,} FAILED" if step.failed else ""
        asked = f"concurrency {step.load:g}" if closed else f"{step.load:g} requests/s"
        rate = step.throughput_per_s.value or 0.0
        verdict = "" if step.validity is None else step.validity.verdict.value
        rows.append((asked, verdict, f"{rate:,.1f} {unit}", f"{tail} ms{failed}"))
    labels = ["steps", *[""] * len(rows)]
    return [f"  {label:<12}{line}" for label, line in zip(labels, table(rows, right=(2,)), strict=False)]


def percent(share: float) -> str:
    """99.98 % is not 100 %, and a little is not nothing."""
    text = f"{100 * share:.0f} %" if 0.01 <= share <= 0.99 or share in (0.0, 1.0) else f"{100 * share:.2f} %"
    return "> 99.99 %" if text == "100.00 %" else "< 0.01 %" if text == "0.00 %" else text


def _protocol(result: LoadTestResult) -> str:
    return result.records.header.protocol + (" streaming" if result.records.responses is not None else "")


def _stream_lines(summary: Summary) -> list[str]:
    streaming = summary.streaming
    if streaming is None:
        return []
    each = streaming.responses_per_request
    lines = [
        f"  responses   {number(streaming.responses_per_s, 1.0, 'responses/s')}",
        f"              {each['mean']:.4g} a request ({each['min']:g} to {each['max']:g})",
    ]
    for label, estimates in (
        ("first", streaming.first_response_ns),
        ("between", streaming.inter_response_ns),
        ("longest gap", streaming.longest_gap_ns),
    ):
        for name in ("p50", "p99"):
            lines.append(f"  {label:<12}{name:<5} {number(estimates[name], 1e-6, 'ms')}")
            label = ""
    return lines


def observed_of(result: LoadTestResult) -> dict[str, str]:
    """What was seen of the server, by a word on it: `server` (its counters), `members` (of an ensemble), `used` (CPU,
    memory, GPUs)."""
    found = {
        "server": _server_lines(result),
        "members": _member_sentences(result),
        "used": _resource_lines(result),
    }
    return {name: "; ".join(line[14:] for line in lines) for name, lines in found.items() if lines}


def _resource_lines(result: LoadTestResult) -> list[str]:
    use = result.resources
    if use is None:
        return []
    if use.process is None:
        lines = [f"  used        CPU and memory unknown: {use.why_no_process}"]
    else:
        process = use.process
        memory = f"{process.rss_bytes / 2**20:,.0f} MiB resident"
        if process.pss_bytes is not None:
            memory = f"{process.pss_bytes / 2**20:,.0f} MiB (PSS; {memory})"
        lines = [
            f"  used        {process.cpu_cores:.2f} CPU cores, {memory}, "
            f"{process.processes} process{'es' if process.processes > 1 else ''} of the server"
        ]
    if not use.gpus:
        return [*lines, f"              GPU unknown: {use.why_no_gpu}"]
    for gpu in use.gpus:
        parts = [
            None if gpu.utilisation is None else f"{100 * gpu.utilisation:.0f} % busy",
            None if gpu.memory_bytes is None else f"{gpu.memory_bytes / 2**20:,.0f} MiB",
            None if gpu.power_w is None else f"{gpu.power_w:.0f} W",
        ]
        lines.append(f"              GPU {gpu.name}: {', '.join(p for p in parts if p)}")
    energy_j = use.energy_per_inference_j(_inferences(result))
    if energy_j is not None:
        lines.append(f"              {1000 * energy_j:,.3g} mJ an inference, idle power included")
    return lines


def _inferences(result: LoadTestResult) -> int:
    """Those of the stretch that resources were sampled in."""
    measured = result.records.measured()
    return int(measured.inferences[measured.ok].sum())


def number(estimate: Estimate, scale: float, unit: str) -> str:
    """`1,234 requests/s  (1,200 to 1,250)`, or why one of them is missing."""
    if estimate.value is None:
        return f"unknown: {estimate.why}"
    value = estimate.value * scale
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 10 else 3
    text = f"{value:,.{digits}f} {unit}"
    if estimate.interval is None:
        return f"{text}  ({estimate.why})" if estimate.why else text
    low, high = estimate.interval.low * scale, estimate.interval.high * scale
    return f"{text}  ({low:,.{digits}f} to {high:,.{digits}f})"


def _server_lines(result: LoadTestResult) -> list[str]:
    server = result.server
    if server is None:
        return [f"  server      no counters: {result.why_no_server}"]
    compute_us = server.mean_compute_input_us + server.mean_compute_infer_us + server.mean_compute_output_us
    lines = [
        f"  server      queue {server.mean_queue_us:,.0f} µs, compute {compute_us:,.0f} µs a request "
        f"(input {server.mean_compute_input_us:,.0f}, infer {server.mean_compute_infer_us:,.0f}, "
        f"output {server.mean_compute_output_us:,.0f})"
    ]
    if server.mean_batch_size is not None and server.batch_executions:
        total = sum(server.batch_executions.values())
        most = sorted(server.batch_executions.items(), key=lambda item: -item[1])[:6]
        shares = ", ".join(f"{size}: {100 * count / total:.0f} %" for size, count in sorted(most))
        lines.append(f"              mean batch {server.mean_batch_size:.2f} ({shares})")
    if server.failed or server.failed_by_reason:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in server.failed_by_reason.items())
        lines.append(f"              failed {server.failed:,}{f' ({reasons})' if reasons else ''}")
    if server.cache_hits or server.cache_misses:
        header = result.records.header
        share = 100 * server.cache_hits / (server.cache_hits + server.cache_misses)
        again = f"the pool's {len(header.batch_sizes)} requests again and again; --repeat 0 sends others"
        lines.append(
            f"              response cache {server.cache_hits:,} hits, {server.cache_misses:,} misses "
            f"({share:.0f} % hits; {f'--repeat {header.repeat}' if header.repeat else again})"
        )
    return lines


def _member_sentences(result: LoadTestResult) -> list[str]:
    return [
        f"{'':14}{name} {c.requests:,} requests, queue {c.mean_queue_us:,.0f} µs, "
        f"infer {c.mean_compute_infer_us:,.0f} µs, mean batch {c.mean_batch_size or 0:.2f}"
        for name, c in result.members.items()
    ]


def _member_lines(result: LoadTestResult) -> list[str]:
    """A row a model that an ensemble is composed of: means of a request, in µs."""
    if not result.members:
        return []
    rows: list[tuple[str, ...]] = [("", "requests", "queue", "input", "infer", "output", "mean batch")]
    rows += [
        (
            name,
            f"{c.requests:,}" + (f" ({c.failed:,} FAILED)" if c.failed else ""),
            *(
                f"{mean_us:,.0f} µs"
                for mean_us in (
                    c.mean_queue_us,
                    c.mean_compute_input_us,
                    c.mean_compute_infer_us,
                    c.mean_compute_output_us,
                )
            ),
            "-" if c.mean_batch_size is None else f"{c.mean_batch_size:.2f}",
        )
        for name, c in result.members.items()
    ]
    labels = ["members", *[""] * len(rows)]
    return [
        f"  {label:<12}{line}"
        for label, line in zip(labels, table(rows, right=(1, 2, 3, 4, 5, 6)), strict=False)
    ]


def _client_line(result: LoadTestResult) -> str:
    header, summary = result.records.header, result.summary
    each_us = header.client_cpu_s / max(1, len(result.records)) * 1e6
    share = "unknown" if summary.client_cpu_share is None else f"{100 * summary.client_cpu_share:.0f} %"
    line = f"  client      CPU {share} of a core, {each_us:.0f} µs a request"
    if header.load["kind"] != "closed":
        lag = summary.send_lag_ns
        line += (
            f"; due {summary.scheduled_per_s:,.1f}/s, sent {summary.sent_per_s:,.1f}/s, "
            f"send lag p50 {lag['p50'] / 1000:,.0f} µs, p99 {lag['p99'] / 1000:,.0f} µs"
        )
    if header.checked:
        line += f"; {header.checked:,} answers checked"
    return line
