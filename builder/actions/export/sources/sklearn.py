"""A fitted scikit-learn estimator or pipeline → model.onnx by skl2onnx, held against its own predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.callables import one_line
from tritonsmith.builder.actions.export.sources.tabular import drawn_around, exported_table, matrix_name
from tritonsmith.builder.base.errors import ExportError, ToolError
from tritonsmith.builder.base.tensors import dtype_from_config

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

_ML_OPSET = 3  # the newest of ai.onnx.ml that skl2onnx writes for every estimator
_TYPES = {
    "TYPE_FP32": "FloatTensorType",
    "TYPE_FP64": "DoubleTensorType",
    "TYPE_INT64": "Int64TensorType",
    "TYPE_STRING": "StringTensorType",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One input of a pipeline that begins with a ColumnTransformer.

    draw: (how many, generator) → values [rows, 1] in the input's own dtype.
    """

    name: str
    data_type: str
    draw: Callable[[int, Any], Array]


def export_estimator(request: ExportRequest, out_dir: Path) -> Exported:
    """label and probabilities of a classifier (label alone when it has none), variable of a regressor or transformer.

    One input `X` [batch, features]; an input [batch, 1] a column where a ColumnTransformer comes first.
    ExportError: corrupt_model, untrusted_types, not_fitted, estimator_unsupported, conversion_failed, stated_tensor.
    """
    from skl2onnx import to_onnx
    from sklearn.base import is_classifier

    path = Path(request.reference)
    estimator = _loaded(path)
    features = getattr(estimator, "n_features_in_", None)
    if features is None:
        raise ExportError("the estimator is not fitted", code="not_fitted", seen=type(estimator).__name__)
    predict = _answers_of(estimator)
    columns = _columns(estimator, request)
    if columns is None:
        name = matrix_name(request, features, path)
        stated = request.inputs[0].dtype.config if request.inputs else "TYPE_FP32"
        types = [(name, _onnx_type(stated, features))]
        rows = _matrix_rows(estimator, name, stated, features)
        arrange: Callable[[Mapping[str, Array]], Any] = lambda inputs: inputs[name]  # noqa: E731
    else:
        types = [(c.name, _onnx_type(c.data_type, 1)) for c in columns]
        rows = lambda n, rng: {c.name: c.draw(n, rng) for c in columns}  # noqa: E731
        arrange = _arranger(estimator, columns)
    try:
        model = to_onnx(
            estimator,
            initial_types=types,
            options={"zipmap": False} if hasattr(estimator, "predict_proba") else None,
            target_opset={"": request.opset, "ai.onnx.ml": _ML_OPSET},
        )
        if is_classifier(estimator) and not hasattr(estimator, "predict_proba"):
            del model.graph.output[1:]
    except Exception as error:
        raise ExportError(
            f"skl2onnx cannot convert it: {one_line(error)[:300]}",
            code="conversion_failed",
            seen=type(estimator).__name__,
        ) from error
    names = [output.name for output in model.graph.output]
    return exported_table(
        model,
        request,
        out_dir,
        path,
        lambda inputs: dict(zip(names, predict(arrange(inputs)), strict=True)),
        rows,
    )


def _loaded(path: Path) -> Any:
    if path.suffix == ".skops":
        return _loaded_skops(path)
    import joblib

    try:
        with path.open("rb") as file:
            return joblib.load(file)
    except Exception as error:
        raise ExportError(
            f"it cannot be loaded: {one_line(error)[:300]}",
            code="corrupt_model",
            fix="write it with joblib.dump or pickle.dump, and load it with the versions that wrote it",
        ) from error


