"""Exports in their child process: what comes back, and that nothing stays behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.actions.export import (
    ExportRequest,
    ExportResult,
    run_export,
)
from tritonsmith.builder.base.errors import BuildError, ExportError, ToolError, TritonsmithError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config

ROOT = Path(__file__).resolve().parents[4]
FP32 = dtype_from_config("TYPE_FP32")

NET = """
import json
import sys
from pathlib import Path

import torch
from helpers.layers import Layer

WEIGHTS = Path(__file__).with_name("weights.bin")


def load():
    print("loading", sys.stdin.read())
    layer = Layer()
    with torch.no_grad():
        layer.weight.copy_(torch.frombuffer(bytearray(WEIGHTS.read_bytes()), dtype=torch.float32).reshape(3, 4))
    return layer, torch.randn(2, 4)


def samples():
    return [{"input": [[float(v) for v in row]]} for row in json.loads(Path("rows.json").read_text())]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that reads weights, a helper module and, for its samples, a JSON file in its working directory."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "helpers").mkdir()
    (directory / "helpers" / "layers.py").write_text(
        "import torch\n\n\nclass Layer(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(4, 3, bias=False)\n"
    )
    (directory / "unused.py").write_text("raise RuntimeError\n")
    (directory / "net.py").write_text(
        NET.replace('[{"input": [[', '[{"input": torch.tensor([[').replace(
            "for v in row]]}", "for v in row]])}"
        )
    )
    (directory / "weights.bin").write_bytes(b"".join(bytes([0, 0, 128, 63]) for _ in range(12)))
    (directory / "rows.json").write_text("[[1, 2, 3, 4], [0, 0, 0, 0], [5, 5, 5, 5]]")
    return directory


@pytest.fixture(scope="module")
def exported(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportResult, Path]:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    out = tmp_path_factory.mktemp("exported")
    request = ExportRequest(
        "net",
        "torch",
        "net:load",
        str(project),
        max_batch_size=4,
        samples="net:samples",
        sample_batch_sizes=(1, 3, 4),
    )
    return run_export(request, out / "made" / "here", out / "logs" / "net.log"), out


def test_a_torch_source_comes_back_whole(exported: tuple[ExportResult, Path], project: Path) -> None:
    result, out = exported
    assert result.files == ("model.onnx",)
    assert result.inputs == (TensorSpec("input", FP32, ("batch", 4)),)
    assert result.outputs == (TensorSpec("output", FP32, ("batch", 3)),)
    assert result.accuracy.passed
    assert result.exporter == "dynamo"
    assert result.notes == (
        "Layer was in training mode: it is exported in evaluation mode, as after .eval()",
    )
    assert {"torch", "onnx", "onnxruntime", "python"} <= set(result.tools)
    assert sorted(path.name for path in (out / "made" / "here").iterdir()) == ["model.onnx", "samples.npz"]
    samples = load_samples(out / "made" / "here" / "samples.npz").samples
    assert {sample.inputs["input"].shape[0] for sample in samples} == {1, 3, 4}
    assert samples[0].outputs["output"].tolist() == [[10.0, 10.0, 10.0]]
    assert ExportResult.from_dict(json.loads(json.dumps(result.as_dict(), allow_nan=False))) == result


def test_its_dependencies_are_the_files_it_was_read_from(
    exported: tuple[ExportResult, Path], project: Path
) -> None:
    names = {str(Path(path).relative_to(project)) for path in exported[0].dependencies}
    assert names == {"net.py", "helpers/layers.py", "weights.bin", "rows.json"}


