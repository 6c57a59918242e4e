"""What lies at a destination → which versions are served, kept, next and surplus; pure.

A published version is a directory MODEL/N that is never changed: the model's files, and below N/.tritonsmith its
provenance, its config.pbtxt as built, its expected answers and its copies of the files at the model's root.
MODEL/config.pbtxt is the manifest: `version_policy: {specific: …}` names the versions that are served.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tritonsmith.builder.base.errors import BuildError, GateError, UsageError, Where
from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.model_config.model_config import model_config_from_text, text_from_model_config
from tritonsmith.builder.spec.model_directory import CONFIG

RECORD = ".tritonsmith"
"""Inside the version, not beside it: Triton warns of a directory in the model's own that is no number, and a server
that polls loads the whole model again when something in it changes; of a version that is not served it takes no heed
(both seen on 2.51.0)."""

PROVENANCE = f"{RECORD}/provenance.json"
CLAIM = f"{RECORD}/claim.json"
FAILED = f"{RECORD}/failed.json"
SMOKE = f"{RECORD}/smoke.npz"
STATED_CONFIG = f"{RECORD}/{CONFIG}"
ROOT = f"{RECORD}/root"

# A version that was claimed this long ago and never finished belongs to nobody any more.
_ABANDONED_AFTER_S = 24 * 3600.0

VersionState = Literal["served", "kept", "failed", "damaged", "unfinished", "foreign", "gone"]
"""foreign: somebody else's directory. unfinished: claimed and not, or not yet, uploaded whole."""


def version_number(name: str) -> int | None:
    """The version that a directory of this name is to Triton, an int64 without leading zeros; None when it is none."""
    is_number = name.isascii() and name.isdigit() and not name.startswith("0") and len(name) < 20
    return int(name) if is_number and int(name) < 2**63 else None


