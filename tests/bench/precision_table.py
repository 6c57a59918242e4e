"""The demo's models × precisions → the Markdown tables of docs/precision.md: deviation, size, CPU latency, RTX compile.

`python -m tests.bench.precision_table [--repository DIR] [--rounds N] [--precision P] [MODEL …]`; needs the demo's
packages and a built repository (`make demo`); a variant is converted and judged as a build does it. Prints, asserts
nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.accuracy.gate import AS_WRITTEN
from tritonsmith.builder.actions.accuracy.request import GateRequest, GateResult
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.actions.compile import CompileRequest, OptimizationProfile, ShapeRange, run_compile
from tritonsmith.builder.actions.convert import ConvertRequest, ConvertResult, run_convert, run_gate
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.builder.base.text.console import emit_text, note

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"


@dataclass(frozen=True, slots=True)
class Variant:
    """One row: a precision and how it is made."""

    label: str
    precision: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()


DOWN_PROJECTIONS = tuple(f"node_MatMul_{number}" for number in (67, 102, 137, 172, 207, 242))

COMMON = (
    Variant("fp32", "fp32"),
    Variant("tf32", "tf32"),
    Variant("fp16", "fp16"),
    Variant("bf16", "bf16"),
    Variant("int8, results rounded too", "int8", {"quantize_outputs": True}),
    Variant("int8 (default)", "int8"),
    Variant("fp8", "fp8"),
    Variant("int4", "int4"),
    Variant("nvfp4", "nvfp4"),
    Variant("nvfp4, weights alone", "nvfp4", {"activations": False}),
)
RECIPES: Mapping[str, tuple[Variant, ...]] = {
    "minilm": (
        Variant("int8, percentile", "int8", {"method": "percentile", "percentile": 99.99}),
        Variant("int8, six FFN outputs excluded", "int8", exclude=DOWN_PROJECTIONS),
        Variant("int8, smooth_quant 0.5", "int8", {"smooth_quant": 0.5}),
        Variant("int8, smooth_quant 0.75", "int8", {"smooth_quant": 0.75}),
        Variant(
            "int8, smooth_quant 0.5, six FFN outputs excluded",
            "int8",
            {"smooth_quant": 0.5},
            DOWN_PROJECTIONS,
        ),
        Variant("nvfp4, six FFN outputs excluded", "nvfp4", exclude=DOWN_PROJECTIONS),
    ),
    "detector": (
        Variant("bf16, ConvTranspose excluded", "bf16", exclude=("ConvTranspose",)),
        Variant(
            "int8, four worst layers excluded",
            "int8",
            exclude=tuple(f"p2o.Conv.{number}" for number in (3, 42, 25, 9)),
        ),
    ),
    "crepe": (Variant("int8, percentile", "int8", {"method": "percentile"}),),
}

PROFILE_SIZES: Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "minilm": ((1, 8, 16), (1, 32, 256)),
    "detector": ((1, 2, 4), (320, 320, 640)),
    "crepe": ((1, 8, 32), (1, 1, 1)),
}
"""(min, opt, max) of the batch dimension, and of every other dynamic one."""


def main() -> None:
    """Convert, judge, time and compile every row; prints one table a model."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.precision_table")
    parser.add_argument("models", nargs="*", default=["crepe", "detector", "minilm"])
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--precision", action="append", help="these alone; default: all")
    arguments = parser.parse_args()
    sys.path.insert(0, str(DEMO))
    with tempfile.TemporaryDirectory(prefix="precision-") as scratch:
        for model in arguments.models:
            rows = [
                v
                for v in (*COMMON, *RECIPES[model])
                if not arguments.precision or v.precision in arguments.precision
            ]
            emit_text(_table(model, rows, arguments.repository, Path(scratch) / model, arguments.rounds))