def test_what_the_source_prints_is_in_the_log_and_its_standard_input_is_empty(
    exported: tuple[ExportResult, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert "loading \n" in (exported[1] / "logs" / "net.log").read_text()
    assert capfd.readouterr() == ("", "")


def test_a_request_survives_json() -> None:
    request = ExportRequest(
        "m",
        "onnx",
        "a.onnx",
        "/x",
        inputs=(TensorSpec("x", FP32, ("n", -1, 3)),),
        dynamic_dims={"n": (1, 2, 3)},
        dim_relations={"m": "2*n"},
        output_names=("y",),
        exporter="torchscript",
    )
    assert ExportRequest.from_dict(json.loads(json.dumps(request.as_dict()))) == request


# ---- ends other than a result ------------------------------------------------------------------------------


def onnx_file(directory: Path) -> Path:
    """x → y = −x, quick to take over: no torch in the child."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    path = directory / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), str(path))
    return path


def with_samples(directory: Path, body: str) -> ExportRequest:
    """An export whose samples callable, in the child, does `body`."""
    onnx_file(directory)
    source = "import os\nimport signal\nimport subprocess\nimport time\nfrom pathlib import Path\nimport numpy as np\n\n\n"
    (directory / "data.py").write_text(
        source + "def samples():\n" + textwrap.indent(textwrap.dedent(body), "    ")
    )
    return ExportRequest("m", "onnx", "m.onnx", str(directory), samples="data:samples")


def raised(request: ExportRequest, directory: Path, timeout_s: float | None = None) -> TritonsmithError:
    with pytest.raises(TritonsmithError) as caught:
        run_export(request, directory / "out", directory / "m.log", timeout_s)
    return caught.value


def gone(pid: int) -> bool:
    """True when no such process runs any more; a zombie waits for its parent only."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(path: Path, timeout_s: float = 60) -> str:
    deadline = time.monotonic() + timeout_s
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} was never written"
        time.sleep(0.02)
    return path.read_text().strip()


def wait_gone(*pids: int, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {[pid for pid in pids if not gone(pid)]}"
        time.sleep(0.02)


def test_an_error_keeps_its_class_code_place_and_fix(tmp_path: Path) -> None:
    error = raised(with_samples(tmp_path, "return 1 / 0\n"), tmp_path)
    assert type(error) is ExportError
    assert error.code == "callable_failed"
    assert str(error.where) == f"{tmp_path / 'data.py'}:10"
    assert "ZeroDivisionError: division by zero" in error.message
    assert "Traceback" in (tmp_path / "m.log").read_text()
    assert "Traceback" not in str(error)


def test_a_child_killed_for_memory_is_said_to_be(tmp_path: Path) -> None:
    error = raised(with_samples(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)\n"), tmp_path)
    assert error.code == "export_killed"
    assert "signal 9" in error.message
    assert "memory" in error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)\n", "SIGSEGV", id="a crash in native code"),
        pytest.param("print('last words', flush=True)\nos._exit(7)\n", "exit status 7", id="os._exit"),
    ],
)
def test_a_child_that_vanishes(tmp_path: Path, body: str, words: str) -> None:
    error = raised(with_samples(tmp_path, body), tmp_path)
    assert error.code == "export_crashed"
    assert words in error.message
    assert str(error.where) == str(tmp_path / "m.log")
    if "last words" in body:
        assert error.seen == "last words"


HANG = """
grandchild = subprocess.Popen(["sleep", "600"])
Path("pids").write_text(f"{os.getpid()} {grandchild.pid}\\n")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


def test_a_timeout_ends_the_child_and_what_it_started(tmp_path: Path) -> None:
    onnx_file(tmp_path)
    error = raised(with_samples(tmp_path, HANG), tmp_path, timeout_s=6)
    assert error.code == "export_timeout"
    pids = [int(pid) for pid in wait_for(tmp_path / "pids").split()]
    assert all(gone(pid) for pid in pids)


def test_a_result_does_not_wait_for_what_the_source_left_running(tmp_path: Path) -> None:
    body = """
    if os.fork() == 0:
        time.sleep(600)
    return [{"x": np.ones((1, 3), np.float32)}]
    """
    started = time.monotonic()
    result = run_export(with_samples(tmp_path, body), tmp_path / "out", tmp_path / "m.log")
    assert result.accuracy.passed
    assert time.monotonic() - started < 60


DRIVER = """
import sys
from pathlib import Path
from tritonsmith.builder.actions.export import ExportRequest, run_export
directory = Path(sys.argv[1])
try:
    request = ExportRequest("m", "onnx", "m.onnx", str(directory), samples="data:samples")
    run_export(request, directory / "out", directory / "m.log")
