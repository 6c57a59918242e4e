"""`source: {llm: DIRECTORY}` of a Hugging Face model, converted once → served, and token by token what transformers says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builder.llm.test_weights import decoder
from tests.mounts import can_mount
from tests.tiny_gguf import tiny_gguf
from tests.tiny_huggingface import greedy, tiny_huggingface
from tritonsmith.builder.base.errors import ToolError
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.context import BuildOptions
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.perf.server import control
from tritonsmith.perf.server.embedded import OUR_BACKENDS
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.launch import Server, ServerSpec, launch

PROGRAM = OUR_BACKENDS / "vllm" / "vllm_convert.py"
# A stub's own encoding is ASCII.
NAME = "mon-modèle"
SPEC = f"""models:
  chat:
    source: {{llm: ./{NAME}}}
    engine: {{max_model_len: 256, max_num_seqs: 4, dtype: float32}}
"""
PROMPTS = ("Tell me a story", "What is the capital of France?", "1 2 3")
TOKENS = 24


def repository_of(tmp_path: Path) -> Path:
    (tmp_path / "models.yaml").write_text(SPEC)
    assert not build(BuildOptions(tmp_path / "models.yaml", cache=Cache(tmp_path / "artifacts"))).errors
    return tmp_path / "model_repository"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where conversions are kept."""
    monkeypatch.setenv("TRITONSMITH_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "openvino"


@pytest.fixture
def converter() -> str:
    layer = environment.optimum_ready()
    if layer is None:
        pytest.skip("nothing that converts: tritonsmith server install --with optimum")
    return str(layer.python_path)


def asked(prompt: str, **more: Any) -> bytes:
    sampling = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "logprobs": 1}
    return json.dumps(
        {"text_input": prompt, "sampling_parameters": json.dumps(sampling), "return_logprobs": True, **more}
    ).encode()


def post(server: Server, verb: str, body: bytes) -> Iterator[dict[str, Any]]:
    url = f"http://{server.http_url}/v2/models/chat/{verb}"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            if text := line.strip().removeprefix(b"data: "):
                yield json.loads(text)


def ids_of(answer: dict[str, Any]) -> list[int]:
    told = answer["logprobs"]
    rows = json.loads(told[0] if isinstance(told, list) else told)
    return [int(index) for row in rows for index in row]


def listed(kept: Path) -> list[str]:
    return sorted(path.name for path in kept.iterdir() if path.is_dir())


@pytest.mark.server
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_directory_is_served_and_answers_as_transformers_does_token_by_token(
    tmp_path: Path, kept: Path, converter: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny_huggingface(tmp_path / NAME)
    repository = repository_of(tmp_path)
    with launch(ServerSpec(repositories=(repository,), exit_timeout_s=0)) as server:
        for prompt in PROMPTS:
            ids, text = greedy(model, prompt, TOKENS)
            (answer,) = post(server, "generate", asked(prompt, exclude_input_in_output=True))
            assert (ids_of(answer), answer["text_output"]) == (ids, text)
            parts = list(post(server, "generate_stream", asked(prompt, stream=True)))
            assert [i for part in parts for i in ids_of(part)] == ids
            assert "".join(part["text_output"] for part in parts) == text and len(parts) > 1
    assert f"{NAME} was converted for OpenVINO in" in capfd.readouterr().err
    (first,) = listed(kept)

    # Once: the next server finds it, also when the repository was laid out anew.
    (repository / "chat" / "config.pbtxt").unlink()
    assert repository_of(tmp_path) == repository
    with launch(ServerSpec(repositories=(repository,), exit_timeout_s=0)) as server:
        (answer,) = post(server, "generate", asked(PROMPTS[0]))
        assert ids_of(answer) == greedy(model, PROMPTS[0], TOKENS)[0]
    assert listed(kept) == [first] and "was converted" not in capfd.readouterr().err

    # Other weights are another conversion, by whoever loads them: here the running server.
    with launch(ServerSpec(repositories=(repository,), model_control="explicit", exit_timeout_s=0)) as server:
        tiny_huggingface(tmp_path / NAME, seed=1, dtype="bfloat16")
        repository_of(tmp_path)
        control.load_model(server.http_url, "chat")
        (answer,) = post(server, "generate", asked(PROMPTS[1]))
        assert ids_of(answer) == greedy(model, PROMPTS[1], TOKENS)[0]
    assert len(listed(kept)) == 2


@pytest.mark.server
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_two_at_once_convert_once_and_one_that_is_killed_leaves_nothing_that_counts(
    tmp_path: Path, kept: Path, converter: str
) -> None:
    model = tiny_huggingface(tmp_path / NAME)
    command = [converter, "-E", str(PROGRAM), "convert", str(model)]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list(kept.glob(".making-*")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not listed(kept)[1:] and list(kept.glob(".making-*"))
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate() for process in both]
    assert told[0][0] == told[1][0] and [process.returncode for process in both] == [0, 0]
    assert sorted(b"Loading weights" in errors for _, errors in told) == [False, True]
    assert len(listed(kept)) == 1 and not list(kept.glob(".making-*"))


def test_without_what_converts_it_says_the_command_before_a_server_starts(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (vllm := environment.vllm_ready()) is None:
        pytest.skip("no packages for language models: tritonsmith server install --with vllm")
    from tritonsmith.perf.server.environment.conversion import convert_ahead

    decoder(tmp_path / NAME)
    repository = repository_of(tmp_path)
    empty = tmp_path / "optimum.txt"
    empty.write_text("")
    monkeypatch.setattr(environment, "OPTIMUM", empty)  # a list that nothing was installed from
    assert convert_ahead([repository], ("other",), vllm) == {}
    with pytest.raises(ToolError) as caught:
        convert_ahead([repository], None, vllm)
    assert (caught.value.code, caught.value.exit_code) == ("optimum_missing", 3)
    assert "tritonsmith server install --with optimum" in str(caught.value.fix)
    assert str(caught.value.seen) == str(repository / "chat" / "1" / NAME)

    # Version 1 is not served any more, so nothing is converted for it.
    newer = repository / "chat" / "2"
    newer.mkdir()
    (newer / "model.json").write_text(json.dumps({"model": tiny_gguf(newer / "m.gguf").name}))
    assert convert_ahead([repository], None, vllm) == {}


@pytest.mark.skipif(not can_mount(), reason="needs a file system of its own")
def test_a_disk_without_room_is_told_before_anything_is_converted(tmp_path: Path) -> None:
    if (vllm := environment.vllm_ready()) is None:
        pytest.skip("no packages for language models: tritonsmith server install --with vllm")
    model = decoder(tmp_path / NAME)
    (tmp_path / "small").mkdir()
    script = (
        'mount -t tmpfs -o size=1m none "$1" && TRITONSMITH_CACHE="$1" "$2" -E "$3" convert "$4"'
        '; code=$?; ls "$1/openvino"; exit $code'
    )
    ran = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", tmp_path / "small", vllm.python_path, PROGRAM, model],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "MiB are free there: make room, or name another directory in TRITONSMITH_CACHE" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_digests_that_a_full_disk_does_not_take_leave_nothing_behind(tmp_path: Path) -> None:
    program = (
        "import pathlib, resource, sys, vllm_convert\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))\n"
        "vllm_convert._write_digests(pathlib.Path(sys.argv[1]), {sys.argv[1]: ['a digest'] * 9})"
    )
    command = [sys.executable, "-B", "-c", program, str(tmp_path)]
    assert subprocess.run(command, cwd=PROGRAM.parent, check=False).returncode == 0
    assert not list(tmp_path.iterdir())
