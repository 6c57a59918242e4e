"""The command line: the builder's commands and the perf harness's under one name."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

_LINUX_MODULES = ("fcntl", "resource", "uvloop")
YOUNG_OBJECTS = 50_000
"""What a command reads lives until its end, and each search for garbage reads all of it."""
COMPLETION = "_TRITONSMITH_COMPLETE"
"""The variable that a shell's completion sets; typer makes its name from the program's."""
_INTERRUPTED, _TERMINATED = 130, 143  # 128 + the signal's number, as shells say it


def _end(number: int, frame: FrameType | None) -> None:
    """A Ctrl-C before anything is begun: as an exception it could come where nothing here catches it."""
    os.write(2, b"interrupted; nothing half-written was left\n")
    os._exit(_INTERRUPTED)


_is_ours = (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
)
if _is_ours:
    signal.signal(signal.SIGINT, _end)

import gc
import io
import itertools
import select
import time
from typing import Any

import typer

from tritonsmith.builder.base.errors import ToolError, TritonsmithError
from tritonsmith.builder.base.processes.failure import DISK_FIXES, file_of
from tritonsmith.builder.base.text.console import detail, emit_json, tell_error
from tritonsmith.builder.commands import cli as builder_cli
from tritonsmith.builder.commands.failures import show_error
from tritonsmith.builder.commands.help import Command, Group, show_help
from tritonsmith.perf.commands import cli as perf_cli


class _Passed(BaseException):
    """Carries an error past Typer, which would answer it in its own way: silently, and with other exit codes."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class _Commands(Group):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError) as error:
            raise _Passed(error) from error


app = typer.Typer(
    name="tritonsmith",
    cls=_Commands,
    help="From one spec file to a verified, tuned, live Triton model repository.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


builder_cli.register(app)
perf_cli.register(app)
app.command(name="help", cls=Command, rich_help_panel="Start here")(show_help)


# The base of usage errors is click's own class up to Typer 0.2x, and a copy inside Typer since.
_CommandLineError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class _Sigterm:
    """SIGTERM is a Ctrl-C with words and an exit code of its own: what was measured is kept, every `finally` runs."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background by a shell
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)  # whoever handles Ctrl-C just now handles this


def main() -> None:
    """Runs the command line; expected errors become one message and an exit code, anything else a traceback."""
    sigterm = _Sigterm()
    try:
        signal.signal(signal.SIGTERM, sigterm)
        gc.set_threshold(YOUNG_OBJECTS)
        if COMPLETION in os.environ:
            _complete()
        started_s = time.monotonic()
        code = _run(sys.argv[1:])
        detail(f"{time.monotonic() - started_s:.2f} s in all, exit code {code}")
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        tell_error(f"{'terminated' if sigterm.came else 'interrupted'}; nothing half-written was left")
        code = _TERMINATED if sigterm.came else code
        # Python keeps a mark when a Ctrl-C leaves code that was compiled from a string (a dataclass being made,
        # say), caught or not, and would end `python -m tritonsmith` by SIGINT for it; other such code clears it.
        exec("")  # noqa: S102
    sys.exit(code)


def _complete() -> None:
    """What a shell asks for while the user types; whatever goes wrong is neither shown there nor waited for."""
    try:
        app(args=[], prog_name="tritonsmith")
    except SystemExit as ended:
        sys.exit(ended.code)
    except BaseException:
        sys.exit(1)


def _run(arguments: list[str]) -> int:
    try:
        result = _call(arguments)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except TritonsmithError as error:
        return _report(error, arguments)
    except _CommandLineError as error:
        told = io.StringIO()
        error.show(told)
        tell_error(told.getvalue().rstrip("\n"))
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error, but nothing more can be written. Any
        # other pipe or socket that broke is one.
        if not _reader_is_gone(sys.stdout.fileno()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as error:
        if error.name not in _LINUX_MODULES:
            raise
        tell_error(
            f"error[platform_unsupported]: this command needs Linux; there is no module {error.name} here\n"
            f"  seen:  {sys.platform}\n"
            "  valid: Linux; not tried: macOS but for the embedded server, Windows for `check` alone\n"
            "  fix:   run it in a Linux container, or in WSL 2"
        )
        return ToolError.exit_code
    except OSError as error:
        fix = DISK_FIXES.get(error.errno or 0)
        if fix is None:
            raise
        tell_error(
            f"error[disk]: {error.strerror}: {file_of(error)}\n  fix:   {fix}, then run the same command again"
        )
        return 1


def _call(arguments: list[str]) -> object:
    try:
        return app(args=arguments, prog_name="tritonsmith", standalone_mode=False)
    except _Passed as passed:
        if isinstance(passed.error, KeyboardInterrupt):
            # What another library was just making cannot be torn down properly, and would say so.
            sys.unraisablehook = lambda unraisable: None
        raise passed.error from None


def _reader_is_gone(descriptor: int) -> bool:
    looked = select.poll()
    looked.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in looked.poll(0))


def _report(error: TritonsmithError, arguments: list[str]) -> int:
    if "--format=json" in arguments or any(p == ("--format", "json") for p in itertools.pairwise(arguments)):
        emit_json({"error": error.as_dict()})
    show_error(error)
    return error.exit_code


if _is_ours:
    signal.signal(signal.SIGINT, signal.default_int_handler)
