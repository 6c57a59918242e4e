"""Regions as far as they can be seen without a GPU: what the server is told, what a process is given, what is missing."""

from __future__ import annotations

import base64
import pickle
import shutil
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

from tests.perf.fake_grpc import grpc_server
from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import ToolError, TrialError
from tritonsmith.perf.load.memory_regions import (
    CudaRegion,
    SystemRegion,
    check_cuda,
    register_cuda,
    registered_region,
)
from tritonsmith.perf.load.shared_memory import Output, SharedTarget
from tritonsmith.perf.wire.grpc import GrpcTarget
from tritonsmith.perf.wire.grpc_api import GrpcApi
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array
from tritonsmith.perf.wire.rest import RestApi

HANDLE = bytes(range(64))


def test_a_gpus_region_is_registered_as_the_extension_says_over_http() -> None:
    with fake_server() as server:
        api = RestApi(HttpTarget(server.url))
        with pytest.raises(TrialError, match="cannot open this GPU's memory"):  # the fake knows no regions
            register_cuda(api, "a b", HANDLE, 1, 4096)
        with pytest.raises(TrialError):
            api.unregister_region("a b", "cuda")
        body = {
            "raw_handle": {"b64": base64.b64encode(HANDLE).decode()},
            "device_id": 1,
            "byte_size": 4096,
        }
        assert server.regions == [
            ("/v2/cudasharedmemory/region/a%20b/register", body),
            ("/v2/cudasharedmemory/region/a%20b/unregister", None),
        ]


def test_a_gpus_region_is_registered_with_its_raw_handle_over_grpc() -> None:
    with grpc_server() as server:
        register_cuda(GrpcApi(GrpcTarget(f"127.0.0.1:{server.port}")), "r", HANDLE, 1, 4096)
    said = server.last
    assert (said.name, said.raw_handle, said.device_id, said.byte_size) == ("r", HANDLE, 1, 4096)


def test_a_region_of_a_gpu_goes_to_another_process_by_its_handle() -> None:
    region = CudaRegion("r", 1, 4096, HANDLE, address=123)
    other = pickle.loads(pickle.dumps(region))
    assert (other.name, other.device, other.size_bytes, other.handle) == ("r", 1, 4096, HANDLE)
    assert other._address == 0, "an address of this process means nothing there"


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_without_a_gpu_it_is_said_before_any_server_is_asked() -> None:
    for missing in (
        lambda: check_cuda(0),
        lambda: registered_region(RestApi(HttpTarget("127.0.0.1:1")), "cuda", "r", 64).__enter__(),
    ):
        with pytest.raises(ToolError, match="needs") as error:
            missing()
        assert error.value.code == "no_cuda_shared_memory" and error.value.exit_code == 3
        assert error.value.fix


def test_processes_and_slots_keep_to_areas_of_their_own() -> None:
    memory = SharedMemory(create=True, size=4096)
    try:
        region = SystemRegion("r", memory)
        whole = SharedTarget(HttpTarget("h:1"), [Output("y", 0, 100)], region, areas=6)
        x = tensor_from_array("x", np.zeros((1, 4), np.float32))
        payload = InferPayload("m", (x,))
        seen = set()
        for part in range(2):
            share = pickle.loads(pickle.dumps(whole.of_process(part, 2)))
            token = share.encode(payload)
            for slot in range(3):
                request = share.request(token, slot)
                assert request == share.encode(payload, slot)
                seen.add(request)
            assert share.request(token, 3) == share.request(token, 0), "a slot too many shares an area"
        assert len(seen) == 6
    finally:
        memory.close()
        memory.unlink()
