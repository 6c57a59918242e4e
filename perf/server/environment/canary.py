"""An environment for the embedded server → proof that tensors of every type pass through it unharmed, or a
ServerError.

The stub hands over wrong values without any error when its numpy does not suit it, so an environment is shown known
values on a throw-away server when it is made, and a tritonserver of the user's that runs on our backends at each
start, beside the one that is starting: the user's server never has a model that is not the user's, in whatever
control mode it runs. BF16 is not among the types: numpy has no such type, and neither Triton's onnxruntime backend
nor the stub's as_numpy carries it.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.base.errors import ServerError
from tritonsmith.builder.base.tensors import DTYPES, Dtype
from tritonsmith.perf.server import embedded, preflight
from tritonsmith.perf.server.control import IndexRow, is_ready, repository_index
from tritonsmith.perf.server.embedded import Embedded, PythonEnvironment
from tritonsmith.perf.server.process.ports import HOST, choose_ports, is_port_lost
from tritonsmith.perf.server.process.process import GuardedProcess

if TYPE_CHECKING:
    import numpy as np

MODEL = "tritonsmith_canary"
REINSTALL_FIX = "tritonsmith server install tries again"
NUMPY_FIX = f"the usual cause is that the stub's Python finds another numpy than numpy<2; {REINSTALL_FIX}"
BUSY_FIX = f"a busy machine may be too slow for it: {REINSTALL_FIX} when it is not"
START_S = ANSWER_S = 60.0
_PATIENCE_S = 3
CARRIED = tuple(d for d in DTYPES if d.numpy is not None)


def prove(parts: Embedded, environment: PythonEnvironment) -> None:
    """Returns when a server of these parts and this environment carries every type; ToolError or ServerError else."""
    with tempfile.TemporaryDirectory(prefix="tritonsmith-") as temporary:
        work_dir = Path(temporary)
        env = embedded.variables(environment, os.environ, work_dir / "lib")
        preflight.check_stub(parts, env)
        backends = embedded.lay_out_backends(parts, work_dir / "backends")
        prefix = f"tritonsmith_{os.getpid()}_{secrets.token_hex(4)}_canary_"
        canary = Canary(parts.binary, backends, env, work_dir / "canary", prefix)
        try:
            canary.verify(time.monotonic() + START_S)
        finally:
            canary.stop()


class Canary:
    """The throw-away server; start it early, `verify` it, and `stop` it in any case."""

    def __init__(
        self, binary: Path, backends: Path, env: Mapping[str, str], work_dir: Path, shm_prefix: str
    ) -> None:
        """Write the model into `work_dir` and start a server on it."""
        work_dir.mkdir()
        _write_model(work_dir / "repository" / MODEL)
        ports = choose_ports(None, None, None)
        self._url = f"{HOST}:{ports.http}"
        self._process = GuardedProcess(
            [
                str(binary),
                f"--model-repository={work_dir / 'repository'}",
                f"--backend-directory={backends}",
                f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
                "--disable-auto-complete-config",
                f"--http-address={HOST}",
                f"--http-port={ports.http}",
                "--http-thread-count=1",
                "--allow-grpc=false",
                "--allow-metrics=false",
                "--exit-on-error=false",
                "--strict-readiness=false",
                f"--exit-timeout-secs={_PATIENCE_S}",
            ],
            env=env,
            log_path=work_dir / "canary.log",
            work_dir=work_dir,
            # Killed, it would leave a directory behind in /tmp.
            patience_s=_PATIENCE_S,
            shm_prefix=shm_prefix,
        )

    def verify(self, deadline: float, answer_s: float = ANSWER_S) -> None:
        """Return when every type came back as it was sent; `deadline` of the start is on time.monotonic's clock."""
        while not is_ready(self._url):
            if self._process.exit_code is not None or time.monotonic() > deadline:
                raise self._not_started()
            time.sleep(0.02)
        row = next((r for r in repository_index(self._url) if r.name == MODEL), IndexRow(MODEL, "", "", ""))
        if row.state != "READY":
            reason = row.reason or self._last_log_line() or ""
            fix = NUMPY_FIX if "numpy" in reason else REINSTALL_FIX
            raise _failed("could not load its model", reason, fix)
        sent = {d.kserve: _values(d) for d in CARRIED}
        try:
            received = _infer(self._url, sent, answer_s)
        except TimeoutError:
            raise _failed("did not answer", f"nothing within {answer_s:g} s", BUSY_FIX) from None
        except (OSError, http.client.HTTPException) as error:
            # A BYTES tensor kills a stub whose numpy is too new.
            raise _failed("did not answer", error, NUMPY_FIX) from None
        for name, expected in sent.items():
            got = received.get(name, b"")
            if got != _wire(expected):
                what = f"returned other {name} values than it was sent"
                raise _failed(what, got[:64].hex(" ") or "no data", NUMPY_FIX)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def _not_started(self) -> ServerError:
        words = self._last_log_line()
        error = _failed("did not start", words, REINSTALL_FIX)
        if is_port_lost(words):
            error.code = "port_lost"
        return error

    def _last_log_line(self) -> str | None:
        lines = self._process.log_path.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else None


