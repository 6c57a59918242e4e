"""What people read of a disk that is full."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from tritonsmith.builder.base.processes.failure import failure_of, file_of


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_copy_that_found_no_room_names_where_it_was_to_be(tmp_path: Path) -> None:
    source = tmp_path / "weights.gguf"
    source.write_bytes(bytes(1 << 20))
    with pytest.raises(OSError) as caught:
        shutil.copyfile(source, "/dev/full")
    error = caught.value
    if error.errno != errno.ENOSPC:
        pytest.skip(f"copies to it fail otherwise here: {error}")
    assert file_of(error) in ("/dev/full", None)
    assert "weights.gguf" not in str(failure_of(error, "chat"))


def test_an_error_of_two_files_is_about_the_second() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/cache/a", None, "/repository/a")
    assert file_of(error) == "/repository/a"
    assert "/repository/a" in str(failure_of(error, "chat"))
    assert file_of(OSError(errno.EACCES, "Permission denied", "/a")) == "/a"
