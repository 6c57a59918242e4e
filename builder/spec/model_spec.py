"""What models.yaml says of one model, as types: its source, its variants, and any field of Triton's ModelConfig."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, create_model, model_validator

from tritonsmith.builder.base.dim_relations import Sizes, ranges_with_relations
from tritonsmith.builder.base.errors import unknown
from tritonsmith.builder.base.sources import SourceRow, source_rows
from tritonsmith.builder.spec.triton_schema import TritonMessage, model_config_fields
from tritonsmith.builder.spec.variant_spec import AccuracySpec, Frozen, Json, StatedDim, Variant

# Triton's scheduling_choice: the one that a model states replaces another in `defaults:`.
SCHEDULING = ("dynamic_batching", "sequence_batching", "ensemble_scheduling")
# What `defaults:` may say that an ensemble cannot have, or takes from its steps.
NOT_FOR_ENSEMBLES = frozenset(
    (
        "backend",
        "platform",
        "max_batch_size",
        "dynamic_batching",
        "sequence_batching",
        "instance_group",
        "optimization",
        "model_warmup",
    )
)


# What `defaults:` may say that a language model cannot have: its backend batches, and nothing of it is exported.
NOT_FOR_LANGUAGE_MODELS = NOT_FOR_ENSEMBLES | {
    "sequence_batching",
    "ensemble_scheduling",
    "opset",
    "exporter",
    "dynamic_dims",
    "accuracy",
    "calibration",
    "state",
}


class Step(Frozen):
    """One step of an ensemble; tensors of the ensemble are named by whoever writes or reads them."""

    model: str = Field(description="the model that this step runs")
    version: StrictInt = Field(-1, description="a version number; -1 is the newest")
    inputs: dict[str, str] = Field(
        alias="from", min_length=1, description="the step's input → ensemble tensor it reads"
    )
    outputs: dict[str, str] = Field(
        alias="to", min_length=1, description="the step's output → ensemble tensor it writes"
    )


class Source(Frozen):
    """Where a model comes from: exactly one of the kinds of builder.base.sources, each a field of `source_type()`."""

    steps: tuple[Step, ...] | None = Field(
        None, min_length=1, description="an ensemble's steps, in any order"
    )
    files: tuple[str, ...] = Field(
        (),
        description="further files the model depends on, when they are not opened through Python's open(); "
        "of a python source: files that are laid out beside model.py",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        rows = source_rows()
        present = [k for k in rows if getattr(self, k, None) is not None]
        if len(present) != 1:
            seen = " and ".join(present) or "none"
            raise ValueError(f"a source is exactly one of {', '.join(rows)}; here: {seen}")
        owners: dict[str, list[str]] = {}
        for row in rows.values():
            for option in row.options:
                owners.setdefault(option.name, []).append(row.kind)
        for name, kinds in owners.items():
            if name in self.model_fields_set and present[0] not in kinds:
                raise ValueError(f"{name} belongs to a {' or '.join(kinds)} source")
        return self

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(k for k in source_rows() if getattr(self, k, None) is not None)

    @property
    def row(self) -> SourceRow:
        """What there is to know of its kind."""
        return source_rows()[self.kind]

    @property
    def reference(self) -> str:
        """The callable or path; for an ensemble its steps' models."""
        if self.steps is not None:
            return ", ".join(step.model for step in self.steps)
        return str(getattr(self, self.kind))

    @property
    def options(self) -> dict[str, Any]:
        """The options of its kind, as stated or by default."""
        return {option.name: getattr(self, option.name) for option in self.row.options}


@lru_cache(maxsize=1)
def source_type() -> type[Source]:
    """Source with a field for each kind and each option of the table."""
    fields: dict[str, Any] = {}
    for row in source_rows().values():
        if row.kind not in Source.model_fields:
            fields[row.kind] = (
                Annotated[str, Field(pattern=row.pattern)] | None,
                Field(None, description=row.description),
            )
        for option in row.options:
            text = f"of a {row.kind} source: {option.description}"
            fields[option.name] = (option.type, Field(option.default, description=text))
    made: type[Source] = create_model("Source", __base__=Source, __doc__=Source.__doc__, **fields)
    return made


class Target(Frozen):
    """What the repository must load on."""

    triton: Annotated[str, Field(pattern=r"^\d\d\.\d\d$")] | None = Field(
        None, description="the release of Triton's container, as 25.01"
    )
    gpus: tuple[str, ...] = Field((), description="kinds of GPUs; engines are built for each")
    tensorrt: str | None = Field(None, description="the image's, in full: 10.16.0.72")
    platform: Literal["linux_x86_64", "linux_aarch64"] | None = Field(
        None, description="of the servers; default: as the GPUs say, x86-64 where they do not"
    )
    repository: Annotated[str, Field(pattern=r"^/")] = Field(
        "/models",
        description="where the servers have the repository: a language model names its weights by it",
    )


