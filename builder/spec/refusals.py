"""A model's spec, or all of them → SpecError where names, dimensions, states or steps cannot be what they say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from tritonsmith.builder.base.dim_relations import relation_from_text
from tritonsmith.builder.base.errors import SpecError, shortened, unknown
from tritonsmith.builder.base.files.untrusted import fault_of_model_name, fault_of_text
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.builder.llm.arguments import engine_version
from tritonsmith.builder.llm.contract import BACKENDS, FIRST_LLMAPI
from tritonsmith.builder.llm.engine import engine_faults
from tritonsmith.builder.llm.precisions import GGUF_PRECISIONS
from tritonsmith.builder.llm.weights import hub_name
from tritonsmith.builder.spec.model_directory import fault_of_place, fault_of_places
from tritonsmith.builder.spec.model_spec import ModelSpec, Target, language_backend, stated_tensors
from tritonsmith.builder.spec.yaml_source import KeyPath, YamlSource


def refuse_state_elsewhere(source: YamlSource, model: ModelSpec, at: KeyPath) -> None:
    """`state` is completed from the model's own tensors, and is the sequence batcher's."""
    if not model.state:
        return
    config = model.config.as_proto_json()
    if not model.source.row.backend or model.source.row.stated or model.source.steps is not None:
        reason, fix = (
            f"a {model.source.kind} source states its states itself",
            "sequence_batching: {state: […]}",
        )
    elif "dynamic_batching" in config:
        reason, fix = "sequences and dynamic_batching exclude each other", "leave dynamic_batching out"
    elif config.get("sequence_batching", {}).get("state"):
        reason, fix = "sequence_batching.state says the same at length", "leave one of the two out"
    elif len(set(model.state.values())) < len(model.state):
        reason, fix = "two inputs cannot be fed from one output", "state: {INPUT: OUTPUT}, each output once"
    else:
        return
    raise SpecError(
        f"{model.name}: state: {reason}", code="state_refused", where=source.where((*at, "state")), fix=fix
    )


def refuse_bad_names(source: YamlSource, model: ModelSpec, at: KeyPath) -> None:
    """SpecError at the line of a name that does not print, or that cannot be the path it becomes."""
    for keys, fault in _faults_of_names(model):
        where = source.where_stated((*at, *keys))
        raise SpecError(f"{model.name}: {fault}", code="bad_name", where=where)


def _faults_of_names(model: ModelSpec) -> Iterator[tuple[KeyPath, str]]:
    """(key path, what is named there and why it cannot be)"""
    for name in model.variants:
        # A variant alone is laid out, cached and swept as MODEL__VARIANT.
        if fault := fault_of_model_name(name) or fault_of_model_name(f"{model.name}__{name}"):
            yield ("variants", name), f"the variant {name!r} {fault}"
    for name in model.model_files:
        if fault := fault_of_place(name):
            yield (
                ("model_files", name),
                f"no file can be laid at {name!r} inside the model's directory: it {fault}",
            )
    if clash := fault_of_places(model.model_files):
        name, fault = clash
        yield ("model_files", name), f"no file can be laid at {name!r} inside the model's directory: {fault}"
    for keys, what, text in _stated_names(model):
        if fault := fault_of_text(text):
            yield keys, f"{what} {shortened(ascii(text))} {fault}"


def _stated_names(model: ModelSpec) -> Iterator[tuple[KeyPath, str, str]]:
    """(key path, what it is, the text) of tensors and of files, which become names in the lock and in the repository."""
    for kind in ("input", "output"):
        for index, tensor in enumerate(getattr(model.config, kind) or ()):
            yield (kind, index, "name"), "the tensor", tensor.name or ""
    for index, step in enumerate(model.source.steps or ()):
        for key, tensors in (("from", step.inputs), ("to", step.outputs)):
            for name, tensor in tensors.items():
                yield ("source", "steps", index, key, name), "the tensor", name
                yield ("source", "steps", index, key, name), "the tensor", tensor
    if model.source.steps is None:
        yield ("source", model.source.kind), "the source", model.source.reference
    for index, file in enumerate(model.source.files):
        yield ("source", "files", index), "the file", file
    for name, file in model.model_files.items():
        yield ("model_files", name), "the file", file
    for name in model.dynamic_dims:
        yield ("dynamic_dims", name), "the dimension", name
    yield ("calibration",), "the calibration", model.calibration or ""
    yield ("smoke",), "the file", model.smoke or ""
    yield ("accuracy", "samples"), "the samples", model.accuracy.samples or ""
    for name, variant in model.variants.items():
        yield ("variants", name, "accuracy", "samples"), "the samples", variant.accuracy.samples or ""


def folded_name(name: str) -> str:
    """What a disk may take the name for: small letters, in Unicode's compatible form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def refuse_twins(source: YamlSource, models: Sequence[ModelSpec]) -> None:
    """Names that are one directory on a disk which ignores case or normalises; a variant's directory is MODEL__VARIANT."""
    seen: dict[str, tuple[str, KeyPath]] = {}
    for model in models:
        named: list[tuple[str, KeyPath]] = [(model.name, ("models", model.name))]
        named += [(f"{model.name}__{v}", ("models", model.name, "variants", v)) for v in model.variants]
        for name, at in named:
            twin, other = seen.setdefault(folded_name(name), (name, at))
            if other != at:
                alike = "are the same" if twin == name else "differ in case or in Unicode's form only"
                raise SpecError(
                    f"the directories {twin!r} (line {source.where(other).line}) and {name!r} {alike}",
                    code="duplicate_name",
                    where=source.where(at),
                    fix="rename one of the two",
                )


