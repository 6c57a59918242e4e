"""(Triton's instance_group, an engine's optimization profiles) → groups that say which profiles they run; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tritonsmith.builder.base.errors import SpecError, Where


def instance_groups_with_profiles(
    groups: Sequence[Mapping[str, Any]],
    profile_count: int,
    model: str = "the model",
    where: Where | None = None,
) -> list[dict[str, Any]]:
    """Triton's instance_group, every group with the optimization profiles it runs.

    A group without `profile` runs profile 0 only, so with several profiles the others would never be used: such
    groups get all of them, and where no group is stated one is made that does. Raises SpecError (profile_index) for
    a profile that the engine does not have.
    """
    wired = [dict(group) for group in groups]
    if not wired and profile_count > 1:
        wired = [{"count": 1, "kind": "KIND_GPU"}]
    valid = [str(index) for index in range(profile_count)]
    for group in wired:
        named = [str(name) for name in group.get("profile") or ()]
        for name in named:
            # Triton reads the index with its own parser, so "00" and " 0" are no way to write it.
            if name not in valid:
                raise SpecError(
                    f"{model}: instance_group names optimization profile {name!r}, "
                    f"and the engine has {profile_count}",
                    code="profile_index",
                    where=where,
                    seen=name,
                    valid=valid or ("(an engine without dynamic dims has no profile to name)",),
                )
        if not named and profile_count > 1:
            group["profile"] = valid
    return wired
