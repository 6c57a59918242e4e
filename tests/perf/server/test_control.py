"""Talking to a live server: loads, overrides, refusals, and a server that is not there."""

from __future__ import annotations

import http.client
import time
from pathlib import Path

import psutil
import pytest

from tests import onnx_models
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.base.errors import ServerError, TrialError
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import ServerSpec, launch
from tritonsmith.perf.server.process.command import default_max_batch_size
from tritonsmith.perf.server.process.ports import choose_ports

ONE_CPU = "instance_group { count: 1 kind: KIND_CPU }\n"


@pytest.mark.server
def test_an_override_stays_and_a_refused_one_changes_nothing(triton: LiveTriton) -> None:
    triton.load("overridden", onnx_models.affine(["b", 2]), "max_batch_size: 4\n" + ONE_CPU)
    url = triton.http_url

    def size() -> int:
        return int(control.model_config(url, "overridden")["max_batch_size"])

    override = {
        "name": "overridden",
        "backend": "onnxruntime",
        "max_batch_size": 16,
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
    }
    control.load_model(url, "overridden", override)
    assert size() == 16
    control.load_model(url, "overridden")  # the file's 4 does not come back by itself
    assert size() == 16
    with pytest.raises(TrialError, match="refused to load model 'overridden'"):
        control.load_model(
            url, "overridden", {**override, "input": [{"name": "z", "data_type": "TYPE_FP32", "dims": [2]}]}
        )
    assert size() == 16
    assert control.is_model_ready(url, "overridden")
    control.unload_model(url, "overridden")
    control.load_model(url, "overridden")
    assert size() == 4


@pytest.mark.server
def test_files_stand_in_for_a_model_directory(triton: LiveTriton) -> None:
    proto = onnx_models.affine(["b", 2])
    control.load_model(
        triton.http_url,
        "from_memory",
        {"backend": "onnxruntime", "instance_group": [{"kind": "KIND_CPU", "count": 1}]},
        {"1/model.onnx": proto.SerializeToString()},
    )
    metadata = control.model_metadata(triton.http_url, "from_memory")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert not (triton.repository / "from_memory").exists()
    control.unload_model(triton.http_url, "from_memory")


@pytest.mark.server
def test_what_triton_refuses_is_told_in_its_words(triton: LiveTriton) -> None:
    with pytest.raises(TrialError, match="failed to poll") as caught:
        control.load_model(triton.http_url, "no_such_model")
    assert caught.value.code == "model_refused"
    with pytest.raises(TrialError, match="no_such_model") as caught:
        control.model_config(triton.http_url, "no_such_model")
    assert caught.value.code == "server_refused"


def test_a_server_that_is_not_there_is_an_error_and_not_ready() -> None:
    url = f"127.0.0.1:{choose_ports(None, None, None).http}"
    assert not control.is_ready(url)
    with pytest.raises(ServerError) as caught:
        control.repository_index(url)
    assert caught.value.code == "server_unreachable"


@pytest.mark.server
def test_without_explicit_control_a_load_is_refused_with_the_flag(tmp_path: Path) -> None:
    with launch(ServerSpec(repositories=(tmp_path,), exit_timeout_s=0)) as server:
        with pytest.raises(TrialError) as caught:
            control.load_model(server.http_url, "m")
        assert "--model-control explicit" in str(caught.value.fix)


@pytest.mark.server
def test_an_idle_connection_delays_the_end_by_the_timeout_only_and_leaks_nothing(tmp_path: Path) -> None:
    onnx_models.add_model(tmp_path, "m", onnx_models.affine(["b", 1]), ONE_CPU)
    with launch(ServerSpec(repositories=(tmp_path,), exit_timeout_s=1)) as server:
        assert server.pid is not None
        maps = psutil.Process(server.pid).memory_maps()
        regions = [Path(m.path) for m in maps if m.path.startswith("/dev/shm/")]
        assert regions
        idle = http.client.HTTPConnection(server.http_url)
        idle.request("GET", "/v2/health/live")
        idle.getresponse().read()
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    idle.close()
    assert [region for region in regions if region.exists()] == []


@pytest.mark.server
def test_the_default_batch_size_of_the_command_line_reaches_the_backend(tmp_path: Path) -> None:
    onnx_models.add_model(tmp_path, "m", onnx_models.affine(["b", 1]))
    flag = "--backend-config=default-max-batch-size=24"
    with launch(ServerSpec(repositories=(tmp_path,), extra_args=(flag,), exit_timeout_s=0)) as server:
        assert control.model_config(server.http_url, "m")["max_batch_size"] == 24


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((), None),
        (("--log-verbose=1",), None),
        (("--backend-config=python,shm-default-byte-size=1",), None),
        (("--backend-config=default-max-batch-size=8",), "8"),
        (("--backend-config=,default-max-batch-size=8",), "8"),
        (("--backend-config", "onnxruntime,default-max-batch-size=2"), "2"),
        (("--backend-config=tensorrt,default-max-batch-size=2",), None),
    ],
)
def test_the_default_batch_size_is_read_from_the_flags(arguments: tuple[str, ...], value: str | None) -> None:
    assert default_max_batch_size(arguments) == value


def stub(path: str, instance: str) -> list[str]:
    return [
        "/b/python/triton_python_backend_stub",
        path,
        "region",
        "1",
        "1",
        "9",
        "/b/python",
        "336",
        instance,
        "/b",
    ]


@pytest.mark.parametrize(
    ("command", "belongs"),
    [
        (stub("/r/m/1/model.onnx", "m_0_0"), True),
        (stub("/r/m/12/model.py", "m_1"), True),
        # A group that the config names.
        (stub("/r/m/1/model.onnx", "fast_3"), True),
        # Loaded from files in the load call.
        (stub("/tmp/folderQx1/1/model.onnx", "m_0_0"), True),
        (stub("/tmp/folderQx1/1/model.onnx", "other_0_0"), False),
        # Models whose names begin alike.
        (stub("/r/m_0/1/model.onnx", "m_0_0"), False),
        (stub("/r/m_0/1/model.onnx", "m_0_0_0"), False),
        (stub("/r/mm/1/model.onnx", "mm_0_0"), False),
        (["/bin/bash", "/r/m/1/model.onnx", "m_0_0", "/b"], False),
        ([], False),
    ],
)
def test_a_stub_is_known_by_its_arguments(command: list[str], belongs: bool) -> None:
    assert control.is_instance_of("m", command) == belongs


@pytest.mark.server
def test_stubs_of_a_model_without_groups_are_counted(triton: LiveTriton) -> None:
    triton.load("ungrouped", onnx_models.affine(["b", 1]))
    assert len(control.instance_pids(triton.server, "ungrouped")) == 2
