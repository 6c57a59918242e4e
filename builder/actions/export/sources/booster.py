"""An XGBoost or LightGBM model in its library's own file format → model.onnx, held against the library's predict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.callables import one_line
from tritonsmith.builder.actions.export.sources.tabular import drawn_around, exported_table, matrix_name
from tritonsmith.builder.base.errors import ExportError

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

_TARGET_OPSET = 15  # the newest that onnxmltools writes for trees

XGBOOST_OBJECTIVES = ("binary:logistic", "multi:softprob", "reg:squarederror", "reg:logistic", "count:poisson", "reg:gamma",
                      "reg:tweedie", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror")  # fmt: skip
LIGHTGBM_OBJECTIVES = ("binary", "multiclass", "regression", "regression_l1", "huber", "quantile", "mape")


def export_xgboost(request: ExportRequest, out_dir: Path) -> Exported:
    """label and probabilities of a classifier, variable of a regressor; NaN is a missing value.

    ExportError: corrupt_model, objective_unsupported, categorical_features, conversion_failed, stated_tensor.
    """
    import numpy as np
    import xgboost
    from onnxmltools.convert import convert_xgboost

    path = Path(request.reference)
    booster = xgboost.Booster()
    _read(lambda: booster.load_model(str(path)), "Booster.save_model")
    learner = json.loads(booster.save_config())["learner"]
    objective = learner["objective"]["name"]
    _check_objective(objective, XGBOOST_OBJECTIVES)
    if "c" in (booster.feature_types or ()):
        raise _categorical()
    if learner["gradient_booster"]["name"] != "gbtree":
        raise _unsupported("booster", learner["gradient_booster"]["name"], ("gbtree",))
    features = booster.num_features()
    booster.feature_names = None  # the converter takes f0, f1, … alone
    thresholds: dict[int, list[float]] = {}
    for tree in booster.get_dump(dump_format="json"):
        for node in _nodes(json.loads(tree), "children"):
            if "split" in node:
                thresholds.setdefault(int(node["split"].removeprefix("f")), []).append(
                    node["split_condition"]
                )
    name = matrix_name(request, features, path)
    model = _converted(convert_xgboost, booster, name, features)

    def reference(inputs: Mapping[str, Array]) -> dict[str, Array]:
        answers = booster.predict(xgboost.DMatrix(inputs[name]))
        return _outputs(np.asarray(answers), objective in ("binary:logistic", "multi:softprob"))

    def rows(count: int, rng: Any) -> dict[str, Array]:
        return {name: _with_missing(drawn_around(thresholds, features, count, rng), rng)}

    return exported_table(model, request, out_dir, path, reference, rows)


def export_lightgbm(request: ExportRequest, out_dir: Path) -> Exported:
    """As export_xgboost. LightGBM compares in float64, the ONNX model in float32."""
    import lightgbm
    import numpy as np
    from onnxmltools.convert import convert_lightgbm

    path = Path(request.reference)
    booster = _read(lambda: lightgbm.Booster(model_file=str(path)), "Booster.save_model")
    dumped = booster.dump_model()
    objective = str(dumped.get("objective", "none")).split()[0]
    _check_objective(objective, LIGHTGBM_OBJECTIVES)
    features = booster.num_feature()
    thresholds: dict[int, list[float]] = {}
    for tree in dumped["tree_info"]:
        for node in _nodes(tree["tree_structure"], "left_child", "right_child"):
            if node.get("decision_type") == "==":
                raise _categorical()
            if "split_feature" in node:
                thresholds.setdefault(node["split_feature"], []).append(float(node["threshold"]))
    name = matrix_name(request, features, path)
    model = _converted(convert_lightgbm, booster, name, features, zipmap=False)

    def reference(inputs: Mapping[str, Array]) -> dict[str, Array]:
        answers = booster.predict(inputs[name].astype(np.float64))
        return _outputs(np.asarray(answers), objective in ("binary", "multiclass"))

    def rows(count: int, rng: Any) -> dict[str, Array]:
        return {name: _with_missing(drawn_around(thresholds, features, count, rng), rng)}

    return exported_table(model, request, out_dir, path, reference, rows)


def _outputs(answers: Array, classifies: bool) -> dict[str, Array]:
    """What predict gave, as the ONNX model's outputs: of two classes the library gives the second's probability alone."""
    import numpy as np

    if not classifies:
        return {"variable": answers.reshape(len(answers), -1).astype(np.float32)}
    if answers.ndim == 1:
        answers = np.stack([1 - answers, answers], axis=1)
    return {"label": answers.argmax(axis=1).astype(np.int64), "probabilities": answers.astype(np.float32)}


def _with_missing(values: Array, rng: Any) -> Array:
    """One value in twenty is NaN: missing values take a branch of their own."""
    import numpy as np

    values[rng.random(values.shape) < 0.05] = np.nan
    return values


def _nodes(node: Mapping[str, Any], *children: str) -> Iterator[Mapping[str, Any]]:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        for key in children:
            below = one.get(key, ())
            waiting += [below] if isinstance(below, Mapping) else below


def _read(load: Callable[[], Any], writer: str) -> Any:
    try:
        return load()
    except Exception as error:
        raise ExportError(
            f"it cannot be read: {one_line(error)[:300]}",
            code="corrupt_model",
            fix=f"write it with {writer}, and read it with that version of the library or a newer one",
        ) from error


def _converted(convert: Callable[..., Any], booster: Any, name: str, features: int, **options: Any) -> Any:
    from onnxmltools.convert.common.data_types import FloatTensorType

    try:
        return convert(
            booster,
            initial_types=[(name, FloatTensorType([None, features]))],
            target_opset=_TARGET_OPSET,
            **options,
        )
    except Exception as error:
        raise ExportError(
            f"onnxmltools cannot convert it: {one_line(error)[:300]}", code="conversion_failed"
        ) from error


def _check_objective(objective: str, valid: tuple[str, ...]) -> None:
    if objective not in valid:
        raise _unsupported("objective", objective, valid)


def _unsupported(what: str, seen: str, valid: tuple[str, ...]) -> ExportError:
    return ExportError(
        f"a model of this {what} has no verified conversion to ONNX",
        code=f"{what}_unsupported",
        seen=seen,
        valid=valid,
    )


def _categorical() -> ExportError:
    return ExportError(
        "the model branches on categories, which the converter does not support",
        code="categorical_features",
        fix="train it on encoded columns (a scikit-learn pipeline holds encoder and model: source: {sklearn: …})",
    )