def _failed(what: str, seen: object, fix: str) -> ServerError:
    return ServerError(
        f"the embedded Triton {what} in its self-check, so its answers cannot be trusted",
        code="canary_failed",
        seen=seen,
        fix=fix,
    )


def _values(dtype: Dtype) -> np.ndarray[Any, Any]:
    """Shape [2, 3]: no two neighbours alike, so that a repeated first element or a shift shows."""
    import numpy as np

    assert dtype.numpy is not None
    if dtype.numpy == "object":
        return np.array([["a", ""], ["ünïcode", "longer than the rest"], ["x y", "z"]], np.object_).reshape(
            2, 3
        )
    if dtype.numpy == "bool":
        return np.array([[True, False, True], [True, False, False]])
    return np.array([[1, 0, 3], [7, 5, 100]], dtype=dtype.numpy)


def _wire(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    encoded = [str(text).encode() for text in array.reshape(-1)]
    return b"".join(struct.pack("<I", len(item)) + item for item in encoded)


def _infer(url: str, tensors: Mapping[str, np.ndarray[Any, Any]], timeout_s: float) -> dict[str, bytes]:
    """One request in the KServe v2 binary form; {output name: bytes}, inputs and outputs named by type."""
    payloads = [_wire(array) for array in tensors.values()]
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": f"in_{name}",
                    "datatype": name,
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": len(payload)},
                }
                for (name, array), payload in zip(tensors.items(), payloads, strict=True)
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    connection = http.client.HTTPConnection(url, timeout=timeout_s)
    try:
        connection.request(
            "POST",
            f"/v2/models/{MODEL}/infer",
            header + b"".join(payloads),
            {"Inference-Header-Content-Length": str(len(header)), "Connection": "close"},
        )
        response = connection.getresponse()
        body = response.read()
        length = int(response.headers.get("Inference-Header-Content-Length", len(body)))
    finally:
        connection.close()
    answer = json.loads(body[:length])
    if "error" in answer:
        raise ConnectionError(answer["error"])
    return _split(answer["outputs"], body[length:])


def _split(outputs: Sequence[Mapping[str, Any]], data: bytes) -> dict[str, bytes]:
    parts, offset = {}, 0
    for output in outputs:
        size = int(output["parameters"]["binary_data_size"])
        parts[str(output["name"]).removeprefix("out_")] = data[offset : offset + size]
        offset += size
    return parts


def _write_model(model_dir: Path) -> None:
    """One Identity a type, from in_FP32 to out_FP32 and so on, over [2, 3]."""
    from onnx import helper

    shape = [2, 3]
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"in_{d.kserve}"], [f"out_{d.kserve}"]) for d in CARRIED],
        "canary",
        [helper.make_tensor_value_info(f"in_{d.kserve}", d.onnx, shape) for d in CARRIED],
        [helper.make_tensor_value_info(f"out_{d.kserve}", d.onnx, shape) for d in CARRIED],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    (model_dir / "1").mkdir(parents=True)
    (model_dir / "1" / "model.onnx").write_bytes(model.SerializeToString())
    rows = [
        f'{side} {{ name: "{side[:-3]}_{d.kserve}" data_type: {d.config} dims: [2, 3] }}'
        for side in ("input", "output")
        for d in CARRIED
    ]
    (model_dir / "config.pbtxt").write_text(
        "\n".join(
            [
                f'name: "{MODEL}"',
                'backend: "onnxruntime"',
                *rows,
                "instance_group { count: 1 kind: KIND_CPU }",
                'parameters { key: "intra_op_thread_count" value { string_value: "1" } }',
            ]
        )
    )
