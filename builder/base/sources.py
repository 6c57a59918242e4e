"""Kind of source → its SourceRow: what it is, who exports or places it, and what that needs; other packages may add rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from tritonsmith.builder.base.rows import table_of

ENTRY_POINTS = "tritonsmith.sources"
"""The group of entry points under which another package names its SourceRows, as `module:ROW`."""


@dataclass(frozen=True, slots=True)
class SourceOption:
    """A key beside the kind in `source:`, for sources of this kind only.

    type, default: as pydantic takes them.
    """

    name: str
    type: Any
    default: Any
    description: str


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One kind of source. References are "module:function", imported when they are needed.

    kind:          its key in `source:`.
    suffixes:      ends of the names of its files, by which `tritonsmith init` knows them.
    reference:     what stands there: a file, a directory, a callable, a directory or the name of a model elsewhere,
                   weights (a file, a directory or a name elsewhere, which `check` looks after), or an ensemble's steps.
    example:       a value, for messages.
    export:        (ExportRequest, out_dir) → Exported, run in a process of its own; or (Exported, Stated, Verified)
                   of builder.actions.export.checks.verify, when it held itself what it wrote against the source.
    place:         (ModelSpec, spec's directory, into) → (files, empty directories, further dependencies); the source
                   is taken over as it is. Exactly one of `export` and `place`.
    check:         (ModelSpec, RepositorySpec) → None, or SpecError before anything is built.
    backend:       Triton's; empty when the source brings a config of its own.
    imports:       modules that the export needs; `extra` of ours installs them.
    distributions: whose versions decide whether an artifact is stale.
    opset:         "asked": the spec's; "own": that of its file; None: it has none, or not one to know beforehand.
    rows_checked:  it is run in batches before it is batched; it must have ONNX files.
    stated:        its tensors are those that the spec states.
    """

    kind: str
    description: str
    reference: Literal["file", "directory", "callable", "directory or name", "weights", "steps"] = "file"
    example: str = "FILE"
    suffixes: tuple[str, ...] = ()
    pattern: str | None = None
    export: str | None = None
    place: str | None = None
    check: str | None = None
    backend: str = "onnxruntime"
    imports: tuple[str, ...] = ()
    extra: str = ""
    distributions: tuple[str, ...] = ()
    opset: Literal["asked", "own"] | None = None
    options: tuple[SourceOption, ...] = ()
    rows_checked: bool = True
    stated: bool = False


_TORCH = ("torch", "onnxscript", "onnx-ir", "onnx")
_TREES = ("onnx", "onnxmltools", "skl2onnx")

