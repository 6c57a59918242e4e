"""An image or a WAV file and the input that is to take it → its array in the input's shape and type, and what was done."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.builder.base.errors import ToolError, UsageError, Where
from tritonsmith.builder.base.tensors import TensorSpec
from tritonsmith.perf.data.drawn import POOL_LIMIT_BYTES
from tritonsmith.perf.data.interface import Array

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_FULL_SCALE = 32768.0


def array_of_image(spec: TensorSpec, path: Path) -> tuple[Array, str]:
    """A file that Pillow reads → (the image without the batch, how it was made).

    The shape says the layout, by where 3 channels or 1 are, and the size; one that varies is the image's own. UINT8 gets
    the values as they are, floats get them between 0 and 1. UsageError when the input is none for an image; ToolError
    without Pillow.
    """
    lead, layout, height, width, channels = _layout(spec, path)
    image = _decoded(path, "L" if channels == 1 else "RGB")
    told = [f"{path.name}, {image.width} × {image.height} {image.mode}"]
    size = (image.width if width < 0 else width, image.height if height < 0 else height)
    if size != image.size:
        if size[0] * size[1] * 8 > POOL_LIMIT_BYTES:
            raise UsageError(
                f"input `{spec.name}` is larger than an image is made",
                code="large_input",
                seen=list(spec.wire_shape),
            )
        image = image.resize(size)  # bicubic
        told.append(f"resized to {size[0]} × {size[1]}, its proportions not kept")
    array = np.asarray(image)
    if layout == "CHW":
        array = array.transpose(2, 0, 1) if array.ndim == 3 else array[np.newaxis]
    elif layout == "HWC" and array.ndim == 2:
        array = array[..., np.newaxis]
    dtype = np.dtype(spec.dtype.numpy or "float32")
    if dtype.kind == "f":
        array = (array / 255).astype(dtype)
        told.append("divided by 255 (0 to 1)")
    else:
        array = array.astype(dtype)
        told.append("values 0 to 255 as they are")
    done = f"{', '.join(told)}, laid out {layout}; the model may want another normalisation"
    return np.ascontiguousarray(array).reshape((1,) * lead + array.shape), done


def _layout(spec: TensorSpec, path: Path) -> tuple[int, str, int, int, int]:
    """(leading dimensions of one, layout, height, width, channels)"""
    shape, lead = spec.wire_shape, 0
    if len(shape) == 4 and shape[0] in (1, -1):  # a model that does not batch, with the batch in its shape
        shape, lead = shape[1:], 1
    is_number = spec.dtype.kserve not in ("BOOL", "INT8")
    if is_number and len(shape) == 2:
        return lead, "HW", shape[0], shape[1], 1
    if is_number and len(shape) == 3 and shape[0] in (1, 3):
        return lead, "CHW", shape[1], shape[2], shape[0]
    if is_number and len(shape) == 3 and shape[2] in (1, 3):
        return lead, "HWC", shape[0], shape[1], shape[2]
    raise UsageError(
        f"input `{spec.name}` is none for an image: its shape does not say where the channels are",
        code="bad_data",
        where=Where(path),
        seen=f"{spec.dtype.kserve} {list(spec.wire_shape)}",
        valid=["[3, H, W]", "[H, W, 3]", "[1, H, W]", "[H, W, 1]", "[H, W]"],
        fix=f"{spec.name}=@FILE.npy with the array that the model takes",
    )


def _decoded(path: Path, mode: str) -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ToolError(
            "images are decoded by Pillow, which is not installed here",
            code="no_pillow",
            fix="pip install pillow, or give the array as @FILE.npy",
        ) from None
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"not an image: {error}", code="bad_data", where=Where(path)) from error


def array_of_audio(spec: TensorSpec, path: Path) -> tuple[Array, str]:
    """A WAV file of whole numbers → (its samples without the batch, how they were made).

    One channel, the mean of all there are; floats between -1 and 1, or INT16. The one dimension that varies takes them
    all. UsageError when the input takes another number of samples, or is of another datatype.
    """
    kserve = spec.dtype.kserve
    if kserve not in ("FP32", "FP16", "FP64", "BF16", "INT16"):
        raise UsageError(
            f"input `{spec.name}` takes {kserve}, and audio becomes floats or INT16",
            code="bad_data",
            where=Where(path),
            seen=kserve,
            valid=["FP32", "FP16", "FP64", "BF16", "INT16"],
        )
    sound, rate, channels, bits = _samples(path)
    told = [f"{path.name}, {len(sound)} samples at {rate} Hz, {bits} bit"]
    if channels > 1:
        told.append(f"the mean of {channels} channels")
    if kserve == "INT16":
        array: Array = np.clip(np.rint(sound * _FULL_SCALE), -32768, 32767).astype(np.int16)
        told.append("as INT16")
    else:
        array = sound.astype(spec.dtype.numpy or "float32")
        told.append("between -1 and 1")
    shape = spec.wire_shape
    try:
        varying = [place for place, size in enumerate(shape) if size < 0]
        # Of several dimensions that vary the last is time.
        asked = [1 if place in varying[:-1] else size for place, size in enumerate(shape)]
        array = array.reshape(asked)
    except ValueError:
        raise UsageError(
            f"input `{spec.name}` takes another number of samples",
            code="bad_shape",
            where=Where(path),
            seen=f"{len(sound)} samples, {len(sound) / rate:.2f} s at {rate} Hz",
            valid=[list(shape)],
            fix="cut or pad it to that length",
        ) from None
    return array, f"{', '.join(told)}; the model may want another rate or scale"


def _samples(path: Path) -> tuple[Array, int, int, int]:
    """(mono samples between -1 and 1, their rate in Hz, channels in the file, bits a sample)"""
    try:
        with wave.open(str(path), "rb") as sound:
            width, channels, rate = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
            data = sound.readframes(sound.getnframes())
    except (OSError, wave.Error, EOFError) as error:
        raise UsageError(
            f"not a WAV file of whole numbers: {error}", code="bad_data", where=Where(path)
        ) from error
    frames = np.frombuffer(data, np.uint8)
    frames = frames[: len(frames) // (width * channels) * width * channels].reshape(-1, channels, width)
    if width == 1:  # 8 bits are unsigned
        values = frames[..., 0].astype(np.float64) - 128
    else:
        # The bytes stand at the upper end of 32 bits, little end first, so that 16, 24 and 32 bits are read alike.
        wide = np.zeros((*frames.shape[:2], 4), np.uint8)
        wide[..., 4 - width :] = frames
        values = wide.view("<i4")[..., 0].astype(np.float64) / 2 ** (32 - 8 * width)
    return (values / 2 ** (8 * width - 1)).mean(axis=1), rate, channels, 8 * width
