"""(ServerSpec, where the server keeps its caches) → the size of its response cache, in bytes; said where there can be none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError, TritonsmithError, Where
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.perf.server.spec import ServerSpec

DEFAULT_CACHE_BYTES = 64 << 20
_LIBRARY = Path("local", "libtritoncache_local.so")
_OWN = ("--cache-config", "--response-cache-byte-size")


def cache_size_bytes(spec: ServerSpec, caches: Path | None) -> int:
    """What is asked, else DEFAULT_CACHE_BYTES where a model asks for a cache; 0 for none.

    caches: the server's directory of cache libraries; None where it is not seen from here.
    A server without the library gets none: ToolError where a size was asked for, else a warning that names the models.
    Triton itself serves such models uncached and says nothing.
    """
    size_bytes, asking = spec.cache_size_bytes, []
    if size_bytes is None:
        own = any(argument.startswith(_OWN) for argument in spec.extra_args)
        asking = [] if own else models_that_cache(p for r in spec.repositories for p in r.iterdir())
        size_bytes = DEFAULT_CACHE_BYTES if asking else 0
    if not size_bytes or caches is None or (caches / _LIBRARY).is_file():
        return size_bytes
    if spec.cache_size_bytes:
        raise ToolError(
            "this server has no response cache: its library is missing",
            code="cache_library_missing",
            seen=caches / _LIBRARY,
            fix="--launch binary:PATH of a server that has it, or no response cache",
        )
    note(
        f"warning: {', '.join(asking)}: response_cache is enabled, and this server has no library for it "
        f"({caches / _LIBRARY}): served without a cache"
    )
    return 0


def models_that_cache(directories: Iterable[Path]) -> list[str]:
    """The names of the model directories whose config.pbtxt enables the response cache."""
    return sorted(path.name for path in directories if _caches(path / "config.pbtxt"))


def _caches(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
        return "response_cache" in text and bool(
            model_config_from_text(text, Where(path)).response_cache.enable
        )
    except (OSError, ValueError, TritonsmithError):
        return False  # Triton says what is wrong with it
