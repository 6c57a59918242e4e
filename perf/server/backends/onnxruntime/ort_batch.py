"""Requests' arrays → one feed a run, and a run's outputs → each request's share."""

import numpy as np


def groups_of_equal_shape(feeds, batching, ragged=frozenset()):
    """Indices of the requests that can share a run: lists, in the order of the requests.

    feeds: {input name: array} a request. Without batching every request runs alone. Ragged inputs are
    flattened and joined, so their shapes need not agree.
    """
    if not batching:
        return [[i] for i in range(len(feeds))]
    groups = {}
    for index, feed in enumerate(feeds):
        key = tuple(
            (name, array.dtype.str, None if name in ragged else array.shape[1:])
            for name, array in sorted(feed.items())
        )
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def join(feeds, ragged=frozenset()):
    """The feeds of one group → one feed, requests one after the other along the batch dimension."""
    if len(feeds) == 1 and not ragged:
        return feeds[0]
    joined = {}
    for name in feeds[0]:
        arrays = [feed[name] for feed in feeds]
        if name in ragged:
            arrays = [array.reshape(-1) for array in arrays]
        joined[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return joined


def rows_of(feeds):
    """Batch rows of each request: what its first input has, as Triton counts them; a scalar is one."""
    firsts = [next(iter(feed.values())) for feed in feeds]
    return [first.shape[0] if first.ndim else 1 for first in firsts]


def split(name, output, rows):
    """One output of a run over sum(rows) batch rows → one array a request (views, C-contiguous).

    RuntimeError when it has other rows: production (BackendOutputResponder::ProcessTensor in
    triton-inference-server/backend) fails when there are too few of them, and drops what is too many.
    """
    total = sum(rows)
    if output.ndim == 0 or output.shape[0] != total:
        raise RuntimeError(
            f"output '{name}' has shape {list(output.shape)} for a batch of {total}; its first dimension must be "
            "the batch's, or production's onnxruntime backend cuts it; without batching (max_batch_size: 0) it is "
            "returned whole"
        )
    ends = np.cumsum(rows)
    return [output[end - count : end] for end, count in zip(ends, rows, strict=True)]


def scatter(name, output, shapes):
    """A flat output → one array a request, shaped as that request's input
    (BATCH_SCATTER_WITH_INPUT_SHAPE)."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    flat = output.reshape(-1)
    if flat.size != sum(sizes):
        raise RuntimeError(f"output '{name}' has {flat.size} elements; its source inputs have {sum(sizes)}")
    ends = np.cumsum(sizes)
    return [
        flat[end - size : end].reshape(shape) for end, size, shape in zip(ends, sizes, shapes, strict=True)
    ]


def batch_input(kind, dtype, shapes):
    """The tensor Triton's config `batch_input` describes, from the shapes (batch first) of the source input.

    Kinds and shapes: BatchInput in Triton's model_config.proto.
    """
    counts = np.array([int(np.prod(shape)) for shape in shapes], dtype=dtype)
    if kind == "BATCH_ELEMENT_COUNT":
        return counts
    if kind == "BATCH_ACCUMULATED_ELEMENT_COUNT":
        return np.cumsum(counts, dtype=dtype)
    if kind == "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO":
        return np.concatenate([np.zeros(1, dtype), np.cumsum(counts, dtype=dtype)])
    if kind == "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE":
        return np.zeros(int(counts.max()), dtype=dtype)
    items = np.array([shape[1:] for shape in shapes for _ in range(shape[0])], dtype=dtype)
    if kind == "BATCH_ITEM_SHAPE":
        return items
    if kind == "BATCH_ITEM_SHAPE_FLATTEN":
        return items.reshape(-1)
    raise RuntimeError(f"batch_input kind '{kind}' is not known")