def _loaded_skops(path: Path) -> Any:
    try:
        import skops.io
    except ModuleNotFoundError as error:
        raise ToolError(
            "a .skops file needs skops, which is not installed",
            code="sklearn_missing",
            fix="pip install 'tritonsmith[sklearn]'",
        ) from error
    try:
        unknown = skops.io.get_untrusted_types(file=path)
        if not unknown:
            return skops.io.load(path)
    except Exception as error:
        raise ExportError(f"skops cannot load it: {one_line(error)[:300]}", code="corrupt_model") from error
    raise ExportError(
        "the file holds types that skops does not know to be harmless",
        code="untrusted_types",
        seen=unknown,
        fix="leave them out of the pipeline, or write it with joblib and say trust: true",
    )


def _answers_of(estimator: Any) -> Callable[[Any], list[Array]]:
    """The estimator's own answers in the order of the ONNX model's outputs."""
    import numpy as np
    from sklearn.base import is_classifier, is_regressor

    def label(x: Any) -> Array:
        found = np.asarray(estimator.predict(x))
        return _as_wire(found)

    def probabilities(x: Any) -> Array:
        return np.asarray(estimator.predict_proba(x), dtype=np.float32)

    if is_classifier(estimator):
        if isinstance(estimator.classes_, list):
            raise ExportError(
                "a classifier of several outputs has no form that Triton can batch",
                code="estimator_unsupported",
                seen=type(estimator).__name__,
            )
        if hasattr(estimator, "predict_proba"):
            return lambda x: [label(x), probabilities(x)]
        return lambda x: [label(x)]
    what = estimator.predict if is_regressor(estimator) else getattr(estimator, "transform", None)
    if what is None:
        raise ExportError(
            "the estimator neither classifies nor regresses nor transforms",
            code="estimator_unsupported",
            seen=type(estimator).__name__,
            valid=("a classifier", "a regressor", "a transformer", "a pipeline that ends in one"),
        )

    def values(x: Any) -> list[Array]:
        found = what(x)
        dense = np.asarray(found.toarray() if hasattr(found, "toarray") else found)
        return [dense.reshape(len(dense), -1).astype(np.float32)]

    return values


def _as_wire(labels: Array) -> Array:
    import numpy as np

    if labels.dtype.kind not in "US" and labels.dtype != object:
        return labels.astype(np.int64)
    out = np.empty(labels.shape, dtype=object)
    out[:] = [str(label).encode() for label in labels.tolist()]
    return out


def _onnx_type(data_type: str, width: int) -> Any:
    from skl2onnx.common import data_types

    if data_type not in _TYPES:
        raise ExportError(
            "no input of a scikit-learn model has this type",
            code="stated_tensor",
            seen=data_type,
            valid=list(_TYPES),
        )
    return getattr(data_types, _TYPES[data_type])([None, width])


def _matrix_rows(
    estimator: Any, name: str, data_type: str, features: int
) -> Callable[[int, Any], dict[str, Array]]:
    import numpy as np

    first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
    mean, scale = getattr(first, "mean_", None), getattr(first, "scale_", None)
    thresholds = _thresholds(first)
    dtype = np.dtype(dtype_from_config(data_type).numpy or "float32")

    def rows(count: int, rng: Any) -> dict[str, Array]:
        if dtype.kind == "O":
            words = np.empty((count, features), dtype=object)
            words[...] = b"sample"
            return {name: words}
        if mean is not None and scale is not None and not thresholds:
            values = rng.normal(size=(count, features)) * scale + mean
        else:
            values = drawn_around(thresholds, features, count, rng)
        return {name: values.astype(dtype)}

    return rows


def _thresholds(estimator: Any) -> dict[int, list[float]]:
    """Feature → the values at which a tree, or the trees of a forest, branch."""
    import numpy as np

    trees = (
        [estimator]
        if hasattr(estimator, "tree_")
        else np.ravel(getattr(estimator, "estimators_", ())).tolist()
    )
    found: dict[int, list[float]] = {}
    for tree in trees:
        if hasattr(tree, "tree_"):
            for feature, threshold in zip(tree.tree_.feature, tree.tree_.threshold, strict=True):
                if feature >= 0:
                    found.setdefault(int(feature), []).append(float(threshold))
    return found


