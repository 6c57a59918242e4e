"""Chunks of audio → their pitch as it comes: a sequence model of Triton's python backend, beside pitch.py.

CHUNK float32 [1, samples] of 16 kHz audio, any number of them → PITCH_HZ float32 [1, frames], one value for
each frame of 1024 samples that is complete by now; what is left over waits for the sequence's next chunk.
Samples that fill no frame when the sequence ends are dropped.

Triton's sequence batcher sends all chunks of a correlation id to one instance, in order, and tells by START
and END where a sequence begins and ends. The pitch comes from the model `crepe` on the same server.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from pitch import FRAME, cut_frames, pitch_hz

CREPE = "crepe"
# max_batch_size of crepe.
MOST_FRAMES = 32


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        batching = json.loads(args["model_config"])["sequence_batching"]
        self.idle_s = int(batching["max_sequence_idle_microseconds"]) / 1e6
        # Correlation id → (samples of an incomplete frame, when they came)
        self.waiting: dict[int, tuple[np.ndarray, float]] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        now_s = time.monotonic()
        self._forget_abandoned(now_s)
        return [self._answer(request, now_s) for request in requests]

    def _answer(self, request: Any, now_s: float) -> Any:
        if not _control(request, "READY"):
            # An empty slot of the batch: it belongs to no sequence, and nobody reads its answer.
            return _response(np.zeros(0))
        sequence = _control(request, "CORRID")
        chunk = _input(request, "CHUNK").reshape(-1)
        if not _control(request, "START") and sequence in self.waiting:
            chunk = np.concatenate([self.waiting[sequence][0], chunk])
        frames, rest = cut_frames(chunk)
        try:
            activations = [
                _activations(frames[at : at + MOST_FRAMES]) for at in range(0, len(frames), MOST_FRAMES)
            ]
        except pb_utils.TritonModelException as error:
            # The buffer stays as it was, so that the client may send the chunk again.
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        if _control(request, "END"):
            self.waiting.pop(sequence, None)
        else:
            self.waiting[sequence] = (rest.copy(), now_s)
        return _response(pitch_hz(np.concatenate(activations)) if activations else np.zeros(0))

    def _forget_abandoned(self, now_s: float) -> None:
        """Triton drops a sequence that was silent for too long, without an END; so must we."""
        for sequence in [s for s, (_, at_s) in self.waiting.items() if now_s - at_s > self.idle_s]:
            del self.waiting[sequence]


def _input(request: Any, name: str) -> np.ndarray:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _control(request: Any, name: str) -> int:
    return int(_input(request, name).item())


def _activations(frames: np.ndarray) -> np.ndarray:
    assert frames.shape[1] == FRAME
    answer = pb_utils.InferenceRequest(
        model_name=CREPE,
        requested_output_names=["activations"],
        inputs=[pb_utils.Tensor("frames", frames)],
    ).exec()
    if answer.has_error():
        raise pb_utils.TritonModelException(answer.error().message())
    return pb_utils.get_output_tensor_by_name(answer, "activations").as_numpy()


def _response(pitches_hz: np.ndarray) -> Any:
    values = np.asarray(pitches_hz, dtype=np.float32)[None]
    return pb_utils.InferenceResponse([pb_utils.Tensor("PITCH_HZ", values)])
