"""Files of installed packages, found without importing them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.files.package_files import resolve_package_file


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose import would fail, as a weights package without its dependencies does."""
    directory = tmp_path / "weights_of_ours"
    (directory / "models").mkdir(parents=True)
    (directory / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (directory / "models" / "det.onnx").write_bytes(b"x")
    (tmp_path / "outside.onnx").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    return directory


def code(reference: str) -> str:
    with pytest.raises(SpecError) as caught:
        resolve_package_file(reference)
    return caught.value.code


def test_a_file_is_found_and_nothing_is_imported(package: Path) -> None:
    assert resolve_package_file("package:weights_of_ours/models/det.onnx") == package / "models" / "det.onnx"
    assert "weights_of_ours" not in sys.modules


def test_a_missing_file_names_the_nearest(package: Path) -> None:
    with pytest.raises(SpecError) as caught:
        resolve_package_file("package:weights_of_ours/models/dett.onnx")
    assert caught.value.code == "package_file_missing"
    assert caught.value.valid == ("models/det.onnx",)


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(SpecError) as caught:
        resolve_package_file("package:no_such_package_here/m.onnx")
    assert caught.value.code == "package_not_installed"
    assert caught.value.fix is not None
    assert "pip install no-such-package-here" in caught.value.fix


@pytest.mark.parametrize(
    "reference",
    [
        "package:weights_of_ours/../outside.onnx",
        "package:weights_of_ours//etc/hostname",
        "package:weights_of_ours",
        "package:weights_of_ours/",
        "package:../x",
        "package:weights_of_ours.models/det.onnx",
        "package:/etc/hostname",
    ],
)
def test_nothing_outside_the_package_is_reached(package: Path, reference: str) -> None:
    assert code(reference) == "package_reference"