except KeyboardInterrupt:
    sys.exit(130)
except Exception as error:
    print(type(error).__name__, getattr(error, "code", ""), getattr(error, "fix", ""))
    sys.exit(1)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that runs an export which hangs."""
    with_samples(tmp_path, HANG)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT, start_new_session=True
    )
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9 of the parent"])
def test_an_interrupted_parent_leaves_no_child(
    driver: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    child, grandchild = (int(pid) for pid in wait_for(tmp_path / "pids").split())
    driver.send_signal(number)
    assert driver.wait(20) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    try:
        wait_gone(child, grandchild)
    finally:
        if not gone(grandchild):
            os.kill(grandchild, signal.SIGKILL)
    assert not (tmp_path / "out" / "samples.npz").exists()


def test_torch_not_installed_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module path in front of site-packages in which torch is missing, as in an install without the extra."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "blocked"))
    error = raised(ExportRequest("m", "torch", "net:load", str(tmp_path)), tmp_path)
    assert isinstance(error, ToolError)
    assert error.code == "torch_missing"
    assert error.fix == "pip install 'tritonsmith[torch]'"


def test_a_users_module_named_like_a_library_does_not_replace_it(tmp_path: Path) -> None:
    request = with_samples(tmp_path, 'return [{"x": np.ones((1, 3), np.float32)}]\n')
    for name in ("onnx", "numpy", "onnxruntime", "builder"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong one')\n")
    assert run_export(request, tmp_path / "out", tmp_path / "m.log").accuracy.passed


def can_mount() -> bool:
    command = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_mount(), reason="needs unshare and a mount of its own")
@pytest.mark.parametrize("size_kib", [4, 64], ids=["full while copying", "full while writing the samples"])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, size_kib: int) -> None:
    with_samples(tmp_path, 'return [{"x": np.ones((20000, 3), np.float32)}]\n')
    proto = onnx.load(str(tmp_path / "m.onnx"))
    proto.doc_string = "x" * 20_000
    onnx.save(proto, str(tmp_path / "m.onnx"))
    (tmp_path / "out").mkdir()
    script = f'mount -t tmpfs -o size={size_kib}k none "$1/out" && "$2" -c "$3" "$1"; code=$?; ls -A "$1/out"; exit $code'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, DRIVER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.startswith("BuildError disk_full free space"), done.stdout + done.stderr
    assert ".tmp" not in done.stdout
    assert "samples.npz" not in done.stdout


def test_disk_full_is_a_build_error(tmp_path: Path) -> None:
    """A source that itself meets a full disk: /dev/full answers every write with ENOSPC."""
    body = """
    with open("/dev/full", "w") as file:
        file.write("x" * 100000)
    """
    error = raised(with_samples(tmp_path, body), tmp_path)
    assert type(error) is BuildError
    assert error.code == "disk_full"


def test_a_failing_log_directory_is_reported_by_the_parent(tmp_path: Path) -> None:
    onnx_file(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        run_export(
            ExportRequest("m", "onnx", "m.onnx", str(tmp_path)), tmp_path / "out", tmp_path / "file" / "m.log"
        )


def test_exports_side_by_side_do_not_meet(tmp_path: Path) -> None:
    results: dict[int, Any] = {}

    def run(index: int) -> None:
        directory = tmp_path / str(index)
        directory.mkdir()
        request = with_samples(directory, f'return [{{"x": np.full((1, 3), {index}, np.float32)}}]\n')
        run_export(request, directory / "out", directory / "m.log")
        results[index] = load_samples(directory / "out" / "samples.npz").samples[0].outputs["y"][0, 0]

    threads = [threading.Thread(target=run, args=(index,)) for index in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {1: -1.0, 2: -2.0}
