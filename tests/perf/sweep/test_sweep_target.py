"""What a newcomer types first: each wrong start names the command that goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.commands.init import imported_url
from tritonsmith.perf.commands.load.flags import metrics_address_from_text
from tritonsmith.perf.server.launch import ServerSpec, kind_from_text, launch
from tritonsmith.perf.server.spec import address_from_url
from tritonsmith.perf.sweep.plan import default_space
from tritonsmith.perf.sweep.target import SweepTarget, only_model, target_from_text


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for model in ("scorer", "ranker"):
        (tmp_path / "repo" / model / "1").mkdir(parents=True)
        (tmp_path / "repo" / model / "1" / "model.onnx").touch()
    (tmp_path / "repo" / "notes").mkdir()
    (tmp_path / "scorer.onnx").touch()
    return tmp_path / "repo"


def test_a_directory_a_url_and_an_attached_server_are_targets(repository: Path) -> None:
    assert target_from_text(str(repository)) == SweepTarget("embedded", repository)
    assert target_from_text("http://h:8000") == SweepTarget("http://h:8000", None)
    assert target_from_text(str(repository), "http://h:8000").is_attached


ATTACHING: list[Callable[[str], object]] = [
    target_from_text,
    lambda url: target_from_text("model_repository", url),
    lambda url: only_model(SweepTarget(url, None)),
    kind_from_text,  # serve --launch, sweep --launch
    lambda url: launch(ServerSpec(kind="attached", reference=url)).__enter__(),
    imported_url,  # init
]


@pytest.mark.parametrize(
    "attach", ATTACHING, ids=["sweep", "--launch", "its only model", "kind", "launch", "init"]
)
def test_what_speaks_plain_http_refuses_an_address_that_says_otherwise(
    attach: Callable[[str], object],
) -> None:
    """Nothing of a URL is dropped: not the s of https, not a path, not who asks."""
    with fake_server() as server:
        for url, word in (
            (f"https://127.0.0.1:{server.port}", "not over https"),
            (f"http://127.0.0.1:{server.port}/triton", "http://HOST:PORT"),
            (f"http://me:secret@127.0.0.1:{server.port}", "may hold no password"),
            (f"grpc://127.0.0.1:{server.port}", "http://HOST:PORT"),
        ):
            with pytest.raises(UsageError) as error:
                attach(url)
            assert error.value.code in ("bad_url", "secret_in_address") and word in str(error.value)
            assert "secret" not in str(error.value)
        assert server.connections == 0


def test_an_address_is_taken_apart_whole() -> None:
    assert address_from_url("http://h") == ("h", 8000)
    assert address_from_url("http://[::1]:9/") == ("[::1]", 9)
    assert [metrics_address_from_text(t) for t in ("", "h:8002", "http://h:8002/metrics")] == [
        "",
        "h:8002",
        "h:8002",
    ]
    with pytest.raises(UsageError, match="plain HTTP"):
        metrics_address_from_text("https://h:8002/metrics")


@pytest.mark.parametrize(
    ("where", "code", "fix"),
    [
        ("repo/scorer", "model_directory", "tritonsmith sweep {}/repo --model scorer"),
        (
            "scorer.onnx",
            "no_target",
            "tritonsmith init {}/scorer.onnx && tritonsmith build && tritonsmith sweep",
        ),
        ("nowhere", "repository_missing", "name a directory, or `tritonsmith init"),
    ],
)
def test_a_wrong_start_names_the_next_command(
    repository: Path, tmp_path: Path, where: str, code: str, fix: str
) -> None:
    with pytest.raises(UsageError) as error:
        target_from_text(str(tmp_path / where))
    assert error.value.code == code
    assert str(error.value.fix).startswith(fix.format(tmp_path))


def test_beside_a_spec_the_missing_repository_is_one_to_build(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").touch()
    with pytest.raises(UsageError) as error:
        target_from_text(str(tmp_path / "model_repository"))
    assert str(error.value.fix).startswith("tritonsmith build")


def test_the_only_model_is_taken_and_several_are_named(repository: Path) -> None:
    with pytest.raises(UsageError) as error:
        only_model(SweepTarget("embedded", repository))
    assert error.value.valid == ("ranker", "scorer") and error.value.fix == "--model ranker"
    for file in (repository / "ranker" / "1").iterdir():
        file.unlink()
    assert only_model(SweepTarget("embedded", repository)) == "scorer"


@pytest.mark.parametrize(
    ("config", "cores", "space"),
    [
        ({"max_batch_size": 8}, 2, {"instance_group.count": [1, 2], "delay": [0, 500]}),
        ({"max_batch_size": 8}, 16, {"instance_group.count": [1, 2, 4], "delay": [0, 500]}),
        ({"max_batch_size": 0}, 1, {"instance_group.count": [1, 2]}),
        ({"max_batch_size": 4, "sequence_batching": {}}, 2, {"instance_group.count": [1, 2]}),
    ],
)
def test_without_settings_instances_and_where_it_batches_delays_are_tried(
    config: dict[str, object], cores: int, space: dict[str, list[int]]
) -> None:
    if "delay" in space:
        space["dynamic_batching.max_queue_delay_microseconds"] = space.pop("delay")
    assert default_space(config, cores) == space


def test_an_ensemble_names_the_model_to_sweep_instead() -> None:
    config = {"name": "pipe", "ensemble_scheduling": {"step": [{"model_name": "a"}, {"model_name": "b"}]}}
    with pytest.raises(UsageError) as error:
        default_space(config, 2)
    assert error.value.fix == "--model a --load-model pipe"
