"""Starting, telling, and ending servers: embedded ones live, docker by its command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.http as httpclient

from tests import onnx_models
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.base.errors import ServerError, ToolError, UsageError
from tritonsmith.perf.commands.serving.serve import state_of
from tritonsmith.perf.server import control, embedded
from tritonsmith.perf.server.control import IndexRow
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.environment.canary import Canary
from tritonsmith.perf.server.launch import Server, ServerSpec, kind_from_text, launch
from tritonsmith.perf.server.process.command import docker_command
from tritonsmith.perf.server.process.ports import Ports, choose_ports, is_port_lost
from tritonsmith.perf.server.server import refusals_from

ONE_CPU = "instance_group { count: 1 kind: KIND_CPU }\n"
SHM = Path("/dev/shm")
server_mark = pytest.mark.server


def ask(http_url: str, model: str, x: float) -> float:
    with httpclient.InferenceServerClient(http_url) as client:
        tensor = httpclient.InferInput("x", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.array([[x]], np.float32))
        return float(client.infer(model, [tensor]).as_numpy("y")[0, 0])


def eventually(true: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return true()


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def regions_of(server_pid: int) -> set[str]:
    """The shared memory the server has mapped."""
    return {
        Path(m.path).name for m in psutil.Process(server_pid).memory_maps() if m.path.startswith("/dev/shm/")
    }


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A repository with a model that serves, one whose file is broken, one whose config is."""
    onnx_models.add_model(tmp_path, "good", onnx_models.affine(["b", 1]), ONE_CPU)
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"junk")
    (tmp_path / "unparsed" / "1").mkdir(parents=True)
    (tmp_path / "unparsed" / "config.pbtxt").write_text("max_batch: 4\n")
    return tmp_path


@server_mark
def test_a_refused_model_is_told_of_and_the_others_serve(mixed: Path) -> None:
    begun = time.monotonic()
    with launch(ServerSpec(repositories=(mixed,))) as server:
        assert time.monotonic() - begun < 10
        assert server.version == "2.51.0"
        assert ask(server.http_url, "good", 3) == 7
        assert "nv_inference_request_success" in control.metrics_text(server.metrics_url)
        refusals = server.refusals()
        assert set(refusals) == {"broken", "unparsed"}
        assert "InvalidProtobuf" in refusals["broken"]
        assert 'no field named "max_batch"' in refusals["unparsed"]
        # The traceback of our own backend is not the user's business.
        assert "At:" not in refusals["broken"]
        told = {m["name"]: m["rules"] for m in state_of(server, (mixed,))["models"]}
        assert told["broken"] == ["ONNX002"] and told["unparsed"] == ["REPO001"], (
            "refusals lead to the linter's rules"
        )
        # Nothing of the self-check is left: the index is the user's repository and no more.
        assert {row.name for row in control.repository_index(server.http_url)} == {
            "good",
            "broken",
            "unparsed",
        }
        assert server.pid is not None
        processes, regions = family(server.pid), regions_of(server.pid)
        assert regions
        log = server.log_path
        assert log is not None and log.exists()
    assert not server.alive()
    assert running(processes) == []
    assert not log.exists()
    assert {p.name for p in SHM.iterdir()} & regions == set()


def ensemble(repository: Path, name: str, *steps: str, reads: str = "x") -> None:
    """raw[4] → the steps in a row → done[4], all FP32."""
    tensors = ["raw", *(f"t{i}" for i in range(1, len(steps))), "done"]
    rows = "".join(
        f'step {{ model_name: "{step}" model_version: -1 input_map {{ key: "{reads}" value: "{given}" }} '
        f'output_map {{ key: "y" value: "{made}" }} }}\n'
        for step, given, made in zip(steps, tensors, tensors[1:], strict=False)
    )
    (repository / name / "1").mkdir(parents=True)
    io = '{ name: "%s" data_type: TYPE_FP32 dims: [4] }\n'
    (repository / name / "config.pbtxt").write_text(
        f'platform: "ensemble"\nmax_batch_size: 4\ninput {io % "raw"}output {io % "done"}'
        f"ensemble_scheduling {{\n{rows}}}\n"
    )


