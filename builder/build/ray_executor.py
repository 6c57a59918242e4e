"""(stale models) → Made of each on a Ray cluster, each on a node that has what it needs; artifacts come by the shared cache."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tritonsmith import __version__
from tritonsmith.builder.actions.action import Artifact, Kind
from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.actions.convert.action import kind_of_variant
from tritonsmith.builder.base.errors import BuildError, ToolError, TritonsmithError, UsageError
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.base.processes.ray_cluster import connected
from tritonsmith.builder.base.processes.run_policy import RunPolicy, run_under
from tritonsmith.builder.build.context import BuildOptions, context_of
from tritonsmith.builder.build.execution import Watch
from tritonsmith.builder.build.model.make import Made, make_model
from tritonsmith.builder.build.model.variants import BuiltVariant
from tritonsmith.builder.build.results import ELSEWHERE
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.cache.shared import SharedCache
from tritonsmith.builder.plan.pins import Pins
from tritonsmith.builder.plan.plan import Action
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec

# Models that the cluster is asked for at once; more wait here.
_AT_ONCE = 256
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class _Job:
    """What a node is told: where it finds the spec and the caches. A relative spec lies in Ray's working directory."""

    version: str
    spec: Path
    model: str
    cache: Path
    shared: str | None
    options: BuildOptions
    pins: Pins


