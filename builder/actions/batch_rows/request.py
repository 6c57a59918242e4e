"""What a check of rows is asked for, as a value that travels to its process as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tritonsmith.builder.base.files.json_forms import JsonForm

LARGEST_RUN_BYTES = 2**30
"""No batch is run that would take more memory beside the weights than this."""


LARGEST_RUN_ROWS = 4096
"""No batch of more rows is run: a stranger's config may state any number."""


@dataclass(frozen=True, slots=True)
class RowsRequest(JsonForm):
    """One ONNX file to look at.

    model:        its name, for messages.
    path:         the .onnx file; its external data is found beside it. Neither is written to.
    sizes:        batch sizes, ascending, from sizes_to_run.
    outputs:      the outputs that are served; empty means all.
    dynamic_dims: name → (min, opt, max), for inputs that have to be made up; dim_relations: name → what it follows from.
    samples:      `samples.npz` of an export, the "module:callable" or .npz that the spec states, or None.
    exported:     it is ours, looked at before; a stranger's external data is held against its directory first.
    search_path:  the spec's directory, for a "module:callable".
    largest_run_bytes: bounds the largest batch.
    more_s:       time for more rows than the batch sizes ask for, or a fifth of what those took where that is more;
                  they come in rounds of six, more_rounds of them at most.
    """

    model: str
    path: str
    sizes: tuple[int, ...]
    outputs: tuple[str, ...] = ()
    dynamic_dims: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    dim_relations: Mapping[str, str] = field(default_factory=dict)
    samples: str | None = None
    search_path: str = "."
    exported: bool = False
    seed: int = 0
    largest_run_bytes: int = LARGEST_RUN_BYTES
    more_s: float = 0.05
    more_rounds: int = 256

    def as_dict(self) -> dict[str, Any]:
        """JSON form, part of what a report is known by: a model without relations is known as before there were any."""
        form = JsonForm.as_dict(self)
        return form if self.dim_relations else {k: v for k, v in form.items() if k != "dim_relations"}
