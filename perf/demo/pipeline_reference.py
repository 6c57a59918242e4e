"""A child process: (the demo's directory, names of pipelines) → the answers of plain Python to each, as samples."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.base.processes.child_worker import enter_search_path, serve


def main() -> None:
    """Answers one {directory, pipelines}; arguments as builder.base.processes.child_worker.serve takes them."""
    serve(_handle, "computing the pipelines' reference answers")


def _handle(request: Mapping[str, Any], out_dir: Path) -> Mapping[str, object]:
    enter_search_path(Path(request["directory"]))
    module = importlib.import_module("pipelines")
    paths = {}
    for name in request["pipelines"]:
        samples = tuple(Sample(inputs, outputs, label) for label, inputs, outputs in getattr(module, name)())
        paths[name] = str(out_dir / f"{name}.npz")
        save_samples(SampleSet(samples, f"pipelines:{name}"), Path(paths[name]))
    return paths


if __name__ == "__main__":
    main()
