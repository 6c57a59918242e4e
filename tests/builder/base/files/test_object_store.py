"""One behaviour on a real S3 server, on a directory and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritonsmith.builder.base.errors import BuildError, ToolError, UsageError
from tritonsmith.builder.base.files.object_store import ObjectStore, open_store


@pytest.fixture(params=["s3", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "s3":
        return open_store(f"{request.getfixturevalue('bucket')}/a prefix")
    return open_store(f"{request.param}://{tmp_path}/a prefix")


def test_objects_go_in_and_come_out(store: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 1000)
    store.put("models/a/config.pbtxt", b"one")
    store.put("models/a/config.pbtxt", b"two")
    store.upload(file, "models/a/1/model.onnx")
    store.put("models.lock", b"")
    assert [(o.key, o.size_bytes) for o in store.list("models")] == [
        ("models/a/1/model.onnx", 1000),
        ("models/a/config.pbtxt", 3),
    ]
    assert store.get("models/a/config.pbtxt") == b"two"
    assert store.get_many(["models.lock", "nowhere", "models/a/config.pbtxt"]) == {
        "models.lock": b"",
        "models/a/config.pbtxt": b"two",
    }
    assert store.download("models/a/1/model.onnx", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == file.read_bytes()
    assert store.directories("models") == ("a",)
    store.copy("models/a/1/model.onnx", "models/b")
    assert store.get("models/b") == file.read_bytes()
    store.delete(["models.lock", "nowhere", "models/b"])
    assert [o.key for o in store.list()] == ["models/a/1/model.onnx", "models/a/config.pbtxt"]


def test_what_is_not_there_is_none(store: ObjectStore, tmp_path: Path) -> None:
    assert store.get("nowhere") is None
    assert not store.download("nowhere", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert (store.list("nowhere"), store.directories("nowhere"), store.get_many([])) == ([], (), {})


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_key_stays_below_the_store(store: ObjectStore, key: str) -> None:
    with pytest.raises(UsageError, match="not a key"):
        store.put(key, b"")


def test_a_bucket_that_is_not_there_is_one_error(bucket: str) -> None:
    with pytest.raises(BuildError, match=r"cannot write s3://nobody-has-this/x/a: .*bucket"):
        open_store("s3://nobody-has-this/x").put("a", b"")


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("ftp://host/x", UsageError, "not the address of a store: 'ftp://host/x'"),
        ("s3://", UsageError, "not the address"),
        ("az://container/x", ToolError, "pip install 'tritonsmith\\[az\\]'"),
    ],
)
def test_an_address_that_cannot_be_opened(url: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        open_store(url)


def test_a_path_is_a_directory(tmp_path: Path) -> None:
    open_store(str(tmp_path / "with space")).put("a", b"1")
    assert (tmp_path / "with space" / "a").read_bytes() == b"1"


def test_of_two_writers_one_wins(store: ObjectStore) -> None:
    assert store.tag("m/config.pbtxt") is None
    assert store.put_new("m/config.pbtxt", b"first")
    assert not store.put_new("m/config.pbtxt", b"second"), "somebody was there before"
    tag = store.tag("m/config.pbtxt")
    assert tag is not None and store.put_over("m/config.pbtxt", b"third", tag)
    assert not store.put_over("m/config.pbtxt", b"fourth", tag), "it has changed since"
    assert not store.put_over("m/nowhere", b"", tag)
    assert store.get("m/config.pbtxt") == b"third"
    assert [o.key for o in store.list()] == ["m/config.pbtxt"]
