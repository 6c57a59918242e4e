"""(an action, the cache) → its artifact: the one place that asks whether there is one, and the one that runs what is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tritonsmith.builder.actions.action import Action, Artifact, Identity
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.files.package_files import portable_name, source_path
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.spec.model_directory import read_model_directory


def find(
    identity: Identity,
    root: Path,
    cache: Cache,
    *,
    here: bool = False,
    now: Mapping[str, str | None] | None = None,
) -> str | None:
    """The key of an artifact that was made of the same with all files as they are now, here or elsewhere.

    root: the spec's directory. here: looks into the local cache alone. now: the content digests of the files that the
    last run is known to have read, None where one is gone; they are tried first, and most often that is all.
    """
    remembered, has = (cache.remembered_here, cache.has_here) if here else (cache.remembered, cache.has)
    if identity.request is None:
        return None
    if identity.reads and now:
        known = {name: digest for name, digest in now.items() if digest is not None}
        if len(known) == len(now) and cache.has_here(key := identity.key(known)):
            return key
    runs: Iterable[tuple[str, ...]] = remembered(identity.request) if identity.reads else [()]
    keys = (key_now(identity, names, root, cache) for names in runs)
    return next((key for key in keys if key is not None and has(key)), None)


def key_now(identity: Identity, dependencies: Iterable[str], root: Path, cache: Cache) -> str | None:
    """The key by the content that files of these names have now; None when one is gone."""
    digests: dict[str, str] = {}
    for name in dependencies:
        digest = current_digest(name, root, cache)
        if digest is None:
            return None
        digests[name] = digest
    return identity.key(digests)


def current_digest(name: str, root: Path, cache: Cache) -> str | None:
    """The content digest of a dependency now (of a name that ends in /: what is listed there); None when it is gone."""
    try:
        if name.endswith("/"):
            return read_model_directory(source_path(name, root)).listing_digest
        return cache.stats.digest(source_path(name, root))
    except (OSError, SpecError):
        return None


def fetched(action: Action, key: str | None, cache: Cache) -> Artifact | None:
    """The artifact at a key; one that is not what the action asks for is refused, with a warning, and as if it were not."""
    found = None if key is None else cache.get(key, action.kind)
    if found is not None and (other := action.differs(found.directory)):
        cache.refuse(found.key, f"{action.what.partition(' ')[2]}: {'; '.join(other)}")
        return None
    return found


def run(action: Action, root: Path, cache: Cache) -> Artifact:
    """Runs it, in a child process, and puts what it made into the cache. Errors: the action's."""
    identity = action.identity
    with cache.workspace() as made:
        ran = action.run(made, cache)
        if not identity.reads:
            return cache.put(identity.key(), made, ran.record, action.what)
        read = {portable_name(file, root): cache.stats.digest(file) for file in ran.read}
        read |= ran.listings
        key = identity.key(read)
        record = {**ran.record, "dependencies": dict(sorted(read.items()))}
        artifact = cache.put(key, made, record, action.what)
        assert identity.request is not None
        cache.remember(identity.request, read, key)
    return artifact


def perform(action: Action, root: Path, cache: Cache) -> tuple[Artifact, bool]:
    """(its artifact, whether it was there): of an action that the plan could not know the key of."""
    identity = action.identity
    artifact = fetched(action, find(identity, root, cache) if identity.reads else identity.key(), cache)
    return (run(action, root, cache), False) if artifact is None else (artifact, True)