@server_mark
def test_what_refused_an_ensemble_is_told_with_the_one_rule_behind_it(tmp_path: Path) -> None:
    """The index says nothing of these; and it does not even name a model without versions."""
    batching = "max_batch_size: 4\n" + ONE_CPU
    onnx_models.add_model(tmp_path, "four", onnx_models.affine(["b", 4]), batching)
    wrong = 'input { name: "x" data_type: TYPE_INT32 dims: [4] }\n'
    onnx_models.add_model(tmp_path, "bad", onnx_models.affine(["b", 4]), batching + wrong)
    onnx_models.add_model(tmp_path, "five", onnx_models.affine(["b", 5]), batching)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    ensemble(tmp_path, "fine", "four")
    ensemble(tmp_path, "dims", "four", "five")
    ensemble(tmp_path, "of_a_refused_one", "four", "bad")
    ensemble(tmp_path, "of_an_ensemble", "of_a_refused_one")
    ensemble(tmp_path, "of_nothing", "nowhere")
    ensemble(tmp_path, "circle", "circle")
    ensemble(tmp_path, "unmapped", "four", reads="z")
    with launch(ServerSpec(repositories=(tmp_path,))) as server:
        state = state_of(server, (tmp_path,))
    told = {m["name"]: (m["state"], m["reason"], m["rules"]) for m in state["models"]}
    assert {name for name, (state, *_) in told.items() if state == "READY"} == {"four", "five", "fine"}
    expected = {
        "dims": ("inconsistent shape: [-1,4] is inferred from model four while [-1,5]", ["ENS021"]),
        "of_a_refused_one": ("configuration expects datatype TYPE_INT32", ["IO014"]),
        "of_an_ensemble": ("depends on 'of_a_refused_one' which is not valid", ["IO014"]),
        "of_nothing": ("models that are not available or ambiguous: nowhere", ["ENS014"]),
        "circle": ("circular dependency", ["ENS024"]),
        # Its input `x` is left without a tensor, too (ENS017), which is not what Triton tells of.
        "unmapped": ("is mapping to non-existing input z in model four", ["ENS016"]),
        "empty": ("at least one version must be available", ["REPO003"]),
    }
    for name, (words, rules) in expected.items():
        assert told[name][0] == "REFUSED" and words in told[name][1], told[name]
        assert told[name][2] == rules, name
        assert "\nAt:" not in told[name][1], "the traceback of our own backend is not the user's business"
    assert told["bad"][2] == ["IO014"]


@server_mark
def test_poll_mode_sees_what_comes_and_goes(tmp_path: Path) -> None:
    onnx_models.add_model(tmp_path, "first", onnx_models.affine(["b", 1]), ONE_CPU)
    with launch(ServerSpec(repositories=(tmp_path,), model_control="poll", exit_timeout_s=0)) as server:
        assert ask(server.http_url, "first", 1) == 3
        staged = tmp_path.parent / "staged"
        onnx_models.add_model(staged, "second", onnx_models.affine(["b", 1], scale=4), ONE_CPU)
        (staged / "second").rename(tmp_path / "second")
        assert eventually(lambda: control.is_model_ready(server.http_url, "second"))
        assert ask(server.http_url, "second", 1) == 5
        shutil.rmtree(tmp_path / "first")
        assert eventually(lambda: not control.is_model_ready(server.http_url, "first"))


SLOW_MODEL = """
import time
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(1)
        return [pb.InferenceResponse([pb.Tensor("y", r.inputs()[0].as_numpy() + 1)]) for r in requests]
"""


