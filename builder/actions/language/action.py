"""(a variant of a language model, its source's artifact) → the Actions that ask the source, and that make the variant's
weights and hold their answers against the source's.

What is judged are the values that the weights stand for, run as F16: what vLLM computes with, whatever the type. The
embedded server's engine rounds some types once more as it reads them (offsets of blocks to whole steps), or does not read them;
how the file answers there is measured beside, and told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic.config import with_config
from typing_extensions import NotRequired, TypedDict

from tritonsmith.builder.actions.action import (
    TAKEN,
    Action,
    Artifact,
    Identity,
    Ran,
    Subject,
    Workplace,
    request_digest,
)
from tritonsmith.builder.actions.convert.coverage import Coverage, CoverageRecord
from tritonsmith.builder.actions.language.measures import Measures, measures_from_scores, text_of
from tritonsmith.builder.actions.language.prompts import BUILT_IN, read_prompts
from tritonsmith.builder.actions.language.run import (
    ANSWER_TOKENS,
    Answers,
    NotLoaded,
    answers_of,
    write_gguf,
)
from tritonsmith.builder.actions.record import MORE, Count
from tritonsmith.builder.actions.take_over.action import TakenOverRecord
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.files.copies import copy_file
from tritonsmith.builder.base.files.digest import digest_of_value
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.base.files.untrusted import (
    Dependency,
    Distance,
    RelativePath,
    Sha256,
    json_value,
    read_bounded,
)
from tritonsmith.builder.base.machine.server_home import language_python
from tritonsmith.builder.llm.contract import VERSION
from tritonsmith.builder.spec.model_spec import ModelSpec, weights_of_variant

# Raised when the same inputs would give other weights or other numbers.
LANGUAGE_REVISION = 1
_ANSWERS = "answers.json"
_LIMIT_BYTES = 1 << 30
_NOT_HERE = {"passed": True, "samples": 0, "note": "compared token by token", "deviations": []}
# Less is the order in which sums were made.
_TOLD_AGREEMENT, _TOLD_RATIO = 0.005, 1.005


@with_config(MORE)
class _Measures(TypedDict):
    token_agreement: Distance
    perplexity_ratio: Distance
    perplexity: Distance
    prompts: Count
    prompt_tokens: Count
    answer_tokens: Count


@with_config(MORE)
class WeightsRecord(TakenOverRecord):
    """Of a variant's weights. judged: None where nothing could be run. embedded: the file as the embedded server reads it."""

    judged: _Measures | None
    embedded: _Measures | None
    reference: Sha256 | None
    findings: list[str]
    coverage: NotRequired[CoverageRecord | None]


@with_config(MORE)
class ReferenceRecord(TypedDict):
    """Of the source's answers. not_loaded: the engine's words where it does not take the source; there is no file then."""

    served_files: list[RelativePath]
    dependencies: dict[Dependency, Sha256]
    digest: Sha256 | None
    not_loaded: str


def _tools() -> dict[str, str | None]:
    engine = language_python()
    try:
        gguf: str | None = metadata.version("gguf")
    except metadata.PackageNotFoundError:
        gguf = None
    return {"gguf": gguf, "openvino-genai": None if engine is None else engine.version}


def _asked(spec: ModelSpec, name: str) -> dict[str, Any]:
    """What source and variant are asked; a file's content is a dependency."""
    samples = spec.variants[name].accuracy.samples
    built_in = digest_of_value(list(BUILT_IN)) if samples is None else None
    return {
        "revision": LANGUAGE_REVISION,
        "prompts": samples,
        "built_in": built_in,
        "answer_tokens": ANSWER_TOKENS,
    }


def weights_identity(spec: ModelSpec, name: str, base_key: str | None) -> Identity:
    """base_key: of the source's artifact, None while that is not there."""
    variant = spec.variants[name]
    parameters = {
        **_asked(spec, name),
        "precision": None if variant.llm else variant.precision,
        "llm": variant.llm,
        "calibration": None,
    }
    tools = _tools()
    request = None if base_key is None else request_digest("weights", parameters, tools, base=base_key)
    return Identity(parameters, tools, request, reads=True)


def reference_action(variant: Subject, base: Artifact) -> Action:
    """The source's greedy answers to the variant's prompts; other variants with the same prompts have the same."""
    parameters, tools = _asked(variant.spec, variant.variant), _tools()
    request = request_digest("reference", parameters, tools, base=base.key)
    identity = Identity(parameters, tools, request, reads=True)
    return Action(
        "reference", f"ask {variant.spec.name}", identity, partial(_ask, variant, base), fault_of_answers
    )


def weights_action(variant: Subject, base: Artifact, reference: Artifact | None) -> Action:
    """The variant's weights beside what else the source serves, with its measures. reference: None for an action that is
    looked for alone."""
    identity = weights_identity(variant.spec, variant.variant, base.key)
    return Action(
        "weights", f"weights of {variant.name}", identity, partial(_make, variant, base, reference, identity)
    )


def _prompts_file(variant: Subject) -> Path | None:
    samples = variant.stated.accuracy.samples
    return None if samples is None else source_path(samples, variant.repository.root)


def _weights_in(spec: ModelSpec, base: Artifact) -> tuple[str, Path]:
    """(path in the model's directory, file) of the source's weights."""
    name = f"{VERSION}/{Path(spec.source.reference).name}"
    return name, base.served[name]


