"""Models of ONNX files made by processes that take one after another: few processes, and what each model would get alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests import onnx_models
from tritonsmith.builder.base.processes.run_policy import RunPolicy, run_under
from tritonsmith.builder.base.processes.warm import Place, WarmWorkers, Worker
from tritonsmith.builder.build.build import BuildOptions, plan_build
from tritonsmith.builder.build.model.make import Made, make_model
from tritonsmith.builder.cache.cache import Cache

MODELS = 5


class Counted(WarmWorkers):
    """Counts the workers that were forked."""

    forks = 0

    def forked(self, place: Place) -> Worker:
        self.forks += 1
        return super().forked(place)


@contextmanager
def counted() -> Iterator[Counted]:
    with closing(Counted()) as workers, run_under(RunPolicy(warm=workers)):
        yield workers


def project(root: Path) -> Path:
    """A spec of models that multiply by 1, 2, …"""
    text = "models:\n"
    for number in range(MODELS):
        onnx_models.save(onnx_models.affine(("batch", 3), scale=number + 1.0), root / f"m{number}.onnx")
        text += f"  m{number}:\n    source: {{onnx: m{number}.onnx}}\n    max_batch_size: 4\n"
    (root / "models.yaml").write_text(text)
    return root / "models.yaml"


def made(spec: Path, cache: Path, *names: str) -> dict[str, Made]:
    context, plan = plan_build(BuildOptions(spec, cache=Cache(cache)))
    return {
        model.name: make_model(model, plan.actions_of(model.name), context.spec, context.cache)
        for model in context.spec.models
        if not names or model.name in names
    }


def told(one: Made) -> Mapping[str, Any]:
    assert one.rows is not None
    record = {name: value for name, value in one.base.record.items() if name != "seconds"}
    return {"key": one.base.key, "record": record, "files": one.base.files, "rows": one.rows.as_dict()}


def test_models_share_a_process_and_get_what_each_would_get_alone(tmp_path: Path) -> None:
    spec = project(tmp_path)
    with counted() as workers:
        together = made(spec, tmp_path / "together")
        assert workers.forks == 1, f"{MODELS} models, an export and a check of rows each"
    assert list(together) == [f"m{number}" for number in range(MODELS)]
    last = f"m{MODELS - 1}"
    alone = made(spec, tmp_path / "alone", last)
    assert told(together[last]) == told(alone[last])


def test_a_model_whose_samples_are_code_shares_with_nobody(tmp_path: Path) -> None:
    spec = project(tmp_path)
    (tmp_path / "rows.py").write_text(
        "import numpy as np\n\n\ndef load():\n    return [{'x': np.ones((4, 3), np.float32)}]\n"
    )
    spec.write_text(
        spec.read_text().replace(
            "m1.onnx}\n    max", "m1.onnx}\n    accuracy: {samples: 'rows:load'}\n    max"
        )
    )
    with counted() as workers:
        made(spec, tmp_path / "cache", "m0", "m1", "m2")
        assert workers.forks == 2, "the export that runs code has a process of its own, its rows are a file's"
