"""Names in a model's config → what a shell, or an HTTP client of Triton, would make of them instead."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# Triton's Python backend starts a stub by `bash -c` and puts paths and names into that line without quotes
# (python_backend, src/stub_launcher.cc, StubLauncher::Launch). What bash reads as itself in the middle of a word: these,
# and all that is not ASCII.
_READ_OTHERWISE = re.compile(r"[^A-Za-z0-9_.@%+=:,#/\-\u0080-\U0010ffff]")
# RFC 3986, section 2.3: what no client encodes in a path. Triton decodes nothing (see perf.wire.paths).
_ENCODED = re.compile(r"[^A-Za-z0-9_.~-]")


def read_otherwise(text: str) -> str | None:
    """The first character that a shell would not take for itself; None when there is none."""
    found = _READ_OTHERWISE.search(text)
    return None if found is None else found[0]


def stub_words(
    name: str, filename: str = "", groups: Sequence[str] = ()
) -> Iterator[tuple[str, str, str, str]]:
    """(what, field, value, character) of all of a model that a stub cannot be started with.

    name: the model directory's. filename: default_model_filename. groups: names of the instance groups.
    """
    words = [("its name", "name", name), ("default_model_filename", "default_model_filename", filename)]
    words += [
        ("an instance_group's name", f"instance_group[{i}].name", group) for i, group in enumerate(groups)
    ]
    for what, field, value in words:
        if (bad := read_otherwise(value)) is not None:
            yield what, field, value, bad


def encoded_in_paths(name: str) -> str | None:
    """The first character of a model's name that HTTP clients encode and Triton does not decode; None without one."""
    found = _ENCODED.search(name)
    return None if found is None else found[0]
