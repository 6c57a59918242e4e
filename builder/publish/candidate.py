"""(a built model in the spec's repository, its lock entry) → Candidate: the files and the config that would be published."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import BuildError, GateError, Where
from tritonsmith.builder.base.files.digest import digest_of_bytes
from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.llm.contract import ARGUMENT_FILES
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.builder.publish.destinations.versions import (
    Policy,
    policy_of,
    source_version,
    version_number,
)
from tritonsmith.builder.publish.provenance import content_digest
from tritonsmith.builder.repository.lock import LockedModel
from tritonsmith.builder.spec.model_directory import CONFIG


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model as it was built.

    files:   path in the version's directory → the built file. root: path in the model's directory → likewise.
    digests: the same paths → sha256, as the lock has them.
    config:  the ModelConfig as built, its text in `text`; its version_policy is `policy`, in the spec's own numbers.
    number:  the version that it has in the repository.
    content: identity of all this.
    steps:   the models that an ensemble calls.
    """

    model: str
    files: Mapping[str, Path]
    root: Mapping[str, Path]
    digests: Mapping[str, str]
    root_digests: Mapping[str, str]
    config: Any
    text: str
    policy: Policy
    number: int
    content: str
    steps: tuple[str, ...]
    locked: LockedModel


def candidate_of(repository: Path, model: str, locked: LockedModel) -> Candidate:
    """What a publish of the model would bring.

    GateError when the model cannot be published as it is: several versions, a step's version pinned.
    """
    directory = repository / model
    where = directory / CONFIG
    text = where.read_text(encoding="utf-8")
    config = model_config_from_text(text, Where(where))
    _refuse_pinned(config, where)
    tops = {version_number(name.partition("/")[0]) for name in locked.files if "/" in name}
    present = {top for top in tops if top is not None}
    number = source_version(config, present, where)
    prefix = f"{number}/"
    inside = {
        n.removeprefix(prefix): d for n, d in locked.files.items() if n.startswith(prefix) and n != prefix
    }
    # An empty directory is listed as `NAME/`; object stores have none, and Triton looks for none but the version's.
    files = {n: d for n, d in inside.items() if not n.endswith("/")}
    root = {
        n: d
        for n, d in locked.files.items()
        if n != CONFIG and not n.endswith("/") and version_number(n.partition("/")[0]) is None
    }
    plain = type(config)()
    plain.CopyFrom(config)
    if plain.version_policy.HasField("specific"):
        # Its numbers are the build's; the published ones are other numbers, and it is one version either way.
        plain.ClearField("version_policy")
    return Candidate(
        model=model,
        files={n: directory / prefix / n for n in files},
        root={n: directory / n for n in root},
        digests=files,
        root_digests=root,
        config=config,
        text=text,
        policy=policy_of(config),
        number=number,
        content=content_digest(files, root, plain),
        steps=tuple(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step)),
        locked=locked,
    )


def renumbered(candidate: Candidate, number: int) -> dict[str, bytes]:
    """Files that the version has otherwise under another number: the arguments of a language model's engine, which name its
    weights by the server's own path, `/models/NAME/1/…`, as no engine takes one that is relative to them.

    BuildError when one is not what the lock says.
    """
    own = re.compile(rf"(?<=/{re.escape(candidate.model)}/){candidate.number}(?=/)")
    found: dict[str, bytes] = {}
    for name in (name for name in ARGUMENT_FILES if name in candidate.files):
        content = read_bounded(candidate.files[name])
        if digest_of_bytes(content) != candidate.digests[name]:
            raise changed_meanwhile(candidate, candidate.files[name])
        found[name] = own.sub(str(number), content.decode(errors="surrogateescape")).encode(
            errors="surrogateescape"
        )
    return found


def check_copied(
    candidate: Candidate, records: Mapping[str, Mapping[str, Any]], otherwise: Collection[str] = ()
) -> None:
    """BuildError when a file is not what the lock says. otherwise: names of those that are not copies."""
    for name, digest in candidate.digests.items():
        if name not in otherwise and records[name]["sha256"] != digest:
            raise changed_meanwhile(candidate, candidate.files[name])


def stamps_of(candidate: Candidate) -> tuple[tuple[int, int, int], ...]:
    """What changes when a build lays the model out anew, or somebody writes to it: inode, size and mtime of each file."""
    stats = [file.stat() for file in (*candidate.files.values(), *candidate.root.values())]
    return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)


def changed_meanwhile(candidate: Candidate, where: Path) -> BuildError:
    """The error for a repository that was written to while it was read."""
    return BuildError(
        f"{candidate.model} changed while it was published",
        code="changed_meanwhile",
        where=Where(where),
        fix="let the build end, then publish again",
    )


def _refuse_pinned(config: Any, where: Path) -> None:
    for step in config.ensemble_scheduling.step:
        if step.model_version > 0:
            raise GateError(
                f"{config.name}: its step {step.model_name!r} is pinned to version {step.model_version}",
                code="pinned_step",
                where=Where(where),
                fix="leave the step's version out (-1, the latest served): published versions have numbers of their own",
            )
