"""A directory → a small spec, built in this process and published where a test wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests import onnx_models
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.context import BuildOptions
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.publish import (
    Destination,
    PublishOptions,
    PublishResult,
    Release,
    Rollback,
    open_destination,
    publish,
    rollback,
)


@dataclass(frozen=True)
class Project:
    """models.yaml with models that are taken over as they are, and the place they go to."""

    root: Path
    url: str

    @property
    def options(self) -> BuildOptions:
        return BuildOptions(self.root / "models.yaml", cache=Cache(self.root / "cache"))

    @cached_property
    def destination(self) -> Destination:
        # Opening a session with S3 takes longer than a publish.
        return open_destination(self.url)

    def write(self, models: Mapping[str, float], extra: str = "", spec: str = "") -> None:
        """Each model is y = scale · x + 1; its labels say the scale. extra: more of each model's spec."""
        text = "models:\n"
        for name, scale in models.items():
            source = self.root / "sources" / name
            onnx_models.save(onnx_models.affine(("batch", 3), scale=scale), source / "1" / "model.onnx")
            (source / "labels.txt").write_text(f"{scale}\n" * 3)
            text += f"  {name}:\n    source: {{directory: sources/{name}}}\n    backend: onnxruntime\n"
            text += "    max_batch_size: 4\n"
            text += "    input: [{name: x, data_type: TYPE_FP32, dims: [3]}]\n"
            text += "    output: [{name: y, data_type: TYPE_FP32, dims: [3], label_filename: labels.txt}]\n"
            text += extra
        (self.root / "models.yaml").write_text(text + spec)

    def build(self) -> None:
        result = build(self.options)
        assert not result.errors, result.errors

    def publish(
        self, *models: str, keep: int = 3, dry_run: bool = False, release: Release | None = None
    ) -> PublishResult:
        options = PublishOptions(self.options, models, keep, dry_run)
        return publish(options, self.destination, release)

    def publish_scales(self, keep: int = 3, release: Release | None = None, **models: float) -> PublishResult:
        """New sources, a build, a publish."""
        self.write(models)
        self.build()
        return self.publish(keep=keep, release=release)

    def rollback(self, model: str, version: int | None = None) -> Rollback:
        return rollback(self.destination, model, version)

    def labels(self, model: str) -> str:
        """The first label that a server would read now."""
        content = self.destination.read(model, "labels.txt")
        assert content is not None
        return content.decode().splitlines()[0]


def two_builds(tmp_path: Path, url: str, models: tuple[str, ...] = ("m", "other")) -> tuple[Project, Project]:
    """The same models, built from other sources."""
    projects = []
    for name, scale in (("first", 2.0), ("second", 3.0)):
        project = Project(tmp_path / name, url)
        project.root.mkdir()
        project.write(dict.fromkeys(models, scale))
        project.build()
        projects.append(project)
    return projects[0], projects[1]