@server_mark
def test_a_stop_lets_requests_in_flight_finish_and_the_response_cache_answers(tmp_path: Path) -> None:
    (tmp_path / "slow" / "1").mkdir(parents=True)
    (tmp_path / "slow" / "1" / "model.py").write_text(SLOW_MODEL)
    (tmp_path / "slow" / "config.pbtxt").write_text(
        'backend: "python"\nmax_batch_size: 4\nresponse_cache { enable: true }\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [1] }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: [1] }\n' + ONE_CPU
    )
    spec = ServerSpec(repositories=(tmp_path,), cache_size_bytes=2**20)
    with ThreadPoolExecutor(1) as pool:
        with launch(spec) as server:
            assert [ask(server.http_url, "slow", 1) for _ in range(3)] == [2, 2, 2]
            statistics = control.model_statistics(server.http_url, "slow")[0]
            assert statistics["execution_count"] == 1
            assert statistics["inference_stats"]["cache_hit"]["count"] == 2
            in_flight = pool.submit(ask, server.http_url, "slow", 5)
            # The stub has it when the second execution is under way: its request no longer waits.
            time.sleep(0.3)
        assert in_flight.result() == 6
    assert server.exit_code == 0


PARENT = """
import json, sys, time
from pathlib import Path
from tritonsmith.perf.server.launch import ServerSpec, launch

with launch(ServerSpec(repositories=(Path(sys.argv[1]),), exit_timeout_s=0)) as server:
    print(json.dumps({"pid": server.pid, "work_dir": str(server.log_path.parent)}), flush=True)
    time.sleep(600)
"""


@server_mark
def test_kill_9_of_the_parent_leaves_nothing(tmp_path: Path) -> None:
    onnx_models.add_model(tmp_path, "good", onnx_models.affine(["b", 1]), ONE_CPU)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        told = json.loads(parent.stdout.readline())
        processes = family(parent.pid)[1:]
        regions = regions_of(told["pid"])
        assert told["pid"] in {p.pid for p in processes}
        assert len(processes) >= 3  # the guard, the server, a stub
        assert regions
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert eventually(lambda: running(processes) == [])
        assert eventually(lambda: not {p.name for p in SHM.iterdir()} & regions)
        assert eventually(lambda: not Path(told["work_dir"]).exists())


@server_mark
def test_kill_9_of_the_server_is_seen_and_leaves_nothing(tmp_path: Path) -> None:
    onnx_models.add_model(tmp_path, "good", onnx_models.affine(["b", 1]), ONE_CPU)
    with launch(ServerSpec(repositories=(tmp_path,))) as server:
        assert server.pid is not None
        processes, regions = family(server.pid), regions_of(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: not server.alive())
        assert server.exit_code == 128 + signal.SIGKILL
        assert eventually(lambda: running(processes) == [])
        assert not {p.name for p in SHM.iterdir()} & regions


def serving(repository: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tritonsmith", "serve", str(repository), "--format", "json"),
            *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", *flags),
        ],
        # Unbuffered output would hide a missing flush.
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def first_json(stream: Any) -> dict[str, Any]:
    """The first JSON object of a stream that stays open."""
    text = ""
    for line in stream:
        text += line
        if line.rstrip() == "}":
            break
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@server_mark
@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 0, marks=pytest.mark.nightly), (signal.SIGINT, 130)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_serve_tells_what_it_serves_and_ends_when_asked(mixed: Path, number: int, code: int) -> None:
    with serving(mixed, "--", "--log-verbose=1") as process:
        told = first_json(process.stdout)
        states = {m["name"]: (m["version"], m["state"]) for m in told["models"]}
        assert states == {"broken": ("1", "UNAVAILABLE"), "good": ("1", "READY"), "unparsed": ("", "REFUSED")}
        assert "max_batch" in next(m["reason"] for m in told["models"] if m["name"] == "unparsed")
        assert ask(told["http_url"].removeprefix("http://"), "good", 2) == 5
        assert "--log-verbose=1" in psutil.Process(told["pid"]).cmdline()
        processes = family(told["pid"])
        process.send_signal(number)
        assert process.wait(20) == code
        assert running(processes) == []