def _table(model: str, rows: Sequence[Variant], repository: Path, scratch: Path, rounds: int) -> str:
    source = repository / model / "1" / "model.onnx"
    scratch.mkdir(parents=True)
    held_out = _held_out(model, scratch)
    lines = [
        f"### {model} ({source.stat().st_size / 1e6:.1f} MB)",
        "",
        "| variant | gate | relative L2 | cosine | max abs | top-1 | MB | CPU latency ÷ fp32 | RTX compile |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for number, variant in enumerate(rows):
        started = time.monotonic()
        row, found = _row(model, variant, source, held_out, scratch / str(number), rounds)
        lines.append(f"| {variant.label} | {row} |")
        notes += [f"{variant.label}: {text}" for text in found]
        note(f"{model}, {variant.label}: {time.monotonic() - started:.0f} s: {row}; {found}")
    return "\n".join([*lines, "", *(f"- {text}" for text in notes), ""])


def _held_out(model: str, scratch: Path) -> Path:
    module = __import__(model)
    samples = [Sample(inputs, {}, f"{model}[{index}]") for index, inputs in enumerate(module.samples())]
    path = scratch / "samples.npz"
    save_samples(SampleSet(tuple(samples), f"{model}:samples"), path)
    return path


def _row(
    model: str, variant: Variant, source: Path, held_out: Path, scratch: Path, rounds: int
) -> tuple[str, list[str]]:
    try:
        made = run_convert(
            ConvertRequest(
                model,
                str(source),
                variant.precision,
                variant.exclude,
                calibration=CalibrationSpec(f"{model}:calibration", str(DEMO)),
                held_out=str(held_out),
                options=variant.options,
            ),
            scratch,
            scratch / "convert.log",
        )
    except TritonsmithError as error:
        return "not made | | | | | | | ", [error.message + (f" ({error.seen})" if error.seen else "")]
    path = scratch / made.onnx_file
    judged = run_gate(
        GateRequest(
            model,
            variant.precision,
            str(source),
            str(path),
            str(held_out),
            str(DEMO),
            served_by="tensorrt" if variant.precision in ("bf16", "fp8", "nvfp4") else "onnxruntime",
            candidates=made.converted,
        ),
        scratch / "gate",
        scratch / "gate.log",
    )
    size = sum((scratch / name).stat().st_size for name in made.files) / 1e6
    compiled, trouble = _compiled(model, made, path, scratch)
    cells = [_gate_cells(judged), f"{size:.1f}", _latency(source, path, held_out, rounds), compiled]
    return " | ".join(cells), [*_told(judged, made), *trouble]


def _gate_cells(judged: GateResult) -> str:
    emulated = {row.emulated for row in precision_rows().values() if row.emulate}
    rounded = [d for d in judged.accuracy.deviations if d.runtime in emulated]
    worst = rounded or [d for d in judged.accuracy.deviations if d.runtime == AS_WRITTEN]
    numbers = (
        f"{max(d.relative_l2 for d in worst):.2g}",
        f"{min(d.cosine for d in worst):.5f}",
        f"{max(d.max_abs for d in worst):.2g}",
        f"{min(1.0 if d.top1 is None else d.top1 for d in worst):.2f}",
    )
    return " | ".join(("passed" if judged.passed else "**refused**", *numbers))


def _told(judged: GateResult, made: ConvertResult) -> list[str]:
    # The table has the numbers; that some are made by rounding is said once, above it.
    told = [text[:220] for text in judged.findings if "rounding" not in text]
    told += [text for text in made.notes if "SmoothQuant" not in text]
    told += [
        f"kept in fp32: {node.name}, {node.reason}"
        for node in made.kept_fp32
        if "excluded" not in node.reason
    ][:3]
    if judged.exclude:
        told.append(f"the gate proposes to exclude {', '.join(judged.exclude[:6])}")
    return told


def _latency(source: Path, candidate: Path, held_out: Path, rounds: int) -> str:
    """Median over rounds of variant ÷ fp32, run in turn; in brackets where the true median lies at 95 %."""
    import onnxruntime as ort

    from tritonsmith.builder.actions.accuracy.samples import load_samples

    feeds = load_samples(held_out).samples[0].inputs
    try:
        sessions = [
            ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for path in (source, candidate)
        ]
    except Exception:
        return "–"
    for session in sessions:
        session.run(None, feeds)
    ratios = []
    for index in range(rounds):
        elapsed = {}
        for session in sessions if index % 2 else reversed(sessions):
            started = time.perf_counter_ns()
            session.run(None, feeds)
            elapsed[id(session)] = time.perf_counter_ns() - started
        ratios.append(elapsed[id(sessions[1])] / elapsed[id(sessions[0])])
    return _median_with_interval(ratios)


def _median_with_interval(values: Sequence[float]) -> str:
    ordered = sorted(values)
    half_width = (
        1.96 * math.sqrt(len(ordered)) / 2
    )  # binomial, normal approximation: ranks of a median's interval
    low = max(0, math.floor(len(ordered) / 2 - half_width))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half_width))
    return f"{ordered[len(ordered) // 2]:.2f} [{ordered[low]:.2f}, {ordered[high]:.2f}]"


def _compiled(model: str, made: ConvertResult, path: Path, scratch: Path) -> tuple[str, list[str]]:
    batch, other = PROFILE_SIZES[model]
    ranges = {}
    for tensor in made.inputs:
        sizes = [
            (dim, dim, dim) if isinstance(dim, int) and dim >= 0 else (batch if axis == 0 else other)
            for axis, dim in enumerate(tensor.shape)
        ]
        low, opt, high = (tuple(size[i] for size in sizes) for i in range(3))
        ranges[tensor.name] = ShapeRange(low, opt, high)
    try:
        result = run_compile(
            CompileRequest(
                model,
                "tensorrt_rtx",
                str(path.absolute()),
                (OptimizationProfile(ranges),),
                opset=made.opset,
            ),
            scratch / "engine",
            scratch / "compile.log",
        )
    except TritonsmithError as error:
        reason = error.seen if error.seen is not None else error.message
        return f"no ({error.code})", [f"RTX: {error.message}; {' '.join(str(reason).split())[:200]}"]
    return f"{result.build_seconds:.1f} s, {result.engine_bytes / 1e6:.1f} MB", []


if __name__ == "__main__":
    main()
