"""(a built model, what its build recorded, the spec's repository) → the record that travels with a published version."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tritonsmith.builder import __version__
from tritonsmith.builder.base.files.digest import digest_of_bytes, digest_of_file, digest_of_value
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded
from tritonsmith.builder.publish.destinations.destination import Content
from tritonsmith.builder.publish.destinations.state import FORMAT
from tritonsmith.builder.publish.destinations.versions import Policy
from tritonsmith.builder.repository.lock import LockedModel
from tritonsmith.builder.spec.spec import RepositorySpec

_EVIDENCE = "evidence"


@dataclass(frozen=True, slots=True)
class SpecOrigin:
    """Where the spec came from. commit: of the git repository that it lies in, None when it is in none.

    dirty: something tracked there differs from that commit.
    """

    name: str
    sha256: str
    commit: str | None
    dirty: bool | None


def spec_origin(spec: RepositorySpec) -> SpecOrigin:
    """Digest and git commit of the spec."""
    commit = _git(spec.root, "rev-parse", "HEAD")
    changed = None if commit is None else _changes(spec.root)
    return SpecOrigin(
        spec.path.name, digest_of_file(spec.path), commit, None if changed is None else bool(changed)
    )


# A repository's own configuration names programs that git starts while it only looks.
_START_NOTHING = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


def _changes(directory: Path) -> str | None:
    """What `git status` tells of tracked files; no filter that the repository itself configures is started."""
    told = _git(directory, "config", "--show-scope", "--name-only", "--get-regexp", r"^filter\.") or ""
    scoped = (line.split("\t", 1) for line in told.splitlines() if "\t" in line)
    filters = (f"{name}=" for scope, name in scoped if scope in ("local", "worktree"))
    off = [word for setting in filters for word in ("-c", setting)]
    return _git(directory, *off, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *_START_NOTHING, "-C", str(directory), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def sweep_evidence(spec: RepositorySpec, model: str) -> Any:
    """What `tritonsmith apply` left beside the spec for the model; None when it left nothing."""
    try:
        return json_value(read_bounded(spec.root / _EVIDENCE / f"{model}.json"), infinite=True)
    except (OSError, ValueError):
        return None


def content_digest(files: Mapping[str, str], root: Mapping[str, str], config: Any) -> str:
    """Identity of what is served: files by path in the version's directory and at the root, and the config's meaning."""
    meaning = digest_of_bytes(config.SerializeToString(deterministic=True))
    return digest_of_value({"files": dict(files), "root": dict(root), "config": meaning})


def file_records(files: Mapping[str, Content], digests: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Path → sha256 and bytes; digests: those that are known already."""
    return {
        name: {
            "sha256": digests.get(name)
            or (digest_of_bytes(content) if isinstance(content, bytes) else digest_of_file(content)),
            "bytes": len(content) if isinstance(content, bytes) else content.stat().st_size,
        }
        for name, content in sorted(files.items())
    }


def record_of(
    *,
    model: str,
    version: int,
    content: str,
    files: Mapping[str, Mapping[str, Any]],
    root: tuple[str, ...],
    policy: Policy,
    previous: tuple[int, ...],
    locked: LockedModel,
    origin: SpecOrigin,
    smoke: Mapping[str, Any],
    evidence: Any,
    now: datetime | None = None,
) -> dict[str, Any]:
    """The record as JSON; times are UTC.

    smoke: samples (how many), bounds (by output), note (why there are none).
    """
    # Of what is served: the variant where there are variants, else the export.
    served: Mapping[str, Any] = locked.variants.get(locked.served or "") or asdict(locked)
    return {
        "format": FORMAT,
        "model": model,
        "version": version,
        "published": (now or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
        "tritonsmith": __version__,
        "content": content,
        "policy": policy.as_dict(),
        "previous": list(previous),
        "spec": asdict(origin),
        "variant": locked.served,
        "action_key": served["key"],
        "tools": dict(served["tools"]),
        "accuracy": dict(served["accuracy"]),
        "lock": asdict(locked),
        "smoke": dict(smoke),
        "evidence": evidence,
        "root": list(root),
        "files": {name: dict(told) for name, told in files.items()},
    }


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """The record as it is stored."""
    return (json.dumps(record, indent=1, sort_keys=False, ensure_ascii=False) + "\n").encode()
