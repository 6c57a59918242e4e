"""16 kHz audio → the frames that CREPE hears, and CREPE's activations → pitch in Hz; numpy alone."""

from __future__ import annotations

import numpy as np

SAMPLE_RATE_HZ = 16_000
FRAME = 1024
BINS = 360
CENTS_PER_BIN = 20.0
# Pitch of bin 0, in cents above 10 Hz (marl/crepe, crepe/core.py).
FIRST_BIN_CENTS = 1997.3794084376191


def cut_frames(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [samples] → (frames [frames, 1024], normalised; the samples left over for the next one)."""
    count = len(signal) // FRAME
    return normalised(signal[: count * FRAME].reshape(count, FRAME)), signal[count * FRAME :]


def normalised(frames: np.ndarray) -> np.ndarray:
    """Each frame with mean 0 and standard deviation 1, as the network was trained on."""
    centred = frames - frames.mean(axis=1, keepdims=True)
    return (centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-10)).astype(np.float32)


def pitch_hz(activations: np.ndarray) -> np.ndarray:
    """[batch, 360] → pitch of each frame: the mean of the nine bins around the strongest, by their weight."""
    found = []
    for row in activations:
        peak = int(row.argmax())
        near = np.arange(max(0, peak - 4), min(BINS, peak + 5))
        cents = FIRST_BIN_CENTS + CENTS_PER_BIN * near
        found.append(10.0 * 2.0 ** (float((row[near] * cents).sum() / row[near].sum()) / 1200.0))
    return np.array(found)
