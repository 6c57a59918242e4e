"""A spec with `source: {llm: …}`, built as for production → the embedded server answers from the repository as it is."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.tiny_gguf import tiny_gguf
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.context import BuildOptions
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.launch import ServerSpec, launch

pytestmark = [pytest.mark.server, pytest.mark.nightly]

SPEC = """models:
  chat:
    source: {llm: größe.gguf}
    engine: {max_model_len: 512, max_num_seqs: 4, dtype: float32, gpu_memory_utilization: 0.5}
    parameters: {REPORT_CUSTOM_METRICS: "yes"}
"""


def test_what_is_built_for_production_is_served_here_and_nothing_is_completed(tmp_path: Path) -> None:
    if environment.vllm_ready() is None:
        pytest.skip("no packages for language models: tritonsmith server install --with vllm")
    tiny_gguf(tmp_path / "größe.gguf")
    (tmp_path / "models.yaml").write_text(SPEC)
    assert not build(BuildOptions(tmp_path / "models.yaml", cache=Cache(tmp_path / "cache"))).errors
    repository = tmp_path / "model_repository"
    model = json.loads((repository / "chat" / "1" / "model.json").read_text())["model"]
    assert model == "/models/chat/1/größe.gguf" and not Path(model).exists()
    spec = ServerSpec(
        repositories=(repository,), extra_args=("--disable-auto-complete-config",), exit_timeout_s=0
    )
    with launch(spec) as server:
        asked = {
            "text_input": "Tell me",
            "sampling_parameters": json.dumps({"max_tokens": 5, "temperature": 0, "ignore_eos": True}),
            "return_num_output_tokens": True,
        }
        url = f"http://{server.http_url}/v2/models/chat/generate"
        request = urllib.request.Request(url, json.dumps(asked).encode(), method="POST")
        answer = json.load(urllib.request.urlopen(request, timeout=30))
    assert answer["num_output_tokens"] == 5 and answer["text_output"]
