"""PP-OCRv4's text detector, the ONNX file that rapidocr-onnxruntime ships, and images to try it on.

x float32 [batch, 3, height, width], sides multiples of 32 → float32 [batch, 1, height, width], how likely
each pixel is to belong to text.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

# 5 × 7 pixels a letter, one string a row; enough letters to write with, and no font file is needed.
GLYPHS = {
    "T": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
    "I": (".###.", "..#..", "..#..", "..#..", "..#..", "..#..", ".###."),
    "O": (".###.", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
    "N": ("#...#", "##..#", "#.#.#", "#.#.#", "#..##", "#...#", "#...#"),
    "S": (".####", "#....", "#....", ".###.", "....#", "....#", "####."),
    "E": ("#####", "#....", "#....", "####.", "#....", "#....", "#####"),
    "A": (".###.", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
}


def model_path() -> Path:
    """The detector's file in the installed package, which is not imported."""
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("pip install --no-deps rapidocr-onnxruntime==1.4.4")
    return Path(spec.submodule_search_locations[0]) / "models" / "ch_PP-OCRv4_det_infer.onnx"


def word(text: str, scale: int) -> np.ndarray:
    """Letters side by side as booleans, `scale` pixels for each of a glyph's."""
    letters = [np.array([[cell == "#" for cell in row] for row in GLYPHS[letter]]) for letter in text]
    spaced = np.concatenate([np.pad(letter, ((0, 0), (0, 1))) for letter in letters], axis=1)
    return np.kron(spaced, np.ones((scale, scale), dtype=bool)).astype(bool)


def image(lines: list[tuple[str, int, int, int]], side: int, seed: int) -> np.ndarray:
    """Dark words (text, x, y, scale) on light, slightly noisy paper: float32 [3, side, side] in 0..1."""
    rng = np.random.default_rng(seed)
    page = 0.92 + 0.02 * rng.standard_normal((side, side))
    for text, x, y, scale in lines:
        ink = word(text, scale)
        area = page[y : y + ink.shape[0], x : x + ink.shape[1]]
        area[ink[: area.shape[0], : area.shape[1]]] = 0.1
    return np.broadcast_to(page.clip(0.0, 1.0), (3, side, side)).astype(np.float32)


def normalised(images: np.ndarray) -> np.ndarray:
    """0..1 → -1..1, as the detector was trained on."""
    return ((images - 0.5) / 0.5).astype(np.float32)


SMALL = (
    [("TRITON", 40, 60, 5), ("SERIES", 60, 180, 4)],
    [("RATIO", 24, 40, 6), ("LINES", 100, 220, 4), ("NOTE", 30, 140, 3)],
    [("ENTRIES", 20, 130, 5)],
)
LARGE = [("TRITON", 60, 80, 9), ("SERIALISATION", 60, 260, 5), ("NOTES", 340, 420, 6), ("LATER", 80, 520, 4)]


def samples() -> list[dict[str, np.ndarray]]:
    """Three pages of 320 × 320 in one batch, and one of 640 × 640."""
    small = np.stack([image(lines, 320, seed) for seed, lines in enumerate(SMALL)])
    return [{"x": normalised(small)}, {"x": normalised(image(LARGE, 640, 9)[None])}]


def calibration() -> list[dict[str, np.ndarray]]:
    """Sixteen pages of 320 × 320 with random words, sizes and places, for the ranges of a quantized variant."""
    rng = np.random.default_rng(11)
    letters = sorted(GLYPHS)
    pages = []
    for page in range(16):
        lines = []
        for row in range(int(rng.integers(1, 6))):
            text = "".join(rng.choice(letters, size=int(rng.integers(2, 9))))
            lines.append((text, int(rng.integers(4, 60)), 10 + 60 * row, int(rng.integers(2, 7))))
        pages.append(image(lines, 320, 100 + page))
    return [{"x": normalised(np.stack(pages[start : start + 4]))} for start in range(0, 16, 4)]
