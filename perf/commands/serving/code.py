"""(a target, a request) → a curl line and a Python program with tritonclient that ask the same."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tritonsmith.builder.base.odd_names import encoded_in_paths
from tritonsmith.perf.commands.load.options import ProtocolFlags
from tritonsmith.perf.commands.serving.values import array_of_tensor
from tritonsmith.perf.wire.paths import model_path
from tritonsmith.perf.wire.payload import Array, InferPayload, Parameter, WireTensor
from tritonsmith.perf.wire.target import Target

MOST_VALUES, MOST_CHARACTERS = 256, 4096
_HEADERS_FILE = Path("headers.txt")
_NOT_AS_JSON = ("FP16", "BF16")
"""Triton takes them as binary tensors alone (server, src/http_server.cc)."""

_UNVERIFIED = (
    "context = gevent.ssl.create_default_context()",
    "context.check_hostname = False",
    "context.verify_mode = gevent.ssl.CERT_NONE",
)


@dataclass(frozen=True, slots=True)
class Code:
    """curl: None where no such line asks the same; notes: what has to be there for it to run, or why there is none."""

    curl: str | None
    python: str
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Both."""
        return "\n".join([*([f"{self.curl}\n"] if self.curl else []), self.python])


def code_for(
    target: Target,
    http_url: str,
    payload: InferPayload,
    timeout_s: float,
    flags: ProtocolFlags,
    inputs: Path | None,
) -> Code:
    """http_url: the server's, "" where it has none or is asked over gRPC alone; flags: whose headers and certificates;
    inputs: the .npz that the code reads what is too long for it from."""
    notes: list[str] = []
    headers = None
    if flags.header:
        only = flags.header[0]
        headers = Path(only[1:]) if len(flags.header) == 1 and only.startswith("@") else _HEADERS_FILE
        if headers is _HEADERS_FILE:
            notes.append(f"the code reads {headers}: write what --header gives there, a line each")
    curl, why_not = _curl(target, http_url, payload, timeout_s, headers, flags)
    if why_not:
        notes.append(f"no curl line: {why_not}")
    long = [tensor.name for tensor in payload.inputs if not _is_short(tensor)]
    file = inputs or Path("inputs.npz")
    if long and inputs is None:
        notes.append(f"{', '.join(long)}: too many values for code, which reads {file}; -o {file} writes it")
    if target.protocol == "http" and encoded_in_paths(payload.model):
        notes.append(
            "tritonclient encodes the model's name in HTTP paths, where Triton does not find it: --protocol grpc"
        )
    if flags.insecure and target.url.startswith("grpcs:"):
        notes.append("gRPC's library trusts no unknown certificate: the code needs --ca-file")
    python = _python(target, payload, timeout_s, headers, flags, file)
    return Code(curl, python, tuple(notes))


def _curl(
    target: Target,
    http_url: str,
    payload: InferPayload,
    timeout_s: float,
    headers: Path | None,
    flags: ProtocolFlags,
) -> tuple[str | None, str]:
    """(the line, why there is none)"""
    if not http_url.startswith("http"):
        return None, "it does not speak gRPC"
    if target.streaming:
        return None, "the model may answer any number of times, which HTTP does not carry"
    if not all(map(_is_short, payload.inputs)):
        size_bytes = sum(len(tensor.data) for tensor in payload.inputs)
        return None, f"{size_bytes:,} bytes of values are too long for a line, and travel as binary data"
    inputs = [_json_tensor(tensor) for tensor in payload.inputs]
    lacking = [tensor.name for tensor, told in zip(payload.inputs, inputs, strict=True) if told is None]
    if lacking:
        return None, f"{', '.join(lacking)}: JSON does not carry these values, which travel as binary data"
    body = {**({"parameters": dict(payload.parameters)} if payload.parameters else {}), "inputs": inputs}
    text = json.dumps(body)
    url = f"{http_url.rstrip('/')}{model_path(payload.model, payload.version)}/infer"
    parts = ["curl", "--silent", "--show-error", "--max-time", f"{math.ceil(timeout_s)}"]
    parts += ["--insecure"] if flags.insecure else []
    for name, path in (("--cacert", flags.ca_file), ("--cert", flags.cert), ("--key", flags.key)):
        parts += [name, str(path)] if path is not None else []
    parts += ["-H", f"@{headers}"] if headers is not None else []
    parts += ["-H", "Content-Type: application/json", "--data", text, url]
    return shlex.join(parts), ""


def _json_tensor(tensor: WireTensor) -> dict[str, Any] | None:
    """None where JSON does not carry its values."""
    array = array_of_tensor(tensor)
    if tensor.datatype in _NOT_AS_JSON or _has_words(tensor):
        return None
    try:
        values = [v.decode() if isinstance(v, bytes) else v for v in exact_values(array.ravel())]
    except UnicodeDecodeError:
        return None
    return {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype, "data": values}


def exact_values(array: Array) -> Any:
    """Nested lists of Python's own values that become the same array again; floats as short as they are written."""
    if array.dtype.kind == "f":
        short = np.array([float(str(value)) for value in array.ravel()]).reshape(array.shape)
        if np.array_equal(short.astype(array.dtype), array, equal_nan=True):
            return short.tolist()
    return array.tolist()


