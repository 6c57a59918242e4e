"""Tensors as they travel → arrays as people mean them: BF16 as float32, its values unchanged."""

from __future__ import annotations

import numpy as np

from tritonsmith.perf.wire.payload import Array, WireTensor, array_from_raw


def array_of_tensor(tensor: WireTensor) -> Array:
    """A request's tensor."""
    return meant(tensor.datatype, array_from_raw(tensor.datatype, tensor.shape, tensor.data))


def meant(datatype: str, array: Array) -> Array:
    """An array as the wire's decoders give it, where BF16 is its bits."""
    if datatype != "BF16" or array.dtype != np.uint16:
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)
