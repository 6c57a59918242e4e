"""A chat job over a small model on the embedded vllm backend, which the job starts itself: answers, template, token counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.perf.batch.jobs import records_of, write_rows
from tests.perf.batch.test_foreign_forms import CHAT, LINE, faults
from tests.tiny_gguf import tiny_gguf
from tritonsmith.perf.batch.job import BatchJob, run_batch
from tritonsmith.perf.batch.place import Question
from tritonsmith.perf.batch.sending.send import SendOptions
from tritonsmith.perf.server.environment import environment

CONFIG = """backend: "vllm"
instance_group [{ count: 1 kind: KIND_MODEL }]
model_transaction_policy { decoupled: true }
"""


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_file_of_chats_is_answered_by_the_embedded_vllm_backend(tmp_path: Path) -> None:
    if environment.vllm_ready() is None:
        pytest.skip("no packages for language models: tritonsmith server install --with vllm")
    version = tmp_path / "repository" / "chat" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    tiny_gguf(version / "model.gguf")
    (version / "model.json").write_text(
        json.dumps({"model": "model.gguf", "max_num_seqs": 8, "dtype": "float32"})
    )
    bodies = [
        {
            "model": "chat",
            "messages": [{"role": "user", "content": f"Tell me a story about {number % 4}."}],
            "max_tokens": 8,
            "temperature": 0,
        }
        for number in range(12)
    ]
    rows = [
        {"custom_id": f"c{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    source = write_rows(tmp_path / "in.jsonl", rows)
    job = BatchJob(
        source,
        tmp_path / "out.jsonl",
        str(tmp_path / "repository"),
        Question(),
        send=SendOptions(in_flight=4),
    )
    result = run_batch(job)
    records = records_of(tmp_path / "out.jsonl")
    assert [record["custom_id"] for record in records] == [f"c{i}" for i in range(12)] and result.failed == 0
    assert [told for record in records for told in faults(record, LINE)] == []
    bodies_out = [record["response"]["body"] for record in records]
    assert [told for body in bodies_out for told in faults(body, CHAT)] == []
    texts = [body["choices"][0]["message"]["content"] for body in bodies_out]
    assert texts[:4] == texts[4:8] == texts[8:], "the same chat has the same answer, whoever shares its batch"
    assert all(body["choices"][0]["finish_reason"] in ("stop", "length") for body in bodies_out)
    usage = bodies_out[0]["usage"]
    assert usage["prompt_tokens"] > 0 and 0 < usage["completion_tokens"] <= 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert result.tokens["output"] == sum(body["usage"]["completion_tokens"] for body in bodies_out)
    assert "<|im_start|>" not in "".join(texts)