def refuse_step_cycles(source: YamlSource, models: Sequence[ModelSpec]) -> None:
    """An ensemble that reaches itself through its steps would wait for itself for ever."""
    try:
        TopologicalSorter({m.name: [s.model for s in m.source.steps or ()] for m in models}).prepare()
    except CycleError as error:
        found: list[str] = error.args[1][::-1]  # graphlib tells each model after the one that it is a step of
        raise SpecError(
            f"ensembles that contain one another: {_chain(found)}",
            code="ensemble_cycle",
            where=source.where(("models", found[0], "source", "steps")),
        ) from None


def _chain(names: Sequence[str]) -> str:
    """`a → b → a`; of a long one both ends."""
    shown = names if len(names) <= 10 else [*names[:5], f"… {len(names) - 10} more …", *names[-5:]]
    return " → ".join(shown)


def refuse_range_of_unknown_dim(source: YamlSource, model: ModelSpec, at: KeyPath) -> None:
    """A dim that no input has, and no other dim follows from; one that follows from what is no dim, or in a circle."""
    named = {d for t in stated_tensors(model, "input") for d in t["dims"] or () if isinstance(d, str)}
    used = {n for text in model.dim_relations.values() for n in relation_from_text(text).names}
    for dim, stated in model.dynamic_dims.items():
        where = source.where((*at, "dynamic_dims", dim))
        unknown = [
            n
            for n in (relation_from_text(stated).names if isinstance(stated, str) else ())
            if n not in named and n not in model.dynamic_dims
        ]
        if unknown:
            raise SpecError(
                f"dynamic_dims: {dim}: {stated} names {unknown[0]!r}, which no input has",
                code="unknown_dim",
                where=where,
                valid=sorted(named),
                fix=f"give it a range: dynamic_dims: {{{unknown[0]}: {{min: 1, max: …}}}}",
            )
        if dim not in named and not (dim in used and not isinstance(stated, str)):
            raise SpecError(
                f"dynamic_dims names {dim!r}, which no input has",
                code="unknown_dim",
                where=where,
                valid=sorted(named) or ("(no input states a named dim)",),
                fix=f"input: [{{name: …, dims: [{dim}]}}]",
            )
    try:
        ranges = model.dim_ranges
    except ValueError as error:
        raise SpecError(
            f"{model.name}: a dimension {error}",
            code="wrong_value",
            where=source.where((*at, "dynamic_dims")),
        ) from None
    for dim, sizes in ranges.items():
        if sizes[0] < 0:
            raise SpecError(
                f"dynamic_dims: {dim}: {model.dynamic_dims[dim]} would be {sizes[0]} at the smallest sizes",
                code="wrong_value",
                where=source.where((*at, "dynamic_dims", dim)),
            )


