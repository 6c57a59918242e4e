"""The address of an object store → (scheme, what follows), or an error that names the package it needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError, UsageError
from tritonsmith.builder.base.text.shown import refuse_secrets

# Scheme → (package that fsspec needs for it, our extra).
_PACKAGES = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "gcs": ("gcsfs", "gs"),
    "az": ("adlfs", "az"),
    "abfs": ("adlfs", "az"),
}
_SCHEMES = ("s3", "gs", "az", "file", *(s for s in _PACKAGES if s not in ("s3", "gs", "az")), "memory")


def check_store_url(url: str) -> tuple[str, str]:
    """URL → (scheme, what follows), without opening or importing anything; errors as in open_store."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "file", str(Path(url).absolute()) if url else ""
    else:
        refuse_secrets(
            url, "the store's own environment (AWS_PROFILE, AZURE_STORAGE_CONNECTION_STRING …) holds them"
        )
    if scheme not in _SCHEMES or not rest.strip("/"):
        raise UsageError(
            f"not the address of a store: {url!r}",
            code="store_url",
            seen=url,
            valid=[f"{s}://…" for s in ("s3", "gs", "az", "file")],
        )
    package, extra = _PACKAGES.get(scheme, ("fsspec", ""))
    if importlib.util.find_spec(package) is None:
        raise ToolError(
            f"{scheme}:// needs the package {package}",
            code="store_package",
            seen="not installed",
            fix=f"pip install 'tritonsmith[{extra}]'",
        )
    return scheme, rest
