"""An S3 server that fails at each call of a build and of a publish, and machines that use one bucket at once: Rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.bench.ground import MODELS, Ground, Row, last_line, references
from tests.bench.kills import Tell, problems_of_next_publish, two_projects
from tests.failing_proxy import FailingProxy, failing_proxy
from tests.faults import check_destination
from tests.s3_server import CREDENTIALS, make_bucket, s3_server
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.build.build import BuildOptions
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.publish import PublishOptions, open_destination, publish

_HOW: tuple[Literal["503", "drop"], ...] = ("503", "drop")
_WORDS = {"503": "503 from", "drop": "a dropped connection at"}
_ONE = MODELS[:1]


def errors_of_a_build(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """From each call on S3 fails: a build that fills the shared cache, and one that finds everything there."""
    wanted = references(scratch, _ONE)[0]
    rows = []
    with _bucket() as (bucket, proxy):
        filler = _ground(scratch / "filler", f"{bucket}/full")
        assert filler.run("build").returncode == 0
        for cache, what in (("empty", "that fills"), ("full", "that reads")):
            proxy.heal()
            counted = _ground(scratch / f"count-{cache}", f"{bucket}/{cache}")
            assert counted.run("build").returncode == 0
            calls = len(proxy.requests)
            for how in _HOW:
                row = Row(f"S3: {_WORDS[how]} each of the {calls} calls of a `build` {what} the shared cache")
                warned = 0
                for call in range(1, calls + 1):
                    tell(row.fault, row.times, calls)
                    name = f"{cache}-{how}-{call}"
                    ground = _ground(scratch / name, f"{bucket}/{name if cache == 'empty' else 'full'}")
                    proxy.fail_from(call, how)
                    done = ground.run("build")
                    proxy.heal()
                    warned += "cannot be used" in done.stderr
                    problems = (
                        [] if done.returncode == 0 else [f"call {call}: {how}: {last_line(done.stderr)}"]
                    )
                    problems += [] if "Traceback" not in done.stderr else [f"call {call}: a traceback"]
                    row.settle([*problems, *ground.problems_of_next_build(wanted)])
                row.seen = f"the build itself succeeded each time ({warned} times with its one warning), right by content"
                rows.append(row)
    return rows


def errors_of_a_publish(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """From each call on S3 fails while one state is published over the other, in this process."""
    projects = two_projects(scratch, _ONE)
    rows = []
    with _bucket() as (bucket, proxy):
        url = f"{bucket}/models"
        _publish(projects[0], url)
        _publish(projects[1], url)
        proxy.heal()
        _publish(projects[0], url)
        calls = len(proxy.requests)
        now = 0
        for how in _HOW:
            row = Row(f"S3: {_WORDS[how]} each of the {calls} calls of a `publish`")
            failed = 0
            for call in range(1, calls + 1):
                tell(row.fault, row.times, calls)
                now = 1 - now
                proxy.fail_from(call, how)
                told = _publish(projects[now], url)
                proxy.heal()
                failed += bool(told)
                problems = [p for p in told if "error of S3" not in p] + _unsound(url)
                problems += _publish(projects[now], url)
                problems += _unsound(url)
                row.settle([*problems, *_left_to_do(projects[now], url)])
            row.seen = f"a whole version after each run, by digest ({failed} publishes failed with one error)"
            rows.append(row)
    return rows


def two_publishers(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """Two machines publish other states of the same models to one bucket, begun at once."""
    row = Row(f"two machines `publish` to one bucket at once, {len(MODELS)} models, two states")
    projects = two_projects(scratch, MODELS)
    refused = 0
    with _bucket() as (bucket, _):
        url = f"{bucket}/models"
        for number in range(times):
            tell(row.fault, number, times)
            problems: list[str] = []
            pair = [project.start("publish", url) for project in projects]
            for process in pair:
                with process:
                    _, errors = process.communicate(timeout=300)
                if process.returncode:
                    refused += 1
                    polite = "meanwhile" in errors and "Traceback" not in errors
                    problems += [] if polite else [f"ended with {process.returncode}: {last_line(errors)}"]
            problems += _unsound(url)
            problems += problems_of_next_publish(projects[number % 2], url)
            row.settle([*problems, *_unsound(url)])
    row.seen = (
        f"whole versions after each pair, by digest; {refused} of {2 * times} publishes found a model changed meanwhile "
        "and said so"
    )
    return [row]


def two_machines(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """Two machines with empty homes build the same sources with one empty shared cache, begun at once."""
    row = Row(f"two machines `build` at once with one empty shared cache on S3, {len(MODELS)} models")
    wanted = references(scratch)[0]
    with _bucket() as (bucket, _):
        for number in range(times):
            tell(row.fault, number, times)
            grounds = [
                _ground(scratch / f"{number}-{m}", f"{bucket}/{number}", MODELS) for m in ("one", "two")
            ]
            problems: list[str] = []
            for process in [ground.start("build") for ground in grounds]:
                with process:
                    _, errors = process.communicate(timeout=300)
                problems += [] if process.returncode == 0 else [last_line(errors)]
            for ground in grounds:
                problems += ground.problems_of_next_build(wanted)
            third = _ground(scratch / f"{number}-three", f"{bucket}/{number}", MODELS)
            done = third.run("build")
            problems += [] if "warning" not in done.stderr else [last_line(done.stderr)]
            problems += third.problems_of_next_build(wanted)
            if list((third.cache_directory / "logs").glob("*")):
                problems.append("a third machine had to make something itself")
            row.settle(problems)
    row.seen = "right content on each machine, by digest; a third one found everything and made nothing"
    return [row]


def _ground(root: Path, remote: str, models: tuple[str, ...] = _ONE) -> Ground:
    ground = Ground(root, models, env={"TRITONSMITH_REMOTE_CACHE": remote})
    ground.write(0)
    return ground


def _options(project: Ground, dry_run: bool = False) -> PublishOptions:
    build = BuildOptions(project.root / "models.yaml", cache=Cache(project.cache_directory))
    return PublishOptions(build, dry_run=dry_run)


def _publish(project: Ground, url: str) -> list[str]:
    """What failed."""
    try:
        errors = list(publish(_options(project), open_destination(url)).errors)
    except TritonsmithError as error:
        errors = [error]
    return [f"{'error of S3' if e.code.startswith('store') else 'publish'}: {e}" for e in errors]


def _left_to_do(project: Ground, url: str) -> list[str]:
    done = publish(_options(project, dry_run=True), open_destination(url))
    return [f"{m.model} is still to be published" for m in done.models if m.action != "up to date"]


def _unsound(url: str) -> list[str]:
    try:
        served = check_destination(open_destination(url))
    except (AssertionError, TritonsmithError) as error:
        return [f"what is served is not whole: {error}"]
    return [f"{model} serves nothing" for model, versions in served.items() if not versions]


@contextmanager
def _bucket() -> Iterator[tuple[str, FailingProxy]]:
    """A new bucket of a real S3 server, and the proxy before it; the environment leads there."""
    with s3_server() as url, failing_proxy(url) as proxy:
        make_bucket(url, "bench")
        # One attempt: each call that fails is a failure, and no wait for another.
        wanted = {**CREDENTIALS, "AWS_MAX_ATTEMPTS": "1", "AWS_ENDPOINT_URL": proxy.url}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield "s3://bench", proxy
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
