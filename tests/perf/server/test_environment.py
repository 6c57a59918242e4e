"""The embedded server's own Python: made once, kept while it fits, made anew when it does not; layers on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as httpclient

from tests.conftest import ROOT
from tests.mounts import can_mount
from tests.perf.server.wheels import write_list, write_wheel
from tritonsmith.builder.base.errors import ServerError, ToolError
from tritonsmith.builder.base.machine.toolchain import this_toolchain
from tritonsmith.perf.server.embedded import Embedded, PythonEnvironment
from tritonsmith.perf.server.environment import environment, interpreter
from tritonsmith.perf.server.environment.environment import PipOptions
from tritonsmith.perf.server.environment.interpreter import Interpreter
from tritonsmith.perf.server.environment.requirements import requirements_of
from tritonsmith.perf.server.launch import ServerSpec, launch


@dataclass
class Making:
    """An environment of two tiny packages, and how often it was proven."""

    home: Path
    python: Interpreter
    wheels: Path
    listed: Path
    proven: list[Path] = field(default_factory=list)

    @property
    def target(self) -> Path:
        return self.home / "env"

    @property
    def offline(self) -> PipOptions:
        return PipOptions((str(self.wheels),), no_index=True)

    def prove(self, parts: Embedded, made: PythonEnvironment) -> None:
        self.proven.append(made.root)

    def __call__(self) -> PythonEnvironment:
        return environment.make(self.target, self.python, self.listed, self.offline, self.prove)

    def layer(self, base: PythonEnvironment, *requirements: str) -> PythonEnvironment:
        return environment.layer(base, requirements, self.offline, self.prove)


@pytest.fixture(scope="module")
def python() -> Interpreter:
    """This Python, whether a server could run on it or not: these environments serve nothing."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Interpreter(Path(sys.executable), version, None)


@pytest.fixture
def making(tmp_path: Path, python: Interpreter, monkeypatch: pytest.MonkeyPatch) -> Making:
    home, wheels = tmp_path / "home", tmp_path / "wheels"
    monkeypatch.setenv(environment.HOME_VARIABLE, str(home))
    listed = [write_wheel(wheels, "numpy", "1.26.4"), write_wheel(wheels, "small", "1.0")]
    return Making(home, python, wheels, write_list(tmp_path / "locked.txt", listed))


def says(made: PythonEnvironment, code: str, **env: str) -> str:
    """What the environment's Python prints."""
    command = [str(made.python_path), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.defpath, **env})
    return done.stdout.strip() or done.stderr


def left_in(home: Path) -> list[str]:
    return sorted(p.name for p in home.iterdir())


@pytest.mark.slow
def test_it_is_made_once_reused_while_it_fits_and_made_anew_when_it_does_not(
    making: Making, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = making()
    assert made.root == making.target and len(making.proven) == 1
    assert left_in(making.home) == ["env"], "nothing but the environment itself is left"
    assert "making the embedded server's Python environment" in capfd.readouterr().err
    # It was renamed after it was made.
    assert says(made, "import numpy, sys; print(numpy.VERSION, sys.prefix)") == f"1.26.4 {making.target}"

    began = time.perf_counter()
    assert making() == made and len(making.proven) == 1
    assert time.perf_counter() - began < 0.1
    assert capfd.readouterr().err == ""

    # The user's modules are found, but never before the environment's own.
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "numpy.py").write_text("VERSION = 'the wrong one'\n")
    (mine / "helpers.py").write_text("ANSWER = 42\n")
    code = "import helpers, numpy; print(helpers.ANSWER, numpy.VERSION)"
    assert says(made, code, TRITONSMITH_PYTHONPATH=str(mine)) == "42 1.26.4"

    # Somebody installs another numpy into it.
    write_wheel(making.wheels, "numpy", "2.4.6")
    pip = [sys.executable, "-m", "pip", "--python", str(made.python_path), "install", "-q", "--no-index"]
    subprocess.run([*pip, f"--find-links={making.wheels}", "numpy==2.4.6"], check=True)
    assert "2.4.6" in says(made, "import numpy; print(numpy.VERSION)")
    making()
    assert "1.26.4" in says(made, "import numpy; print(numpy.VERSION)") and len(making.proven) == 2

    # The list has changed, or the marker cannot be read.
    making.listed.write_text("# another\n" + making.listed.read_text())
    making()
    (making.target / "tritonsmith.json").write_text("{}")
    making()
    assert len(making.proven) == 4 and left_in(making.home) == ["env"]


