"""A name on the Hugging Face hub → the commit that it is now; or the error that says why nobody can tell."""

from __future__ import annotations

from pathlib import Path

from tritonsmith.builder.base.errors import SpecError, ToolError, TritonsmithError
from tritonsmith.builder.base.text.shown import without_secrets
from tritonsmith.builder.llm.weights import HubName, is_commit

ENABLE = "pip install 'tritonsmith[transformers]'"
# Of the words of an error.
_SHOWN = 200


def commit_of(name: HubName) -> str:
    """The commit that a branch, a tag or the newest is now, as the hub or its cache here says.

    Where the hub is, its token and whether it may be asked are huggingface_hub's own variables. SpecError: hub_no_model,
    hub_no_revision. ToolError: hub_refused (a token or a permission is missing), hub_unreachable.
    """
    try:
        from huggingface_hub import constants, model_info
    except ImportError:
        raise _unreachable(name, "needs huggingface_hub", None, f"{ENABLE}, or state it") from None
    try:
        found = model_info(name.name, revision=name.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
    except Exception as error:
        told = _told(name, error)
        if told.code == "hub_unreachable" and (commit := _fetched_before(name)):
            return commit
        raise told from None
    if found is None or not is_commit(found):
        raise _unreachable(name, "is answered with no commit", repr(found), "state it")
    return found


def _told(name: HubName, error: Exception) -> TritonsmithError:
    from huggingface_hub import constants, errors

    # Before it is cut: a password in HF_ENDPOINT is known by what follows it.
    words = without_secrets(" ".join(str(error).split()))[:_SHOWN]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return SpecError(
            f"the hub has {name.name}, but no branch, tag or commit {name.revision!r} of it",
            code="hub_no_revision",
            seen=_asked(name),
            fix=f"source: {{llm: {name.name}}} takes its newest commit",
        )
    if isinstance(error, errors.GatedRepoError) or status in (401, 403):
        return ToolError(
            f"there is no file or directory {name.name!r} here, and the hub has no such model or does not show it to everybody",
            code="hub_refused",
            seen=words,
            fix=f"check how it is written; accept its terms at {constants.ENDPOINT}/{name.name} where there are some, and give "
            "your token: hf auth login, or HF_TOKEN",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return SpecError(
            f"there is no file or directory {name.name!r} here, and the hub has no such model",
            code="hub_no_model",
            seen=_asked(name),
            fix="check how it is written; a private one needs your token: hf auth login, or HF_TOKEN",
        )
    return _unreachable(
        name,
        "cannot be asked for",
        f"{type(error).__name__}: {words}",
        f"where there is a network: {_COMMAND.format(name.name)}; then state it",
    )


_COMMAND = 'python -c "from huggingface_hub import model_info; print(model_info({!r}).sha)"'


def _unreachable(name: HubName, why: str, seen: str | None, how: str) -> ToolError:
    return ToolError(
        f"there is no file or directory {_asked(name)!r} here, and its commit on the hub {why}",
        code="hub_unreachable",
        seen=seen or _asked(name),
        fix=f"{how}: source: {{llm: {name.name}@COMMIT}}",
    )


def _asked(name: HubName) -> str:
    return name.name if name.revision is None else f"{name.name}@{name.revision}"


def _fetched_before(name: HubName) -> str | None:
    """The commit under which the hub's cache on this machine has it."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name.name, "config.json", revision=name.revision)
    except ValueError:
        return None
    commit = Path(found).parent.name if isinstance(found, str) else ""
    return commit if is_commit(commit) else None
