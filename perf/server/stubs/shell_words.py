"""Triton's command line of a Python stub, in which nothing is quoted → the stub, with the words that were meant.

Triton's Python backend starts a stub by `bash -c` (python_backend, src/stub_launcher.cc, StubLauncher::Launch): at the
start, when it polls, and when it is told to load. A `bash` of ours, first in the server's PATH, takes that line apart by
what stands in it beside names and paths, and hands everything else on to the real one.
"""

from __future__ import annotations

from pathlib import Path

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.builder.base.odd_names import read_otherwise

# exec STUB MODEL SHM SIZE GROWTH PID LIBRARY HANDLE INSTANCE RUNTIME: MODEL and INSTANCE may hold anything, STUB and
# LIBRARY lie in the server's temporary directory. The first form is that of an EXECUTION_ENV_PATH.
_SCRIPT = r"""#!REAL_SHELL
line='^(source (.+) && exec env LD_LIBRARY_PATH=(.+):\$LD_LIBRARY_PATH| exec) ([^ ]+/triton_python_backend_stub)'
line+=' (.+) ([^ ]+) ([0-9]+) ([0-9]+) ([0-9]+) ([^ ]+/python) ([0-9]+) (.+) ([^ ]+)$'
if [[ $# == 2 && $1 == -c && $2 =~ $line ]]; then
  stub=("${BASH_REMATCH[@]:4}") activate=${BASH_REMATCH[2]} libraries=${BASH_REMATCH[3]}
  set --
  if [[ $activate ]]; then
    source "$activate" || exit
    export LD_LIBRARY_PATH="$libraries:$LD_LIBRARY_PATH"
  fi
  exec "${stub[@]}"
fi
exec REAL_SHELL "$@"
"""


def lay_out_shell(into: Path, bash: str) -> Path:
    """Make `into`, a directory for the front of a server's PATH.

    bash: the real one's path. ToolError where a server cannot be started out of the directory around `into`: the stub's
    own path stands in commands of Triton that are not for bash.
    """
    if (bad := read_otherwise(str(into))) is not None:
        raise ToolError(
            f"the server's temporary directory has {bad!r} in its path, at which Triton's Python stubs do not start",
            code="temporary_directory",
            seen=into.parent,
            fix="TMPDIR=/tmp",
        )
    into.mkdir(parents=True)
    script = into / "bash"
    script.write_text(_SCRIPT.replace("REAL_SHELL", bash))
    script.chmod(0o755)
    return into
