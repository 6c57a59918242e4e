"""`tritonsmith cache`: what the local or the remote cache holds, what is removed of it, whether it is whole."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonsmith.builder.base.errors import ToolError, UsageError
from tritonsmith.builder.base.text.console import emit_json, emit_text, progress, width_of
from tritonsmith.builder.base.text.quantities import (
    bytes_from_text,
    seconds_from_text,
    text_of_bytes,
    text_of_seconds,
)
from tritonsmith.builder.base.text.text_layout import table
from tritonsmith.builder.commands.help import Command, Group
from tritonsmith.builder.commands.options import (
    Format,
    FormatOption,
    RemoteCacheOption,
    RemoteCacheReadOnlyOption,
    shared_cache,
)

if TYPE_CHECKING:
    from tritonsmith.builder.base.files.object_store import ObjectStore
    from tritonsmith.builder.cache.cache import Cache
    from tritonsmith.builder.cache.listing import Listed
    from tritonsmith.builder.cache.sweep import Swept
    from tritonsmith.builder.cache.verify import Verified

app = typer.Typer(
    cls=Group,
    help="""List, clean up and verify the cache of artifacts.

    Examples: tritonsmith cache ls
              tritonsmith cache gc --max-size 20GiB
    """,
    no_args_is_help=True,
)

RemoteOption = Annotated[
    bool, typer.Option("--remote", help="The remote cache (--remote-cache) in place of the local one.")
]


@app.command(name="ls", cls=Command)
def ls(
    remote: RemoteOption = False,
    remote_cache: RemoteCacheOption = None,
    format: FormatOption = Format.text,
) -> None:
    """List the entries: what each is, its size, its age and its last use.

    Examples: tritonsmith cache ls
              tritonsmith cache ls --remote --remote-cache s3://cache/tritonsmith
    """
    from tritonsmith.builder.cache.listing import list_local, list_store

    entries = list_store(_store(remote_cache)) if remote else list_local(_local().root)
    emit_json([_as_dict(e) for e in entries]) if format is Format.json else emit_text(_table(entries))


@app.command(name="gc", cls=Command)
def gc(
    max_size: Annotated[
        str | None,
        typer.Option(help="Remove the longest unused until this is left (20GiB).", show_default=False),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Remove what was not used for so long (30d).", show_default=False)
    ] = None,
    keep_lock: Annotated[
        list[Path] | None,
        typer.Option(help="Keep what this lock file names; may be repeated.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    remote: RemoteOption = False,
    remote_cache: RemoteCacheOption = None,
    remote_cache_read_only: RemoteCacheReadOnlyOption = False,
    format: FormatOption = Format.text,
) -> None:
    """Remove old entries, and what killed builds left.

    What a running build uses stays.

    Examples: tritonsmith cache gc --max-size 20GiB --dry-run
              tritonsmith cache gc --older-than 30d --keep-lock models.lock.json
    """
    from tritonsmith.builder.cache.sweep import Limits, sweep_local, sweep_store

    limits = Limits(
        None if max_size is None else bytes_from_text(max_size, "--max-size"),
        None if older_than is None else seconds_from_text(older_than, "--older-than"),
        _keys_in(keep_lock or []),
    )
    if remote and remote_cache_read_only and not dry_run:
        raise UsageError(
            "gc --remote removes, and --remote-cache-read-only says that nothing may be",
            code="cache_read_only",
            fix="add --dry-run, or leave --remote-cache-read-only out",
        )
    with progress("looking", alike=False) as tell:
        if remote:
            swept = sweep_store(_store(remote_cache), limits, tell, dry_run=dry_run)
        else:
            swept = sweep_local(_local(), limits, tell, dry_run=dry_run)
    emit_json(_swept_as_dict(swept)) if format is Format.json else emit_text(_swept_text(swept, dry_run))


@app.command(name="verify", cls=Command)
def verify(
    remote: RemoteOption = False,
    remote_cache: RemoteCacheOption = None,
    remote_cache_read_only: RemoteCacheReadOnlyOption = False,
    format: FormatOption = Format.text,
) -> None:
    """Read every byte of every entry, and remove those that are corrupt.

    Exit code 1 when there were any.

    Examples: tritonsmith cache verify
              tritonsmith cache verify --remote --remote-cache /mnt/cache --remote-cache-read-only
    """
    from tritonsmith.builder.cache.verify import verify_local, verify_store

    with progress("looking", alike=False) as tell:
        if remote:
            store = _store(remote_cache)
            verified = verify_store(store, _local(), tell, remove=not remote_cache_read_only)
        else:
            verified = verify_local(_local(), tell)
    if format is Format.json:
        emit_json(_verified_as_dict(verified))
    else:
        emit_text(_verified_text(verified, is_removed=not (remote and remote_cache_read_only)))
    if verified.corrupt:
        raise typer.Exit(1)


def _local() -> Cache:
    from tritonsmith.builder.cache.cache import Cache, default_cache_directory

    return Cache(default_cache_directory())


def _store(url: str | None) -> ObjectStore:
    shared = shared_cache(url, read_only=False)
    if shared is None:
        raise UsageError(
            "--remote: no remote cache is named",
            code="cache_url",
            fix="--remote-cache s3://bucket/prefix, or TRITONSMITH_REMOTE_CACHE",
        )
    from tritonsmith.builder.base.files.object_store import open_store
    from tritonsmith.builder.cache.listing import is_shared_cache

    store = open_store(shared.url)
    if not is_shared_cache(store):
        raise ToolError(
            f"there is no shared cache at {shared.url}",
            code="cache_missing",
            seen="no tritonsmith-cache.json",
            fix="check the address; the first build with --remote-cache makes one",
        )
    return store


def _keys_in(paths: list[Path]) -> frozenset[str]:
    """Every key that the lock files name: of exports, variants and engines."""
    from tritonsmith.builder.repository.lock import read_lock

    keys: set[str] = set()
    for path in paths:
        if not path.is_file():
            raise UsageError(f"--keep-lock: there is no {path}", code="lock_missing", seen=path)
        for model in read_lock(path).models.values():
            keys.update(model.keys)
    return frozenset(keys)


def _table(entries: list[Listed]) -> str:
    now_s = time.time()
    rows = [("key", "what", "size", "age", "last use")]
    rows += [
        (
            e.key[:12],
            e.what,
            text_of_bytes(e.size_bytes),
            text_of_seconds(now_s - e.created_s),
            text_of_seconds(now_s - e.used_s),
        )
        for e in reversed(entries)
    ]
    lines = table(rows, width_of(sys.stdout), right=(2, 3, 4), names=(1,), drop=(3,))
    total = text_of_bytes(sum(e.size_bytes for e in entries))
    return "\n".join([*(lines if entries else ()), f"{len(entries)} entries, {total}"])


def _as_dict(listed: Listed) -> dict[str, object]:
    return {
        "key": listed.key,
        "what": listed.what,
        "size_bytes": listed.size_bytes,
        "created_s": round(listed.created_s, 3),
        "used_s": round(listed.used_s, 3),
        "is_complete": listed.entry is not None,
    }


def _swept_text(swept: Swept, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    rows = [(e.key[:12], e.what, text_of_bytes(e.size_bytes)) for e in swept.removed]
    lines = table(rows, width_of(sys.stdout), right=(2,), names=(1,))
    rest = f" and {swept.rest} leftovers" if swept.rest else ""
    in_use = f", {swept.in_use} of them used by a build that runs or a moment ago" if swept.in_use else ""
    lines.append(
        f"{len(swept.removed)} entries{rest} {would}removed, {text_of_bytes(swept.freed_bytes)} {would}freed; "
        f"{swept.kept} entries kept, {text_of_bytes(swept.kept_bytes)}{in_use}"
    )
    return "\n".join(lines)


def _swept_as_dict(swept: Swept) -> dict[str, object]:
    return {
        "removed": [_as_dict(e) for e in swept.removed],
        "leftovers": swept.rest,
        "freed_bytes": swept.freed_bytes,
        "kept": swept.kept,
        "kept_bytes": swept.kept_bytes,
        "in_use": swept.in_use,
    }


def _verified_text(verified: Verified, is_removed: bool) -> str:
    lines = [f"corrupt: {c.listed.key[:12]}  {c.listed.what}: {c.why}" for c in verified.corrupt]
    fate = "removed" if is_removed else "left as they are"
    tail = f"{len(verified.corrupt)} corrupt and {fate}" if verified.corrupt else "all whole"
    lines.append(f"{verified.entries} entries, {text_of_bytes(verified.size_bytes)} read: {tail}")
    return "\n".join(lines)


def _verified_as_dict(verified: Verified) -> dict[str, object]:
    return {
        "entries": verified.entries,
        "size_bytes": verified.size_bytes,
        "corrupt": [{**_as_dict(c.listed), "why": c.why} for c in verified.corrupt],
    }
