"""torch and its ONNX exporter, imported once → their versions, or the error that says how to install them."""

from __future__ import annotations

from builder.errors import ToolError

_INSTALL = "pip install 'tritonsmith[torch]'"


def import_torch() -> dict[str, str]:
    """Versions of torch and onnxscript; ToolError torch_missing, torch_broken."""
    versions = {}
    for name in ("torch", "onnxscript"):
        try:
            module = __import__(name)
        except ModuleNotFoundError as error:
            raise ToolError(
                f"exporting a torch source needs {name}, which is not installed",
                code="torch_missing",
                seen=str(error),
                fix=_INSTALL,
            ) from error
        except (ImportError, OSError) as error:
            raise ToolError(
                f"{name} is installed but cannot be imported",
                code="torch_broken",
                seen=str(error).strip().partition("\n")[0],
                fix=f"{_INSTALL} --force-reinstall",
            ) from error
        versions[name] = str(getattr(module, "__version__", "unknown"))
    return versions