@lru_cache(maxsize=4096)
def _named_by(config_text: str) -> tuple[int, ...]:
    policy = model_config_from_text(config_text).version_policy
    return tuple(sorted(policy.specific.versions)) if policy.HasField("specific") else ()


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model at a destination.

    files:       path in the model's directory → bytes.
    numbers:     every numeric directory, finished or not.
    provenance:  version → its record, of those that have one.
    config_text: MODEL/config.pbtxt; None when there is none.
    tag:         identity of that config's content at the store, to replace it only if it is still the same.
    claimed_s:   unfinished version → seconds since it was claimed.
    """

    name: str
    files: Mapping[str, int] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()
    provenance: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    config_text: str | None = None
    tag: str | None = None
    claimed_s: Mapping[int, float] = field(default_factory=dict)

    @property
    def served(self) -> tuple[int, ...]:
        """The versions that config.pbtxt names, oldest first; empty for none, and for a config that names none."""
        return () if self.config_text is None else _named_by(self.config_text)

    @property
    def complete(self) -> tuple[int, ...]:
        """Versions with a record and every file of it at its size, oldest first."""
        return tuple(n for n in sorted(self.provenance) if not self.missing(n))

    def missing(self, number: int) -> tuple[str, ...]:
        """Files of a version's record that are not there at their size."""
        files: Mapping[str, Any] = self.provenance[number]["files"]
        return tuple(n for n, told in files.items() if self.files.get(f"{number}/{n}") != told["bytes"])

    def root_of(self, number: int) -> dict[str, str]:
        """Names of a version's files at the model's root → sha256; empty for a version without a record."""
        record = self.provenance.get(number)
        return {} if record is None else {n: record["files"][f"{ROOT}/{n}"]["sha256"] for n in record["root"]}

    @property
    def root_before(self) -> tuple[str, ...]:
        """Names that any version put at the model's root."""
        return tuple(sorted({name for number in self.provenance for name in self.root_of(number)}))

    @property
    def failed(self) -> frozenset[int]:
        """Versions that a live server refused or answered wrongly with."""
        return frozenset(n for n in self.numbers if f"{n}/{FAILED}" in self.files)

    @property
    def next_number(self) -> int:
        """One above every number ever seen here: `surplus` never gives up the highest. BuildError past Triton's."""
        number = max(self.numbers, default=0) + 1
        if version_number(str(number)) is None:
            raise BuildError(
                f"{self.name} has no version number left",
                code="version_numbers",
                seen=number - 1,
                fix="remove that version's directory if nothing serves it",
            )
        return number

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else wrote it: it has a config or versions, but serves none of ours."""
        if self.config_text is None:
            return any(n not in self.provenance and n not in self.claimed_s for n in self.numbers)
        served = self.served
        if not served and self.numbers:
            # Our placeholder, left by a publish of a new model that was killed.
            return not is_placeholder(self.config_text)
        return not is_placeholder(self.config_text) and not any(n in self.provenance for n in served)

    def state_of(self, number: int) -> VersionState:
        """One word for a version, for people."""
        if number not in self.numbers:
            return "gone"
        if number not in self.provenance:
            return "unfinished" if number in self.claimed_s else "foreign"
        if self.missing(number):
            return "damaged"
        if number in self.served:
            return "served"
        return "failed" if number in self.failed else "kept"


@dataclass(frozen=True, slots=True)
class Policy(JsonForm):
    """Which versions a spec means to be served. kind `latest` has a count."""

    kind: Literal["latest", "all", "specific"]
    count: int = 1


def policy_of(config: Any) -> Policy:
    """A ModelConfig's version_policy; Triton's default is the latest one."""
    choice = config.version_policy.WhichOneof("policy_choice")
    if choice == "all":
        return Policy("all")
    if choice == "specific":
        return Policy("specific")
    return Policy("latest", max(1, config.version_policy.latest.num_versions) if choice == "latest" else 1)


def source_version(config: Any, present: Collection[int], where: Path) -> int:
    """The one version of a built model that is published.

    The numbers of a build mean nothing at a destination, which counts by itself. GateError when the spec's policy
    serves several of the model's own versions: which would be the newer one cannot be told from one build.
    """
    if len(present) == 1:
        return next(iter(present))
    policy = policy_of(config)
    chosen = set(present)
    if policy.kind == "specific":
        chosen &= set(config.version_policy.specific.versions)
    elif policy.kind == "latest" and policy.count == 1 and present:
        chosen = {max(present)}
    if len(chosen) == 1:
        return chosen.pop()
    raise GateError(
        f"{config.name}: one version is published at a time, and this model has several that are served",
        code="several_versions",
        where=Where(where),
        seen=", ".join(map(str, sorted(chosen))) or "none",
        fix="leave one version directory in the source; `publish` numbers versions itself and keeps the old ones",
    )


def versions_to_serve(
    policy: Policy, newest: int, available: Collection[int], keep: int | None = None
) -> tuple[int, ...]:
    """The published versions that a policy means when `newest` is the newest, oldest first.

    available: versions that could be served; those above `newest` are never, or Triton would answer with them.
    keep:      how many `all` means; None for all that are available.
    """
    below = sorted({n for n in available if n <= newest} | {newest})
    if policy.kind == "all":
        return tuple(below[-keep:] if keep else below)
    return tuple(below[-policy.count :]) if policy.kind == "latest" else (newest,)


def surplus(state: ModelState, keep: int, policy: Policy) -> tuple[int, ...]:
    """Versions that may go: neither served, nor among the newest `keep`, nor the highest number of all.

    Failed versions do not count among those kept. Unfinished ones go a day after they were claimed.
    """
    highest = max(state.numbers, default=0)
    good = [n for n in state.complete if n not in state.failed]
    kept = set(good[-max(keep, policy.count if policy.kind == "latest" else 1) :])
    kept |= {highest, *state.served}
    unfinished = {n for n in state.numbers if n not in state.provenance}
    young = {n for n in unfinished if state.claimed_s.get(n, 0.0) < _ABANDONED_AFTER_S}
    return tuple(n for n in sorted(state.numbers) if n not in kept and n not in young)


def rollback_target(state: ModelState, wanted: int | None, destination: str) -> int:
    """The version to go back to: the one asked for, or what was served before the present one.

    UsageError names those that there are.
    """
    served = state.served
    valid = [n for n in state.complete if n not in served[-1:]]
    told = [f"{n}{' (failed)' if n in state.failed else ''}" for n in valid]
    if wanted is not None and served and wanted == served[-1]:
        raise UsageError(
            f"{state.name}: version {wanted} is the one that is served", code="served_already", valid=told
        )
    if wanted is not None and wanted not in valid:
        why = f"is {state.state_of(wanted)}" if wanted in state.numbers else "does not exist"
        raise UsageError(
            f"{state.name}: version {wanted} {why} at {destination}", code="unknown_version", valid=told
        )
    if wanted is not None:
        return wanted
    before = state.provenance.get(served[-1], {}).get("previous", ()) if served else ()
    if before and before[-1] in valid:
        return int(before[-1])
    raise UsageError(
        f"{state.name}: there is no version before {served[-1] if served else 'the first'} to go back to",
        code="no_previous_version",
        seen=f"before it {before[-1]} was served, which is {state.state_of(before[-1])}" if before else None,
        valid=told,
        fix=f"tritonsmith rollback {destination} {state.name} VERSION" if valid else None,
    )


_STAMP = "# tritonsmith publish:"
_PLACEHOLDER = f"{_STAMP} a first version is being uploaded"


def manifest(stated: str, versions: Collection[int], spec_name: str, templates: Path | None = None) -> str:
    """A config.pbtxt that serves exactly these versions; all else is as `stated`."""
    message = model_config_from_text(stated)
    message.version_policy.specific.versions[:] = sorted(versions)
    message.version_policy.specific.SetInParent()
    text = text_from_model_config(message, spec_name=spec_name, templates=templates)
    if not versions:
        return f"{_PLACEHOLDER}\n{text}"
    newest = max(versions)
    return f"{_STAMP} version {newest}; {newest}/{PROVENANCE} says what it is\n{text}"


def is_placeholder(text: str) -> bool:
    """Whether a config.pbtxt is what `manifest` writes for no version at all."""
    return text.startswith(_PLACEHOLDER)