def _is_short(tensor: WireTensor) -> bool:
    return math.prod(tensor.shape) <= MOST_VALUES and len(tensor.data) <= MOST_CHARACTERS


def _has_words(tensor: WireTensor) -> bool:
    """Whether it holds what Python writes as `inf` or `nan`."""
    array = array_of_tensor(tensor)
    return array.dtype.kind == "f" and not bool(np.isfinite(array).all())


def _python(
    target: Target,
    payload: InferPayload,
    timeout_s: float,
    headers: Path | None,
    flags: ProtocolFlags,
    file: Path,
) -> str:
    parts = urlsplit(target.url)
    is_grpc, secure = target.protocol == "grpc", parts.scheme in ("https", "grpcs")
    is_bf16 = any(tensor.datatype == "BF16" for tensor in payload.inputs)
    port = parts.port or (8001 if is_grpc else 443 if secure else 80)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    client = [ascii(f"{host}:{port}{'' if is_grpc else parts.path.rstrip('/')}")]
    imports = ["import queue", ""] if target.streaming else []
    if secure and is_grpc:
        client.append("ssl=True")
        certificates = {
            "root_certificates": flags.ca_file,
            "certificate_chain": flags.cert,
            "private_key": flags.key or flags.cert,
        }
        client += [f"{name}={str(path)!a}" for name, path in certificates.items() if path is not None]
    elif secure:
        files = {"ca_certs": flags.ca_file, "certfile": flags.cert, "keyfile": flags.key or flags.cert}
        options = {name: str(path) for name, path in files.items() if path is not None}
        client += ["ssl=True", *([f"ssl_options={options!a}"] if options else [])]
        if flags.insecure:
            imports = ["import gevent.ssl"]
            client += ["insecure=True", "ssl_context_factory=lambda cafile: context"]
    if not is_grpc:
        client += [f"network_timeout={timeout_s!r}"]
    lines = [
        f"# pip install 'tritonclient[{target.protocol}]' numpy{' ml_dtypes' if is_bf16 else ''}",
        *imports,
        *(["import ml_dtypes"] if is_bf16 else []),
        "import numpy as np",
        *(["from numpy import inf, nan"] if any(map(_has_words, payload.inputs)) else []),
        f"import tritonclient.{target.protocol} as triton",
        "",
        *(_UNVERIFIED if flags.insecure and secure and not is_grpc else ()),
        f"client = triton.InferenceServerClient({', '.join(client)})",
        "inputs = []",
    ]
    for tensor in payload.inputs:
        lines += _input_lines(tensor, file)
    given = [ascii(payload.model), "inputs"]
    given += [f"model_version={payload.version!a}"] if payload.version else []
    given += _parameter_arguments(payload.parameters)
    if headers is not None:
        lines.append(
            "headers = {name.strip().lower(): value.strip() for name, _, value in "
            f"(line.partition(':') for line in open({str(headers)!a}) if line.strip())}}"
        )
    with_headers = ["headers=headers"] if headers is not None else []
    if not target.streaming:
        given += [f"client_timeout={timeout_s!r}"] if is_grpc else []
        lines += [f"answer = client.infer({', '.join([*given, *with_headers])})", *_output_lines(is_grpc)]
    else:
        starting = ["lambda result, error: responses.put(error or result)", *with_headers]
        given.append("enable_empty_final_response=True")
        lines += [
            "responses = queue.Queue()",
            f"client.start_stream({', '.join(starting)})",
            f"client.async_stream_infer({', '.join(given)})",
            "while True:",
            f"    answer = responses.get(timeout={timeout_s!r})",
            "    if isinstance(answer, Exception):",
            "        raise answer",
            *(f"    {line}" for line in _output_lines(is_grpc)),
            "    if answer.get_response().parameters['triton_final_response'].bool_param:",
            "        break",
            "client.stop_stream(cancel_requests=True)",
        ]
    return "\n".join(lines)


def _input_lines(tensor: WireTensor, file: Path) -> list[str]:
    array = array_of_tensor(tensor)
    name, shape = ascii(tensor.name), list(tensor.shape)
    is_bf16 = tensor.datatype == "BF16"
    if _is_short(tensor):
        dtype = "object" if array.dtype == object else f"np.{array.dtype.name}".replace("np.bool", "np.bool_")
        made = f"np.array({exact_values(array)!a}, {dtype})"
        made += f".reshape({shape})" if 0 in shape or array.dtype == object else ""
    else:
        made = f"np.load({str(file)!a})[{name}]" + (".astype(object)" if array.dtype == object else "")
    made += ".astype(ml_dtypes.bfloat16)" if is_bf16 else ""
    return [
        f"inputs.append(triton.InferInput({name}, {shape}, {tensor.datatype!a}))",
        f"inputs[-1].set_data_from_numpy({made})",
    ]


def _output_lines(is_grpc: bool) -> list[str]:
    outputs, name = ("answer.get_response().outputs", "output.name") if is_grpc else (
        "answer.get_response()['outputs']", "output['name']"
    )  # fmt: skip
    return [f"for output in {outputs}:", f"    print({name}, answer.as_numpy({name}).tolist())"]


def _parameter_arguments(parameters: Mapping[str, Parameter]) -> list[str]:
    """Of a sequence, which are arguments of tritonclient's own."""
    return [f"{name}={value!a}" for name, value in parameters.items()]
