"""Models that people bring, made here → built → answers of a live Triton equal to those of the library they come from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests import onnx_models
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.build.build import BuildOptions, build
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.lint.check import LintOptions, check
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import ServerSpec, launch

Arrays = Mapping[str, Any]
IRIS_CLASSES = np.array(["setosa", "versicolor", "virginica"])


def built(root: Path, spec: str) -> Path:
    """The repository of a spec; every model of it was built."""
    (root / "models.yaml").write_text(spec)
    result = build(BuildOptions(root / "models.yaml", cache=Cache(root / "cache")))
    assert result.errors == ()
    assert [f for f in check([result.repository], LintOptions()) if f.severity == "error"] == []
    return result.repository


def served(triton: LiveTriton, repository: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(triton.repository / name, ignore_errors=True)
        shutil.copytree(repository / name, triton.repository / name)
        control.load_model(triton.http_url, name)


def ask(triton: LiveTriton, model: str, inputs: Arrays, **parameters: Any) -> dict[str, Any]:
    import tritonclient.http as http
    from tritonclient.utils import np_to_triton_dtype

    with http.InferenceServerClient(triton.http_url, network_timeout=60.0) as client:
        tensors = []
        for name, value in inputs.items():
            tensors.append(http.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype)))
            tensors[-1].set_data_from_numpy(value)
        answer = client.infer(model, tensors, **parameters)
        return {o["name"]: answer.as_numpy(o["name"]) for o in answer.get_response()["outputs"]}


def iris() -> tuple[Any, Any]:
    """Four overlapping features of three classes; scikit-learn's own table, without its loader."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 50)
    means = np.array([[5.0, 3.4, 1.5, 0.2], [5.9, 2.8, 4.3, 1.3], [6.6, 3.0, 5.6, 2.0]])
    return (means[y] + rng.normal(0, 0.4, (150, 4))).astype(np.float32), y


@pytest.mark.server
def test_sklearn_pipelines_answer_as_their_own_predict(triton: LiveTriton, tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx", reason="tritonsmith[sklearn] is not installed")
    import joblib
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    x, y = iris()
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)).fit(
        x, IRIS_CLASSES[y]
    )
    joblib.dump(forest, tmp_path / "forest.joblib")
    table = np.empty((150, 2), dtype=object)
    table[:, 0], table[:, 1] = x[:, 2], IRIS_CLASSES[y]
    chosen = ColumnTransformer([("n", StandardScaler(), [0]), ("c", OneHotEncoder(), [1])])
    columns = make_pipeline(chosen, LogisticRegression()).fit(table, y)
    joblib.dump(columns, tmp_path / "columns.joblib")
    repository = built(
        tmp_path,
        "models:\n  forest: {source: {sklearn: forest.joblib, trust: true}}\n"
        "  columns: {source: {sklearn: columns.joblib, trust: true}}\n",
    )
    served(triton, repository, "forest", "columns")
    answer = ask(triton, "forest", {"X": x[:4]})
    assert [v.decode() for v in answer["label"].reshape(-1)] == forest.predict(x[:4]).tolist()
    np.testing.assert_allclose(answer["probabilities"], forest.predict_proba(x[:4]), atol=1e-6)
    rows = table[[0, 60, 120]]
    words = np.array([[w.encode()] for w in rows[:, 1]], dtype=object)
    answer = ask(triton, "columns", {"x0": rows[:, :1].astype(np.float32), "x1": words})
    assert answer["label"].reshape(-1).tolist() == columns.predict(rows).tolist()
    np.testing.assert_allclose(answer["probabilities"], columns.predict_proba(rows), atol=1e-6)


@pytest.mark.server
@pytest.mark.nightly
def test_boosters_answer_as_their_own_predict_also_where_values_are_missing(
    triton: LiveTriton, tmp_path: Path
) -> None:
    xgboost = pytest.importorskip("xgboost", reason="tritonsmith[xgboost] is not installed")
    lightgbm = pytest.importorskip("lightgbm", reason="tritonsmith[lightgbm] is not installed")
    pytest.importorskip("onnxmltools", reason="tritonsmith[xgboost] is not installed")
    x, y = iris()
    x[::7, 1] = np.nan
    xgb = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 3}, xgboost.DMatrix(x, label=y), 5
    )
    xgb.save_model(tmp_path / "xgb.ubj")
    lgb = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(x, y > 0), 5)
    lgb.save_model(tmp_path / "lgb.txt")
    regressor = lightgbm.train({"objective": "regression", "verbose": -1}, lightgbm.Dataset(x, x[:, 0]), 5)
    regressor.save_model(tmp_path / "regressor.txt")
    repository = built(
        tmp_path,
        "models:\n  xgb: {source: {xgboost: xgb.ubj}}\n  lgb: {source: {lightgbm: lgb.txt}}\n"
        "  regressor: {source: {lightgbm: regressor.txt}}\n",
    )
    served(triton, repository, "xgb", "lgb", "regressor")
    rows = x[[0, 1, 70, 147]]
    assert np.isnan(rows).any()
    answer = ask(triton, "xgb", {"X": rows})
    want = xgb.predict(xgboost.DMatrix(rows))
    np.testing.assert_allclose(answer["probabilities"], want, atol=1e-6)
    assert answer["label"].reshape(-1).tolist() == want.argmax(axis=1).tolist()
    np.testing.assert_allclose(
        ask(triton, "lgb", {"X": rows})["probabilities"][:, 1], lgb.predict(rows), atol=1e-6
    )
    np.testing.assert_allclose(
        ask(triton, "regressor", {"X": rows})["variable"][:, 0], regressor.predict(rows), rtol=1e-5
    )


