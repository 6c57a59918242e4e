"""The demo's pipelines as `tritonsmith build` lays them out, served live: strings, images and streams end to end."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tritonsmith.builder.actions.accuracy.samples import Sample
from tritonsmith.builder.base.errors import TrialError
from tritonsmith.perf.demo.live_check import Protocol, ask, open_client
from tritonsmith.perf.demo.pipeline_check import PIPELINES, check_pipelines
from tritonsmith.perf.server.launch import ServerSpec, launch

pytestmark = [pytest.mark.demo, pytest.mark.server, pytest.mark.slow]

Array = np.ndarray[Any, Any]
DEMO = ROOT / "examples" / "demo"


@dataclass(frozen=True, slots=True)
class Live:
    """The demo's repository on a server, and the demo's own words for what it is asked."""

    http_url: str
    grpc_url: str
    pipelines: ModuleType
    repository: Path

    def ask(
        self, model: str, inputs: dict[str, Array], *outputs: str, protocol: Protocol = "http", **more: Any
    ) -> dict[str, Array]:
        sample = Sample(inputs, {name: np.zeros(0) for name in outputs})
        url = self.http_url if protocol == "http" else self.grpc_url
        with open_client(protocol, url, 1) as client:
            return ask(protocol, client, model, sample, **more)

    def pitches(self, chunk: Array, sequence: int, start: bool = False, end: bool = False) -> list[float]:
        answer = self.ask(
            "pitch_stream",
            {"CHUNK": chunk[None]},
            "PITCH_HZ",
            sequence_id=sequence,
            sequence_start=start,
            sequence_end=end,
        )
        return [float(hz) for hz in answer["PITCH_HZ"][0]]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    pytest.importorskip("PIL")
    project = tmp_path_factory.mktemp("demo") / "demo"
    shutil.copytree(DEMO, project, ignore=shutil.ignore_patterns("model_repository", "__pycache__", "sweep"))
    # The user's cache: other tests of the demo have exported the same three models into it.
    built = subprocess.run(
        [sys.executable, "-m", "tritonsmith", "build"],
        cwd=project,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert built.returncode == 0, built.stderr
    repository = project / "model_repository"
    sys.path.insert(0, str(DEMO))
    try:
        pipelines = importlib.import_module("pipelines")
        with launch(ServerSpec(repositories=(repository,), exit_timeout_s=0)) as server:
            assert server.refusals() == {}
            yield Live(server.http_url, server.grpc_url, pipelines, repository)
    finally:
        sys.path.remove(str(DEMO))


@pytest.mark.timeout(300)
def test_every_pipeline_answers_as_plain_python_does(live: Live) -> None:
    """Over HTTP, over gRPC, and many clients at once with requests of different shape."""
    checks = list(check_pipelines(DEMO, PIPELINES, http_url=live.http_url, grpc_url=live.grpc_url, clients=8))
    assert [c.model for c in checks] == list(PIPELINES)
    for check in checks:
        assert check.report.failures == (), check.model
    sentences, text_boxes, stream = checks
    assert sentences.batch_sizes == (1, 2, 3, 8) and sentences.relative_l2 < 1e-5
    assert text_boxes.requests == 2 * 7 + 8
    assert stream.requests > 100


def test_a_repository_with_pipelines_is_clean(live: Live) -> None:
    """But for what is known of models with dynamic dims: only requests of one shape share a batch."""
    from tritonsmith.builder.lint.check import LintOptions, check

    findings = check([live.repository], LintOptions())
    assert {(f.rule, f.severity) for f in findings} == {("IO022", "warning")}


def overlap(box: Array, word: Array) -> float:
    """Intersection over union of a box's extent [4, 2] and a word's [left, top, right, bottom]."""
    low, high = box.min(axis=0), box.max(axis=0)
    inside = np.minimum(high, word[2:]) - np.maximum(low, word[:2])
    both = float(inside.clip(0).prod())
    return both / (float((high - low).prod()) + float((word[2:] - word[:2]).prod()) - both)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("number", range(5))
def test_each_drawn_word_gets_one_box(live: Live, number: int, kind: str) -> None:
    data = live.pipelines.image_bytes(live.pipelines.page(number), kind)
    answer = live.ask("text_boxes", {"IMAGE": np.array([data], dtype=object)}, "BOXES", "SCORES")
    words = live.pipelines.known_words(number)
    boxes = answer["BOXES"]
    assert boxes.shape == (len(words), 4, 2) and answer["SCORES"].shape == (len(words),)
    assert (answer["SCORES"] > 0.5).all()
    for word in words:
        overlaps = sorted((overlap(box, word) for box in boxes), reverse=True)
        assert overlaps[0] > 0.5 and all(other < 0.1 for other in overlaps[1:]), (word, boxes)


def test_sentences_of_one_meaning_lie_close(live: Live) -> None:
    texts = ["A man is eating bread.", "Someone eats bread.", "Shares fell sharply on Tuesday."]
    given = {"TEXT": np.array([[t.encode()] for t in texts], dtype=object)}
    bread, eats, shares = live.ask("sentences", given, "EMBEDDING", protocol="grpc")["EMBEDDING"]
    assert bread @ eats > 0.7 > 0.3 > bread @ shares


REFUSED = [
    ("sentences", "TEXT", [[b"\xff\xfe"]], "EMBEDDING", "TEXT is not UTF-8"),
    ("text_boxes", "IMAGE", [b"GIF89a"], "BOXES", "IMAGE is neither a PNG nor a JPEG"),
]


@pytest.mark.parametrize(("model", "tensor", "value", "output", "words"), REFUSED)
def test_bad_input_is_refused_in_words_and_the_next_request_is_answered(
    live: Live, model: str, tensor: str, value: Any, output: str, words: str
) -> None:
    with pytest.raises(TrialError, match=words):
        live.ask(model, {tensor: np.array(value, dtype=object)}, output)
    good: Any = (
        [[b"Ships."]] if model == "sentences" else [live.pipelines.image_bytes(live.pipelines.page(0), "PNG")]
    )
    assert live.ask(model, {tensor: np.array(good, dtype=object)}, output)[output].shape[0] > 0


def test_a_stream_hears_notes_as_they_come(live: Live) -> None:
    """A frame answers with the chunk that completes it, not sooner and not later."""
    signal = live.pipelines.melody((440.0, 220.0), 4096)
    assert live.pitches(signal[:1000], 11, start=True) == []
    assert live.pitches(signal[1000:1024], 11) == pytest.approx([440], rel=0.01)
    assert live.pitches(signal[1024:1025], 11) == []
    assert live.pitches(signal[1025:], 11, end=True) == pytest.approx([440, 220, 220], rel=0.01)


def test_two_streams_do_not_mix(live: Live) -> None:
    """Half frames of two notes in turn: joined across streams, no frame would have either pitch."""
    low, high = live.pipelines.melody((220.0,), 4096), live.pipelines.melody((659.26,), 4096)
    heard: dict[int, list[float]] = {21: [], 22: []}
    for start in range(0, 4096, 512):
        for sequence, signal in ((21, low), (22, high)):
            heard[sequence] += live.pitches(
                signal[start : start + 512], sequence, start == 0, start + 512 == 4096
            )
    assert heard[21] == pytest.approx([220.0] * 4, rel=0.01)
    assert heard[22] == pytest.approx([659.26] * 4, rel=0.01)


def test_a_stream_that_starts_again_forgets_what_it_heard(live: Live) -> None:
    """Also one that never ended, as after a client's crash."""
    low, high = live.pipelines.melody((220.0,), 1000), live.pipelines.melody((659.26,), 1024)
    assert live.pitches(low, 31, start=True) == []
    assert live.pitches(high, 31, start=True, end=True) == pytest.approx([659.26], rel=0.01)
    with pytest.raises(TrialError, match="must specify the START flag"):
        live.pitches(high, 31)
