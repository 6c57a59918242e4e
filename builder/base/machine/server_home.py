"""This machine → where the embedded server's environments lie, and the Python in one of them that runs language models."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError

HOME_VARIABLE = "TRITONSMITH_SERVER_HOME"
MARKER = "tritonsmith.json"
"""Written last into an environment: one without it is half made."""
# As perf.server.environment names the layer for language models.
_LAYERS = "triton-*-vllm-*"
_LAYER = re.compile(r".*-vllm-[0-9a-f]{16}")
_ENGINE = re.compile(r"openvino_genai-([\d.]+)\.dist-info")


def server_home() -> Path:
    """$TRITONSMITH_SERVER_HOME, or tritonsmith/server in the user's data directory by the XDG rules."""
    if override := os.environ.get(HOME_VARIABLE):
        return Path(override).expanduser().absolute()
    base = os.environ.get("XDG_DATA_HOME")
    # The XDG rules: a relative path is to be ignored.
    data = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "share"
    return data / "tritonsmith" / "server"


@dataclass(frozen=True, slots=True)
class LanguagePython:
    """An interpreter that imports openvino_genai, and that package's version."""

    python: Path
    version: str


def language_python() -> LanguagePython | None:
    """The newest that is made; None where none is."""
    found = (
        _engine_of(root) for root in (server_home() / "layers").glob(_LAYERS) if _LAYER.fullmatch(root.name)
    )
    return max(filter(None, found), key=lambda known: _numbers(known.version), default=None)


def needed_language_python() -> LanguagePython:
    """The same, or ToolError with the command that makes it."""
    found = language_python()
    if found is None:
        raise ToolError(
            "answers of language models are compared by the engine of the embedded server, which is not installed",
            code="language_engine_missing",
            seen=f"no environment for language models in {server_home()}",
            fix="tritonsmith server install --with vllm",
        )
    return found


def _engine_of(root: Path) -> LanguagePython | None:
    python = root / "bin" / "python3"
    if not (root / MARKER).is_file() or not python.exists():
        return None
    names = (
        _ENGINE.fullmatch(path.name) for path in root.glob("lib/python3*/site-packages/openvino_genai-*")
    )
    return next((LanguagePython(python, match[1]) for match in names if match), None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