def _ask(variant: Subject, base: Artifact, made: Path, place: Workplace) -> Ran:
    prompts, file = read_prompts(_prompts_file(variant)), _prompts_file(variant)
    read = [] if file is None else [file]
    what = variant.spec.name
    with place.workspace() as scratch:
        plain = scratch / "plain.gguf"
        write_gguf(_weights_in(variant.spec, base)[1], None, plain, variant.log(place, "/plain"), what)
        try:
            answers = answers_of(plain, prompts, None, scratch / "ov", variant.log(place, "/ask"), what)
        except NotLoaded as error:
            return Ran({"served_files": [], "digest": None, "not_loaded": str(error)}, read)
    if not any(asked.answer for asked in answers.sequences):
        raise BuildError(
            f"{what}: the source answers no prompt with a single token, so there is nothing to compare",
            code="no_answers",
            fix="prompts that it goes on from, or that end in its own form of a turn",
        )
    told = answers.as_dict()
    (made / _ANSWERS).write_text(json.dumps(told))
    return Ran({"served_files": [_ANSWERS], "digest": digest_of_value(told), "not_loaded": ""}, read)


def _make(
    variant: Subject,
    base: Artifact,
    reference: Artifact | None,
    identity: Identity,
    made: Path,
    place: Workplace,
) -> Ran:
    assert reference is not None
    spec, stated, root = variant.spec, variant.stated, variant.repository.root
    source_name, source = _weights_in(spec, base)
    name = weights_of_variant(spec, variant.variant)
    assert name is not None
    weights = made / TAKEN / VERSION / Path(name).name
    for path, file in base.served.items():
        if path != source_name:
            copy_file(file, made / TAKEN / path)
    coverage: Coverage | None = None
    read = [file for file in (_prompts_file(variant),) if file is not None]
    if stated.llm is not None:
        read.append(source_path(stated.llm, root))
        copy_file(read[-1], weights)
    else:
        weights.parent.mkdir(parents=True, exist_ok=True)
        coverage = write_gguf(source, stated.precision, weights, variant.log(place), variant.name)
    judged, embedded, findings = _compared(variant, weights, reference, place)
    record = {
        "inputs": base.record["inputs"],
        "outputs": base.record["outputs"],
        "accuracy": _NOT_HERE,
        "judged": None if judged is None else judged.as_dict(),
        "embedded": None if embedded is None else embedded.as_dict(),
        "reference": reference.record["digest"],
        "findings": findings,
        "coverage": None if coverage is None else coverage.as_dict(),
        "served_files": sorted(
            p.relative_to(made / TAKEN).as_posix() for p in (made / TAKEN).rglob("*") if p.is_file()
        ),
        "directories": [],
        "samples": None,
        "tools": identity.tools,
    }
    return Ran(record, read)


def _compared(
    variant: Subject, weights: Path, reference: Artifact, place: Workplace
) -> tuple[Measures | None, Measures | None, list[str]]:
    """(of the values themselves, of the file as the embedded server reads it, what a reader has to know)"""
    if reference.record["not_loaded"]:
        return (
            None,
            None,
            [f"not judged: OpenVINO GenAI does not run the source: {reference.record['not_loaded']}"],
        )
    answers, prompts = _read(reference.directory / _ANSWERS), read_prompts(_prompts_file(variant))

    def measured(gguf: Path, at: Path, log: str) -> Measures:
        given = answers_of(gguf, prompts, answers, at, variant.log(place, log), variant.name)
        return measures_from_scores(answers.scores, given.scores)

    with place.workspace() as scratch:
        plain = scratch / "plain.gguf"
        write_gguf(weights, None, plain, variant.log(place, "/plain"), variant.name)
        try:
            judged = measured(plain, scratch / "values", "/gate")
        except NotLoaded as error:
            return None, None, [f"not judged: OpenVINO GenAI does not run these weights: {error}"]
        if plain.is_symlink():  # the file is F16 itself
            return judged, judged, []
        try:
            embedded = measured(weights, scratch / "embedded", "/embedded")
        except NotLoaded as error:
            return judged, None, [f"judged by its values; the embedded server does not load it: {error}"]
    return judged, embedded, _difference(judged, embedded)


def _difference(judged: Measures, embedded: Measures) -> list[str]:
    same = (
        embedded.token_agreement >= judged.token_agreement - _TOLD_AGREEMENT
        and embedded.perplexity_ratio <= judged.perplexity_ratio * _TOLD_RATIO
    )
    told = text_of(embedded.as_dict())
    return (
        []
        if same
        else [f"the embedded server rounds it once more as it reads it, and answers so there: {told}"]
    )


def fault_of_answers(directory: Path) -> Sequence[str]:
    """What is wrong with the source's answers in an artifact, which a shared cache may have from anybody; they are asked anew
    then. None where the engine does not take the source: there is no file."""
    path = directory / _ANSWERS
    try:
        answers = None if not path.exists() else _read(path)
    except (OSError, ValueError) as error:
        return [f"its answers cannot be read: {str(error).splitlines()[0]}"]
    if answers is None:
        return ()
    lengths = [len(asked.answer) for asked in answers.sequences]
    if lengths != [len(score.top) for score in answers.scores] or not sum(lengths):
        return ["its answers and their scores do not go together"]
    return [] if all(score.tokens > 0 for score in answers.scores) else ["a prompt of it has no token"]


def _read(path: Path) -> Answers:
    return Answers.from_dict(json_value(read_bounded(path, _LIMIT_BYTES)))


def measured_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the lock keeps of a variant's judgement; a note where it was not judged."""
    if record["judged"] is None:
        return {"note": record["findings"][0]}
    return {**record["judged"], "reference": record["reference"]}
