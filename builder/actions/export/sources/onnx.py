"""An existing .onnx file → the same bytes in out_dir, external data laid out the way Triton wants it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tritonsmith.builder.actions.export.batching import with_batch_dimension
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.onnx_graph import onnxruntime_runner, read_graph
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.base.errors import ExportError, Where
from tritonsmith.builder.base.files.disk import adopt, delete, move, private_directory, replacing
from tritonsmith.builder.base.files.package_files import PACKAGE_PREFIX, resolve_package_file
from tritonsmith.builder.base.tensors import Dim, TensorSpec

MODEL_FILE = "model.onnx"


def take_over(request: ExportRequest, out_dir: Path) -> Exported:
    """Checks the file where it lies, then copies it byte for byte.

    Its own names and dimensions hold; stated tensors must agree with them. ExportError: as read_graph,
    fixed_batch, stated_tensor.
    """
    path = source_path(request.reference, Path(request.search_path))
    graph = read_graph(path)
    fix = "re-export the model with a dynamic first dimension"
    where = Where(path)
    inputs = with_batch_dimension(
        named_by(request.inputs, graph.inputs, where, "input"), request.max_batch_size, where, fix
    )
    outputs = with_batch_dimension(
        named_by(request.outputs, graph.outputs, where, "output"), request.max_batch_size, where, fix
    )
    reference = onnxruntime_runner(path, optimised=False)
    files = copy_model(path, graph.external_files, out_dir)
    return Exported(
        model_path=out_dir / files[0],
        files=files,
        inputs=inputs,
        outputs=outputs,
        opset=graph.opset,
        ir_version=graph.ir_version,
        reference=reference,
        is_copy=True,
        example=None,
        dim_ranges={},
        dependencies=(path, *(path.parent / location for location in graph.external_files)),
    )


def source_path(reference: str, search_path: Path) -> Path:
    """A `package:` reference, an absolute path, or one relative to the spec's directory."""
    if reference.startswith(PACKAGE_PREFIX):
        return resolve_package_file(reference)
    return search_path / Path(reference).expanduser()


def named_by(
    stated: Sequence[TensorSpec], found: Sequence[TensorSpec], where: Where, role: str
) -> tuple[TensorSpec, ...]:
    """The model's tensors, dynamic dimensions called by their stated names; ExportError stated_tensor."""
    by_name = {tensor.name: tensor for tensor in stated}
    for name in by_name.keys() - {tensor.name for tensor in found}:
        raise ExportError(
            f"the model has no {role} {name}",
            code="stated_tensor",
            where=where,
            seen=name,
            valid=[tensor.name for tensor in found],
        )
    return tuple(_merged(by_name[t.name], t, where, role) if t.name in by_name else t for t in found)


def _merged(stated: TensorSpec, found: TensorSpec, where: Where, role: str) -> TensorSpec:
    if not found.shape and stated.dtype == found.dtype and all(dim == 1 for dim in stated.shape):
        return found  # a scalar is dims [1] to Triton
    fits = stated.dtype == found.dtype and len(stated.shape) == len(found.shape)
    dims: list[Dim] = []
    for ours, theirs in zip(stated.shape, found.shape, strict=False):
        if isinstance(theirs, int) and theirs >= 0:
            fits = fits and ours == theirs
            dims.append(theirs)
        else:
            # A stated size narrows what the model would take; a stated name replaces the model's own.
            dims.append(theirs if ours == -1 else ours)
    if not fits:
        raise ExportError(
            f"{role} {found.name} is not stated as the model has it",
            code="stated_tensor",
            where=where,
            seen=f"{stated.dtype.config} {list(stated.shape)}",
            valid=[f"{found.dtype.config} {list(found.shape)}"],
            fix=f"leave {role} out of the spec to take the model's own",
        )
    return TensorSpec(found.name, found.dtype, tuple(dims))


def copy_model(path: Path, external_files: Sequence[str], out_dir: Path) -> tuple[str, ...]:
    """Copies the model and its external data; one file becomes model.onnx, several a directory of that name.

    Triton's onnxruntime backend takes a directory `model.onnx` holding `model.onnx` and the data files at
    the locations the model states.
    """
    target = clear(out_dir)
    if not external_files:
        _copy(path, target)
        return (MODEL_FILE,)
    temporary = private_directory(out_dir)
    for location in (*external_files, MODEL_FILE):
        if location == MODEL_FILE and location in external_files:
            raise ExportError(
                "the model's external data has the name Triton wants for the model",
                code="external_data_path",
                where=Where(path),
                seen=location,
                fix="save the model again with another location for its data",
            )
        (temporary / location).parent.mkdir(parents=True, exist_ok=True)
        _copy(path if location == MODEL_FILE else path.parent / location, temporary / location)
    temporary.chmod(0o755)
    move(temporary, out_dir, MODEL_FILE)
    return (f"{MODEL_FILE}/{MODEL_FILE}", *(f"{MODEL_FILE}/{location}" for location in external_files))


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def clear(out_dir: Path) -> Path:
    """Removes the model that an earlier export left in its own directory → where the next one is written."""
    delete(adopt(out_dir) / MODEL_FILE)
    return out_dir / MODEL_FILE
