"""openai://HOST:PORT/v1 → the model that it serves, and its requests for chat and completions.

Format: OpenAI's API reference (models, chat/completions, completions). `ignore_eos` and `min_tokens` are vLLM's extra
parameters, `ignore_eos` llama.cpp's, too; both servers, and Triton's OpenAI frontend, leave out what they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.errors import ServerError, TrialError, UsageError
from tritonsmith.builder.base.files.http_ask import SIGN_IN, Reply, json_from
from tritonsmith.perf.load.load_test import LoadTest, tls_of
from tritonsmith.perf.load.served_model import unknown_model
from tritonsmith.perf.tokens.prompts import Message, Prompt, text_of, user
from tritonsmith.perf.tokens.wire import OpenAiPayload, OpenAiTarget, error_in
from tritonsmith.perf.wire.rest import call

SCHEMES = ("openai://", "openais://")
_PROBE_TIMEOUT_S = 120.0


def is_openai(url: str) -> bool:
    """Whether a target is OpenAI's API, which openais:// speaks over TLS."""
    return url.startswith(SCHEMES)


def openai_target(url: str, test: LoadTest, endpoint: str, keep_text: bool) -> OpenAiTarget:
    """The server at openai://HOST:PORT[/v1]; a path that is left out is /v1."""
    scheme, _, rest = url.partition("://")
    base = f"{'https' if scheme == 'openais' else 'http'}://{rest.rstrip('/')}"
    if "/" not in rest.rstrip("/"):
        base += "/v1"
    return OpenAiTarget(base, headers=test.headers, endpoint=endpoint, keep_text=keep_text, **tls_of(test))


def served_model(target: OpenAiTarget, model: str) -> tuple[str, dict[str, str]]:
    """The model to ask for (an empty name: the only one), and what the server says of itself.

    ServerError not_openai when it has no list of models as OpenAI's API has it, UsageError for a model that it lacks.
    """
    reply = call(target, "GET", "/models")
    if reply.status in (401, 403):
        raise _refused("GET /models", reply)
    try:
        rows = json_from(reply.body)["data"] if reply.status == 200 else None
        names = [str(row["id"]) for row in rows or [{}]]
    except (ValueError, KeyError, TypeError):
        raise ServerError(
            f"what answers at {target.url} is not OpenAI's API: it has no list of models at {target.address().path}/models",
            code="not_openai",
            seen=f"HTTP {reply.status}: {_words(reply)}"[:200],
            fix="openai://HOST:PORT/v1, of vLLM, llama.cpp's server or Triton's OpenAI frontend (9000 by default)",
        ) from None
    about = {"name": reply.fields.get("server", "OpenAI API"), "version": ""}
    if not model and len(names) == 1:
        return names[0], about
    if model in names:
        return model, about
    if not model:
        raise UsageError(
            "which model?", code="no_model", valid=names, fix=f"--model {names[0]}" if names else None
        )
    raise unknown_model(model, names)


@dataclass(frozen=True, slots=True)
class OpenAiRequests:
    """(messages, prompt) → the request; see perf.tokens.sessions.MakeRequest. parameters: of every request."""

    model: str
    endpoint: str
    parameters: Mapping[str, Any]

    def __call__(self, messages: Sequence[Message], prompt: Prompt) -> OpenAiPayload:
        """One request's body."""
        fields: dict[str, Any] = {"model": self.model}
        if self.endpoint == "chat":
            fields["messages"] = [dict(message) for message in messages]
        else:
            fields["prompt"] = text_of(messages)
        if prompt.output_tokens is not None:
            fields["max_tokens"] = prompt.output_tokens
            if prompt.exactly:
                fields |= {"min_tokens": prompt.output_tokens, "ignore_eos": True}
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
        fields |= {**prompt.parameters, **self.parameters}
        return OpenAiPayload(self.model, (), body=json.dumps(fields, separators=(",", ":")).encode())


def probe(target: OpenAiTarget, requests: OpenAiRequests) -> None:
    """Ask for one token before the load; TrialError with the server's words when it refuses (no chat template, a
    parameter that it does not take …), ServerError when there is no such endpoint."""
    payload = requests(user("Hello"), Prompt((), output_tokens=1))
    path = "/chat/completions" if target.endpoint == "chat" else "/completions"
    fields = {"Content-Type": "application/json"}
    reply = call(target, "POST", path, payload.body, fields, timeout_s=_PROBE_TIMEOUT_S)
    if reply.status in (404, 405) and error_of(reply) is None:
        raise ServerError(
            f"{target.url} has no {path}",
            code="not_openai",
            seen=f"HTTP {reply.status}: {_words(reply)}"[:200],
            fix=f"--endpoint {'completions' if target.endpoint == 'chat' else 'chat'}, or the path of the API in the URL",
        )
    if reply.status != 200:
        raise _refused(f"POST {path}", reply)


def error_of(reply: Reply) -> str | None:
    """The server's words of an error object in OpenAI's form; None where the body is none."""
    try:
        said = json_from(reply.body)
    except ValueError:
        return None
    return error_in(said) if isinstance(said, Mapping) else None


def _words(reply: Reply) -> str:
    return error_of(reply) or " ".join(reply.body[:400].decode(errors="replace").split()) or "no reason given"


def _refused(what: str, reply: Reply) -> TrialError:
    words = _words(reply)
    fix = "--endpoint completions, which needs no chat template" if "chat template" in words.lower() else None
    return TrialError(
        f"the server refused {what}: {words}",
        code="server_refused",
        seen=f"HTTP {reply.status}",
        fix=SIGN_IN if reply.status in (401, 403) else fix,
    )
