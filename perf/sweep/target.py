"""What the command line names (a repository, a live server's URL, or something near it) → where to sweep, and which model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.files.address import is_bracketed, refuse_bare_ipv6
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launches.table import launch_rows
from tritonsmith.perf.server.spec import address_from_url, kind_from_text

ONNX_SUFFIXES = (".onnx", ".pt", ".pt2")


@dataclass(frozen=True, slots=True)
class SweepTarget:
    """launch: as perf.server.launch.kind_from_text takes it. repository: None of a server elsewhere."""

    launch: str
    repository: Path | None

    @property
    def is_attached(self) -> bool:
        """Whether the server is there already and stays."""
        return self.repository is None


def target_from_text(where: str, launch: str = "embedded") -> SweepTarget:
    """A directory, or a URL. UsageError for what is neither, with the command that makes a repository of it."""
    if is_bracketed(where):  # [::1]:8000 is nothing else
        where = f"http://{where}"
    if "://" in where:
        address_from_url(where)
        return SweepTarget(where, None)
    if launch_rows()[kind_from_text(launch)[0]].attach is not None:
        return SweepTarget(launch, None)
    path = Path(where)
    if path.is_dir() and _is_model_directory(path):
        name = path.resolve().name
        raise UsageError(
            "that is one model's directory; a repository is the directory above it",
            code="model_directory",
            where=Where(path),
            fix=f"tritonsmith sweep {path.parent} --model {name}",
        )
    if path.is_file():
        steps = f"tritonsmith init {path} && tritonsmith build && tritonsmith sweep"
        raise UsageError(
            "a sweep takes a model repository, not a file",
            code="no_target",
            where=Where(path),
            fix=steps if path.suffix in ONNX_SUFFIXES else "tritonsmith build, then tritonsmith sweep",
        )
    if not path.is_dir():
        refuse_bare_ipv6(where)
        built = (path.parent / "models.yaml").is_file()
        raise UsageError(
            "there is no model repository here",
            code="repository_missing",
            seen=where,
            valid=["a model repository's directory", "http://HOST:8000 of a Triton that is running"],
            fix="tritonsmith build makes it from models.yaml"
            if built
            else "name a directory, or `tritonsmith init FILE.onnx && tritonsmith build`",
        )
    return SweepTarget(launch, path)


def only_model(target: SweepTarget) -> str:
    """The one model that is there; UsageError names all when there are several."""
    names = _models_in(target.repository) if target.repository is not None else _models_served(target.launch)
    if len(names) != 1:
        raise UsageError(
            "which model?" if names else "there is no model to sweep",
            code="no_model",
            valid=names,
            seen=None if names else target.repository or target.launch,
            fix=f"--model {names[0]}" if names else None,
        )
    return names[0]


def _models_in(repository: Path) -> list[str]:
    return sorted(p.name for p in repository.iterdir() if p.is_dir() and _is_model_directory(p))


def _is_model_directory(path: Path) -> bool:
    """A config.pbtxt, or a version directory with files: Triton completes the config of such a model."""
    if (path / "config.pbtxt").is_file():
        return True
    return any(
        v.is_dir() and v.name.isdigit() and any(f.is_file() for f in v.iterdir()) for v in path.iterdir()
    )


def _models_served(text: str) -> Sequence[str]:
    from tritonsmith.perf.server.launch import ServerSpec, launch

    kind, reference = kind_from_text(text)
    with launch(ServerSpec(kind=kind, reference=reference)) as server:
        rows = control.repository_index(server.http_url)
    ready = sorted({row.name for row in rows if row.state == "READY"})
    return ready or sorted({row.name for row in rows})