@pytest.mark.slow
def test_two_starts_at_once_make_one(making: Making, capfd: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = [future.result() for future in [pool.submit(making) for _ in range(2)]]
    assert made[0] == made[1] and len(making.proven) == 1
    assert "waiting for another process" in capfd.readouterr().err


KILLED = """
import sys, time
from pathlib import Path
from tritonsmith.perf.server.environment.environment import PipOptions, make
from tritonsmith.perf.server.environment.interpreter import Interpreter

target, listed, wheels = map(Path, sys.argv[1:4])
def prove(parts, made):
    print("installed", flush=True)
    time.sleep(60)
python = Interpreter(Path(sys.executable), "%d.%d" % sys.version_info[:2], None)
make(target, python, listed, PipOptions((str(wheels),), no_index=True), prove)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.nightly)],
    ids=["kill -9", "Ctrl-C"],
)
def test_what_a_kill_left_half_made_is_never_used(making: Making, number: int) -> None:
    command = [sys.executable, "-c", KILLED, str(making.target), str(making.listed), str(making.wheels)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "installed\n"
        child.send_signal(number)
    assert left_in(making.home) == ([".making"] if number == signal.SIGKILL else [])
    made = making()
    assert left_in(making.home) == ["env"]
    assert says(made, "import small; print(small.VERSION)") == "1.0"


@pytest.mark.slow
def test_what_is_forged_missing_or_fails_its_proof_is_one_clear_error_and_is_not_kept(making: Making) -> None:
    def refuse(parts: Embedded, made: PythonEnvironment) -> None:
        raise ServerError("no", code="canary_failed")

    with pytest.raises(ServerError):
        environment.make(making.target, making.python, making.listed, making.offline, refuse)
    assert left_in(making.home) == []
    write_wheel(making.wheels, "small", "1.0", body="VERSION = 'forged'\n")
    with pytest.raises(ToolError) as caught:
        making()
    assert (caught.value.code, caught.value.exit_code) == ("server_install", 3)
    assert "HASHES" in str(caught.value.seen)
    (making.wheels / "small-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ToolError) as caught:
        making()
    assert "small==1.0" in str(caught.value.seen) and "--find-links" in str(caught.value.fix)
    assert making.proven == [] and left_in(making.home) == []


@pytest.mark.nightly
@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a small file system")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(making: Making, tmp_path: Path) -> None:
    write_list(making.listed, [write_wheel(making.wheels, "large", "1.0", size=80 * 2**20)])
    making.home.mkdir()
    script = (
        f'mount -t tmpfs -o size=64m none {making.home} && {sys.executable} -c "$KILLED" '
        f"{making.target} {making.listed} {making.wheels}; ls -A {making.home}"
    )
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        cwd=ROOT,
        env={**os.environ, "KILLED": KILLED},
        capture_output=True,
        text=True,
    )
    assert "the disk is full" in done.stderr and environment.HOME_VARIABLE in done.stderr
    assert done.stdout == ""


@pytest.fixture
def base(making: Making) -> Iterator[PythonEnvironment]:
    yield making()


@pytest.mark.slow
def test_a_layer_adds_what_models_require_once_and_the_servers_own_packages_stay(
    making: Making, base: PythonEnvironment
) -> None:
    for version in ("1.0", "2.1"):
        write_wheel(making.wheels, "words", version, requires=["small>=1"])
    assert making.layer(base) == base
    layer = making.layer(base, "words>=2", "small")
    assert layer.root.parent == making.home / "layers" and len(making.proven) == 2
    assert making.layer(base, "small", "words>=2", "small") == layer, "their order and number say nothing"
    assert len(making.proven) == 2
    code = "import words, small, numpy; print(words.VERSION, small.__file__, numpy.VERSION)"
    assert says(layer, code) == f"2.1 {base.site_packages / 'small.py'} 1.26.4"
    assert "ModuleNotFoundError" in says(base, "import words"), "it went into the layer alone"

    # What cannot be had together, by the models or by the stub, is one error; so is what cannot be had at all.
    write_wheel(making.wheels, "numpy", "2.4.6")
    for asked, code_word in (
        (("words<2", "words>=2"), "requirements_conflict"),
        (("numpy>=2",), "requirements_conflict"),
        (("no-such-package",), "server_install"),
    ):
        with pytest.raises(ToolError) as caught:
            making.layer(base, *asked)
        assert caught.value.code == code_word, caught.value
        assert asked[-1] in str(caught.value)
    assert left_in(making.home / "layers") == [layer.root.name]


@pytest.mark.slow
def test_what_language_models_need_is_a_locked_layer_that_models_requirements_come_upon(
    making: Making, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = making()
    listed = write_list(tmp_path / "vllm.txt", [write_wheel(making.wheels, "engine", "2.0")])
    write_wheel(making.wheels, "more", "3.0")

    def made() -> PythonEnvironment:
        return environment.vllm_layer(server, making.offline, making.prove, listed)

    models = made()
    assert made() == models and making.proven.count(making.proven[-1]) == 1
    assert "language models (once; some 70 MB to fetch" in capfd.readouterr().err
    upon = environment.layer(models, ["more"], making.offline, making.prove, server=server)
    code = "import engine, more, numpy; print(engine.VERSION, more.VERSION, numpy.VERSION)"
    assert says(upon, code) == "2.0 3.0 1.26.4"
    assert "No module named 'engine'" in says(server, "import engine")

    # What converts weights for it comes upon it: torch as pip finds it, the rest locked; proven by an import.
    write_wheel(making.wheels, "torchlike", "1.0")
    rest = write_list(tmp_path / "optimum.txt", [write_wheel(making.wheels, "converting", "4.0")])
    converter = environment.optimum_layer(models, making.offline, rest, "torchlike==1.0", "converting")
    code = (
        "import engine, torchlike, converting; print(engine.VERSION, torchlike.VERSION, converting.VERSION)"
    )
    assert says(converter, code) == "2.0 1.0 4.0" and "No module named 'torchlike'" in says(models, code)
    with pytest.raises(ToolError, match="could not import what was installed"):
        environment.optimum_layer(models, making.offline, listed, "torchlike==1.0", "absent")

    # Another file of the same name and version is not the one that was locked.
    write_wheel(making.wheels, "engine", "2.0", body="VERSION = 'another'\n")
    shutil.rmtree(models.root)
    with pytest.raises(ToolError) as refused:
        made()
    assert refused.value.code == "server_install" and "hash" in str(refused.value.seen).lower()


def test_requirements_are_read_beside_every_version_and_pips_options_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, text in {
        "a/1": "# said\ntokenizers>=0.20  # because\n\n--index-url=http://example.invalid\n",
        "b/2": "pillow\ntokenizers>=0.20\n-e .\n",
        "c/1": "evil.whl\nevil @ https://example.invalid/evil.whl\ngit+https://example.invalid/evil\n",
        "b/notes": "left\n",
    }.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "requirements.txt").write_text(text)
    assert requirements_of([tmp_path]) == ("tokenizers>=0.20", "pillow")
    told = capsys.readouterr().err
    assert f"{tmp_path}/a/1/requirements.txt:4" in told and "'-e .'" in told
    assert told.count("left out: ") == 5


def installed(directory: Path, **versions: str) -> None:
    """Distributions as pip leaves word of them; NAME_WITH_UNDERSCORES=version."""
    for name, version in versions.items():
        info = directory / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_machine_with_gpu_packages_hands_them_on_with_their_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the wheels of CUDA and cuDNN that the user has, ONNX Runtime could not start on the GPU."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    installed(tmp_path / "site", onnxruntime_gpu="1.27.0", tensorrt_cu13="10.16.0.72")
    assert requirements_of([tmp_path]) == ("onnxruntime-gpu==1.27.0",), (
        "CUDA is the system's; no plan is served"
    )
    installed(tmp_path / "site", nvidia_cudnn_cu13="9.14.0.64")
    (tmp_path / "m" / "1" / "model_sm90.plan").touch()
    expected = ("onnxruntime-gpu[cuda,cudnn]==1.27.0", "tensorrt-cu13==10.16.0.72")
    assert requirements_of([tmp_path]) == expected
    assert this_toolchain.__wrapped__().fingerprint("tensorrt") == {"tensorrt": "10.16.0.72"}, (
        "by any of its names"
    )


def fake_python(path: Path, text: str) -> Path:
    """A program in a Python's place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def answer(version: str, why: str | None = None) -> str:
    told = {"path": f"/opt/{version}", "version": version, "libpython": None, "why": why}
    return f"echo '{json.dumps(told)}'"


def test_a_python_is_found_on_path_with_pyenv_or_uv_and_the_error_names_each_that_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fake_python(tmp_path / "own" / "python", answer("3.14"))
    monkeypatch.setattr(sys, "executable", str(own))
    environ = {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}
    fake_python(tmp_path / "bin" / "python3.12", answer("3.12", "no shared libpython3.12.so.1.0"))
    fake_python(tmp_path / "bin" / "python3.11", "exit 127")
    with pytest.raises(ToolError) as caught:
        interpreter.find(environ)
    seen = str(caught.value.seen)
    assert (caught.value.code, caught.value.exit_code) == ("python_missing", 3)
    assert f"{own}: is Python 3.14" in seen
    assert "python3.12: no shared libpython3.12.so.1.0" in seen and "python3.11: does not run" in seen
    assert "uv python install 3.12" in str(caught.value.fix) and "libpython3.11" in str(caught.value.fix)

    fake_python(
        tmp_path / ".local/share/uv/python/cpython-3.10.9-linux-x86_64-gnu/bin/python3.10", answer("3.10")
    )
    assert interpreter.find(environ).version == "3.10"
    fake_python(tmp_path / ".pyenv/versions/3.11.7/bin/python3.11", answer("3.11"))
    assert interpreter.find(environ).version == "3.11"


def test_an_interpreter_of_this_machine_is_probed(tmp_path: Path) -> None:
    found = interpreter.probe(Path(sys.executable))
    if interpreter.own_version() is None:
        assert found == f"is Python {sys.version_info.major}.{sys.version_info.minor}"
    elif isinstance(found, Interpreter):
        assert found.version == interpreter.own_version()
    else:
        assert "libpython" in found or "ensurepip" in found
    assert interpreter.probe(tmp_path / "none") == "does not run: No such file or directory"


MODEL = """
import json, os, sys
import numpy as np
import {module}
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        told = json.dumps([{module}.VERSION, np.__version__, sys.prefix]).encode()
        return [pb.InferenceResponse([pb.Tensor("y", np.array([told], np.object_))]) for _ in requests]
"""


def add_python_model(repository: Path, module: str) -> None:
    version = repository / "told" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL.format(module=module))
    (version.parent / "config.pbtxt").write_text(
        'backend: "python"\ninput { name: "x" data_type: TYPE_FP32 dims: [1] }\n'
        'output { name: "y" data_type: TYPE_STRING dims: [1] }\ninstance_group { count: 1 kind: KIND_CPU }\n'
    )