_ROWS = (
    SourceRow(
        "torch",
        "package.module:callable; the callable returns (module, example inputs)",
        reference="callable",
        example="module:callable",
        pattern=r"^[\w.]+:[\w.]+$",
        export="tritonsmith.builder.actions.export.sources.torch:export_callable",
        imports=("torch", "onnxscript"),
        extra="torch",
        distributions=_TORCH,
        opset="asked",
    ),
    SourceRow(
        "exported_program",
        "a .pt2 file that torch.export.save wrote",
        suffixes=(".pt2",),
        example="FILE.pt2",
        export="tritonsmith.builder.actions.export.sources.program:export_saved_program",
        imports=("torch", "onnxscript"),
        extra="torch",
        distributions=_TORCH,
        opset="asked",
    ),
    SourceRow(
        "onnx",
        "an .onnx file, or package:NAME/path for a file inside an installed package",
        suffixes=(".onnx",),
        export="tritonsmith.builder.actions.export.sources.onnx:take_over",
        opset="own",
    ),
    SourceRow(
        "directory",
        "a model's directory in a repository: its versions and files are taken over as they are",
        reference="directory",
        example="MODEL_DIRECTORY",
        place="tritonsmith.builder.actions.take_over.action:place_directory",
        backend="",
    ),
    SourceRow(
        "python",
        "a file with a TritonPythonModel, for Triton's python backend; it becomes model.py",
        suffixes=(".py",),
        example="FILE.py",
        place="tritonsmith.builder.actions.take_over.action:place_python",
        check="tritonsmith.builder.spec.python_source:check_python_source",
        backend="python",
        options=(
            SourceOption("requirements", tuple[str, ...], (), "what its interpreter must have, as for pip"),
        ),
        rows_checked=False,
        stated=True,
    ),
    SourceRow(
        "steps",
        "an ensemble's steps, in any order",
        reference="steps",
        example="[{model: …, from: {…}, to: {…}}]",
        place="tritonsmith.builder.actions.take_over.action:place_nothing",
        check="tritonsmith.builder.build.check_source:check_ensemble",
        backend="ensemble",
        rows_checked=False,
    ),
    SourceRow(
        "transformers",
        "a directory with a Hugging Face model (config.json, safetensors), or the name of one that is in the cache "
        "or can be fetched",
        reference="directory or name",
        example="DIRECTORY",
        export="tritonsmith.builder.actions.export.sources.transformers:export_pretrained",
        imports=("torch", "onnxscript", "transformers"),
        extra="transformers",
        distributions=(*_TORCH, "transformers"),
        opset="asked",
        options=(
            SourceOption(
                "task",
                Literal[
                    "feature-extraction",
                    "text-classification",
                    "token-classification",
                    "question-answering",
                    "image-classification",
                ]
                | None,
                None,
                "the head; default: that of the model's own architecture",
            ),
            SourceOption(
                "pooling",
                Literal["mean", "cls"] | None,
                None,
                "feature-extraction: one vector a text, the mean over its tokens or the first token's; "
                "default: last_hidden_state as it is",
            ),
            SourceOption("normalize", bool, False, "with pooling: each vector is divided by its length"),
        ),
    ),
    SourceRow(
        "llm",
        "a language model, served as it is: a GGUF file, a Hugging Face directory, or ORGANISATION/NAME@COMMIT of the hub",
        reference="weights",
        suffixes=(".gguf",),
        example="FILE.gguf",
        place="tritonsmith.builder.actions.take_over.language_model:place_weights",
        check="tritonsmith.builder.actions.take_over.language_model:check_weights",
        backend="vllm",
        options=(
            SourceOption(
                "lora",
                dict[str, str],
                {},
                "name of an adapter → its directory; requests choose one by lora_name",
            ),
        ),
        rows_checked=False,
    ),
    SourceRow(
        "torchscript",
        "a file that torch.jit.save wrote",
        suffixes=(".pt", ".pth", ".ts", ".ckpt"),
        example="FILE.pt",
        export="tritonsmith.builder.actions.export.sources.torchscript:export_script",
        imports=("torch", "onnxscript"),
        extra="torch",
        distributions=_TORCH,
        opset="asked",
    ),
    SourceRow(
        "sklearn",
        "a fitted scikit-learn estimator or pipeline: .skops, or with `trust: true` what joblib or pickle wrote",
        suffixes=(".skops", ".pkl", ".pickle", ".joblib"),
        example="FILE.skops",
        export="tritonsmith.builder.actions.export.sources.sklearn:export_estimator",
        check="tritonsmith.builder.base.sources:check_trust",
        imports=("sklearn", "skl2onnx"),
        extra="sklearn",
        distributions=("scikit-learn", "skl2onnx", "onnx"),
        opset="asked",
        options=(
            SourceOption(
                "trust",
                bool,
                False,
                "a pickle is a program, and loading it runs it: true says that its author may run code here",
            ),
        ),
    ),
    SourceRow(
        "xgboost",
        "an XGBoost model, as Booster.save_model wrote it (.json or .ubj)",
        suffixes=(".ubj", ".json"),
        example="FILE.json",
        export="tritonsmith.builder.actions.export.sources.booster:export_xgboost",
        imports=("xgboost", "onnxmltools"),
        extra="xgboost",
        distributions=("xgboost", "xgboost-cpu", *_TREES),
    ),
    SourceRow(
        "lightgbm",
        "a LightGBM model, as Booster.save_model wrote it (.txt)",
        suffixes=(".txt", ".lgb"),
        example="FILE.txt",
        export="tritonsmith.builder.actions.export.sources.booster:export_lightgbm",
        imports=("lightgbm", "onnxmltools"),
        extra="lightgbm",
        distributions=("lightgbm", *_TREES),
    ),
)


@lru_cache(maxsize=1)
def source_rows() -> Mapping[str, SourceRow]:
    """Every kind that is known, ours first, then those of other packages in the order of their names."""
    return table_of(ENTRY_POINTS, SourceRow, _ROWS, lambda row: row.kind)


def check_trust(spec: Any, repository: Any) -> None:
    """SpecError for a pickle that nobody vouches for."""
    from pathlib import PurePath

    from tritonsmith.builder.base.errors import SpecError

    reference = spec.source.reference
    if PurePath(reference).suffix != ".skops" and not spec.source.options["trust"]:
        raise SpecError(
            f"{spec.name}: {reference} is a pickle, and loading it runs what is written in it",
            code="untrusted_pickle",
            where=repository.where(spec.name, "source", spec.source.kind),
            valid=("a file that skops.io.dump wrote (.skops), which runs nothing",),
            fix=f"if you trust its author: source: {{{spec.source.kind}: {reference}, trust: true}}",
        )
