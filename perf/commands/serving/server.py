"""`tritonsmith server`: the embedded server's own Python environment, made ahead of time and looked at."""

from __future__ import annotations

from enum import Enum

import typer

from tritonsmith.builder.base.text.console import emit_json, emit_text
from tritonsmith.builder.commands.help import Command, Group
from tritonsmith.builder.commands.options import Format, FormatOption
from tritonsmith.perf.commands.flattened import flag, flattened

app = typer.Typer(
    cls=Group,
    help="""Install and inspect the embedded server's own Python environment.

    Examples: tritonsmith server status
              tritonsmith server install
    """,
    no_args_is_help=True,
)


class With(str, Enum):
    """What is not in the environment from the start: packages of a backend of ours, and what converts weights for it."""

    vllm = "vllm"
    optimum = "optimum"


@app.command(name="install", cls=Command)
@flattened
def install(
    find_links: list[str] | None = flag(
        None, "Also look for wheels here; may be repeated.", metavar="DIR|URL"
    ),
    no_index: bool = flag(False, "Offline: look for wheels nowhere else than in --find-links.", "--no-index"),
    with_: list[With] | None = flag(
        None,
        "Also what language models need (vllm: 70 MB to fetch), and what converts Hugging Face directories for them "
        "(optimum, with torch: 300 MB, or several GB where pip's index has torch with CUDA alone).",
        "--with",
        metavar="PART",
    ),
) -> None:
    """Make the environment, unless it is there.

    serve, load, sweep and demo do the same when they need it. What it holds is locked with hashes; where pip finds it
    is pip's own configuration. It is Python 3.10 to 3.12, this one or another of this machine.

    Examples: tritonsmith server install
              tritonsmith server install --with vllm
              tritonsmith server install --with optimum
              pip download --no-deps --require-hashes -d wheels -r "$(tritonsmith server status --list)"
              tritonsmith server install --no-index --find-links wheels
    """
    from tritonsmith.perf.server import preflight
    from tritonsmith.perf.server.environment import environment

    preflight.check(preflight.observe())
    options = environment.PipOptions(tuple(find_links or ()), no_index)
    made = environment.ensure(options)
    if with_:
        models = environment.vllm_layer(made, options)
        if With.optimum in with_:
            environment.optimum_layer(models, options)
    emit_text(f"the embedded tritonserver {environment.TRITON} is ready: {made.root}")


@app.command(name="status", cls=Command)
@flattened
def status(
    list: bool = flag(False, "Print only the path of the locked list of packages.", "--list"),
    format: FormatOption = Format.text,
) -> None:
    """Say whether the environment is there, and where.

    Examples: tritonsmith server status
              tritonsmith server status --list
    """
    from tritonsmith.perf.server.environment import environment

    if list:
        emit_text(str(environment.LOCKED))
        return
    found = environment.ready()
    state = {
        "triton": environment.TRITON,
        "home": str(environment.home()),
        "environment": None if found is None else str(found.root),
        "python": None if found is None else found.python,
        "packages": str(environment.LOCKED),
    }
    if format is Format.json:
        emit_json(state)
        return
    where = state["environment"] or "not made yet; tritonsmith server install"
    emit_text(
        f"tritonserver {state['triton']}\nenvironment  {where}\npython       {state['python'] or '-'}\n"
        f"packages     {state['packages']}"
    )