class RayExecutor:
    """A Ray cluster: the one at `address`, or one that is started on this machine.

    ToolError ray_missing or ray_unreachable; UsageError when its nodes share no cache with this machine.
    """

    def __init__(
        self,
        repository: RepositorySpec,
        cache: Cache,
        options: BuildOptions,
        watch: Watch,
        address: str | None,
        pins: Pins,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ToolError(
                "--executor ray needs Ray", code="ray_missing", fix="pip install 'tritonsmith[ray]'"
            )
        if address is not None and cache.shared is None:
            raise UsageError(
                "the nodes of a cluster hand artifacts on through a shared cache, and none is named",
                code="ray_cache",
                fix="--remote-cache s3://… (or a directory that every node has)",
            )
        self._repository, self._cache, self._options, self._watch = repository, cache, options, watch
        self._pins = pins
        self._is_ours = address is None
        self._ray = connected(address, runtime_env={"working_dir": str(repository.root)})
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ray")

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def submit(self, spec: ModelSpec, planned: Sequence[Action]) -> Future[Made]:
        """Makes one model on the cluster, where each node plans with its own tools."""
        targets = {action.engine: None for action in planned if action.engine is not None}
        return self._threads.submit(self._make, spec, [target for target in targets if target.gpu])

    def _make(self, spec: ModelSpec, engines: Sequence[EngineTarget]) -> Made:
        made = self._run(spec, None)
        # What is still to be compiled, on nodes with other GPUs.
        missing = any(v.error is not None and v.error.code in ELSEWHERE for v in made.variants)
        targets = [target for target in engines if missing and self._has(target)]
        if targets:
            for target in targets:
                self._run(spec, target)
            made = self._run(spec, None)
        return _here(made, spec, self._cache)

    def _has(self, target: EngineTarget) -> bool:
        resources = self._ray.cluster_resources()
        kind = f"accelerator_type:{(target.gpu or '').upper()}"
        named = any(name.startswith("accelerator_type:") for name in resources)
        return bool(resources.get("GPU")) and (kind in resources or not named)

    def _run(self, spec: ModelSpec, target: EngineTarget | None) -> Made:
        """The model made by one task; an error that it ended with is raised as it was."""
        ray = self._ray
        needs: dict[str, Any] = {"num_cpus": 1, "max_retries": 2}
        what = f"{spec.name} on the cluster"
        if target is not None:
            needs |= {"num_gpus": 1}
            kind = f"accelerator_type:{(target.gpu or '').upper()}"
            if kind in ray.cluster_resources():
                needs["resources"] = {kind: 0.001}
            what = f"{spec.name} for {target.name} on the cluster"
        task = ray.remote(_make_on_node).options(**needs).remote(self._job(spec))
        self._watch.started(what)
        try:
            return self._answer(task, spec)
        finally:
            self._watch.ended(what)

    def _job(self, spec: ModelSpec) -> _Job:
        path = self._repository.path.resolve()
        shared = self._cache.shared
        return _Job(
            version=__version__,
            spec=path if self._is_ours else Path(path.name),
            model=spec.name,
            cache=self._cache.root,
            shared=None if shared is None else shared.url,
            options=replace(self._options, cache=None, models=(spec.name,)),
            pins=self._pins,
        )

    def _answer(self, task: Any, spec: ModelSpec) -> Made:
        ray = self._ray
        while True:
            done, _ = ray.wait([task], timeout=_POLL_S)
            if self._stopped.is_set():
                ray.cancel(task, force=True)
                raise BuildError(f"{spec.name} was cancelled", code="ray_cancelled")
            if done:
                break
        try:
            answer: Made | TritonsmithError = ray.get(task)
        except ray.exceptions.RayError as error:
            raise BuildError(
                f"{spec.name}: the cluster lost it: {str(error).splitlines()[0][:300]}",
                code="ray_lost",
                fix="`ray status` and the nodes' logs tell more; build again",
            ) from None
        if isinstance(answer, TritonsmithError):
            raise answer
        return answer

    def stop(self) -> None:
        """Cancels what runs, and ends the cluster when it was started for this build."""
        self._stopped.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._ray.shutdown()


def _make_on_node(job: _Job) -> Made | TritonsmithError:
    """Runs on the node: the model's artifacts into the shared cache, by the node's own toolchain and GPU."""
    try:
        if job.version != __version__:
            raise ToolError(
                "the cluster runs another tritonsmith",
                code="ray_version",
                seen=__version__,
                valid=(job.version,),
                fix="install the same version on every node",
            )
        shared = None if job.shared is None else SharedCache(job.shared)
        cache = Cache(_node_cache(job), shared)
        context = context_of(replace(job.options, spec=job.spec, cache=cache), pins=job.pins)
        spec = next(m for m in context.spec.models if m.name == job.model)
        with run_under(RunPolicy(timeout_s=job.options.timeout_s)):
            context.seen(spec.name)
            return make_model(spec, context.plan().actions_of(spec.name), context.spec, cache)
    except (
        Exception
    ) as error:  # as a value, whose text travels: Ray would wrap it, and lose one that cannot be pickled
        return failure_of(error, job.model)


def _node_cache(job: _Job) -> Path:
    """The driver's own directory where the node is the driver's machine, else the node's."""
    from tritonsmith.builder.cache.cache import default_cache_directory

    return job.cache if job.spec.is_absolute() else default_cache_directory()


def _here(made: Made, spec: ModelSpec, cache: Cache) -> Made:
    """The same with artifacts of this machine's cache, which takes them from the shared one."""
    return replace(
        made,
        base=_local(made.base, cache, "source"),
        variants=tuple(_local_variant(spec, variant, cache) for variant in made.variants),
    )


def _local_variant(spec: ModelSpec, variant: BuiltVariant, cache: Cache) -> BuiltVariant:
    artifact = variant.artifact
    if artifact is not None:
        artifact = _local(artifact, cache, kind_of_variant(spec, variant.name))
    engines = tuple(replace(e, artifact=_local(e.artifact, cache, "compile")) for e in variant.engines)
    return replace(variant, artifact=artifact, engines=engines)


def _local(artifact: Artifact, cache: Cache, kind: Kind) -> Artifact:
    found = cache.get(artifact.key, kind)
    if found is None:
        raise BuildError(
            f"the cluster made {artifact.key[:12]}, but the shared cache does not have it",
            code="ray_artifact",
            fix="look for warnings of the nodes about the shared cache",
        )
    return found
