"""A name on the Hugging Face hub that is not pinned → the error that says which commit it is now."""

from __future__ import annotations

from tritonsmith.builder.base.errors import SpecError, ToolError
from tritonsmith.builder.llm.weights import HubName, is_pinned

_TIMEOUT_S = 10.0
ENABLE = "pip install 'tritonsmith[transformers]'"


def refuse_unpinned(name: HubName) -> None:
    """SpecError hub_unpinned with the line that pins it; ToolError hub_unreachable where nothing can say the commit."""
    if is_pinned(name):
        return
    commit = commit_of(name)
    raise SpecError(
        f"there is no file or directory {name.name!r} here, and as a name on the hub it says no commit: "
        "what is served would change with it",
        code="hub_unpinned",
        seen=f"{name.name}@{name.revision}" if name.revision else name.name,
        valid=(f"{name.name}@COMMIT",),
        fix=f"source: {{llm: {name.name}@{commit}}}",
    )


def commit_of(name: HubName) -> str:
    """The commit that a branch, a tag or the newest is now, as the hub or its cache here says; ToolError hub_unreachable."""
    asked = name.name if name.revision is None else f"{name.name}@{name.revision}"
    try:
        from huggingface_hub import model_info
    except ImportError:
        raise ToolError(
            f"there is no file or directory {asked!r} here, and asking the hub for its commit needs huggingface_hub",
            code="hub_unreachable",
            seen=asked,
            fix=f"{ENABLE}, or state it: source: {{llm: {name.name}@COMMIT}}",
        ) from None
    try:
        found = model_info(name.name, revision=name.revision, timeout=_TIMEOUT_S).sha
    except Exception as error:
        if commit := _fetched_before(name):
            return commit
        words = " ".join(str(error).split())[:200]
        raise ToolError(
            f"there is no file or directory {asked!r} here, and the hub cannot be asked for its commit",
            code="hub_unreachable",
            seen=f"{type(error).__name__}: {words}",
            fix="where there is a network: "
            f'python -c "from huggingface_hub import model_info; print(model_info({name.name!r}).sha)"; '
            f"then source: {{llm: {name.name}@COMMIT}}",
        ) from None
    return str(found)


def _fetched_before(name: HubName) -> str | None:
    """The commit under which the hub's cache on this machine has it."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name.name, "config.json", revision=name.revision)
    except ValueError:
        return None
    parts = str(found).split("/") if isinstance(found, str) else []
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
