"""What is asked of the demo's pipelines, and what plain Python makes of it from the source models.

Each function gives the cases of the model of its name as (label, inputs, expected outputs).
"""

from __future__ import annotations

import io

import crepe
import detector
import minilm
import numpy as np
import pitch
import torch
from boxes import find_boxes
from page_image import detector_input
from PIL import Image

Tensors = dict[str, np.ndarray]
Case = tuple[str, Tensors, Tensors]


def sentences() -> list[Case]:
    """All sentences in one request, padded together, and requests of one to three."""
    module = minilm.load()[0].eval()
    cases = []
    for texts in (minilm.SENTENCES, minilm.SENTENCES[6:7], minilm.SENTENCES[1:4], ("", "Größe: 5 µm, 東京")):
        with torch.no_grad():
            rows = {name: torch.from_numpy(ids) for name, ids in minilm.encode(texts).items()}
            answer = module(**rows)["sentence_embedding"].numpy()
        cases.append((f"{len(texts)} sentences", {"TEXT": _strings(texts)[:, None]}, {"EMBEDDING": answer}))
    return cases


def _strings(texts: tuple[str, ...]) -> np.ndarray:
    return np.array([text.encode() for text in texts], dtype=object)


# (words, width, height) of each page: square, wide with sides that are no multiples of 32, one larger than the
# detector takes, and an empty one.
PAGES = (
    (detector.SMALL[0], 320, 320),
    (detector.SMALL[1], 430, 270),
    (detector.LARGE, 640, 640),
    ([("TRITON", 40, 60, 12), ("NOTES", 560, 120, 12)], 1150, 300),
    ([], 320, 320),
)


def page(number: int) -> np.ndarray:
    """One of PAGES, uint8 [height, width, 3]."""
    lines, width, height = PAGES[number]
    square = detector.image(lines, max(width, height), seed=number)
    return (square[:, :height, :width].transpose(1, 2, 0) * 255).round().astype(np.uint8)


def known_words(number: int) -> np.ndarray:
    """Where the words of a page are drawn: float [words, 4] as left, top, right, bottom."""
    lines = PAGES[number][0]
    extents = [(x, y, x + (6 * len(text) - 1) * scale, y + 7 * scale) for text, x, y, scale in lines]
    return np.array(extents, dtype=float).reshape(-1, 4)


def image_bytes(pixels: np.ndarray, kind: str) -> bytes:
    """uint8 [height, width, 3] → a file of kind PNG or JPEG."""
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()


def text_boxes() -> list[Case]:
    """Every page as PNG, the first two as JPEG too."""
    import onnxruntime

    session = onnxruntime.InferenceSession(detector.model_path(), providers=["CPUExecutionProvider"])
    cases = []
    for number, kind in [(n, "PNG") for n in range(len(PAGES))] + [(0, "JPEG"), (1, "JPEG")]:
        data = image_bytes(page(number), kind)
        x, size = detector_input(data)
        (likely,) = session.run(None, {"x": x})
        boxes, scores = find_boxes(likely[0, 0], size)
        cases.append(
            (
                f"page {number}, {kind}",
                {"IMAGE": np.array([data], dtype=object)},
                {"BOXES": boxes, "SCORES": scores},
            )
        )
    return cases


def melody(notes_hz: tuple[float, ...], samples: int) -> np.ndarray:
    """Sines one after the other without a jump in phase, float32 [samples]."""
    each = np.repeat(notes_hz, -(-samples // len(notes_hz)))[:samples]
    return np.sin(2 * np.pi * np.cumsum(each) / pitch.SAMPLE_RATE_HZ).astype(np.float32)


# The last one is long enough for more frames at once than crepe takes in one request.
MELODIES = (
    ((440.0,), 20_000),
    ((220.0, 329.63, 261.63), 30_000),
    ((110.0, 880.0), 16_384),
    ((659.26,), 60_000),
)


def pitch_stream() -> list[Case]:
    """Whole signals [samples] and the pitch of all their frames [frames]; the caller cuts them into chunks."""
    module = crepe.load()[0].eval()
    cases = []
    for notes_hz, samples in MELODIES:
        signal = melody(notes_hz, samples)
        frames, _ = pitch.cut_frames(signal)
        with torch.no_grad():
            activations = module(torch.from_numpy(frames))["activations"].numpy()
        heard = pitch.pitch_hz(activations).astype(np.float32)
        cases.append((f"{notes_hz} Hz", {"CHUNK": signal}, {"PITCH_HZ": heard}))
    return cases