class ModelSpec(Frozen):
    """One model: a few keys of ours, and any field of Triton's ModelConfig in Triton's own form."""

    name: str
    source: Source = Field(description="where the model comes from")
    opset: StrictInt = Field(20, ge=18, le=22, description="ONNX opset of an export from torch")
    exporter: Literal["dynamo", "torchscript"] | None = Field(
        None,
        description="of a torch source: torch.onnx.export with dynamo=True or False; default: dynamo, and torchscript where "
        "that refuses and what it writes answers like the module",
    )
    dynamic_dims: dict[str, StatedDim] = Field(
        {},
        description="each named dynamic dimension: its range, or what it follows from, as `past + new` or `2*n`",
    )
    accuracy: AccuracySpec = Field(AccuracySpec(), description="how the model is held against its source")
    variants: dict[str, Variant] = Field(
        {}, description="ways to run the model; all are built, one is served"
    )
    serve: str | tuple[str, ...] | None = Field(
        None, description="the variant that is laid out, or a list in order of preference; default: the first"
    )
    on_fail: Literal["stop", "next"] = Field(
        "stop",
        description="when the accuracy gate refuses the variant to serve: stop, or take the next of `serve`",
    )
    calibration: str | None = Field(
        None,
        description="module:callable, .npz or directory with the inputs that int8 and fp8 are calibrated on",
    )
    model_files: dict[str, str] = Field(
        {}, description="files laid into the model's directory (labels, warm-up data): path in it → file"
    )
    state: dict[str, str] = Field(
        {},
        description="an input that the server feeds → the output that it keeps for the sequence's next request; zeros "
        "at its start (implicit state of sequence_batching)",
    )
    smoke: str | None = Field(
        None,
        description=".npz with a few requests and the answers that a published version must give (inputs and outputs "
        "by name, or 0/NAME, 1/NAME, …); default: the build's own samples",
    )
    engine: dict[str, Json] = Field(
        {},
        description="of an llm source: arguments of its engine, by the names of the backend's own list (vllm: "
        "AsyncEngineArgs; tensorrtllm: LlmArgs) of the target's release",
    )
    config: TritonMessage = Field(description="Triton's own fields, written beside ours")

    @model_validator(mode="after")
    def _serves_a_variant(self) -> ModelSpec:
        for name in self.preference:
            if name not in self.variants:
                told = unknown(name, self.variants)
                hint = told["fix"] or f"there are: {', '.join(told['valid']) or 'none'}"
                raise ValueError(f"serve names the variant {name!r}, which is not stated; {hint}")
        return self

    @property
    def preference(self) -> tuple[str, ...]:
        """The variants to serve, best first; empty without variants."""
        if self.serve is None:
            return tuple(self.variants)[:1]
        return (self.serve,) if isinstance(self.serve, str) else self.serve

    @property
    def dim_relations(self) -> dict[str, str]:
        """Name → what it follows from, of the dimensions that do."""
        return {name: dim for name, dim in self.dynamic_dims.items() if isinstance(dim, str)}

    @property
    def dim_ranges(self) -> dict[str, Sizes]:
        """Name → (min, opt, max), of the dimensions that follow from others, too."""
        stated = {
            name: (dim.min, dim.opt if dim.opt is not None else dim.max, dim.max)
            for name, dim in self.dynamic_dims.items()
            if not isinstance(dim, str)
        }
        return ranges_with_relations(stated, self.dim_relations)[0]

    @property
    def max_batch_size(self) -> int | None:
        """As stated; None when it is left to the model."""
        value = getattr(self.config, "max_batch_size")  # noqa: B009  the field is generated from the proto
        assert value is None or isinstance(value, int)
        return value


OWN_KEYS: tuple[str, ...] = tuple(k for k in ModelSpec.model_fields if k not in ("name", "config"))
# `name` comes from the key in `models:`; Triton's own is always written as the directory's name.
TRITON_KEYS: tuple[str, ...] = tuple(k for k in model_config_fields() if k != "name")


def stated_tensors(model: ModelSpec, kind: Literal["input", "output"]) -> tuple[Mapping[str, Any], ...]:
    """The inputs or outputs as the spec states them: {name, data_type, dims, …}, None where left out."""
    tensors = getattr(model.config, kind) or ()
    return tuple(t.model_dump() for t in tensors)


def weights_of_variant(model: ModelSpec, variant: str) -> str | None:
    """The file of a language model's variant, by its name alone where it is made here; None where it is the source."""
    stated = model.variants[variant]
    if model.source.kind != "llm" or stated.is_source:
        return None
    source = PurePosixPath(model.source.reference)
    return stated.llm or f"{source.stem}.{stated.precision}.gguf"


def language_backend(model: ModelSpec) -> str:
    """Of a language model: vllm, or the backend that is stated."""
    return str(model.config.as_proto_json().get("backend") or model.source.row.backend)
