"""Shared memory over HTTP and gRPC, by one and two client processes, killed and registered again → counted answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.doctor.gpu_check.step import UnexpectedError
from tritonsmith.perf.doctor.gpu_check.steps import models
from tritonsmith.perf.doctor.gpu_check.steps.serving import MODEL, reference
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.load.memory_regions import Kind, check_cuda, registered_region
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server.launch import Server, ServerSpec, launch
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.rest import RestApi, call_json

_REQUESTS = 200
_REGISTERED_WITHIN_S = 15.0
_ROWS = 4


def regions(device: str, work: Path, argument: str) -> dict[str, Any]:
    """Every answer is held against the CPU's; a client that is killed leaves a server that others go on using."""
    kind: Kind = "cuda" if argument == "cuda" else "system"
    if kind == "cuda":
        check_cuda(0)
    onnx = models.perceptron(work / "perceptron.onnx")
    repository = models.repository(work / "repository", MODEL, onnx, "KIND_CPU")
    data = _data(work / "data.json", onnx)
    facts: dict[str, Any] = {"kind": kind}
    with launch(ServerSpec(repositories=(repository,), log_path=work / "tritonserver.log")) as server:
        for protocol in ("http", "grpc"):
            for processes in (1, 2):
                facts[f"{protocol}, {processes} processes"] = _load(server, kind, data, protocol, processes)
        left = _killed(server, kind, data)
        facts["left by a killed client"] = len(left)
        facts["registered again"] = _registered_again(server, kind, left)
        facts["after the kill"] = _load(server, kind, data, "http", 2)
        if remaining := registered(server, kind):
            raise UnexpectedError(f"regions that nobody holds any more: {', '.join(remaining)}", **facts)
    return facts


def _data(path: Path, onnx: Path) -> Path:
    """Rows and the CPU's answers to them, in perf_analyzer's form."""
    x = models.rows((_ROWS, models.WIDTH))
    y = reference(onnx, x)
    steps = [{"x": row.tolist()} for row in x]
    path.write_text(json.dumps({"data": steps, "validation_data": [{"y": row.tolist()} for row in y]}))
    return path


def _load(server: Server, kind: Kind, data: Path, protocol: Any, processes: int) -> dict[str, Any]:
    result = run_load_test(
        f"http://{server.http_url}",
        LoadTest(
            model=MODEL,
            load=Closed(4),
            duration_s=None,
            requests=_REQUESTS,
            warmup_s=0,
            data=DataOptions(file=data),
            protocol=protocol,
            grpc_url=f"grpc://{server.grpc_url}",
            shared_memory=kind,
            processes=processes,
            validate_every=1,
            pid=server.pid,
            metrics_url=server.metrics_url,
        ),
    )
    records = result.records
    seen = {"requests": len(records), "failures": records.failures(), "checked": records.header.checked}
    if seen["failures"] or seen["requests"] != _REQUESTS or not seen["checked"]:
        raise UnexpectedError(f"{kind} over {protocol} with {processes} client processes: {seen}")
    return seen


def registered(server: Server, kind: Kind) -> list[str]:
    """Names of the regions that the server holds (Triton's shared-memory extensions, status)."""
    rows = call_json(HttpTarget(f"http://{server.http_url}"), f"/v2/{kind}sharedmemory/status")
    return sorted(str(row["name"]) for row in rows or ())


def _killed(server: Server, kind: Kind, data: Path) -> list[str]:
    """A client in the middle of its load gets SIGKILL; the regions that the server still names afterwards."""
    command = [sys.executable, "-m", "tritonsmith", "load", f"http://{server.http_url}", "-m", MODEL]
    command += ["--shared-memory", kind, "--concurrency", "4", "--duration", "60s", "--data", str(data)]
    client = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _REGISTERED_WITHIN_S
        while len(registered(server, kind)) < 2:  # its inputs and its outputs
            if client.poll() is not None or time.monotonic() > deadline:
                client.kill()
                _, said = client.communicate()
                raise UnexpectedError(
                    f"a client registered no region: {said.decode(errors='replace')[-500:]}"
                )
            time.sleep(0.05)
        time.sleep(0.5)  # requests are in flight
        client.send_signal(signal.SIGKILL)
        client.wait()
        time.sleep(0.5)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(client.pid, signal.SIGKILL)
        client.communicate()
    if not server.alive():
        raise UnexpectedError("the server died with its client")
    return registered(server, kind)


def _registered_again(server: Server, kind: Kind, names: list[str]) -> int:
    """A new client takes the names over: unregisters what was left and registers memory of its own under them."""
    api = RestApi(HttpTarget(f"http://{server.http_url}"))
    for name in names:
        api.unregister_region(name, kind)
        with registered_region(api, kind, name, 4096) as region:
            region.write(b"tritonsmith")
            if region.read(0, 11) != b"tritonsmith" or name not in registered(server, kind):
                raise UnexpectedError(f"the region {name} cannot be used under its old name")
    return len(names)
