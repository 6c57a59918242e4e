"""Streamed texts on the wire: what is a chunk, however its bytes are cut; what is counted; what is an error."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonsmith.perf.tokens.wire import OpenAiEvents, TokenResponses, TritonEvents, text_in
from tritonsmith.perf.wire.grpc import framed
from tritonsmith.perf.wire.target import Chunks


def chat(delta: Any, **more: Any) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": None}], **more}


def stream(*events: Any) -> bytes:
    said = (event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events)
    return b"".join(f"data: {event}\n\n".encode() for event in said)


def chunks_of(parser: Any) -> Chunks:
    chunks = parser.responses().chunks
    assert chunks is not None
    return chunks  # type: ignore[no-any-return]


USAGE = {"id": "1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}


@given(st.lists(st.text(max_size=6), max_size=12), st.booleans(), st.lists(st.integers(0, 4000), max_size=6))
@settings(max_examples=60)
def test_every_text_arrives_as_it_is_however_bytes_are_cut(
    texts: list[str], spaced: bool, cuts: list[int]
) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    separators = (", ", ": ") if spaced else (",", ":")
    events = [json.dumps(chat({"content": t}), ensure_ascii=False, separators=separators) for t in texts]
    data = stream(chat({"role": "assistant", "content": ""}), *events, USAGE, "[DONE]")
    parser = OpenAiEvents(keep=True)
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for now, (begin, end) in enumerate(pairwise(ends), start=1):
        parser.feed(data[begin:end], now)
    chunks = chunks_of(parser)
    assert parser.failure() is None
    assert chunks.text.decode() == "".join(texts)
    assert list(chunks.sizes) == [0, *(len(text.encode()) for text in texts), 0]
    assert parser.responses().total == sum(bool(text) for text in texts), (
        "an empty text and a role are no chunk"
    )
    assert (chunks.input_tokens, chunks.output_tokens) == (5, 4)


def test_the_first_token_is_the_first_text() -> None:
    parser = OpenAiEvents()
    for now, event in enumerate(
        (chat({"role": "assistant"}), chat({"content": ""}), chat({"content": "a"})), 1
    ):
        parser.feed(stream(event), now * 10)
    parser.feed(stream(chat({"content": "b"}), "[DONE]"), 45)
    assert (parser.first_ns, parser.responses()[:3]) == (30, (2, 45, 15))


def test_reasoning_and_tool_calls_are_text() -> None:
    call = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": '{"x":'}}]}
    assert text_in(chat({"reasoning_content": "hm", "content": None})) == "hm"
    assert text_in(chat(call)) == 'f{"x":'
    assert text_in({"choices": [{"index": 0, "text": "a"}, {"index": 1, "text": "b"}]}) == "ab"


def test_a_count_in_every_chunk_is_the_tokens_of_each() -> None:
    parser = OpenAiEvents()
    for total in (0, 2, 5):
        text = {"content": "ab" if total else ""}
        parser.feed(stream(chat(text, usage={"prompt_tokens": 3, "completion_tokens": total})), 1)
    parser.feed(stream("[DONE]"), 2)
    chunks = chunks_of(parser)
    assert list(chunks.tokens) == [0, 2, 3] and chunks.output_tokens == 5


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([{"error": {"message": "out of\nmemory", "code": 500}}, "[DONE]"], "OpenAI stream: out of memory"),
        ([{"object": "error", "message": "bad"}, "[DONE]"], "OpenAI stream: bad"),
        ([{"error": "plain"}], "OpenAI stream: plain"),
        ([chat({"content": "a"})], "protocol: the stream ended without [DONE]"),
        (["{", "[DONE]"], "OpenAI stream: a chunk that is no JSON object"),
        (["[1]", "[DONE]"], "OpenAI stream: a chunk that is no JSON object"),
    ],
)
def test_what_is_no_answer_is_a_failure(events: list[Any], why: str) -> None:
    parser = OpenAiEvents()
    parser.feed(stream(*events), 1)
    assert parser.failure() == why


def test_a_whole_json_instead_of_a_stream_is_a_failure() -> None:
    parser = OpenAiEvents()
    parser.feed(json.dumps(chat({"content": "a"})).encode(), 1)
    assert parser.failure() == "protocol: not an event stream"


def test_generate_stream_counts_each_responses_tokens() -> None:
    parser = TritonEvents(keep=True)
    for text, count in (("", 1), (" a", 1), (" b c", [2])):
        said = {"model_name": "m", "text_output": text, "num_input_tokens": 9, "num_output_tokens": count}
        parser.feed(stream(said), 7)
    chunks = chunks_of(parser)
    assert (chunks.text, list(chunks.tokens), chunks.input_tokens, chunks.output_tokens) == (
        b" a b c",
        [1, 1, 2],
        9,
        4,
    )
    assert parser.responses().total == 2 and parser.failure() is None
    parser.feed(stream({"error": "engine died"}), 8)
    assert parser.failure() == "generate_stream: engine died"


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_grpc_responses_are_read_however_bytes_are_cut(step: int) -> None:
    from tritonclient.grpc import service_pb2

    def response(text: bytes, count: int) -> bytes:
        message = service_pb2.ModelStreamInferResponse()
        inner = message.infer_response
        inner.outputs.add(name="text_output", datatype="BYTES", shape=[1])
        inner.outputs.add(name="num_output_tokens", datatype="UINT32", shape=[1])
        inner.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
        inner.raw_output_contents.append(np.uint32(count).tobytes())
        return framed(message.SerializeToString())

    final = service_pb2.ModelStreamInferResponse()
    final.infer_response.parameters["triton_final_response"].bool_param = True
    data = (
        response(b" a", 1) + response(b"", 1) + response(" é".encode(), 2) + framed(final.SerializeToString())
    )
    parser = TokenResponses(keep=True)
    for begin in range(0, len(data), step):
        parser.feed(data[begin : begin + step], begin + 1)
    chunks = chunks_of(parser)
    assert (chunks.text.decode(), list(chunks.tokens), chunks.output_tokens) == (" a é", [1, 1, 2], 4)
    assert parser.responses().total == 2 and parser.failure() is None
    error = service_pb2.ModelStreamInferResponse(error_message="no slot")
    parser.feed(framed(error.SerializeToString()), 9)
    assert parser.failure() == "gRPC stream: no slot"
    parser.feed(b"\0\0", 9)
    cut = TokenResponses()
    cut.feed(data[:-3], 1)
    assert cut.failure() == "protocol: a response that is cut off"
