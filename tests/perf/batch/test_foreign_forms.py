"""Files of vLLM's run_batch and of OpenAI's batch API as input; the answers held against what readers of those two take.

The forms below are names and types of fields, as recorded from
- vLLM 0.11.0, vllm/entrypoints/openai/protocol.py: BatchRequestOutput, BatchResponseData, ChatCompletionResponse,
  EmbeddingResponse (0.6 to the main branch of November 2026 ask the same of a line);
- openai 3.57.0: types.chat.ChatCompletion, types.CreateEmbeddingResponse; API reference "The request output object".
Where one of them asks for more than the other, the stricter stands here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.perf.batch.jobs import job_on, records_of, write_rows
from tests.perf.batch.test_chat import TEMPLATE, FakeVllm
from tests.perf.fake_server import running
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve
from tritonsmith.perf.batch.answers import Writer
from tritonsmith.perf.batch.job import run_batch
from tritonsmith.perf.batch.rows.asks import Address
from tritonsmith.perf.batch.rows.lines import line_of
from tritonsmith.perf.batch.rows.reader import RowReader
from tritonsmith.perf.data.interface import ModelInterface

# A dict names fields that have to be there, a list is of any length, a tuple gives choices, a text is itself.
CHAT = {
    "id": str, "object": "chat.completion", "created": int, "model": str,
    "choices": [{
        "index": int, "finish_reason": ("stop", "length", "tool_calls", "content_filter", "function_call"),
        "logprobs": None, "message": {"role": "assistant", "content": str},
    }],
    "usage": {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int},
}  # fmt: skip
EMBEDDINGS = {
    "object": "list", "model": str, "usage": {"prompt_tokens": int, "total_tokens": int},
    "data": [{"object": "embedding", "index": int, "embedding": ([(float, int)], str)}],
}  # fmt: skip
# A body that is neither of these is refused by vLLM's reader: of a failed request it has to be null.
RESPONSE = {"status_code": int, "request_id": str, "body": (CHAT, EMBEDDINGS, None)}
ERROR = {"code": str, "message": str}
LINE = {"id": str, "custom_id": str, "response": (RESPONSE, None), "error": (ERROR, None)}


def faults(value: Any, form: Any, place: str = "line") -> list[str]:
    """What a reader of this form would refuse."""
    if isinstance(form, dict) and isinstance(value, dict):
        return [
            told
            for name, of in form.items()
            for told in (
                faults(value[name], of, f"{place}.{name}") if name in value else [f"no {place}.{name}"]
            )
        ]
    if isinstance(form, list) and isinstance(value, list):
        return [told for i, one in enumerate(value) for told in faults(one, form[0], f"{place}[{i}]")]
    if isinstance(form, tuple):
        found = [faults(value, one, place) for one in form]
        return [] if [] in found else min(found, key=len)
    fits = type(value) is form if isinstance(form, type) else value == form
    return [] if fits else [f"{place}: {value!r}"]


# The examples of vLLM's guide (examples/offline_inference/openai_batch), lines shortened.
HUB_NAME = "meta-llama/Meta-Llama-3-8B-Instruct"


def guide(number: int, said: str = "Hello world!", **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": said},
    ]
    body = {"model": HUB_NAME, "messages": messages, "max_completion_tokens": 1000, **more}
    return {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }


class Refusing(FakeVllm):
    """Answers what says "refused" as a model does that a prompt is too long for."""

    async def _answer(self, head: str, fields: dict[str, str], body: bytes, writer: Any) -> bool:
        if b"refused" in body:
            return await self._write(writer, 400, b'{"error":"the prompt is too long"}', None, close=False)
        return await super()._answer(head, fields, body, writer)


def batch(server: FakeVllm, directory: Path, *flags: str) -> tuple[int, str]:
    """The command over in.jsonl there; its exit code and what it says."""
    from tritonsmith.command_line import app

    (directory / "template.jinja").write_text(TEMPLATE)
    places = (str(directory / "in.jsonl"), "-o", str(directory / "out.jsonl"), "--url", server.url)
    ran = CliRunner().invoke(
        app, ["batch", *places, "--chat-template", str(directory / "template.jinja"), *flags]
    )
    return ran.exit_code, f"{ran.exception}"


def test_a_file_of_vllms_guide_is_answered_as_it_is_and_every_line_is_read_by_vllms_reader(
    tmp_path: Path,
) -> None:
    lines = [guide(1), guide(2), guide(3, "refused"), guide(4, tools=[{}])]
    with running(Refusing()) as server:
        with pytest.raises(UsageError) as refused:  # the fake answers to every other name
            run_batch(job_on(server, tmp_path, [guide(1, model="missing")]))
        assert "--model NAME asks that instead" in str(refused.value.fix)
        write_rows(tmp_path / "in.jsonl", lines)
        code, told = batch(server, tmp_path, "--model", "m", "--skip-bad")
    assert code == 1, told
    answers, errors = records_of(tmp_path / "out.jsonl"), records_of(tmp_path / "out.errors.jsonl")
    assert [one["custom_id"] for one in answers] == ["request-1", "request-2"]
    assert [one["custom_id"] for one in errors] == ["request-3", "request-4"]
    assert [told for one in (*answers, *errors) for told in faults(one, LINE)] == []
    assert all(one["error"] is None and faults(one["response"]["body"], CHAT) == [] for one in answers)
    assert errors[0]["response"]["status_code"] == 400 and errors[0]["error"]["code"] == "request_refused"
    assert errors[1]["response"] is None and "body.tools" in errors[1]["error"]["message"]


def test_a_line_need_not_name_a_model_where_the_command_does(tmp_path: Path) -> None:
    line = guide(1)
    del line["body"]["model"]  # ChatCompletionRequest.model is optional at vLLM
    write_rows(tmp_path / "in.jsonl", [line, {**guide(2), "url": "/v2/models/other/generate"}])
    with running(FakeVllm()) as server:
        code, told = batch(server, tmp_path, "--model", "m")
        assert code != 0 and "generate" in told, "other urls are still told"
        write_rows(tmp_path / "in.jsonl", [line])
        assert batch(server, tmp_path, "--model", "m")[0] == 0
    assert records_of(tmp_path / "out.jsonl")[0]["response"]["body"]["model"] == "m"


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/score", {"queries": "Where?", "documents": ["Here.", "There."]}),
        ("/v1/rerank", {"query": "Where?", "documents": ["Here.", "There."]}),
        ("/v1/completions", {"prompt": "Once"}),
        ("/v1/responses", {"input": "Once"}),
    ],
)
def test_urls_that_a_triton_model_does_not_answer_are_told_with_those_it_does(
    tmp_path: Path, url: str, body: dict[str, Any]
) -> None:
    write_rows(tmp_path / "in.jsonl", [{**guide(1), "url": url, "body": {"model": "m", **body}}])
    with running(FakeVllm()) as server:
        code, told = batch(server, tmp_path)
    assert code != 0 and f"an unknown url, '{url}'" in told and "/v1/chat/completions" in told


def test_embeddings_are_read_by_both_readers() -> None:
    fp32, text = dtype_from_kserve("FP32"), dtype_from_kserve("BYTES")
    model = ModelInterface("m", (TensorSpec("TEXT", text, (1,)),), (TensorSpec("VECTOR", fp32, (2,)),), 8)
    address = Address("embeddings", "m")
    # As clients write it that name every field.
    body = {"model": "m", "input": ["a", "b"], "encoding_format": None, "dimensions": None}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": body}
    row = RowReader(model, address, None, 8).row(line_of(1, json.dumps(line).encode()))
    vectors = np.array([[1.0, 0.25], [-2.0, 1e-9]], np.float32)
    made = json.loads(Writer(model, address, False).infer_line(row, {"VECTOR": vectors}, "1"))
    assert faults(made, LINE) == [] and faults(made["response"]["body"], EMBEDDINGS) == []
    assert made["response"]["body"]["data"][0]["embedding"] == [1.0, 0.25]
