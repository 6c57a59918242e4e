"""The bytes of a PNG or JPEG → the tensor that the text detector takes, and the image's own size."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# The detector halves its input five times.
SIDE_STEP = 32
LONGEST_SIDE = 960
# A small file can hold a huge picture; this many pixels take about 200 MB while they are decoded.
MOST_PIXELS = 40_000_000


def detector_input(data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
    """→ (float32 [1, 3, height, width] in -1..1, channels blue, green, red; (height, width) of the image).

    The image is turned as its EXIF data says and scaled so that its longer side is at most LONGEST_SIDE and
    both are multiples of SIDE_STEP. ValueError when the bytes are no such image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"the image has {width} x {height} pixels; at most {MOST_PIXELS} are taken")
            page = ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError:
        raise ValueError("IMAGE is neither a PNG nor a JPEG") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be read: {error}") from None
    width, height = page.size
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    resized = page.resize((_multiple(width * scale), _multiple(height * scale)), Image.Resampling.BILINEAR)
    # PP-OCR was trained on images as OpenCV reads them: blue first.
    pixels = np.asarray(resized, dtype=np.float32)[:, :, ::-1]
    x = (pixels / 255.0 - 0.5) / 0.5
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None]), (height, width)


def _multiple(side: float) -> int:
    return max(SIDE_STEP, round(side / SIDE_STEP) * SIDE_STEP)