@server_mark
def test_serve_exits_3_when_the_server_dies(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        told = first_json(process.stdout)
        assert told["models"] == []
        os.kill(told["pid"], signal.SIGKILL)
        assert process.wait(20) == 3
        assert process.stderr is not None
        assert "server_died" in process.stderr.read()


def test_a_requested_port_that_is_taken_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with (
            pytest.raises(ServerError) as caught,
            launch(ServerSpec(repositories=(tmp_path,), grpc_port=port)),
        ):
            pass
    assert caught.value.code == "port_taken"
    assert caught.value.exit_code == 3
    assert f"the gRPC port {port} is in use" in caught.value.message


def test_free_ports_are_three_different_ones_and_requested_ones_are_kept() -> None:
    ports = choose_ports(None, None, None)
    assert len({ports.http, ports.grpc, ports.metrics}) == 3
    assert choose_ports(None, ports.grpc, None).grpc == ports.grpc


def test_a_repository_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="not a directory"),
        launch(ServerSpec(repositories=(tmp_path / "x",))),
    ):
        pass


@server_mark
def test_the_reason_of_a_server_that_cannot_start_is_in_the_error(tmp_path: Path) -> None:
    spec = ServerSpec(repositories=(tmp_path,), extra_args=("--no-such-flag",))
    with pytest.raises(ServerError) as caught, launch(spec):
        pass
    assert caught.value.code == "server_died"
    assert "no-such-flag" in str(caught.value.seen)


@server_mark
def test_a_local_binary_without_backends_gets_ours(tmp_path: Path) -> None:
    parts = embedded.locate(environment.ensure())
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.symlink_to(parts.binary)
    repository = tmp_path / "repository"
    onnx_models.add_model(repository, "good", onnx_models.affine(["b", 1]), ONE_CPU)
    spec = ServerSpec(kind="binary", reference=str(binary), repositories=(repository,), exit_timeout_s=0)
    with launch(spec) as server:
        assert ask(server.http_url, "good", 3) == 7
    with (
        pytest.raises(ToolError, match="not an executable"),
        launch(ServerSpec(kind="binary", reference=str(tmp_path / "none"))),
    ):
        pass


@server_mark
def test_an_attached_server_is_used_and_never_stopped(triton: LiveTriton) -> None:
    with launch(ServerSpec(kind="attached", reference=f"http://{triton.http_url}", grpc_port=1)) as server:
        assert server.version == "2.51.0"
        assert server.http_url == triton.http_url
        assert server.grpc_url == "127.0.0.1:1"
        assert (server.pid, server.alive()) == (None, True)
        server.stop()
    assert triton.server.alive()
    port = choose_ports(None, None, None).http
    with (
        pytest.raises(ServerError, match="no ready Triton"),
        launch(ServerSpec(kind="attached", reference=f"http://127.0.0.1:{port}")),
    ):
        pass


@pytest.fixture
def canary_with(tmp_path: Path) -> Iterator[Callable[[Callable[[str], str]], Canary]]:
    """A canary whose onnxruntime backend has been edited."""
    started: list[Canary] = []

    def start(edit: Callable[[str], str]) -> Canary:
        python = environment.ensure()
        parts = embedded.locate(python)
        backends = embedded.lay_out_backends(parts, tmp_path / "backends")
        model = backends / "onnxruntime" / "model.py"
        edited = edit(model.read_text())
        model.write_text(edited)
        env = embedded.variables(python, os.environ, tmp_path / "lib")
        started.append(Canary(parts.binary, backends, env, tmp_path / "canary", f"canarytest_{os.getpid()}_"))
        return started[0]

    yield start
    for canary in started:
        canary.stop()