# What a language model's backend leaves no room for → why, and what to state instead.
_NOT_OF_LANGUAGE_MODELS: Mapping[str, tuple[str, str]] = {
    "calibration": ("its weights are rounded as they are", "variants: {NAME: {precision: q8_0}}"),
    "accuracy": (
        "its source is served as it is, so there is nothing to hold against it",
        "variants: {NAME: {precision: q8_0, accuracy: {…}}}: each variant has bounds of its own",
    ),
    "dynamic_dims": ("its inputs are texts", "engine: {max_model_len: …}, the most tokens"),
    "opset": ("nothing is exported", "leave it out"),
    "exporter": ("nothing is exported", "leave it out"),
    "state": ("the engine keeps what it needs of a sequence", "leave it out"),
    "dynamic_batching": ("the engine batches, token by token", "engine: {max_num_seqs: …}"),
    "sequence_batching": ("the engine batches, token by token", "engine: {max_num_seqs: …}"),
}


def refuse_on_language_models(source: YamlSource, model: ModelSpec, target: Target, at: KeyPath) -> None:
    """SpecError for `engine:` on a model of another kind, and on a language model for what its backend has no room for:
    another backend, batching by Triton, variants of another kind, arguments that the target's engine does not take."""
    _refuse_variants(source, model, at)
    if model.source.kind != "llm":
        if "engine" in model.model_fields_set:
            raise SpecError(
                f"{model.name}: engine belongs to a language model, and this is a {model.source.kind} source",
                code="engine_elsewhere",
                where=source.where_stated((*at, "engine")),
                valid=("source: {llm: …}",),
                fix="of a directory that is taken over, edit its model.json or model.yaml"
                if model.source.kind == "directory"
                else "variants: {NAME: {backend: tensorrt, engine: {…}}} has the options of TensorRT",
            )
        return
    backend = language_backend(model)
    if backend not in BACKENDS:
        raise SpecError(
            f"{model.name}: the {backend} backend serves no language model from its weights",
            code="wrong_backend",
            where=source.where_stated((*at, "backend")),
            **unknown(backend, BACKENDS, "leave it out for vllm"),
        )
    version = engine_version("tensorrtllm", target.triton) if backend == "tensorrtllm" else None
    if version is not None and _numbers(version) < _numbers(FIRST_LLMAPI):
        raise SpecError(
            f"{model.name}: TensorRT-LLM {version} of Triton {target.triton} has no LLM API to serve with",
            code="no_llm_api",
            where=source.where_stated((*at, "backend")),
            valid=(f"Triton releases with TensorRT-LLM {FIRST_LLMAPI} and up",),
            fix="a newer target, or source: {directory: …} with the model repository of compiled engines",
        )
    config = model.config.as_proto_json()
    for key, (why, instead) in _NOT_OF_LANGUAGE_MODELS.items():
        stated = key in config or (key in model.model_fields_set and bool(getattr(model, key)))
        if stated and key in source.data["models"][model.name]:
            raise _unfit(
                source, model, (*at, key), f"{key} does not apply to a language model: {why}", instead
            )
    if config.get("max_batch_size"):
        why = "the engine batches, token by token, and Triton must not"
        instead = "engine: {max_num_seqs: …}, the most requests at once"
        raise _unfit(source, model, (*at, "max_batch_size"), f"max_batch_size does not apply: {why}", instead)
    if backend == "vllm" and config.get("model_transaction_policy", {}).get("decoupled") is False:
        why = "the vllm backend answers a request with several responses, and asserts that it may"
        place = (*at, "model_transaction_policy")
        raise _unfit(source, model, place, f"decoupled: false: {why}", "leave it out")
    if model.source.options["lora"] and model.engine.get("enable_lora") is False:
        raise _unfit(source, model, (*at, "engine", "enable_lora"), "the source has adapters", "leave it out")
    of_hub = hub_name(model.source.reference) is not None
    for fault in engine_faults(
        "tensorrtllm" if backend == "tensorrtllm" else "vllm", target.triton, model.engine, of_hub
    ):
        raise SpecError(
            f"{model.name}: {fault.message}",
            code=fault.code,
            where=source.where_stated((*at, "engine", fault.key)),
            seen=fault.seen,
            valid=fault.valid,
            fix=fault.fix,
        )


