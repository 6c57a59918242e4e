"""(live server, the demo's directory) → LiveChecks of its pipelines: answers end to end against plain Python's."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.accuracy import Bounds, compare, report_from_deviations
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, load_samples
from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.processes.child import ChildTask, run_child
from tritonsmith.perf.demo.live_check import LiveCheck, Protocol, ask, check_live, open_client

if TYPE_CHECKING:
    import numpy as np

STREAM = "pitch_stream"
PIPELINES = ("sentences", "text_boxes", STREAM)
"""Models of examples/demo that call other models; each is a function in its pipelines.py, too."""

# Corners are whole pixels: one more above the threshold moves a box by a pixel in some hundred.
_BOUNDS = {"text_boxes": Bounds(relative_l2=1e-2, negligible_abs=1e-6)}
_CHUNK_SAMPLES = (1, 160, 700, 1024, 4000)
_LONGEST_CHUNK_SAMPLES = 45_000
_REFERENCE_TIMEOUT_S = 300.0


def check_pipelines(
    demo: Path, pipelines: Iterable[str], *, http_url: str, grpc_url: str, clients: int = 16
) -> Iterator[LiveCheck]:
    """One check a pipeline, in the order given.

    demo: directory with pipelines.py; its answers are computed in a child process, for it imports torch.
    pipelines: names out of PIPELINES. TrialError when the server refuses a request, ExportError when the
    reference cannot be computed.
    """
    names = list(pipelines)
    for name, samples in (reference_answers(demo, names) if names else {}).items():
        if name == STREAM:
            yield check_stream(name, samples, http_url=http_url, grpc_url=grpc_url, clients=clients)
        else:
            yield check_live(
                name,
                samples,
                http_url=http_url,
                grpc_url=grpc_url,
                clients=clients,
                bounds=_BOUNDS.get(name),
            )


def reference_answers(demo: Path, pipelines: Iterable[str]) -> dict[str, SampleSet]:
    """Pipeline → its requests and what plain Python answers to them."""
    task = ChildTask(
        "tritonsmith.perf.demo.pipeline_reference",
        "the pipelines' reference",
        "pipeline_reference",
        ExportError,
    )
    with tempfile.TemporaryDirectory(prefix="tritonsmith-reference-") as scratch:
        request = {"directory": str(demo.resolve()), "pipelines": list(pipelines)}
        log_path = Path(scratch) / "reference.log"
        paths = run_child(task, request, Path(scratch), log_path, _REFERENCE_TIMEOUT_S)
        return {name: load_samples(Path(path)) for name, path in paths.items()}


def check_stream(
    model: str, samples: SampleSet, *, http_url: str, grpc_url: str, clients: int = 16, seed: int = 0
) -> LiveCheck:
    """Sends each signal as a sequence of chunks and compares what comes back, joined, with the whole's answer.

    Once over HTTP and once over gRPC with all sequences interleaved chunk by chunk, then `clients` sequences
    at once over HTTP: a chunk that reached another sequence's buffer would show in both. Each sample has one
    input [samples] and one output [frames], which a chunk's request gives a batch dimension of one.
    """
    rng = random.Random(seed)
    runs = [
        (f"Triton over {protocol}", sample, answer)
        for protocol, url in _urls(http_url, grpc_url)
        for sample, answer in _interleaved(protocol, url, model, samples.samples, rng)
    ]
    chosen = [(samples.samples[i % len(samples.samples)], rng.random()) for i in range(clients)]

    def one(sample: Sample, chunk_seed: float) -> tuple[str, Sample, _Answer]:
        own = random.Random(chunk_seed)
        ((_, answer),) = _interleaved("http", http_url, model, (sample,), own)
        return f"Triton with {clients} clients", sample, answer

    with ThreadPoolExecutor(clients) as pool:
        runs += pool.map(one, *zip(*chosen, strict=True))
    deviations = [
        deviation
        for runtime, sample, answer in runs
        for deviation in compare(answer.outputs, sample.outputs, runtime=runtime, sample=sample.label)
    ]
    report = report_from_deviations(deviations, len(samples.samples))
    return LiveCheck(model, report, (1,), sum(answer.requests for _, _, answer in runs))


def _urls(http_url: str, grpc_url: str) -> tuple[tuple[Protocol, str], ...]:
    return ("http", http_url), ("grpc", grpc_url)


class _Answer:
    """A sequence's parts of every output, as they come."""

    def __init__(self, names: Iterable[str]) -> None:
        self.requests = 0
        self._parts: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in names}

    def add(self, outputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.requests += 1
        for name, part in outputs.items():
            self._parts[name].append(part[0])

    @property
    def outputs(self) -> dict[str, np.ndarray[Any, Any]]:
        import numpy as np

        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


def _interleaved(
    protocol: Protocol, url: str, model: str, samples: Iterable[Sample], rng: random.Random
) -> list[tuple[Sample, _Answer]]:
    """One chunk of each sequence in turn, until all have ended."""
    answers = [(sample, _Answer(sample.outputs)) for sample in samples]
    with open_client(protocol, url, 1) as client:
        waiting = [(answer, _chunks(sample, rng)) for sample, answer in answers]
        while waiting:
            left = []
            for answer, chunks in waiting:
                if (request := next(chunks, None)) is not None:
                    chunk, flags = request
                    answer.add(ask(protocol, client, model, chunk, **flags))
                    left.append((answer, chunks))
            waiting = left
    return answers


def _chunks(sample: Sample, rng: random.Random) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """The sequence's requests: (one chunk, the flags that go with it)."""
    ((name, signal),) = sample.inputs.items()
    # An id that no other client of this server is likely to use.
    sequence_id = random.SystemRandom().randrange(1, 1 << 62)
    for start, end in pairwise(_cuts(len(signal), rng)):
        chunk = Sample({name: signal[None, start:end]}, sample.outputs, f"{sample.label}, from {start}")
        yield (
            chunk,
            {
                "sequence_id": sequence_id,
                "sequence_start": start == 0,
                "sequence_end": end == len(signal),
            },
        )


def _cuts(samples: int, rng: random.Random) -> list[int]:
    """Chunks of mixed length, the last as long as allowed: smaller than a frame, a frame, many of them."""
    cuts = [0]
    while samples - cuts[-1] > max(_CHUNK_SAMPLES) and len(cuts) < 12:
        cuts.append(cuts[-1] + rng.choice(_CHUNK_SAMPLES))
    while samples - cuts[-1] > _LONGEST_CHUNK_SAMPLES:
        cuts.append(cuts[-1] + _LONGEST_CHUNK_SAMPLES)
    return [*cuts, samples]
