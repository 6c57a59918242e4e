"""A GGUF file, a GGUF type → the same model with its matrices in that type, and how much of it is.

Written by gguf-py, llama.cpp's own (gguf.quants.quantize). Embeddings, norms and every other tensor of fewer than two
dimensions keep their type, and so does a matrix whose rows are no whole number of blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.convert.coverage import Coverage
from tritonsmith.builder.base.errors import BuildError

PLAIN = ("F32", "F16", "BF16")
"""What a precision is made from: weights that are quantized already would be rounded twice."""
# general.quantization_version of the blocks as they are written since 2023 (llama.cpp, ggml.h, GGML_QNT_VERSION).
_QUANTIZATION_VERSION = 2
# What the copy states itself.
_WRITTEN = ("general.architecture", "general.file_type", "general.quantization_version")


def quantize_gguf(source: Path, precision: str, made: Path) -> Coverage:
    """Writes `made`; BuildError already_quantized where the source's weights are."""
    import gguf

    reader = gguf.GGUFReader(source)
    quantized = sorted({tensor.tensor_type.name for tensor in reader.tensors} - set(PLAIN))
    if quantized:
        raise BuildError(
            f"{source.name} holds weights that are quantized already, and would be rounded twice",
            code="already_quantized",
            seen=", ".join(quantized),
            valid=PLAIN,
            fix="source: {llm: …} with the F16, BF16 or F32 file; this one may be a variant: {llm: FILE}",
        )
    wanted = gguf.GGMLQuantizationType[precision.upper()]
    reasons = {tensor.name: _stays(tensor, wanted) for tensor in reader.tensors}
    _write(reader, made, wanted, lambda tensor: tensor.tensor_type if reasons[tensor.name] else wanted)
    return _coverage(reader.tensors, reasons)


def plain_copy(source: Path, made: Path) -> None:
    """Writes the values that the blocks of any type stand for, as F16: what every engine that reads the type computes with,
    to 11 bits; of what is F16 already a link. BuildError unknown_type for a type that gguf-py cannot read."""
    import gguf

    types = gguf.GGMLQuantizationType
    reader = gguf.GGUFReader(source)
    plain = {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1}
    if plain <= {types.F16}:
        made.symlink_to(source)
        return
    try:
        _write(reader, made, types.F16, lambda tensor: types.F16 if len(tensor.shape) > 1 else types.F32)
    except NotImplementedError as error:
        raise BuildError(
            f"{source.name} has weights of a type that gguf-py does not read: {error}",
            code="unknown_type",
            fix="pip install --upgrade gguf, or a file of another type",
        ) from None


def _write(reader: Any, made: Path, named: Any, type_of: Callable[[Any], Any]) -> None:
    """named: the type that the copy is called after. type_of: tensor → the type that it gets."""
    import gguf

    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(made, architecture, endianess=reader.endianess)
    for field in reader.fields.values():
        # GGUF.*: the head's own numbers.
        if field.name.startswith("GGUF.") or field.name in _WRITTEN:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{named.name}"])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    types = {tensor.name: type_of(tensor) for tensor in reader.tensors}
    for tensor in reader.tensors:
        shape = [int(size) for size in tensor.shape[::-1]]
        block, size = gguf.GGML_QUANT_SIZES[types[tensor.name]]
        item = {"F32": "float32", "F16": "float16"}.get(types[tensor.name].name, "uint8")
        rows = shape if item != "uint8" else [*shape[:-1], shape[-1] // block * size]
        writer.add_tensor_info(
            tensor.name, rows, _dtype(item), tensor.n_elements // block * size, types[tensor.name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:  # one at a time in memory
        data, wanted = tensor.data, types[tensor.name]
        if tensor.tensor_type != wanted:
            data = gguf.quants.quantize(gguf.quants.dequantize(data, tensor.tensor_type), wanted)
        writer.write_tensor_data(data)
    writer.close()


def _dtype(name: str) -> Any:
    import numpy as np

    return np.dtype(name)


def _stays(tensor: Any, wanted: Any) -> str:
    """Why a tensor keeps its type; empty for one that is quantized."""
    import gguf

    if len(tensor.shape) < 2:
        return "no matrix"
    if tensor.name.startswith("token_embd."):
        return "embeddings stay"
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    # GGUF tells the length of a row first.
    if tensor.shape[0] % block:
        return f"rows of {tensor.shape[0]} are no whole number of blocks of {block}"
    return ""


def _coverage(tensors: Any, reasons: dict[str, str]) -> Coverage:
    matrices = [t for t in tensors if len(t.shape) > 1]
    taken = [t for t in matrices if not reasons[t.name]]
    kept = Counter(f"matrix: {reasons[t.name]}" for t in matrices if reasons[t.name])
    return Coverage(
        nodes=len(taken),
        of_nodes=len(matrices),
        # As fp32, which is how coverage of other models counts.
        weight_bytes=sum(4 * int(t.n_elements) for t in taken),
        of_weight_bytes=sum(4 * int(t.n_elements) for t in matrices),
        kept=dict(kept.most_common()),
    )
