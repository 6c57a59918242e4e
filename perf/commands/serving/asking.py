"""(a server, a model, values as typed) → one request, its answer kept and shown, or the code that asks the same."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from tritonsmith.builder.base.errors import ServerError, TrialError, UsageError
from tritonsmith.builder.base.text.console import (
    emit_document,
    emit_json,
    emit_text,
    note,
    progress,
    width_of,
)
from tritonsmith.builder.base.text.shown import visible
from tritonsmith.builder.commands.failures import show_error
from tritonsmith.perf.commands.load.flags import data_from_flags, seconds_from_text, server_fields
from tritonsmith.perf.commands.load.options import ProtocolFlags, ValueFlags
from tritonsmith.perf.commands.load.run import check_output
from tritonsmith.perf.commands.serving.answer import Told, keep
from tritonsmith.perf.commands.serving.code import code_for
from tritonsmith.perf.data import ModelInterface, payload_from_sample, pool_from_options
from tritonsmith.perf.data.given import given_sample, texts_from_flags
from tritonsmith.perf.load.load_test import LoadTest, fitted, server_at, server_of
from tritonsmith.perf.load.once import Asked, ask_once
from tritonsmith.perf.load.served_model import interface_of
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.wire.grpc import GrpcTarget
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload, Parameter, request_parameters
from tritonsmith.perf.wire.per_request.sequence_bytes import HIGHEST_ID, LOWEST_ID
from tritonsmith.perf.wire.target import Target


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, as it was typed. values: NAME=VALUE each."""

    values: Sequence[str]
    model: str
    version: str
    data: ValueFlags
    wire: ProtocolFlags
    timeout: str = "30s"
    seed: int = 0


def run(target: str, question: Question, show_code: bool, output: Path | None, as_json: bool) -> None:
    """Ask, and say what came; TrialError when the server refuses, ServerError when nothing answers."""
    texts = texts_from_flags(question.values)
    if texts and question.data.data is not None:
        raise UsageError(
            "values are given and are to be read from a file",
            code="two_inputs",
            seen=f"{next(iter(texts))}=… and --data {question.data.data}",
            fix="leave one of them out",
        )
    check_output(output)
    test = _test_of(question, target)
    is_ours = "://" not in target
    with (
        progress("starting the server" if is_ours else "asking the server", share=True),
        server_at(target) as served,
    ):
        test = served.known_to(test)
        api, wire = server_of(served.http_url, test)
        model = interface_of(api, question.model, question.version)
        notes = []
        if model.decoupled and test.protocol == "http":
            raise UsageError(
                f"`{model.name}` may answer any number of times, and is asked over gRPC",
                code="bad_streaming",
                seen="--protocol http",
                fix="leave it out",
            )
        if model.decoupled:
            _, wire = server_of(served.http_url, replace(test, protocol="grpc", streaming=True))
            notes.append(f"{model.name} may answer any number of times: asked over a gRPC stream")
        payload, told = _payload(model, texts, test)
        notes += told
        if not show_code:
            asked = _asked(wire, model, payload, test.timeout_s)
    if not show_code:
        _tell(Told(model, wire, payload, asked, tuple(notes)), output, as_json)
        return
    if is_ours:
        wire, url = _as_served(wire), "http://127.0.0.1:8000"
        notes.append(f"the code asks what `tritonsmith serve {target}` serves")
    else:
        url = served.http_url
    code = code_for(wire, url, payload, test.timeout_s, question.wire, output)
    if output is not None:
        keep(output, payload, None)
    if as_json:
        emit_json({"curl": code.curl, "python": code.python, "notes": [*notes, *code.notes]})
    else:
        emit_document(visible(code.text), escaped=True)  # `***` in the place of what is hidden would not run
        for line in (*notes, *code.notes):
            note(f"note: {line}")


def _tell(told: Told, output: Path | None, as_json: bool) -> None:
    """Keep and say what came; TrialError for a refusal, behind what came before it."""
    reason = told.asked.error
    refused = None if reason is None else TrialError(
        f"Triton refused `{told.model.name}`: {reason}", code="request_refused"
    )  # fmt: skip
    if as_json:
        emit_json(told.as_json() if refused is None else told.as_json() | {"error": refused.as_dict()})
    else:
        for line in told.notes:
            note(f"note: {line}")
        if refused is None or told.responses:
            emit_text(told.text(width_of(sys.stdout)))
    if output is not None and (refused is None or told.responses):
        keep(output, told.payload, told.responses)
    if refused is not None:
        if as_json:  # the document has it
            show_error(refused)
            raise typer.Exit(refused.exit_code)
        raise refused


def _asked(wire: Target, model: ModelInterface, payload: InferPayload, timeout_s: float) -> Asked:
    try:
        return ask_once(wire, payload, timeout_s)
    except TimeoutError as error:
        raise ServerError(
            f"`{model.name}` does not answer at {wire.url}: {error}", code="no_answer", fix="--timeout 2m"
        ) from error
    except OSError as error:
        raise ServerError(
            f"nothing answers at {wire.url}: {error or type(error).__name__}",
            code="server_unreachable",
            fix="is this the port of its protocol (HTTP 8000, gRPC 8001 by default)? --grpc-url HOST:PORT",
        ) from error


def _as_served(wire: Target) -> Target:
    """At the ports that `tritonsmith serve` takes."""
    if isinstance(wire, GrpcTarget):
        return replace(wire, base_url="grpc://127.0.0.1:8001")
    assert isinstance(wire, HttpTarget)
    return replace(wire, base_url="http://127.0.0.1:8000")


def _test_of(question: Question, target: str) -> LoadTest:
    data = replace(
        data_from_flags(question.data), batch_size=question.data.batch_size, pool=1, seed=question.seed
    )
    wire = question.wire
    return fitted(
        LoadTest(
            question.model,
            Closed(1),
            version=question.version,
            data=data,
            protocol=wire.protocol,
            grpc_url=wire.grpc_url,
            **server_fields(wire),
            timeout_s=seconds_from_text(question.timeout),
        ),
        target,
    )


def _payload(
    model: ModelInterface, texts: Mapping[str, str], test: LoadTest
) -> tuple[InferPayload, list[str]]:
    """The request, and what is to be known of its values."""
    notes: list[str] = []
    parameters: dict[str, Parameter] = {}
    if model.sequence_ids:
        number = secrets.randbelow(HIGHEST_ID - LOWEST_ID) + LOWEST_ID
        sequence_id = str(number) if model.sequence_ids == "text" else number
        parameters = request_parameters(sequence_id=sequence_id, sequence_start=True, sequence_end=True)
        notes.append(f"{model.name} keeps state: a sequence of one request, with its start and end flags")
    if texts or not model.inputs:
        given = given_sample(model, texts)
        return payload_from_sample(model, given.sample, parameters=parameters), [*notes, *given.notes]
    payload = pool_from_options(model, test.data, parameters=parameters).payloads[0]
    if test.data.file is None:
        names = ", ".join(tensor.name for tensor in payload.inputs)
        notes.append(f"values were drawn for {names} (--seed {test.data.seed})")
    return payload, notes
