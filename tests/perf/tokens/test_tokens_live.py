"""A load by tokens on the embedded vllm backend: generate_stream and gRPC streams of a tiny model, counted by the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_gguf import tiny_gguf
from tritonsmith.perf.data.distribution import Span
from tritonsmith.perf.load.load_test import LoadTest
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.launch import Server, ServerSpec, launch
from tritonsmith.perf.tokens.metrics import summarise_tokens
from tritonsmith.perf.tokens.prompts import PromptOptions, text_of
from tritonsmith.perf.tokens.run import TokenOptions, run_token_test
from tritonsmith.perf.tokens.tokenizer import tokenizer_from_file

pytestmark = pytest.mark.server

CONFIG = """backend: "vllm"
instance_group [{ count: 1 kind: KIND_MODEL }]
model_transaction_policy { decoupled: true }
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("weights") / "tiny.gguf")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Server]:
    if environment.vllm_ready() is None:
        pytest.skip("no packages for language models: tritonsmith server install --with vllm")
    repository = tmp_path_factory.mktemp("language_models")
    version = repository / "chat" / "1"
    version.mkdir(parents=True)
    (repository / "chat" / "config.pbtxt").write_text(CONFIG)
    arguments = {"model": "model.gguf", "max_num_seqs": 8, "dtype": "float32"}
    (version / "model.json").write_text(json.dumps(arguments))
    (version / "model.gguf").hardlink_to(weights)
    with launch(ServerSpec(repositories=(repository,), exit_timeout_s=0)) as running:
        yield running


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_token_of_the_live_backend_is_counted_and_timed(
    server: Server, weights: Path, protocol: str
) -> None:
    prompts = PromptOptions(isl=Span(24, 24), osl=Span(12, 12), count=8)
    test = LoadTest("chat", Closed(4), duration_s=None, requests=16, warmup_s=0.0, timeout_s=60.0)
    test = replace(test, protocol=protocol, grpc_url=server.grpc_url, goodput_ms={"ttft": 30_000.0})  # type: ignore[arg-type]
    options = TokenOptions(prompts, tokenizer=weights, sampling={"temperature": 0.0})
    result = run_token_test(server.http_url, test, options)
    assert not result.records.failures()
    found = summarise_tokens(result.records, result.summary)
    assert found.counted_by == {"server": 16} and found.output_lengths == {"min": 12, "mean": 12, "max": 12}
    assert found.input_lengths["mean"] == 24, "a GGUF file's own tokenizer is the model's"
    records = (
        result.records
    )  # the tiny model's tokens may all be parts of one character, which comes at the end
    assert (records.sent_ns < records.first_byte_ns).all()
    assert (records.first_byte_ns <= records.last_response_ns).all()  # type: ignore[operator]
    assert result.server is not None and result.server.requests == 16
    assert result.summary.goodput is not None and result.summary.goodput.share == 1


def test_a_gguf_files_tokenizer_gives_texts_back(weights: Path) -> None:
    tokenizer = tokenizer_from_file(weights)
    text = "the server écrit 12 tokens, <|im_end|> and more"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.count("<|im_end|>") == 1
    assert text_of([{"role": "user", "content": [{"type": "text", "text": "a"}]}]) == "a"
