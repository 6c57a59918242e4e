"""From one spec file to a verified, tuned, live Triton model repository.

    import tritonsmith

    tritonsmith.build("models.yaml")                        # export, judge against the source, lay out
    tritonsmith.check("model_repository").errors            # what Triton would refuse
    with tritonsmith.serve("model_repository") as server:   # a live Triton
        before = tritonsmith.load(server, "minilm", 8)      # 8 requests in flight
        after = tritonsmith.load(server, "minilm", tritonsmith.Open(200, "poisson"))
    tritonsmith.sweep("model_repository", "minilm", space={"instance_group.count": [1, 2]})
    vectors = list(tritonsmith.batch(texts, "sentences"))   # every row's answer, in order

Each function does what the command of its name does, and returns what the command prints from: a result with its own fields,
`rows()`, `to_frame()` for pandas, and a table in a notebook. Nothing is written to stdout; `progress=True` shows on stderr how
far it is. What fails as it may is a TritonsmithError, with its code, where, seen, valid and fix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritonsmith.api import (
        BuildPlan,
        BuildResult,
        Closed,
        Comparison,
        DataOptions,
        Finding,
        GateError,
        LintReport,
        LoadTestResult,
        ModelOutcome,
        ModelPublication,
        Normal,
        Open,
        PublishResult,
        Replay,
        RunResult,
        Server,
        Span,
        TritonsmithError,
        VariantOutcome,
        batch,
        build,
        check,
        compare,
        load,
        plan,
        publish,
        serve,
        sweep,
    )

__version__ = "0.1.0"

__all__ = [
    "BuildPlan",
    "BuildResult",
    "Closed",
    "Comparison",
    "DataOptions",
    "Finding",
    "GateError",
    "LintReport",
    "LoadTestResult",
    "ModelOutcome",
    "ModelPublication",
    "Normal",
    "Open",
    "PublishResult",
    "Replay",
    "RunResult",
    "Server",
    "Span",
    "TritonsmithError",
    "VariantOutcome",
    "batch",
    "build",
    "check",
    "compare",
    "load",
    "plan",
    "publish",
    "serve",
    "sweep",
]


if not TYPE_CHECKING:  # with it, no name would be wrong to a type checker

    def __getattr__(name: str) -> Any:
        """The API, imported when it is asked for: the command line and the workers need none of it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = globals()[name] = getattr(importlib.import_module("tritonsmith.api"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
