"""Chats of OpenAI's form against a server that speaks as Triton's vLLM backend does, and where templates are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.perf.batch.jobs import job_on, records_of
from tests.perf.fake_server import FakeServer, running
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.batch.job import run_batch
from tritonsmith.perf.batch.place import Question
from tritonsmith.perf.batch.rows.chat import ChatTemplate, template_at, template_in_repository
from tritonsmith.perf.batch.rows.lines import BadLineError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class FakeVllm(FakeServer):
    """Answers a generate request with its text in capitals; it counts words as tokens."""

    def _describe(self, method: str, path: str) -> tuple[int, Any]:
        texts = [
            {"name": n, "datatype": "BYTES", "shape": [1]} for n in ("text_input", "sampling_parameters")
        ]
        flags = (
            "exclude_input_in_output",
            "return_finish_reason",
            "return_num_input_tokens",
            "return_num_output_tokens",
        )
        inputs: list[dict[str, Any]] = [
            *texts,
            *({"name": n, "datatype": "BOOL", "shape": [1]} for n in flags),
        ]
        if path.endswith("/config"):
            optional = [{"name": one["name"], "optional": one["name"] != "text_input"} for one in inputs]
            return 200, {"name": "m", "input": optional, "model_transaction_policy": {"decoupled": True}}
        if path.endswith("/models/m"):
            outputs = [{"name": "text_output", "datatype": "BYTES", "shape": [-1]}]
            return 200, {"name": "m", "versions": ["1"], "platform": "", "inputs": inputs, "outputs": outputs}
        return super()._describe(method, path)

    async def _answer(self, head: str, fields: dict[str, str], body: bytes, writer: Any) -> bool:
        if not head.split()[1].endswith("/generate"):
            return await super()._answer(head, fields, body, writer)
        asked = json.loads(body)
        self.infer_requests += 1
        self.parameters.append(asked)
        text = asked["text_input"].upper()
        said = {"model_name": "m", "text_output": text, "finish_reason": "stop"}
        counts = {
            "num_input_tokens": len(asked["text_input"].split()),
            "num_output_tokens": len(text.split()),
        }
        return await self._write(writer, 200, json.dumps(said | counts).encode(), None, close=False)


def chat(number: int, **more: Any) -> dict[str, Any]:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": f"tell me {number}"}],
        "max_tokens": 9,
        **more,
    }
    return {"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


@pytest.fixture
def question(tmp_path: Path) -> Question:
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    return Question(chat_template=tmp_path / "template.jinja")


def test_a_chat_becomes_the_models_text_and_its_answer_openais(tmp_path: Path, question: Question) -> None:
    with running(FakeVllm()) as server:
        result = run_batch(
            job_on(server, tmp_path, [chat(0, temperature=0, stop=["x"]), chat(1)], question=question)
        )
    asked = next(one for one in server.parameters if one["text_input"].startswith("<user>tell me 0"))
    assert asked["text_input"] == "<user>tell me 0<assistant>" and asked["exclude_input_in_output"] is True
    assert json.loads(asked["sampling_parameters"]) == {"temperature": 0, "stop": ["x"], "max_tokens": 9}
    first = records_of(tmp_path / "out.jsonl")[0]
    body = first["response"]["body"]
    assert first["custom_id"] == "c0" and body["object"] == "chat.completion" and body["model"] == "m"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "<USER>TELL ME 0<ASSISTANT>"}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert result.tokens == {"input": 6, "output": 6} and result.tokens_per_s


@pytest.mark.parametrize(
    ("bounds", "asked"),
    [
        ({"max_tokens": None}, 1 << 24),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
    ],
)
def test_a_chat_without_a_bound_ends_where_the_model_ends_it_and_not_after_sixteen_tokens(
    tmp_path: Path, question: Question, bounds: dict[str, Any], asked: int
) -> None:
    with running(FakeVllm()) as server:
        run_batch(job_on(server, tmp_path, [chat(0, **bounds)], question=question))
    assert json.loads(server.parameters[0]["sampling_parameters"]) == {"max_tokens": asked}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"messages": []}, "body.messages: is to be a list"),
        ({"messages": [{"content": "x"}]}, "body.messages[0]: is to have a `role`"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only parts of type text"),
        ({"stream": True}, "body.stream: a batch has no streams"),
        ({"n": 2}, "body.n: one answer each"),
        ({"response_format": {"type": "json_object"}}, "body.response_format: is not carried to the model"),
        ({"tools": [{}]}, "body.tools: is not carried to the model"),
        ({"model": 3}, "body.model: is to name the model"),
    ],
)
def test_what_would_not_be_answered_as_asked_is_a_bad_line(
    tmp_path: Path, question: Question, more: dict[str, Any], told: str
) -> None:
    with running(FakeVllm()) as server, pytest.raises(UsageError) as refused:
        run_batch(job_on(server, tmp_path, [chat(0), chat(1, **more)], question=question))
    assert told in refused.value.message and server.infer_requests == 0


def test_generate_bodies_go_as_they_are(tmp_path: Path) -> None:
    line = {"custom_id": "g", "method": "POST", "url": "/v2/models/m/generate", "body": {"text_input": "ab"}}
    with running(FakeVllm()) as server:
        run_batch(job_on(server, tmp_path, [line]))
        assert records_of(tmp_path / "out.jsonl")[0]["response"]["body"]["text_output"] == "AB"
        with pytest.raises(UsageError, match="lacks input `text_input`"):
            run_batch(job_on(server, tmp_path, [line | {"body": {"text": "ab"}}], restart=True))


def test_templates_are_found_with_their_tokens(tmp_path: Path) -> None:
    config = {"chat_template": TEMPLATE, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    messages = [{"role": "user", "content": "a"}]
    assert template_at(tmp_path).render(messages) == "<s><user>a</s><assistant>"
    (tmp_path / "repository/m/1").mkdir(parents=True)
    (tmp_path / "repository/m/1/model.json").write_text(json.dumps({"model": str(tmp_path)}))
    assert (
        template_in_repository(tmp_path / "repository", "m").render(messages) == "<s><user>a</s><assistant>"
    )
    # The newest version's, and as a container names it.
    (tmp_path / "repository/m/10/weights").mkdir(parents=True)
    (tmp_path / "repository/m/10/weights/chat_template.jinja").write_text("ten")
    (tmp_path / "repository/m/10/model.json").write_text('{"model": "/models/m/10/weights"}')
    (tmp_path / "repository/m/9").mkdir()
    (tmp_path / "repository/m/9/model.json").write_text(json.dumps({"model": str(tmp_path)}))
    assert template_in_repository(tmp_path / "repository", "m").render(messages) == "ten"
    assert template_in_repository(tmp_path / "repository", "m", "9").render(messages).startswith("<s>")
    with pytest.raises(UsageError) as refused:
        template_at(tmp_path / "repository")
    assert refused.value.code == "no_template"


def test_a_gguf_file_has_its_template(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return len(value.encode()).to_bytes(8, "little") + value.encode()

    def entry(name: str, kind: int, value: bytes) -> bytes:
        return text(name) + kind.to_bytes(4, "little") + value

    words = (8).to_bytes(4, "little") + (2).to_bytes(8, "little") + text("<s>") + text("</s>")
    scores = (6).to_bytes(4, "little") + (2).to_bytes(8, "little") + bytes(8)
    entries = [
        entry("general.name", 8, text("tiny")),
        entry("tokenizer.ggml.tokens", 9, words),
        entry("tokenizer.ggml.scores", 9, scores),
        entry("tokenizer.ggml.bos_token_id", 4, (0).to_bytes(4, "little")),
        entry("tokenizer.ggml.eos_token_id", 4, (1).to_bytes(4, "little")),
        entry("tokenizer.chat_template", 8, text(TEMPLATE)),
    ]
    head = (
        b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + len(entries).to_bytes(8, "little")
    )
    (tmp_path / "m.gguf").write_bytes(head + b"".join(entries))
    assert (
        template_at(tmp_path / "m.gguf").render([{"role": "user", "content": "a"}])
        == "<s><user>a</s><assistant>"
    )
    (tmp_path / "m.gguf").write_bytes(head + b"".join(entries)[:40])
    with pytest.raises(UsageError, match="not a GGUF file"):
        template_at(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "hostile", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"]
)
def test_a_template_of_a_strangers_is_rendered_in_a_sandbox(hostile: str) -> None:
    with pytest.raises(BadLineError, match="the model's chat template refuses it"):
        ChatTemplate(hostile).render([{"role": "user", "content": "x"}])
