"""`tritonsmith publish`: the built repository → numbered versions where servers read them."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.commands.options import (
    DEFAULT_SPEC,
    Format,
    FormatOption,
    RemoteCacheOption,
    RemoteCacheReadOnlyOption,
    RepositoryOption,
    SpecOption,
    TargetOption,
    TemplatesOption,
    build_options,
)
from tritonsmith.perf.commands.flattened import argument, flag, flattened
from tritonsmith.perf.commands.release.options import (
    ReleaseFlags,
    destination_argument,
    destination_first,
    release_from_flags,
)

if TYPE_CHECKING:
    from tritonsmith.builder.publish import ModelPublication, PublishResult


@flattened
def publish(
    *,
    destination: str | None = destination_argument(),
    models: list[str] | None = argument(
        None, "Only these models; default: all of the spec.", metavar="MODEL"
    ),
    spec: SpecOption = DEFAULT_SPEC,
    repository: RepositoryOption = None,
    templates: TemplatesOption = None,
    target: TargetOption = None,
    remote_cache: RemoteCacheOption = None,
    remote_cache_read_only: RemoteCacheReadOnlyOption = False,
    keep: int = flag(3, "Versions of a model that stay, newest first; served ones always do.", min=1),
    servers: ReleaseFlags,
    dry_run: bool = flag(False, "Pass the gates, say what would be published, write nothing.", "--dry-run"),
    format: FormatOption = Format.text,
) -> None:
    """Publish what was built as new, immutable versions.

    What is served there already is left alone. The gates come first: nothing stale, accuracy within the present
    bounds, no lint errors. Each version becomes visible as a whole. With --reload a live Triton loads it and is asked
    the build's own samples; when it fails, the version before it is put back and serves again, and the exit code is
    4.

    Examples: tritonsmith publish /srv/models
              tritonsmith publish s3://models/prod minilm --reload http://127.0.0.1:8000
    """
    from tritonsmith.builder.base.text.console import emit_json, emit_text, note, progress, width_of
    from tritonsmith.builder.commands.failures import end_with
    from tritonsmith.builder.publish import PublishOptions, open_destination
    from tritonsmith.builder.publish import publish as run_publish

    where, models = destination_first(destination, *(models or ()))
    built = build_options(spec, repository, templates, remote_cache, remote_cache_read_only, target=target)
    options = PublishOptions(built, tuple(models), keep, dry_run)
    release = release_from_flags(servers)
    place = open_destination(where)
    with progress("gates", alike=False) as tell:
        result = run_publish(options, place, release, tell)
    emit_json(as_json(result)) if format is Format.json else emit_text(
        text_of_publish(result, width_of(sys.stdout))
    )
    for publication in result.models:
        for text in publication.notes:
            note(f"note: {publication.model}: {text}")
    end_with(result.errors)


def text_of_publish(result: PublishResult, width: int | None = None) -> str:
    """One line a model and a closing line. width: of the terminal; None where there is none."""
    from tritonsmith.builder.base.text.text_layout import named_lines

    longest = max((len(m.model) for m in result.models), default=0)
    lines = named_lines(lambda room: [_line(m, room) for m in result.models], longest, width)
    would = any(m.action == "would publish" for m in result.models)
    done = sum(m.action in ("published", "would publish") for m in result.models)
    failed = sum(m.error is not None for m in result.models)
    tail = f", {failed} failed" if failed else ""
    verb = "would be published" if would else "published"
    summary = (
        f"{done} of {len(result.models)} models {verb}{tail}" if done or failed else "nothing to publish"
    )
    return "\n".join([*lines, f"{summary}: {result.destination}"])


def _line(m: ModelPublication, room: int) -> str:
    from tritonsmith.builder.base.text.text_layout import narrowed

    parts = [
        narrowed(m.model, room).ljust(room),
        f"{m.action:<13}",
        "" if m.version is None else f"version {m.version}",
    ]
    if m.action not in ("up to date", "would publish"):
        parts.append(f"serves {_numbers(m.served)} (before: {_numbers(m.previous)})")
    if m.removed:
        parts.append(f"removed {_numbers(m.removed)}")
    if m.seconds:
        parts.append(f"{m.seconds:.1f} s")
    return "  ".join(part for part in [*parts, m.live] if part).rstrip()


def _numbers(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions)) or "none"


def as_json(result: PublishResult) -> dict[str, Any]:
    """The whole result as one JSON object."""
    return {
        "destination": result.destination,
        "models": [
            {
                **{field.name: getattr(m, field.name) for field in fields(m)},
                "seconds": round(m.seconds, 3),
                "error": None if m.error is None else m.error.as_dict(),
            }
            for m in result.models
        ],
    }
