"""Modules that an export needs, imported once → their versions, or the error that says how to install them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from tritonsmith.builder.base.errors import ToolError


def import_tools(names: Iterable[str], extra: str) -> dict[str, str]:
    """Versions by module; ToolError EXTRA_missing, EXTRA_broken."""
    install = f"pip install 'tritonsmith[{extra}]'"
    versions = {}
    for name in names:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            raise ToolError(
                f"exporting a {extra} source needs {name}, which is not installed",
                code=f"{extra}_missing",
                seen=str(error),
                fix=install,
            ) from error
        except (ImportError, OSError) as error:
            raise ToolError(
                f"{name} is installed but cannot be imported",
                code=f"{extra}_broken",
                seen=str(error).strip().partition("\n")[0],
                fix=f"{install} --force-reinstall",
            ) from error
        versions[name] = str(getattr(module, "__version__", "unknown"))
    return versions
