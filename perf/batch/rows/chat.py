"""A chat of OpenAI's form → the text that its model was trained on, by the model's own template, and sampling parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.llm.gguf import read_gguf
from tritonsmith.perf.batch.rows.lines import BadLineError
from tritonsmith.perf.data.interface import ModelInterface

_HARMLESS = ("model", "messages", "user", "metadata", "store", "service_tier", "stream", "n", "logprobs")
_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "stop", "seed", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "skip_special_tokens", "logit_bias",
)  # fmt: skip
_MOST_TOKENS = ("max_completion_tokens", "max_tokens")  # the first counts
_TOLD = ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")
_MOST_CHARACTERS = 1 << 20
# A chat that names no bound ends where the model ends it or its context is full, as at OpenAI and in vLLM's own server
# (get_max_tokens in entrypoints/utils.py); SamplingParams alone would end it after 16 tokens. Longer than any context.
_UNBOUNDED_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja template of transformers' form, and the texts of the tokens that it may print."""

    text: str
    tokens: tuple[tuple[str, str], ...] = ()
    where: Path | None = None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """BadLineError for messages that the template does not take."""
        from jinja2 import TemplateError

        try:
            return str(
                _compiled(self.text).render(
                    messages=messages,
                    add_generation_prompt=True,
                    tools=None,
                    documents=None,
                    **dict(self.tokens),
                )
            )
        except (
            TemplateError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            IndexError,
            ArithmeticError,
        ) as error:
            raise BadLineError(
                f"the model's chat template refuses it: {str(error)[:200]}", "body.messages"
            ) from None


@lru_cache(maxsize=4)
def _compiled(text: str) -> Any:
    """As transformers compiles it (utils/chat_template_utils.py); in a sandbox, for it came with a model of somebody's."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None, **more: json.dumps(
        value, ensure_ascii=False, indent=indent
    )

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    return environment.from_string(text)


def chat_body(model: ModelInterface, body: Mapping[str, Any], template: ChatTemplate) -> dict[str, Any]:
    """The body of a generate request to a model of Triton's vLLM backend (its inputs: src/model.py there)."""
    sampling: dict[str, Any] = {}
    for name, value in body.items():
        if name in _MOST_TOKENS:
            continue
        if name in _SAMPLING:
            sampling[name] = value
        elif name not in _HARMLESS and value is not None:
            raise BadLineError(
                "is not carried to the model, so the answer would not be what is asked", f"body.{name}"
            )
    if body.get("stream"):
        raise BadLineError("a batch has no streams: leave it out", "body.stream")
    if body.get("n") not in (None, 1) or body.get("logprobs"):
        raise BadLineError(
            "one answer each, without logprobs",
            "body.n" if body.get("n") not in (None, 1) else "body.logprobs",
        )
    bounds = [body[name] for name in _MOST_TOKENS if body.get(name) is not None]
    if bounds:
        sampling["max_tokens"] = bounds[0]
    inputs = {spec.name for spec in model.inputs}
    asked: dict[str, Any] = {"text_input": template.render(_messages(body.get("messages")))}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    if "sampling_parameters" in inputs:
        asked["sampling_parameters"] = json.dumps({"max_tokens": _UNBOUNDED_TOKENS} | sampling)
    elif sampling:
        asked["parameters"] = sampling
    if "exclude_input_in_output" in inputs:
        asked["exclude_input_in_output"] = True
    return asked | {name: True for name in _TOLD if name in inputs}


def _messages(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise BadLineError("is to be a list of messages", "body.messages")
    messages = []
    for i, message in enumerate(given):
        place = f"body.messages[{i}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise BadLineError("is to have a `role`", place)
        content = message.get("content")
        if isinstance(content, list):
            parts = [
                part.get("text")
                for part in content
                if isinstance(part, Mapping) and part.get("type") == "text"
            ]
            texts = [part for part in parts if isinstance(part, str)]
            if len(texts) < len(content):
                raise BadLineError("only parts of type text are carried to the model", f"{place}.content")
            content = "".join(texts)
        if not isinstance(content, str):
            raise BadLineError("is to be a text, or a list of parts of type text", f"{place}.content")
        messages.append({**message, "content": content})
    return messages


# Where a template is found.


def template_at(path: Path) -> ChatTemplate:
    """Of a GGUF file, a directory with tokenizer_config.json (or chat_template.jinja), or a file that is the template.

    UsageError where there is none.
    """
    if path.is_dir():
        ggufs = sorted(path.glob("*.gguf"))
        found = _of_directory(path) or (template_at(ggufs[0]) if ggufs else None)
    elif path.suffix == ".gguf":
        found = _of_gguf(path)
    elif path.name == "tokenizer_config.json":
        found = _of_directory(path.parent)
    else:
        try:
            found = ChatTemplate(path.read_text("utf-8")[:_MOST_CHARACTERS], where=path)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"not a chat template: {error}", code="no_template", where=Where(path)) from None
    if found is None:
        raise UsageError(
            "there is no chat template",
            code="no_template",
            where=Where(path),
            valid=["a .gguf file", "a directory with tokenizer_config.json", "a file with the template"],
            fix="--chat-template FILE",
        )
    return found


