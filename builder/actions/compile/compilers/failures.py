"""What a compiler said → its log, and the one error that people read."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritonsmith.builder.actions.compile.request import CompileRequest
from tritonsmith.builder.base.errors import BuildError, shortened

if TYPE_CHECKING:
    import tensorrt

_TOLD_ERRORS = 3
_TOLD_CHARACTERS = 300
_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


@dataclass(slots=True)
class BuildLog:
    """What the compiler said: everything goes to standard error, which is the build's log; errors are kept."""

    errors: list[str] = field(default_factory=list)

    def write(self, level: str, text: str) -> None:
        """One message."""
        sys.stderr.write(f"[{level}] {text}\n")
        if level in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(" ".join(text.split()))


def parse_failed(errors: Sequence[tensorrt.ParserError], request: CompileRequest) -> BuildError:
    """What the ONNX parser cannot take, with node and operator."""
    told = []
    for error in errors[:_TOLD_ERRORS]:
        node, operator = error.node_name(), error.node_operator()
        at = f"node {node or '(without a name)'} ({operator}): " if node or operator else ""
        said = " ".join(error.desc().split())
        # Of an operator that it does not have, the parser says no more than "false".
        told.append(f"{at}{error.code().name}" + (f": {said}" if said not in ("", "false") else ""))
    more = f" (and {len(errors) - _TOLD_ERRORS} more in the log)" if len(errors) > _TOLD_ERRORS else ""
    return BuildError(
        f"{request.model}: {_NAMES[request.engine]} cannot take this graph: "
        + ("; ".join(told) or "it gives no reason")
        + more,
        code="engine_parse",
        fix="serve this model with backend onnxruntime, or export it without that operator",
    )


def build_failed(request: CompileRequest, log: BuildLog, network: tensorrt.INetworkDefinition) -> BuildError:
    """The builder returns nothing; its reasons are in the log alone, and name layers somewhere within a long text."""
    # RTX compiles without a driver, and complains about the missing one before it says what is wrong.
    told = [e for e in dict.fromkeys(log.errors) if "Cuda Runtime" not in e] or log.errors
    about_workspace = [e for e in told if "workspace" in e.lower()]
    text = "; ".join(told[:_TOLD_ERRORS]) or "it gives no reason"
    if request.options.workspace_bytes is not None and about_workspace:
        return BuildError(
            f"{request.model}: the workspace is too small: {shortened(about_workspace[0], _TOLD_CHARACTERS)}",
            code="engine_workspace",
            seen=f"workspace_bytes: {request.options.workspace_bytes}",
            fix="raise workspace_bytes, or leave it out",
        )
    at = _first_layer_in(text, network)
    return BuildError(
        f"{request.model}: {_NAMES[request.engine]} cannot build this graph: {at}{shortened(text, _TOLD_CHARACTERS)}",
        code="engine_build",
        fix="exclude that node in the variant, or serve this model with backend onnxruntime; the log has all that it said",
    )


def _first_layer_in(text: str, network: tensorrt.INetworkDefinition) -> str:
    """`node NAME (KIND): ` of the layer that the text names first; layers are called after the ONNX nodes."""
    found: dict[int, str] = {}
    for index in range(network.num_layers):
        layer: tensorrt.ILayer = network.get_layer(index)
        match = re.search(rf"(?<![\w.]){re.escape(layer.name)}(?![\w.])", text) if layer.name else None
        if match is not None:
            found.setdefault(match.start(), f"node {layer.name} ({layer.type.name}): ")
    return found[min(found)] if found else ""
