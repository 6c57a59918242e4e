"""`python -m tritonsmith.perf.doctor.gpu_check.worker CALL ARGUMENT DEVICE WORK ANSWER`: one step → its Outcome, as JSON in the file ANSWER."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import ServerError, ToolError
from tritonsmith.builder.base.files.disk import write_atomically
from tritonsmith.perf.doctor.gpu_check.step import MissingError, Outcome, UnexpectedError


def outcome_of(call: Callable[[], dict[str, Any] | Outcome]) -> Outcome:
    """What the step's function returns or raises, as an Outcome."""
    try:
        answer = call()
    except MissingError as error:
        return Outcome("missing", str(error))
    except UnexpectedError as error:
        return Outcome("failed", str(error), error.facts)
    except ToolError as error:
        return Outcome("failed" if isinstance(error, ServerError) else "missing", str(error))
    except Exception as error:  # a step's bug is a line of the record, too
        traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return Outcome("failed", f"{type(error).__name__}: {error} ({where})"[:2000])
    return answer if isinstance(answer, Outcome) else Outcome("passed", "", answer)


def main(call: str, argument: str, device: str, work: str, answer: str) -> None:
    """Runs it; the file is there only when it is whole."""
    module, _, function = call.partition(":")

    def run() -> dict[str, Any] | Outcome:
        step = getattr(importlib.import_module(f"tritonsmith.perf.doctor.gpu_check.{module}"), function)
        found: dict[str, Any] | Outcome = step(device, Path(work), argument)
        return found

    text = json.dumps(asdict(outcome_of(run)), default=str)
    write_atomically(Path(answer), text)


if __name__ == "__main__":
    main(*sys.argv[1:])