def told_by(http_url: str) -> list[str]:
    with httpclient.InferenceServerClient(http_url) as client:
        tensor = httpclient.InferInput("x", [1], "FP32")
        tensor.set_data_from_numpy(np.zeros(1, np.float32))
        answer: list[str] = json.loads(client.infer("told", [tensor]).as_numpy("y")[0])
        return answer


@pytest.mark.nightly
def test_without_a_pip_here_the_environment_brings_its_own(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in environments that uv made."""
    monkeypatch.setattr(interpreter, "own_pip", lambda: None)
    made = making()
    layer = making.layer(made, "small")
    assert says(layer, "import small; print(small.VERSION)") == "1.0"


@pytest.mark.server
@pytest.mark.slow
def test_a_served_model_gets_its_requirement_and_the_servers_own_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real environment, and a package that pip finds by its own configuration."""
    real = environment.ensure()
    home = tmp_path / "home"
    home.mkdir()
    (home / real.root.name).symlink_to(real.root)
    monkeypatch.setenv(environment.HOME_VARIABLE, str(home))
    repository, wheels = tmp_path / "repository", tmp_path / "wheels"
    add_python_model(repository, "triton_test_words")
    (repository / "told" / "1" / "requirements.txt").write_text("triton_test_words\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with (
        pytest.raises(ToolError, match="could not install packages"),
        launch(ServerSpec(repositories=(repository,))),
    ):
        pass
    write_wheel(wheels, "triton_test_words", "3.4")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    # A numpy of the user's on PYTHONPATH is not the stub's.
    write_wheel(tmp_path / "mine", "numpy", "2.4.6")
    shutil.unpack_archive(tmp_path / "mine" / "numpy-2.4.6-py3-none-any.whl", tmp_path / "mine", "zip")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    with launch(ServerSpec(repositories=(repository,), exit_timeout_s=0)) as server:
        version, numpy_version, prefix = told_by(server.http_url)
    assert (version, numpy_version) == ("3.4", "1.26.4")
    assert Path(prefix).parent == home / "layers"
    assert not list(Path(sys.prefix).glob("lib/python*/site-packages/triton_test_words*"))


STARTS = """
import sys
from pathlib import Path
from tritonsmith.perf.server.launch import ServerSpec, launch

with launch(ServerSpec(repositories=(Path(sys.argv[1]),), exit_timeout_s=0)):
    pass
"""


@pytest.mark.server
@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a /tmp of one's own")
@pytest.mark.skipif(ROOT.is_relative_to("/tmp"), reason="the checkout is in /tmp, which this test hides")
def test_a_start_leaves_nothing_in_the_temporary_directory() -> None:
    """Triton's python backend makes a directory in /tmp, wherever TMPDIR points; a server that is killed leaves it."""
    repository = ROOT / ".pytest_cache" / "no-models"
    repository.mkdir(parents=True, exist_ok=True)
    script = f'mount -t tmpfs none /tmp && {sys.executable} -c "$STARTS" {repository}; ls -A /tmp'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != "TMPDIR"}, "STARTS": STARTS},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
