"""`tritonsmith sweep --restore URL`: what a sweep that was killed left loaded on a running server → as it was before."""

from __future__ import annotations

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.base.text.shown import without_secrets
from tritonsmith.perf.commands.sweep.options import RunFlags
from tritonsmith.perf.server.launch import ServerSpec, kind_from_text, launch
from tritonsmith.perf.sweep.attached.held import held_server, is_left_changed


def restore(where: str | None, launch_kind: str | None, command: str, run: RunFlags) -> None:
    """Says what was put back, in one line, or that nothing had to be."""
    url = next((text for text in (where, launch_kind) if text is not None and "://" in text), None)
    if url is None:
        raise UsageError(
            "only a server that was running already is left to be put back",
            code="no_target",
            seen=where or launch_kind,
            fix="tritonsmith sweep --restore http://HOST:8000",
        )
    kind, reference = kind_from_text(url)
    with launch(ServerSpec(kind=kind, reference=reference)):
        was_changed = is_left_changed(url)
        held = held_server(
            url, without_secrets(command), wait=run.wait, break_lock=run.break_lock, tell=note, on_note=note
        )
        with held:
            if not was_changed:
                note(f"no sweep that is known here has left {url} changed")
