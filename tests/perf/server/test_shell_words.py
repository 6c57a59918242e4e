"""Paths and names that a shell would read otherwise: a link, or a refusal before anything is started."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests import onnx_models
from tritonsmith.builder.base.errors import ToolError, UsageError
from tritonsmith.perf.server.launch import ServerSpec, launch
from tritonsmith.perf.server.stubs.shell_words import linked_repositories, read_otherwise

ONE_CPU = "max_batch_size: 4\ninstance_group { count: 1 kind: KIND_CPU %s}\n"


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'q"', "a;b", "a&b", "$(x)", "`x`", "a(b)", "a\nb", "a?", "a*", "~"]
)
def test_a_model_whose_name_is_a_command_is_refused_before_anything_starts(tmp_path: Path, name: str) -> None:
    repository = tmp_path / "repository"
    onnx_models.add_model(repository, name, onnx_models.affine(["batch", 3]))
    with pytest.raises(UsageError, match="would read it as a command") as raised:
        linked_repositories([repository], tmp_path)
    assert raised.value.code == "unstartable_name"


@pytest.mark.parametrize("field", ['instance_group { name: "a;b" }', 'default_model_filename: "$(b).onnx"'])
def test_so_is_one_whose_config_holds_a_command(tmp_path: Path, field: str) -> None:
    repository = tmp_path / "repository"
    onnx_models.add_model(
        repository, "m", onnx_models.affine(["batch", 3]), f'backend: "onnxruntime"\n{field}\n'
    )
    with pytest.raises(UsageError, match=r"model 'm' cannot be served here"):
        linked_repositories([repository], tmp_path)


def test_a_temporary_directory_that_stubs_cannot_be_given_is_named(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    with pytest.raises(ToolError, match="TMPDIR"):
        linked_repositories([], tmp_path / "a b")


def test_what_a_shell_reads_as_itself_stays(tmp_path: Path) -> None:
    assert read_otherwise("/srv/größe/出力-1_2.3@4%5+6=7:8,9#0") is None
    onnx_models.add_model(tmp_path / "plain", "m", onnx_models.affine(["batch", 3]))
    assert linked_repositories([tmp_path / "plain"], tmp_path) == (tmp_path / "plain",)


@pytest.mark.server
def test_a_repository_of_any_path_and_models_not_in_ascii_are_served(tmp_path: Path) -> None:
    repository = tmp_path / "größe 'q' $HOME; #?" / "-dash"
    names = ("é", "50%#", "-m")
    for name in names:
        onnx_models.add_model(repository, name, onnx_models.affine(["batch", 3]), ONE_CPU % "")
    with launch(ServerSpec(repositories=(repository,), exit_timeout_s=0, startup_timeout_s=60)) as server:
        assert server.refusals() == {}
        client = grpcclient.InferenceServerClient(server.grpc_url)
        wire = grpcclient.InferInput("x", [1, 3], "FP32")
        wire.set_data_from_numpy(np.ones((1, 3), np.float32))

        for name in names:
            np.testing.assert_array_equal(client.infer(name, [wire]).as_numpy("y"), [[3, 3, 3]])
