"""(an ONNX file, the session that its export had) → the same session for the check of rows that follows in the same process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tritonsmith.builder.base.processes.child_worker import left

_NAME = "session"


def keep_session(path: Path, level: int, session: Any) -> None:
    """Leaves a session, optimised at Triton's `level`, to the next action of the same turn; none that cannot batch."""
    if all(tensor.shape and not isinstance(tensor.shape[0], int) for tensor in session.get_inputs()):
        left()[_NAME] = (_identity(path), level, session)


def take_session(path: Path, level: int) -> Any | None:
    """The session that was kept of this very file, which may have been moved since; None when there is none."""
    identity, its_level, session = left().pop(_NAME, (None, 0, None))
    return session if session is not None and (identity, its_level) == (_identity(path), level) else None


def _identity(path: Path) -> tuple[int, ...]:
    """Of a file and its content: the same after a rename, another after any change."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
