"""`module:callable` → what the callable returns, or an error at the user's own file and line."""

from __future__ import annotations

import errno
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from tritonsmith.builder.base.errors import ExportError, Where, unknown
from tritonsmith.builder.base.machine.own import is_own
from tritonsmith.builder.base.processes.failure import one_line as one_line


def call_reference(reference: str, what: str) -> tuple[Any, Path | None]:
    """Imports the module, calls the callable without arguments → (its result, the module's file).

    `what` names the role in messages ("source"). ExportError: as import_reference, and callable_failed.
    """
    function, file = import_reference(reference, what)
    result = run_users_code(
        function,
        lambda error: ExportError(
            f"{what} {reference} raised {error}", code="callable_failed", fix="call it on its own and fix it"
        ),
    )
    return result, file


def import_reference(
    reference: str, what: str, valid: str = "a function without arguments"
) -> tuple[Callable[..., Any], Path | None]:
    """`module:callable` → (the callable, the module's file).

    `valid` says in messages what the callable should be. ExportError: reference, module_not_found,
    import_failed, attribute_not_found, not_callable.
    """
    module_name, _, attribute = reference.partition(":")
    if not attribute or not all(
        part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))
    ):
        raise ExportError(
            f"the {what} is not a reference to a callable",
            code="reference",
            seen=reference,
            valid=["package.module:callable"],
        )
    module = _import(module_name, what)
    function = _attribute(module, attribute, what, valid)
    file = getattr(module, "__file__", None)
    return function, Path(file) if file else None


def run_users_code(function: Callable[[], Any], describe: Callable[[str], ExportError]) -> Any:
    """Calls `function`; anything it raises becomes describe("Type: message") at the user's innermost line."""
    try:
        return function()
    except BaseException as error:  # a process of its own: SystemExit and the like end the source, not us
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        traceback.print_exc()
        wrapped = describe(one_line(error))
        wrapped.where = users_place(error)
        raise wrapped from error


def users_place(error: BaseException) -> Where | None:
    """The innermost frame in code that is neither Python's, nor an installed package's, nor ours."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return Where(Path(error.filename), error.lineno)
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if path.is_file() and _is_users(path.resolve()):
            found = Where(path, line)
    return found


def users_place_now() -> Where | None:
    """The innermost such frame of the code that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_file() and _is_users(path.resolve()):
            return Where(path, frame.f_lineno)
        frame = frame.f_back
    return None


def _is_users(path: Path) -> bool:
    if any(part in ("site-packages", "dist-packages") for part in path.parts):
        return False
    standard = Path(sysconfig.get_paths()["stdlib"]).resolve()
    return not is_own(path) and not path.is_relative_to(standard)


def _import(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except BaseException as error:  # a process of its own: SystemExit and the like end the source, not us
        traceback.print_exc()
        if isinstance(error, ModuleNotFoundError) and _is_itself(error.name, name):
            raise _module_not_found(name, error.name or name, what) from error
        fix = "mend the module, or install what it imports into the environment that runs tritonsmith"
        if isinstance(error, ModuleNotFoundError) and error.name:
            fix = f"install what provides {error.name} into the environment of {sys.executable}"
        raise ExportError(
            f"importing {what} module {name} failed: {one_line(error)}",
            code="import_failed",
            where=users_place(error),
            fix=fix,
        ) from error


def _is_itself(missing: str | None, name: str) -> bool:
    return missing is not None and (name == missing or name.startswith(missing + "."))


def _module_not_found(name: str, missing: str, what: str) -> ExportError:
    if name.split(".")[0] == "tritonsmith":
        fix = "`tritonsmith` is this package's own name; rename yours"
    else:
        fix = "modules are found from the directory of models.yaml, then among installed packages"
    search_path = Path(sys.path[0])
    present = present_modules(search_path)
    return ExportError(
        f"{what} module {missing} does not exist",
        code="module_not_found",
        where=Where(search_path),
        **unknown(name, [other for other in present if other != name], fix),
    )


def present_modules(search_path: Path) -> list[str]:
    """Names of the modules there, as an import has them."""
    return [".".join(path.relative_to(search_path).with_suffix("").parts) for path in _modules(search_path)]


def _modules(search_path: Path) -> list[Path]:
    """Python files at most three directories down; dot directories and virtual environments are left out."""
    found: list[Path] = []
    for pattern in ("*.py", "*/*.py", "*/*/*.py", "*/*/*/*.py"):
        for path in sorted(search_path.glob(pattern)):
            parts = path.relative_to(search_path).parts
            if not any(part.startswith((".", "__")) or part == "site-packages" for part in parts):
                found.append(path)
        if len(found) > 200:
            break
    return found


def _attribute(module: ModuleType, path: str, what: str, valid: str) -> Callable[..., Any]:
    where = Where(Path(module.__file__)) if module.__file__ else None
    value: Any = module
    for name in path.split("."):
        if not hasattr(value, name):
            public = [n for n in dir(value) if not n.startswith("_") and callable(getattr(value, n, None))]
            raise ExportError(
                f"{what} module {module.__name__} has no {name}",
                code="attribute_not_found",
                where=where,
                **unknown(name, public),
            )
        value = getattr(value, name)
    if not callable(value):
        raise ExportError(
            f"{what} {module.__name__}:{path} is not callable",
            code="not_callable",
            where=where,
            seen=type(value).__name__,
            valid=[valid],
        )
    return value  # type: ignore[no-any-return]
