"""The demo's image steps without a server: any PNG or JPEG becomes a tensor, any map becomes boxes."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

image = pytest.importorskip("PIL.Image")
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def steps() -> Iterator[tuple[ModuleType, ModuleType]]:
    """(boxes, page_image), from the demo's directory."""
    sys.path.insert(0, str(ROOT / "examples" / "demo"))
    try:
        yield importlib.import_module("boxes"), importlib.import_module("page_image")
    finally:
        del sys.path[0]


def file_of(pixels: Array, kind: str = "PNG", **options: Any) -> bytes:
    written = io.BytesIO()
    image.fromarray(pixels).save(written, kind, **options)
    return written.getvalue()


REGIONS = [
    ("nothing", ["....", "...."], []),
    ("one pixel", ["....", ".#.."], [1]),
    ("two that touch at a corner are one", ["#...", ".#.."], [2]),
    ("two with a gap are two", ["#.#.", "#.#."], [2, 2]),
    ("a U is joined by its last row", ["#..#", "#..#", "####"], [8]),
    ("a comb is joined by its first", ["#####", "#.#.#", "#.#.#"], [11]),
    ("the ends of rows do not touch across the border", ["...#", "#..."], [1, 1]),
    ("a ring and what is inside it", ["#####", "#...#", "#.#.#", "#...#", "#####"], [1, 16]),
]


@pytest.mark.parametrize(("rows", "sizes"), [r[1:] for r in REGIONS], ids=[r[0] for r in REGIONS])
def test_regions_are_what_touches(
    steps: tuple[ModuleType, ModuleType], rows: list[str], sizes: list[int]
) -> None:
    mask = np.array([[cell == "#" for cell in row] for row in rows])
    found = [np.zeros_like(mask) for _ in range(len(steps[0].regions(mask)))]
    for region, ends in zip(found, steps[0].regions(mask), strict=True):
        for (left, y), (right, _) in ends.reshape(-1, 2, 2):
            region[y, left : right + 1] = True
    assert sorted(int(region.sum()) for region in found) == sizes
    assert not found or (np.logical_or.reduce(found) == mask).all()


@pytest.mark.parametrize("degrees", [0, 7, 30, 45, 80, 90])
def test_a_turned_bar_is_found_with_its_corners(steps: tuple[ModuleType, ModuleType], degrees: int) -> None:
    """A map half the image's size: the corners come in the image's pixels, widened by area · 1.6 / perimeter."""
    turn = np.deg2rad(degrees)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    half, centre = np.array([60.0, 12.0]), np.array([110.0, 90.0])
    y, x = np.mgrid[:200, :220]
    away = np.stack([x, y], -1) - centre
    bar = (np.abs(away @ along) <= half[0]) & (np.abs(away @ across) <= half[1])
    boxes, scores = steps[0].find_boxes(np.where(bar, 0.9, 0.01).astype(np.float32), (400, 440))
    assert boxes.shape == (1, 4, 2) and boxes.dtype == np.float32
    assert scores == pytest.approx([0.9], abs=0.05)
    wide = half + 4 * half.prod() * 1.6 / (4 * half.sum())
    expected = [centre + a * wide[0] * along + b * wide[1] * across for a in (-1, 1) for b in (-1, 1)]
    for corner in np.array(expected) * 2:
        assert np.linalg.norm(boxes[0] - corner, axis=1).min() < 5.0, boxes
    first = boxes[0].sum(axis=1).argmin()
    u, v = boxes[0][1] - boxes[0][0], boxes[0][2] - boxes[0][1]
    assert first == 0 and u[0] * v[1] - u[1] * v[0] > 0, "clockwise from the top left, with y pointing down"


def test_faint_and_tiny_regions_are_no_words(steps: tuple[ModuleType, ModuleType]) -> None:
    likely = np.zeros((64, 64), np.float32)
    likely[10:20, 10:50] = 0.4
    likely[40:42, 10:50] = 0.9
    boxes, scores = steps[0].find_boxes(likely, (64, 64))
    assert boxes.shape == (0, 4, 2) and scores.shape == (0,)


SIZES = [
    (320, 320, 320, 320),
    (100, 50, 96, 64),
    (10, 1, 32, 32),
    (1920, 1080, 960, 544),
    (3000, 40, 960, 32),
]


@pytest.mark.parametrize(("width", "height", "columns", "rows"), SIZES)
def test_sides_become_multiples_of_32_up_to_960(
    steps: tuple[ModuleType, ModuleType], width: int, height: int, columns: int, rows: int
) -> None:
    x, size = steps[1].detector_input(file_of(np.full((height, width, 3), 255, np.uint8)))
    assert (x.shape, x.dtype, size) == ((1, 3, rows, columns), np.float32, (height, width))
    assert (x == 1.0).all()


def test_colours_come_blue_first_and_grey_alpha_and_palettes_are_taken(
    steps: tuple[ModuleType, ModuleType],
) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, :, 0] = 255
    x, _ = steps[1].detector_input(file_of(red))
    assert x[0, :, 0, 0].tolist() == [-1.0, -1.0, 1.0]
    for pixels in (red[:, :, 0], np.dstack([red, red[:, :, :1]])):
        assert steps[1].detector_input(file_of(pixels))[0].shape == (1, 3, 32, 32)


def test_a_photo_is_turned_as_its_camera_says(steps: tuple[ModuleType, ModuleType]) -> None:
    exif = image.Exif()
    exif[0x0112] = 6
    _, size = steps[1].detector_input(file_of(np.zeros((64, 128, 3), np.uint8), "JPEG", exif=exif))
    assert size == (128, 64)


def test_what_is_no_image_is_refused_in_words(steps: tuple[ModuleType, ModuleType]) -> None:
    good = file_of(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    refused = {
        b"": "neither a PNG nor a JPEG",
        b"GIF89a": "neither a PNG nor a JPEG",
        good[: len(good) // 2]: "cannot be read",
        file_of(np.zeros((8000, 8000), np.uint8)): "8000 x 8000 pixels",
    }
    for data, words in refused.items():
        with pytest.raises(ValueError, match=words):
            steps[1].detector_input(data)
