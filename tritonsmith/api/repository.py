"""A spec or a repository → what is stale, built, found wrong, published: the builder's side of the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import Unpack

from tritonsmith.api.common import OnError, PathLike, Progress, names, several, unless_failed
from tritonsmith.builder.base.text.console import progress_as_asked
from tritonsmith.builder.build.context import BuildOptions
from tritonsmith.builder.build.results import BuildResult
from tritonsmith.builder.commands.options import OtherOptions, build_options
from tritonsmith.builder.lint.check import LintReport
from tritonsmith.builder.plan.plan import BuildPlan
from tritonsmith.builder.publish.publish import PublishResult


def plan(
    spec: PathLike = "models.yaml",
    models: str | Sequence[str] = (),
    *,
    repository: PathLike | None = None,
    templates: PathLike | None = None,
    update_revisions: bool = False,
    target: str | None = None,
    remote_cache: str | None = None,
    remote_cache_read_only: bool = False,
    errors: OnError = "raise",
) -> BuildPlan:
    """What a build would do now, and why; nothing is changed. As `tritonsmith plan`.

    models:       only these, with the steps of ensembles; empty means all.
    repository:   default: model_repository/ beside the spec.
    templates:    directory with templates of your own.
    update_revisions: ask the Hugging Face hub anew for the commits of names that the spec has without one.
    target:       a release ("26.08"), an image or a live server's URL that all must load on.
    remote_cache: s3://…, gs://…, az://… or a directory; None goes by TRITONSMITH_REMOTE_CACHE.
    errors:       "raise" the error of a model that nothing can be said of, or "return" it in the plan's `errors`.
    """
    from tritonsmith.builder.build.context import plan_build

    options = _options(
        spec,
        repository,
        templates,
        remote_cache,
        remote_cache_read_only,
        update_revisions=update_revisions,
        target=target,
        models=names(models),
    )
    _, result = plan_build(options)
    return unless_failed(result, result.errors, errors)


def build(
    spec: PathLike = "models.yaml",
    models: str | Sequence[str] = (),
    *,
    repository: PathLike | None = None,
    templates: PathLike | None = None,
    overwrite: bool = False,
    lint: bool = True,
    locked: bool = False,
    update_revisions: bool = False,
    artifacts_only: bool = False,
    variants: PathLike | None = None,
    target: str | None = None,
    remote_cache: str | None = None,
    remote_cache_read_only: bool = False,
    jobs: int | None = None,
    memory_bytes: int | None = None,
    timeout_s: float | None = None,
    fail_fast: bool = False,
    executor: str = "local",
    progress: Progress = False,
    errors: OnError = "raise",
) -> BuildResult:
    """Build what is stale and lay the model repository out. As `tritonsmith build`; the other arguments: see `plan`.

    overwrite:      replace model directories that no build of this spec made.
    lint:           refuse to lay out a model that Triton would refuse.
    locked:         GateError rather than build anything that the lock file does not say.
    artifacts_only: make what is stale into the cache and lay nothing out.
    variants:       also lay every variant out, as MODEL__VARIANT in this directory; not with artifacts_only.
    jobs, memory_bytes: actions at once, and what they may use together; None: one a CPU, what is free.
    timeout_s:      of one action.
    fail_fast:      end at the first failure; else the other models are built.
    executor:       "local", "ray" or "ray:ADDRESS".
    errors:         "raise" the worst once all is done, or "return" them in the result's `errors`. A model that failed is
                    left in the repository as it was.
    """
    from tritonsmith.builder.build.build import build as run_build
    from tritonsmith.builder.build.variant_directories import with_variants
    from tritonsmith.builder.commands.build import known_executor

    options = _options(
        spec,
        repository,
        templates,
        remote_cache,
        remote_cache_read_only,
        overwrite=overwrite,
        lint=lint,
        target=target,
        models=names(models),
        locked=locked,
        update_revisions=update_revisions,
        artifacts_only=artifacts_only,
        jobs=jobs,
        memory_bytes=memory_bytes,
        timeout_s=timeout_s,
        fail_fast=fail_fast,
        executor=known_executor(executor),
    )
    with progress_as_asked(progress, "building") as tell:
        result = run_build(options, tell and (lambda at: tell(at.doing, at.done, at.total)))
        if variants is not None and not artifacts_only:
            result = with_variants(result, options, Path(variants))
    return unless_failed(result, result.errors, errors)


def check(
    paths: PathLike | Sequence[PathLike] = "model_repository",
    *,
    target: str | None = None,
    gpus: int | None = None,
    server_args: str | None = None,
    select: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    deep: bool = False,
    errors: OnError = "raise",
) -> LintReport:
    """Lint repositories, model directories or config.pbtxt files. As `tritonsmith check`: findings are returned.

    target:         a Triton release that it must load on. gpus: that the server will have.
    server_args:    the flags that the server is started with, as one string; "" when there are none.
    select, ignore: rules or families to judge, or not to.
    deep:           run the ONNX files, too: would requests batched together be mixed?
    errors:         "raise" what kept a rule from judging, or "return" it in the report's `failures`.
    """
    from tritonsmith.builder.commands.check import options_from_flags
    from tritonsmith.builder.lint.check import report

    options = options_from_flags(target, gpus, server_args, list(names(select)), list(names(ignore)), deep)
    found = report([Path(path) for path in several(paths)], options)
    return unless_failed(found, found.failures, errors)


def publish(
    destination: PathLike,
    models: str | Sequence[str] = (),
    *,
    spec: PathLike = "models.yaml",
    repository: PathLike | None = None,
    templates: PathLike | None = None,
    target: str | None = None,
    remote_cache: str | None = None,
    remote_cache_read_only: bool = False,
    keep: int = 3,
    reload: str | Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    ca_file: PathLike | None = None,
    reload_timeout_s: float = 600.0,
    dry_run: bool = False,
    progress: Progress = False,
    errors: OnError = "raise",
) -> PublishResult:
    """Publish what was built as new, immutable versions. As `tritonsmith publish`; the other arguments: see `plan`.

    destination: a directory, or s3://, gs:// or az:// and a prefix: the model repository that servers read.
    keep:        versions of a model that stay, newest first; served ones always do.
    reload:      URLs of Tritons that read the destination: each loads the version and answers the recorded requests, or
                 all is as before. headers, ca_file: what they are sent, and certificates that https trusts.
    dry_run:     pass the gates, say what would be published, write nothing.
    errors:      "raise" the worst once all is done, or "return" them in the result's `errors`. A gate that says no before
                 anything is written is raised always.
    """
    from tritonsmith.builder.publish import PublishOptions, open_destination
    from tritonsmith.builder.publish import publish as run_publish
    from tritonsmith.perf.commands.release.options import release_at

    built = _options(spec, repository, templates, remote_cache, remote_cache_read_only, target=target)
    urls = names(reload)
    certificates = None if ca_file is None else Path(ca_file)
    release = release_at(urls, headers or {}, certificates, reload_timeout_s) if urls else None
    with progress_as_asked(progress, "gates") as tell:
        result = run_publish(
            PublishOptions(built, names(models), keep, dry_run),
            open_destination(str(destination)),
            release,
            tell,
        )
    return unless_failed(result, result.errors, errors)


def _options(
    spec: PathLike,
    repository: PathLike | None,
    templates: PathLike | None,
    remote_cache: str | None,
    remote_cache_read_only: bool,
    **others: Unpack[OtherOptions],
) -> BuildOptions:
    places = [None if path is None else Path(path) for path in (repository, templates)]
    return build_options(Path(spec), places[0], places[1], remote_cache, remote_cache_read_only, **others)