def _columns(estimator: Any, request: ExportRequest) -> list[Column] | None:
    """One for each column where a ColumnTransformer comes first, in the order of fitting; None for a matrix."""
    from sklearn.compose import ColumnTransformer

    first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
    if not isinstance(first, ColumnTransformer):
        return None
    known = getattr(first, "feature_names_in_", None)
    names = [str(n) for n in known] if known is not None else [f"x{i}" for i in range(first.n_features_in_)]
    stated = {tensor.name: tensor.dtype.config for tensor in request.inputs}
    if unknown := stated.keys() - set(names):
        raise ExportError(
            f"the pipeline has no column {min(unknown)}",
            code="stated_tensor",
            seen=sorted(unknown),
            valid=names,
        )
    pools = _categories(first, names)
    return [_column(name, stated.get(name), pools.get(name)) for name in names]


def _categories(first: Any, names: Sequence[str]) -> dict[str, Any]:
    """Column → the categories that its encoder was fitted on."""
    found: dict[str, Any] = {}
    for _, transformer, chosen in first.transformers_:
        steps = [step for _, step in transformer.steps] if hasattr(transformer, "steps") else [transformer]
        encoder = next((step for step in steps if hasattr(step, "categories_")), None)
        if encoder is not None:
            for column, categories in zip(_listed(chosen), encoder.categories_, strict=True):
                found[column if isinstance(column, str) else names[column]] = categories
    return found


def _listed(chosen: Any) -> list[Any]:
    if isinstance(chosen, slice):
        return list(range(chosen.start or 0, chosen.stop, chosen.step or 1))
    return [chosen] if isinstance(chosen, str | int) else list(chosen)


def _column(name: str, stated: str | None, categories: Any) -> Column:
    import numpy as np

    text = categories is not None and categories.dtype.kind in "OUS"
    data_type = stated or ("TYPE_STRING" if text else "TYPE_FP32")
    dtype = np.dtype(dtype_from_config(data_type).numpy or "float32")

    def draw(count: int, rng: Any) -> Array:
        if categories is None:
            return np.asarray(rng.normal(size=(count, 1)) * (1 if dtype.kind == "f" else 10)).astype(dtype)
        chosen = categories[rng.integers(0, len(categories), (count, 1))]
        if dtype.kind != "O":
            return np.asarray(chosen, dtype=dtype)
        out = np.empty((count, 1), dtype=object)
        out[:, 0] = [str(value).encode() for value in chosen[:, 0].tolist()]
        return out

    return Column(name, data_type, draw)


def _arranger(estimator: Any, columns: Sequence[Column]) -> Callable[[Mapping[str, Array]], Any]:
    """Inputs by name → what the pipeline takes: a frame where it was fitted on one."""
    import numpy as np

    by_name = getattr(estimator, "feature_names_in_", None) is not None
    frame: Any = None
    if by_name:
        try:
            import pandas

            frame = pandas.DataFrame
        except ModuleNotFoundError as error:
            raise ToolError(
                "the pipeline was fitted on a pandas frame, and pandas is not installed",
                code="sklearn_missing",
                fix="pip install pandas",
            ) from error

    def arrange(inputs: Mapping[str, Array]) -> Any:
        values = {c.name: _plain(inputs[c.name][:, 0]) for c in columns}
        if frame is not None:
            return frame(values)
        table = np.empty((len(next(iter(values.values()))), len(columns)), dtype=object)
        for index, column in enumerate(columns):
            table[:, index] = values[column.name]
        return table

    return arrange


def _plain(values: Array) -> Array:
    if values.dtype != object:
        return values
    return values.astype("U") if not len(values) else _decoded(values)


def _decoded(values: Array) -> Array:
    import numpy as np

    out = np.empty(values.shape, dtype=object)
    out[:] = [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    return out
