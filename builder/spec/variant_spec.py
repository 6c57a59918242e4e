"""`variants:`, `accuracy:` and `dynamic_dims:` of models.yaml → checked and frozen values; builder.spec.spec reads the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    Tag,
    model_validator,
)

from tritonsmith.builder.base.dim_relations import relation_from_text
from tritonsmith.builder.base.precisions import PrecisionRow, precision_rows
from tritonsmith.builder.llm.precisions import FILE_BOUNDS, GGUF_PRECISIONS, LanguageBounds


class Frozen(BaseModel):
    """Data from outside: unknown keys are refused, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _finite(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("has a number in it that is not finite") from None
    return value


# Text too: YAML 1.1 takes 1e-3 for a word.
Real = Annotated[float, BeforeValidator(_no_bool)]
Json = Annotated[Any, AfterValidator(_finite)]


class DynamicDim(Frozen):
    """The range of a named dynamic dimension."""

    min: StrictInt = Field(1, ge=0, description="the smallest size")
    opt: StrictInt | None = Field(None, ge=1, description="the size to tune for; default: max")
    max: StrictInt = Field(ge=1, description="the largest size")

    @model_validator(mode="after")
    def _ordered(self) -> DynamicDim:
        if not self.min <= (self.opt if self.opt is not None else self.max) <= self.max:
            raise ValueError(
                f"min <= opt <= max does not hold: min {self.min}, opt {self.opt}, max {self.max}"
            )
        return self


def _relation(value: str) -> str:
    relation_from_text(value)
    return value


UNION_TAGS = ("(range)", "(relation)")
"""What pydantic puts into an error's place where a value may have either form; no key of the file."""

StatedDim = Annotated[
    Annotated[DynamicDim, Tag(UNION_TAGS[0])] | Annotated[str, AfterValidator(_relation), Tag(UNION_TAGS[1])],
    Discriminator(lambda value: UNION_TAGS[isinstance(value, str)]),
]
"""The range of a dynamic dimension, or what it follows from: `past + new`, `2*n`."""


class MetricSpec(Frozen):
    """A measure of the user's own: f(reference outputs, candidate outputs), two lists with a dict a sample → a number."""

    callable: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] = Field(
        description="the function, as module:callable"
    )
    at_least: Real | None = Field(None, description="the number must not be below")
    at_most: Real | None = Field(None, description="the number must not be above")

    @model_validator(mode="after")
    def _bounded(self) -> MetricSpec:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a metric needs at_least or at_most")
        return self


class AccuracySpec(Frozen):
    """Bounds of the accuracy gate and the samples it is judged on."""

    samples: str | None = Field(
        None,
        description="module:callable that returns a list of {input name: array}, or an .npz file; default: random. Of a "
        "language model's variant a file of prompts, JSON lines or .txt; default: 16 of ours",
    )
    relative_l2: Real | None = Field(None, gt=0, description="largest ‖candidate − reference‖ / ‖reference‖")
    cosine: Real | None = Field(None, ge=-1, le=1, description="smallest cosine similarity of a row")
    max_abs: Real | None = Field(None, gt=0, description="largest absolute difference")
    top1: Real | None = Field(
        None, ge=0, le=1, description="smallest share of rows whose largest value stays the same"
    )
    metric: MetricSpec | None = Field(None, description="a measure of your own; of variants")
    token_agreement: Real | None = Field(
        None,
        ge=0,
        le=1,
        description="of a language model's variant: smallest share of the tokens of the source's greedy answers that it puts "
        "first, too",
    )
    perplexity_ratio: Real | None = Field(
        None,
        gt=0,
        description="of a language model's variant: largest perplexity of the prompts, by the source's",
    )

    @property
    def language_bounds(self) -> dict[str, float]:
        """The bounds of a language model's variant that are stated, by name."""
        return self.model_dump(include={"token_agreement", "perplexity_ratio"}, exclude_none=True)

    def stated_bounds(self) -> dict[str, float]:
        """The bounds that are stated, by name."""
        return self.model_dump(include={"relative_l2", "cosine", "max_abs", "top1"}, exclude_none=True)


class InputShapes(Frozen):
    """Whole shapes of one input in an optimization profile, batch dimension included."""

    min: tuple[StrictInt, ...] = Field(description="the smallest that the engine takes")
    opt: tuple[StrictInt, ...] = Field(description="the one that it is tuned for")
    max: tuple[StrictInt, ...] = Field(description="the largest that it takes")


