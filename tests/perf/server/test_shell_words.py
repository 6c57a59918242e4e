"""Paths and names that a shell would read otherwise: Triton quotes nothing, and every model starts and answers."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests import onnx_models
from tritonsmith.builder.base.errors import ToolError, UsageError
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import ServerSpec, launch
from tritonsmith.perf.server.stubs.shell_words import lay_out_shell

BASH = shutil.which("bash") or "/bin/bash"
COMMANDS = (
    "a b",
    "it's",
    'q"',
    "a;b",
    "a&b",
    "$(touch canary)",
    "`touch canary`",
    "a(b)",
    "a\nb",
    "a?",
    "a*",
    "~",
)
ENSEMBLE = """platform: "ensemble"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 3 ] }
ensemble_scheduling { step { model_name: "-m" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }
"""
ONE_CPU = "max_batch_size: 4\ninstance_group { count: 1 kind: KIND_CPU }\n"


class Shell:
    """Our bash, and a stub that tells what it was started with."""

    def __init__(self, root: Path) -> None:
        self.bash = lay_out_shell(root / "shell", BASH) / "bash"
        self.stub = root / "triton_python_backend_stub"
        self.stub.write_text('#!/bin/sh\nprintf "%s\\0" "$LD_LIBRARY_PATH" "$ENV" "$@"\n')
        self.stub.chmod(0o755)
        self.cwd = root / "cwd"
        self.cwd.mkdir()

    def run(self, *arguments: str) -> list[str]:
        environment = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": "/old", "ENV": ""}
        done = subprocess.run(
            [self.bash, *arguments], env=environment, cwd=self.cwd, capture_output=True, text=True, check=True
        )
        assert list(self.cwd.iterdir()) == []
        return done.stdout.split("\0")[:-1]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def line(shell: Shell, model: str, instance: str) -> str:
    """As StubLauncher::Launch puts it together."""
    return f"{shell.stub} {model} tritonsmith_1_ab-cd 1048576 1048576 77 /tmp/b/python 336 {instance} DEFAULT"


@pytest.mark.parametrize("name", [*COMMANDS, "plain", "a 1 2 3 b 4 c DEFAULT", "größe"])
def test_a_stub_gets_the_words_that_were_meant(shell: Shell, name: str) -> None:
    model, rest = f"/r {name}/{name}/1/{name}.py", ["1048576", "1048576", "77", "/tmp/b/python", "336"]
    words = [model, "tritonsmith_1_ab-cd", *rest, f"{name}_0_0", "DEFAULT"]
    assert shell.run("-c", f" exec {line(shell, model, f'{name}_0_0')}") == ["/old", "", *words]
    # The same with an environment of its own.
    activate = shell.bash.parent / f"{name} env"
    activate.write_text('ENV="$# $0"; export ENV\n')
    with_environment = f"source {activate} && exec env LD_LIBRARY_PATH=/e {name}/lib:$LD_LIBRARY_PATH "
    told = shell.run("-c", with_environment + line(shell, model, f"{name}_0_0"))
    assert told == [f"/e {name}/lib:/old", f"0 {shell.bash}", *words]


def test_all_else_is_the_real_shells(shell: Shell) -> None:
    assert shell.run("-c", 'printf "%s\\0" "$0" "$@"', "zero", "a b", "c") == ["zero", "a b", "c"]
    assert shell.run("-c", "x=1; printf '%s\\0' $((x + 1))") == ["2"]


def test_a_temporary_directory_that_stubs_cannot_be_given_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="TMPDIR"):
        lay_out_shell(tmp_path / "a b" / "shell", BASH)


@pytest.mark.server
def test_any_name_in_a_repository_of_any_path_is_served_and_loaded_later(tmp_path: Path) -> None:
    repository = tmp_path / "größe 'q' $HOME; #?" / "-dash"
    names = ("é50%#", "-m", "a; $(b) 'c'")
    for name in names:
        onnx_models.add_model(repository, name, onnx_models.affine(["batch", 3]), ONE_CPU)
    (repository / "a b" / "1").mkdir(parents=True)
    (repository / "a b" / "config.pbtxt").write_text(ENSEMBLE)
    spec = ServerSpec(
        repositories=(repository,),
        model_control="explicit",
        load_models=("*",),
        exit_timeout_s=0,
        startup_timeout_s=60,
    )
    with launch(spec) as server:
        assert server.refusals() == {}
        client = grpcclient.InferenceServerClient(server.grpc_url)
        wire = grpcclient.InferInput("x", [1, 3], "FP32")
        wire.set_data_from_numpy(np.ones((1, 3), np.float32))

        def answers(name: str) -> None:
            np.testing.assert_array_equal(client.infer(name, [wire]).as_numpy("y"), [[3, 3, 3]])

        for name in (*names, "a b"):
            answers(name)
        # Over HTTP, which Triton does not decode: metadata, config, statistics and the requests themselves.
        result = run_load_test(server.http_url, LoadTest("é50%#", Closed(1), requests=3, warmup_s=0.0))
        assert result.records.ok.all() and result.server is not None and result.server.requests == 3
        with pytest.raises(UsageError, match="Triton has no path to a name with ' ' in it") as refused:
            run_load_test(server.http_url, LoadTest("a b", Closed(1), requests=1))
        assert refused.value.code == "no_http_path"
        over_grpc = LoadTest("a b", Closed(1), requests=1, protocol="grpc")
        assert run_load_test(f"grpc://{server.grpc_url}", over_grpc).records.ok.all()
        # What a load brings while it serves is started by the same shell.
        config = control.model_config(server.http_url, "é50%#")
        group = [{"name": "g > h", "count": 1, "kind": "KIND_CPU"}]
        control.load_model(server.http_url, "é50%#", {**config, "instance_group": group})
        answers("é50%#")


READS_ENVIRONMENT = """
import os
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        mark = np.array([os.environ["MARK"]], dtype=object)
        return [pb.InferenceResponse([pb.Tensor("y", mark)]) for _ in requests]
"""
WITH_ENVIRONMENT = """backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [1] }
output { name: "y" data_type: TYPE_STRING dims: [1] }
instance_group { count: 1 kind: KIND_CPU }
parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }
"""


@pytest.mark.nightly
@pytest.mark.server
def test_so_is_a_model_with_an_environment_of_its_own(tmp_path: Path) -> None:
    model = tmp_path / "r o" / "a (b)"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(READS_ENVIRONMENT)
    (model / "config.pbtxt").write_text(WITH_ENVIRONMENT)
    activate = tmp_path / "env" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    (tmp_path / "env" / "lib").mkdir()
    activate.write_text("export MARK=active\n")
    with tarfile.open(model / "env.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "env", ".")
    spec = ServerSpec(repositories=(model.parent,), exit_timeout_s=0, startup_timeout_s=60)
    with launch(spec) as server:
        assert server.refusals() == {}
        wire = grpcclient.InferInput("x", [1], "FP32")
        wire.set_data_from_numpy(np.ones(1, np.float32))
        client = grpcclient.InferenceServerClient(server.grpc_url)
        assert client.infer("a (b)", [wire]).as_numpy("y").tolist() == [b"active"]