def tiny_bert(directory: Path, head: str) -> Any:
    """A random BERT of two layers, saved as published ones are, and a tokenizer beside it."""
    transformers = pytest.importorskip("transformers", reason="tritonsmith[transformers] is not installed")
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import BertProcessing

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["the", "a", "cat", "dog", "eats", "sleeps", "and", "##s"]]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=3,
    )
    network = getattr(transformers, head)(config).eval()
    network.save_pretrained(directory)
    tokenizer = Tokenizer(WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(directory / "tokenizer.json"))
    return network


TEXTS = ("the cat eats", "a dog sleeps and the cat sleeps", "cats")


@pytest.mark.server
@pytest.mark.nightly  # the server's environment gets a layer with tokenizers
def test_texts_to_embeddings_as_transformers_gives_them_alone(tmp_path: Path) -> None:
    import torch

    from tritonsmith.builder.importing.files import imported_paths
    from tritonsmith.builder.importing.spec_text import text_of_spec

    network = tiny_bert(tmp_path / "bert", "BertModel")
    text = text_of_spec(imported_paths([tmp_path / "bert"], tmp_path).models)
    assert "bert_tokenizer:" in text and "bert_text:" in text
    assert "pooling: mean" in text
    repository = built(tmp_path, text)
    texts = np.array([[t.encode()] for t in TEXTS], dtype=object)
    with launch(ServerSpec(repositories=(repository,))) as server:
        answer = ask(LiveTriton(server, repository), "bert_text", {"TEXT": texts})["embeddings"]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "bert" / "tokenizer.json"))
    for row, sentence in zip(answer, TEXTS, strict=True):
        ids = torch.tensor([tokenizer.encode(sentence).ids])
        with torch.no_grad():
            want = network(input_ids=ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, want / want.norm(), atol=1e-5)


@pytest.mark.server
@pytest.mark.nightly
def test_a_classifier_answers_with_logits(triton: LiveTriton, tmp_path: Path) -> None:
    import torch

    network = tiny_bert(tmp_path / "bert", "BertForSequenceClassification")
    repository = built(tmp_path, "models: {classifier: {source: {transformers: bert}, max_batch_size: 4}}\n")
    served(triton, repository, "classifier")
    ids = np.array([[2, 4, 6, 3], [2, 5, 3, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    kinds = np.array([[0, 0, 1, 1], [0, 0, 0, 0]])
    answer = ask(triton, "classifier", {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds})
    with torch.no_grad():
        want = network(torch.tensor(ids), torch.tensor(mask), torch.tensor(kinds)).logits
    np.testing.assert_allclose(answer["logits"], want, atol=1e-5)


@pytest.mark.server
@pytest.mark.nightly
def test_a_torchscript_file_keeps_its_branches_and_answers_as_itself(
    triton: LiveTriton, tmp_path: Path
) -> None:
    import torch

    class Scaled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.layer(x)
            if bool((k > 0).all()):
                y = y * 2
            return y, y.sum(1) + k[:, 0]

    module = torch.jit.script(Scaled())
    module.save(str(tmp_path / "scaled.pt"))
    repository = built(
        tmp_path,
        "models:\n  scaled:\n    source: {torchscript: scaled.pt}\n    max_batch_size: 0\n"
        "    input:\n      - {name: x, data_type: TYPE_FP32, dims: [rows, 4]}\n"
        "      - {name: k, data_type: TYPE_FP32, dims: [rows, 1]}\n"
        "    output: [{name: y, data_type: TYPE_FP32, dims: [-1, 3]}, {name: total, data_type: TYPE_FP32, dims: [-1]}]\n",
    )
    served(triton, repository, "scaled")
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    for sign in (1, -1):  # both branches
        k = np.full((5, 1), sign, np.float32)
        answer = ask(triton, "scaled", {"x": x, "k": k})
        with torch.no_grad():
            y, total = module(torch.tensor(x), torch.tensor(k))
        np.testing.assert_allclose(answer["y"], y, atol=1e-5)
        np.testing.assert_allclose(answer["total"], total, atol=1e-5)


@pytest.mark.server
def test_interleaved_sequences_keep_their_own_state(triton: LiveTriton, tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.accumulator(), tmp_path / "sum.onnx")
    repository = built(
        tmp_path,
        "defaults: {dynamic_batching: {}}\n"
        "models: {running: {source: {onnx: sum.onnx}, max_batch_size: 4, state: {total_in: total_out}}}\n",
    )
    config = model_config_from_text((repository / "running" / "config.pbtxt").read_text())
    (state,) = config.sequence_batching.state
    assert ([t.name for t in config.input], [t.name for t in config.output]) == (["x"], ["y"])
    assert (state.input_name, state.output_name, list(state.dims)) == ("total_in", "total_out", [1])
    assert state.initial_state[0].zero_data and not config.HasField("dynamic_batching")
    served(triton, repository, "running")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    steps = {s: rng.normal(size=(5, 1, 1)).astype(np.float32) for s in (11, 12, 13)}
    got: dict[int, list[Any]] = {s: [] for s in steps}
    for turn in range(5):
        for sequence, values in steps.items():
            answer = ask(
                triton,
                "running",
                {"x": values[turn]},
                sequence_id=sequence,
                sequence_start=turn == 0,
                sequence_end=turn == 4,
            )
            got[sequence].append(answer["y"])
    for sequence, values in steps.items():
        total = np.zeros((1, 1), np.float32)
        for x, y in zip(values, got[sequence], strict=True):
            want, total = session.run(["y", "total_out"], {"x": x, "total_in": total})
            np.testing.assert_array_equal(y, want)