# What weights of a language model may state, and what of `accuracy:` is measured of them.
_OF_WEIGHTS = ("precision", "llm", "accuracy")
_MEASURED = ("samples", "token_agreement", "perplexity_ratio")


def _refuse_variants(source: YamlSource, model: ModelSpec, at: KeyPath) -> None:
    """Each variant's precision, file and bounds are those of its model's kind."""
    refuse = _refuse_weights if model.source.kind == "llm" else _refuse_of_language
    for name in model.variants:
        refuse(source, model, name, (*at, "variants", name))


def _refuse_of_language(source: YamlSource, model: ModelSpec, name: str, place: KeyPath) -> None:
    """What only a language model's variant can state."""
    variant = model.variants[name]
    _refuse_precision(source, model, name, place, precision_rows())
    wrong: list[KeyPath] = [("llm",)] if variant.llm is not None else []
    wrong += [("accuracy", key) for key in sorted(variant.accuracy.language_bounds)]
    for keys in wrong:
        raise SpecError(
            f"{model.name}: {keys[-1]} is of language models, and this is a {model.source.kind} source",
            code="only_of_language_models",
            where=source.where_stated((*place, *keys)),
            fix="leave it out",
        )


def _refuse_weights(source: YamlSource, model: ModelSpec, name: str, place: KeyPath) -> None:
    """What weights of a language model cannot be, or are not measured by."""
    variant = model.variants[name]
    if (backend := language_backend(model)) != "vllm":
        why = f"variants are GGUF files, which the {backend} backend does not read"
        raise _unfit(source, model, place, why, "backend: vllm, or a model for each")
    for key in sorted(variant.model_fields_set - set(_OF_WEIGHTS)):
        why = f"weights of a language model have no {key}"
        raise _unfit(source, model, (*place, key), why, "leave it out")
    for key in sorted(variant.accuracy.model_fields_set - set(_MEASURED)):
        why, instead = (
            f"{key} is not measured of a language model",
            "token_agreement: 0.95, perplexity_ratio: 1.02",
        )
        raise _unfit(source, model, (*place, "accuracy", key), why, instead)
    if "precision" in variant.model_fields_set:
        if variant.llm is not None:
            why = "llm names weights as they are, and precision makes some of the source's"
            raise _unfit(source, model, (*place, "precision"), why, "one of the two")
        _refuse_precision(source, model, name, place, GGUF_PRECISIONS)
    if ":" in (variant.accuracy.samples or ""):
        why = "its prompts are a file, JSON lines or .txt"
        raise _unfit(source, model, (*place, "accuracy", "samples"), why, "samples: prompts.jsonl")


def _refuse_precision(
    source: YamlSource, model: ModelSpec, name: str, place: KeyPath, valid: Iterable[str]
) -> None:
    precision = model.variants[name].precision
    if precision not in (known := tuple(valid)):
        raise SpecError(
            f"{model.name}: no precision {precision!r} of a {model.source.kind} source",
            code="wrong_value",
            where=source.where_stated((*place, "precision")),
            **unknown(precision, known),
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _unfit(source: YamlSource, model: ModelSpec, place: KeyPath, message: str, instead: str) -> SpecError:
    return SpecError(
        f"{model.name}: {message}",
        code="not_of_language_models",
        where=source.where_stated(place),
        fix=instead,
    )
