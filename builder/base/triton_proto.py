"""tritonclient's wheel → Triton's ModelConfig protobuf module, without the 0.25 s that importing its gRPC client costs."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

_MODULE = "tritonclient.grpc.model_config_pb2"


@lru_cache(maxsize=1)
def model_config_pb2() -> Any:
    """The generated module `tritonclient.grpc.model_config_pb2`.

    It is loaded by path under its own full name, so that a later `import tritonclient.grpc` finds the
    same module and the same message classes.
    """
    if _MODULE in sys.modules:
        return sys.modules[_MODULE]
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("tritonclient", name="tritonclient")
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


def is_repeated(field: Any) -> bool:
    """Whether a FieldDescriptor is of a repeated field (or a map): protobuf says it in two ways, by its release."""
    repeated = getattr(field, "is_repeated", None)  # protobuf 6.31 and later
    return bool(field.label == field.LABEL_REPEATED if repeated is None else repeated)


def is_map(field: Any) -> bool:
    """Whether a FieldDescriptor is of a map; its message has the fields `key` and `value`."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)