class ProfileSpec(Frozen):
    """An optimization profile of a TensorRT engine; what it leaves out follows from the model."""

    batch: DynamicDim | None = Field(
        None, description="sizes of the batch dimension; default: 1..max_batch_size"
    )
    dims: dict[str, DynamicDim] = Field({}, description="named dim → sizes, within its range in dynamic_dims")
    inputs: dict[str, InputShapes] = Field({}, description="input → whole shapes; wins over batch and dims")


if TYPE_CHECKING:
    Precision = str
else:
    _NAMES = tuple(dict.fromkeys((*precision_rows(), *GGUF_PRECISIONS)))
    Precision = Literal[_NAMES]


class Variant(Frozen):
    """One way to run a model: a backend at a precision."""

    backend: Literal["onnxruntime", "tensorrt"] = Field(
        "onnxruntime", description="what runs it; tensorrt: an engine is compiled"
    )
    precision: Precision = Field(
        "fp32",
        description="what it computes in; see docs/precision.md. Of a language model: the GGUF type that its weights are "
        "made to, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0",
    )
    llm: str | None = Field(
        None,
        min_length=1,
        description="of a language model: another GGUF file of the same model, judged against the source",
    )
    exclude: tuple[str, ...] = Field(
        (), description="nodes that stay fp32: globs over node names and op types"
    )
    keep_io: StrictBool = Field(True, description="fp16, bf16: inputs and outputs stay fp32")
    options: dict[str, Json] = Field({}, description="of the conversion, by precision: see docs/precision.md")
    engine: dict[str, Json] = Field(
        {}, description="of TensorRT's builder: workspace_bytes, version_compatible, …"
    )
    optimization_profiles: tuple[ProfileSpec, ...] = Field(
        (),
        description="of the TensorRT engine, in the order of instance_group's profile; default: one over all sizes",
    )
    profile_per_preferred_batch_size: StrictBool = Field(
        False, description="one optimization profile tuned for each preferred_batch_size"
    )
    accuracy: AccuracySpec = Field(
        AccuracySpec(), description="bounds of this variant; default: by precision"
    )

    @model_validator(mode="after")
    def _fits_its_backend(self) -> Variant:
        if self.is_of_language_model:
            return self  # builder.spec.refusals knows the model, too
        row = self.row
        if row.convert is None and self.exclude:
            raise ValueError(
                f"exclude keeps nodes in fp32; at precision {self.precision} there is nothing to exclude"
            )
        if self.backend == "tensorrt":
            if self.optimization_profiles and self.profile_per_preferred_batch_size:
                raise ValueError(
                    "optimization_profiles and profile_per_preferred_batch_size exclude each other"
                )
            for key, valid in row.tensorrt_takes.items():
                if key in self.options and self.options[key] not in valid:
                    told = " or ".join(str(v).lower() for v in valid)
                    raise ValueError(
                        f"TensorRT takes {row.name} with {key} {told}, not {self.options[key]!r}"
                    )
            return self
        for key in ("engine", "optimization_profiles", "profile_per_preferred_batch_size"):
            if getattr(self, key):
                raise ValueError(f"{key} is for backend: tensorrt; this variant's is {self.backend}")
        if row.no_onnxruntime:
            least = row.least_capability
            gpus = f", and GPUs of compute capability {least} or newer" if least else ""
            raise ValueError(f"precision {row.name} needs backend: tensorrt ({row.no_onnxruntime}){gpus}")
        return self

    @property
    def is_of_language_model(self) -> bool:
        """Whether only a language model can have it. bf16 any model may have."""
        return self.llm is not None or self.precision not in precision_rows()

    @property
    def is_source(self) -> bool:
        """Whether it is what the source is, served as it is: ONNX Runtime computes what its export computes."""
        return not self.is_of_language_model and self.backend == "onnxruntime" and self.row.exact

    @property
    def language_bounds(self) -> LanguageBounds:
        """Of a language model's variant: what is stated, and else its type's."""
        default = FILE_BOUNDS if self.llm is not None else GGUF_PRECISIONS[self.precision]
        return replace(default, **self.accuracy.language_bounds)

    @property
    def row(self) -> PrecisionRow:
        """What there is to know of its precision."""
        return precision_rows()[self.precision]

    @property
    def conversion_options(self) -> dict[str, Any]:
        """`options`, with what TensorRT is given where none is stated."""
        return {**(self.row.tensorrt_options if self.backend == "tensorrt" else {}), **self.options}

    def engine_settings(self) -> dict[str, Any]:
        """What a TensorRT engine depends on beside its graph, as JSON: part of its identity."""
        return self.model_dump(
            mode="json", include={"engine", "optimization_profiles", "profile_per_preferred_batch_size"}
        )
