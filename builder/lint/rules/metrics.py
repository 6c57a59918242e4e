"""Rules about model_metrics."""

from __future__ import annotations

from collections.abc import Iterator

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule


def _metrics(text: str) -> str:
    return f"model_metrics {{ metric_control {{ {text} }} }}"


@rule(
    "MET001",
    "error",
    "poll",
    then="the server does not poll the model; before 24.12 the field is unknown and the text does not parse",
    fix="give the family and its histogram's buckets",
    source="core/src/model_config_utils.cc:462",
    bad=_metrics('metric_identifier { family: "nv_inference_first_response_histogram_ms" }'),
    good=_metrics(
        'metric_identifier { family: "nv_inference_first_response_histogram_ms" }\n'
        "  histogram_options { buckets: [ 1, 10, 100 ] }"
    ),
)
def metric_incomplete(model: Model, context: Context) -> Iterator[Hit]:
    """A metric_control has no family, histogram_options or buckets, or the target does not know the field."""
    for index, control in enumerate(model.config.model_metrics.metric_control):
        field = f"model_metrics.metric_control[{index}]"
        if not control.metric_identifier.family:
            yield Hit("a metric has no family", f"{field}.metric_identifier", "")
        if not control.HasField("histogram_options"):
            yield Hit("a metric has no histogram_options", field, "")
        elif not len(control.histogram_options.buckets):
            yield Hit("a histogram has no buckets", f"{field}.histogram_options", "[]")
    release = context.target.release
    if release is not None and release < "24.12" and model.config.HasField("model_metrics"):
        yield Hit(f"Triton {release} does not know model_metrics", "model_metrics", release)