def swap(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@server_mark
@pytest.mark.parametrize(
    ("edit", "says", "numpy_is_blamed"),
    [
        # What numpy 2 does to as_numpy(): every element is the first.
        (
            lambda t: swap(t, "tensor.as_numpy()", "np.full_like(a := tensor.as_numpy(), a.flat[0])"),
            "returned other BOOL values",
            True,
        ),
        # What numpy 2 does to Tensor(): nothing is sent.
        pytest.param(
            lambda t: swap(t, "pb.Tensor(name, share[name])", "pb.Tensor(name, share[name][:0])"),
            "no data",
            True,
            marks=pytest.mark.nightly,
        ),
        (lambda t: "import no_such_package\n" + t, "no_such_package", False),
        pytest.param(
            lambda t: swap(t, "feeds = []\n", "raise SystemError('boom')\n"),
            "boom",
            True,
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["first element repeated", "empty outputs", "import fails", "execute fails"],
)
def test_the_canary_notices(
    canary_with: Callable[[Callable[[str], str]], Canary],
    edit: Callable[[str], str],
    says: str,
    numpy_is_blamed: bool,
) -> None:
    canary = canary_with(edit)
    with pytest.raises(ServerError) as caught:
        canary.verify(time.monotonic() + 30)
    assert caught.value.code == "canary_failed"
    assert says in str(caught.value)
    assert ("numpy<2" in str(caught.value.fix)) == numpy_is_blamed


@server_mark
def test_a_canary_without_an_answer_blames_the_busy_machine(
    canary_with: Callable[[Callable[[str], str]], Canary],
) -> None:
    canary = canary_with(lambda t: swap(t, "feeds = []\n", "feeds = __import__('time').sleep(4) or []\n"))
    with pytest.raises(ServerError) as caught:
        canary.verify(time.monotonic() + 30, answer_s=0.5)
    assert (caught.value.code, caught.value.seen) == ("canary_failed", "nothing within 0.5 s")
    assert "busy" in str(caught.value.fix) and "numpy" not in str(caught.value.fix)


def test_docker_gets_loopback_ports_a_read_only_repository_and_a_name(tmp_path: Path) -> None:
    spec = ServerSpec(
        kind="docker",
        reference="nvcr.io/nvidia/tritonserver:26.08-py3",
        repositories=(tmp_path,),
        model_control="explicit",
        load_models=("a", "b"),
        cache_size_bytes=1024,
        gpus=True,
        extra_args=("--log-verbose=1",),
    )
    command = docker_command(spec, Ports(9000, 9001, 9002), "tritonsmith-x")
    assert (
        command
        == textwrap.dedent(
            f"""\
        docker run --rm --name tritonsmith-x --shm-size=1g --gpus all
        -p 127.0.0.1:9000:8000 -p 127.0.0.1:9001:8001 -p 127.0.0.1:9002:8002
        --mount type=bind,source={tmp_path},target=/models,readonly
        nvcr.io/nvidia/tritonserver:26.08-py3 tritonserver --model-repository=/models
        --model-control-mode=explicit --exit-on-error=false --strict-readiness=false
        --exit-timeout-secs=5 --load-model=a --load-model=b --cache-config=local,size=1024
        --log-verbose=1"""
        ).split()
    )
    assert "--gpus" not in docker_command(ServerSpec(kind="docker", reference="i"), Ports(1, 2, 3), "n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedded", ("embedded", "")),
        ("binary:/opt/tritonserver/bin/tritonserver", ("binary", "/opt/tritonserver/bin/tritonserver")),
        ("docker:nvcr.io/nvidia/tritonserver:26.08-py3", ("docker", "nvcr.io/nvidia/tritonserver:26.08-py3")),
        ("http://gpu-box:8000", ("attached", "http://gpu-box:8000")),
    ],
)
def test_launch_kinds_are_read_from_text(text: str, expected: tuple[str, str]) -> None:
    assert kind_from_text(text) == expected


@pytest.mark.parametrize("flag", ["--http-port=1", "--model-repository", "--grpc-address=0.0.0.0"])
def test_flags_of_ours_are_not_taken_from_the_extra_arguments(tmp_path: Path, flag: str) -> None:
    spec = ServerSpec(repositories=(tmp_path,), extra_args=(flag,))
    with pytest.raises(UsageError) as caught, launch(spec):
        pass
    assert caught.value.code == "reserved_argument"
    assert caught.value.seen == flag


# What tritonserver 2.51 says when a port was taken between our look and its own.
@pytest.mark.parametrize("service", ["HTTP", "GRPC", "Metrics"])
def test_a_port_lost_at_the_last_moment_is_told_from_other_ends(service: str) -> None:
    said = f"main.cc:257] \"failed to start {service} service: Unavailable - Socket '127.0.0.1:1' already in use \""
    assert is_port_lost(said)
    assert not is_port_lost(f"failed to start {service} service: no such certificate")
    assert not is_port_lost(None)


@pytest.mark.parametrize(
    ("words", "starts"),
    [("boost::interprocess::lock_exception", 3), ("std::bad_alloc", 1)],
    ids=["race", "other"],
)
def test_an_abort_that_the_next_start_may_not_meet_is_followed_by_another(
    tmp_path: Path, words: str, starts: int
) -> None:
    binary = tmp_path / "server" / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    (tmp_path / "server" / "backends").mkdir()
    binary.write_text(
        f"#!/bin/sh\necho x >> '{tmp_path}/starts'\n"
        f"echo \"terminate called after throwing an instance of '{words}'\" >&2\nkill -ABRT $$\n"
    )
    binary.chmod(0o755)
    (tmp_path / "models").mkdir()
    spec = ServerSpec(kind="binary", reference=str(binary), repositories=(tmp_path / "models",))
    with pytest.raises(ServerError, match="before it was ready") as caught, launch(spec):
        pass
    assert words in str(caught.value.seen)
    assert len((tmp_path / "starts").read_text().split()) == starts


@pytest.mark.parametrize("text", ["", "binary:", "docker:", "podman:x", "localhost:8000"])
def test_an_unknown_launch_kind_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        kind_from_text(text)
    assert caught.value.code == "unknown_launch"


def test_refusals_come_from_the_index_and_from_the_log() -> None:
    index = [
        IndexRow("serving", "2", "READY", ""),
        IndexRow("serving", "1", "UNAVAILABLE", "unloaded"),
        IndexRow("half", "1", "UNAVAILABLE", "Internal: no"),
        IndexRow("half", "2", "READY", ""),
        IndexRow("left", "1", "UNAVAILABLE", "unloaded"),
        IndexRow("failed", "1", "UNAVAILABLE", "Internal: bad file"),
        IndexRow("unparsed", "", "", ""),
        IndexRow("misnamed", "", "", ""),
        IndexRow("asleep", "", "", ""),
        IndexRow("pipe", "", "", ""),
        IndexRow("pipe of 2", "", "", ""),
    ]
    log = (
        "[libprotobuf ERROR /x/text_format.cc:335] "
        "Error parsing text-format inference.ModelConfig: 1:4: no field\n"
        'E1121 03:37:38.981704 9303 model_repository_manager.cc:1460] "Poll failed for model directory '
        "'unparsed': failed to read text proto from /r/unparsed/config.pbtxt\"\n"
        'E1121 03:37:38.981704 9303 model_repository_manager.cc:1460] "Poll failed for model directory '
        "'misnamed': unexpected directory name\"\n"
        'E1129 00:41:32.264601 18338 model_repository_manager.cc:703] "Invalid argument: in ensemble pipe of 2, '
        'ensemble tensor \\"t\\": inconsistent shape"\n'
        "E1129 00:45:27.931802 30649 model_repository_manager.cc:724] \"failed to load model 'empty': at least one "
        'version"\n'
        "E1129 00:45:27.931802 30649 model_repository_manager.cc:724] \"failed to load model 'left': at least one "
        'version"\n'
    )
    assert refusals_from(index, log) == {
        "empty": "at least one version",
        "failed": "Internal: bad file",
        "misnamed": "unexpected directory name",
        "unparsed": "failed to read text proto from /r/unparsed/config.pbtxt "
        "(Error parsing text-format inference.ModelConfig: 1:4: no field)",
        "pipe of 2": 'in ensemble pipe of 2, ensemble tensor "t": inconsistent shape',
    }


def test_an_attached_server_has_no_process() -> None:
    server = Server(host="h", ports=Ports(1, 2, 3))
    assert (server.http_url, server.grpc_url, server.metrics_url) == ("h:1", "h:2", "h:3")
    assert (server.pid, server.exit_code) == (None, None)