def template_in_repository(repository: Path, model: str, version: str = "") -> ChatTemplate:
    """Of the weights that model.json of a vllm model names; UsageError where they have none, or are not there.

    version: "" for the newest.
    """
    found = [f for f in (repository / model).glob("[0-9]*/model.json") if version in ("", f.parent.name)]
    versions = sorted(found, key=lambda file: (len(file.parent.name), file.parent.name), reverse=True)
    if not versions:
        raise UsageError(
            f"`{model}` has no model.json that would say where its chat template is",
            code="no_template",
            where=Where(repository / model),
            fix="--chat-template FILE",
        )
    try:
        engine = json.loads(versions[0].read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"not JSON: {error}", code="bad_engine", where=Where(versions[0])) from None
    names = [engine.get(name) for name in ("tokenizer", "model")] if isinstance(engine, dict) else []
    for name in (name for name in names if isinstance(name, str) and name):
        for place in _places(name, versions[0].parent):
            if place.exists():
                return template_at(place)
    raise UsageError(
        f"the weights of `{model}` are not here, so its chat template is not known",
        code="no_template",
        where=Where(versions[0]),
        seen=names[-1] if names else None,
        fix="--chat-template FILE",
    )


def _places(name: str, version: Path) -> Iterator[Path]:
    """Where a path of model.json may be, as backends/vllm/vllm_weights looks: `/models/chat/1/m.gguf`, as a server in a
    container sees it, is m.gguf beside model.json."""
    path = Path(name)
    yield version / path
    if path.is_absolute() and version.name in path.parts:
        after = len(path.parts) - path.parts[::-1].index(version.name)
        if path.parts[after:]:
            yield version.joinpath(*path.parts[after:])
    yield version.parent / path
    yield path


def _of_directory(directory: Path) -> ChatTemplate | None:
    config: dict[str, Any] = {}
    try:
        config = json.loads((directory / "tokenizer_config.json").read_text("utf-8"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise UsageError(
            f"not JSON: {error}", code="no_template", where=Where(directory / "tokenizer_config.json")
        ) from None
    text = config.get("chat_template")
    if isinstance(text, list):  # several, by name
        text = next((one.get("template") for one in text if one.get("name") == "default"), None)
    beside = directory / "chat_template.jinja"
    if beside.is_file():
        text = beside.read_text("utf-8")
    if not isinstance(text, str):
        return None
    tokens = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    texts = {n: t.get("content") if isinstance(t, dict) else t for n, t in tokens.items()}
    kept = tuple((name, value) for name, value in texts.items() if isinstance(value, str))
    return ChatTemplate(text[:_MOST_CHARACTERS], kept, directory)


def _of_gguf(path: Path) -> ChatTemplate | None:
    try:
        found = read_gguf(path, lists="tokenizer.ggml.tokens").values
    except (OSError, ValueError) as error:
        raise UsageError(f"not a GGUF file: {error}", code="bad_gguf", where=Where(path)) from None
    text = found.get("tokenizer.chat_template")
    if not isinstance(text, str):
        return None
    words = found.get("tokenizer.ggml.tokens", [])
    places = {
        name: found.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "unknown", "padding")
    }
    tokens = [
        (f"{ {'unknown': 'unk', 'padding': 'pad'}.get(name, name) }_token", words[place])
        for name, place in places.items()
        if isinstance(place, int) and 0 <= place < len(words)
    ]
    return ChatTemplate(text[:_MOST_CHARACTERS], tuple(tokens), path)
