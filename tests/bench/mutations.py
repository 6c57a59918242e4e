"""(a random number generator, a file's content) → the content as an attacker or a bad disk leaves it."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import re
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Random = random.Random
Mutate = Callable[[Random, bytes, "Aims"], bytes]
_SPARSE_BYTES = 65 << 20
_DEEP = 100_000


class Raw(str):
    """JSON text that no value stands for."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """A JSON object that may have a name twice."""


class Aims:
    """What mutations point at: only paths below a directory that the harness made itself, by at most 4 `..`."""

    def __init__(self, victim: Path) -> None:
        """victim: a directory of canaries; `file`, `directory` and `script` lie in it."""
        self.victim = victim
        chains = ["/".join([".."] * n) for n in (1, 2, 3, 4)]
        self.paths = (
            str(victim),
            str(victim / "file"),
            f"{victim}/",
            f"/{victim / 'file'}",
            *chains,
            *(f"{chain}/victim/file" for chain in chains),
            "../victim",
            "1/../../victim",
            "./model.onnx",
            "a//b",
            "a/",
        )

    def value(self, rng: Random) -> Any:
        """One nasty JSON value."""
        return rng.choice(
            (
                lambda: rng.choice(self.paths),
                lambda: rng.choice(_TEXTS),
                lambda: rng.choice(_NUMBERS),
                lambda: rng.choice(_SHAPES)(),
            )
        )()

    def name(self, rng: Random) -> str:
        """One nasty name or path."""
        return str(rng.choice((*self.paths, *_TEXTS)))


_TEXTS: Sequence[str] = (
    "",
    " ",
    ".",
    "..",
    "a\0b",
    "\0",
    "line\nline",
    "\x1b[31mred",
    "\u202ernx.oledom",
    "zero\u200bwidth",
    "\ud800",
    "e\u0301",
    "x" * 10_000,
    "ä" * 150,
    "a/" * 3_000 + "a",
    "-rf",
    "CON",
    "%s%n{0}${x}",
    "{{ 7 * 7 }}",
    "<script>alert(1)</script>",
    "1",
    "0",
    "-1",
    "٣",
    "²",
    "package:json/__init__.py",
    "package:../../x/y",
    "package:this/x",
    "m/",
    "__pycache__/x",
    ".hidden",
    "artifact.json",
    "config.pbtxt",
    "0" * 64,
    "f" * 64,
    "F" * 64,
    "0" * 63,
    "2026-11-21T03:00:00+00:00",
)
_NUMBERS: Sequence[Any] = (
    0,
    -1,
    1,
    2,
    0.5,
    -0.0,
    1e308,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    True,
    False,
    None,
    Raw("NaN"),
    Raw("Infinity"),
    Raw("-Infinity"),
    Raw("1e999"),
    Raw("9" * 5_000),
)
_SHAPES: Sequence[Callable[[], Any]] = (
    lambda: [],
    Pairs,
    lambda: [[]],
    lambda: [None],
    lambda: [1, "a", None, {}],
    lambda: Pairs([("a", 1), ("a", 2)]),
    lambda: Pairs([("", Pairs())]),
    lambda: Raw("[" * _DEEP + "]" * _DEEP),
    lambda: Raw('{"a":' * 900 + "1" + "}" * 900),
    lambda: list(range(300)),
)


def json_text(value: Any) -> str:
    """A value with Raw and Pairs in it → JSON text, or what looks like it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(k)}:{json_text(v)}" for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    return json.dumps(value)


def mutate_json(rng: Random, content: bytes, aims: Aims) -> bytes:
    """One to three values, names or whole parts changed."""
    data = json.loads(content, object_pairs_hook=Pairs)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = _changed(rng, data, aims)
    # A lone surrogate stays an escape, as an attacker would write it.
    return json_text(data).encode()


def _changed(rng: Random, data: Any, aims: Aims) -> Any:
    places = list(_places(data))
    if not places or rng.random() < 0.03:
        return aims.value(rng)
    holder, at = rng.choice(places)
    how = rng.random()
    if isinstance(holder, list) and not isinstance(holder, Pairs):
        if how < 0.6:
            holder[at] = aims.value(rng)
        elif how < 0.8:
            del holder[at]
        else:
            holder.insert(at, aims.value(rng) if how < 0.9 else holder[at])
        return data
    name, value = holder[at]
    if how < 0.5:
        holder[at] = (name, aims.value(rng))
    elif how < 0.62:
        holder[at] = (aims.name(rng), value)
    elif how < 0.74:
        del holder[at]
    elif how < 0.82:
        holder.append((name, aims.value(rng)))
    elif how < 0.9:
        holder.append((aims.name(rng), aims.value(rng)))
    else:
        other, where = rng.choice(places)
        found = other[where][1] if isinstance(other, Pairs) else other[where]
        # A copy: it may be what it comes to lie in.
        holder[at] = (name, copy.deepcopy(found))
    return data


def _places(value: Any) -> Iterator[tuple[list[Any], int]]:
    """(object or array, position) of every value below."""
    if isinstance(value, list):
        for at, item in enumerate(list(value)):
            yield value, at
            yield from _places(item[1] if isinstance(value, Pairs) else item)


def signed(content: bytes) -> bytes:
    """The manifest of a cache entry with its own digest made right, as whoever may write it can; else as it is."""
    try:
        data = json.loads(content)
        data.pop("digest", None)
        text = json.dumps(data, indent=1, sort_keys=True)
        data["digest"] = hashlib.sha256(text.encode()).hexdigest()
        return json.dumps(data, indent=1, sort_keys=True).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return content


def mutate_signed(rng: Random, content: bytes, aims: Aims) -> bytes:
    """mutate_json, and the entry's own digest made right."""
    return signed(mutate_json(rng, content, aims))


def mutate_lines(rng: Random, content: bytes, aims: Aims) -> bytes:
    """JSON lines: one changed, taken away, doubled, moved or cut."""
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    how = rng.random()
    if how < 0.7:
        lines[at] = mutate_json(rng, lines[at], aims) + b"\n"
    elif how < 0.8:
        del lines[at]
    elif how < 0.88:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif how < 0.94:
        rng.shuffle(lines)
    else:
        lines[at] = lines[at][: rng.randrange(len(lines[at]))]
    return b"".join(lines)


_TOKEN = re.compile(r'"[^"\n]*"|[A-Za-z_]+|-?\d+|[{}\[\]:]')


def mutate_text(rng: Random, content: bytes, aims: Aims) -> bytes:
    """Words, numbers and brackets of a text replaced by nasty ones."""
    text = content.decode(errors="replace")
    for _ in range(rng.choice((1, 1, 2))):
        found = list(_TOKEN.finditer(text))
        if not found:
            break
        token, other = rng.choice(found), rng.choice(found).group()
        new = rng.choice(
            (
                json.dumps(aims.name(rng), ensure_ascii=False),
                json_text(rng.choice(_NUMBERS)),
                other,
                "",
                "a { " * 2_000,
                rng.choice((r'"\000"', r'"\377"', r'"\x00"', r'"\uD800"', '"', "'", "#")),
            )
        )
        text = text[: token.start()] + new + text[token.end() :]
    return text.encode(errors="surrogatepass")


def mutate_bytes(rng: Random, content: bytes, aims: Aims) -> bytes:
    """Bits flipped, a piece cut off, put in, taken out or doubled."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(data) + 1)
        size = rng.choice((1, 2, 8, 64))
        how = rng.randrange(6)
        if how == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[at:]
        elif how == 2:
            data[at:at] = rng.randbytes(size)
        elif how == 3:
            del data[at : at + size]
        elif how == 4:
            data[at:at] = data[: size * 4]
        else:
            data[at : at + size] = rng.choice((b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf")) * size
    return bytes(data)


def mutate_zip(rng: Random, content: bytes, aims: Aims) -> bytes:
    """A member of an .npz changed, its checksum right: its JSON, its .npy header or its bytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    data = members.pop(name)
    if rng.random() < 0.1:
        name = aims.name(rng).replace("\0", "") or "x"
    start = data.find(b"{")
    if name.endswith(".json"):
        data = mutate_json(rng, data, aims)
    elif name == "__header__.npy" and rng.random() < 0.8:
        # An .npy of bytes that are JSON.
        body = mutate_json(rng, data[128:] if data[128:129] == b"{" else data[start:], aims)
        data = _npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(body)},), }}", body)
    elif start >= 0 and rng.random() < 0.6:
        header = rng.choice(_NPY_HEADERS)
        data = _npy(header, data[128:])
    else:
        data = mutate_bytes(rng, data, aims)
    if rng.random() < 0.9:
        members[name] = data
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, body in members.items():
            with suppress(ValueError, UnicodeError):
                archive.writestr(zipfile.ZipInfo(member), body)
    return made.getvalue()


_NPY_HEADERS = (
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<i8', 'fortran_order': True, 'shape': (), }",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2), }",
    "{'descr': '<U8', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<c8', 'fortran_order': False, 'shape': (0,), }",
    "{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,), }",
    "{" + "'a': 1, " * 2_000 + "}",
    "(" * 500,
)


def _npy(header: str, body: bytes) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + body


DAMAGES = (
    "gone",
    "empty",
    "FIFO",
    "directory",
    "full directory",
    "link to a file",
    "link to a directory",
    "link to nothing",
    "link to itself",
    "hard link",
    "socket",
    "sparse",
    "not readable",
)


def damage_file(rng: Random, path: Path, victim: Path) -> str:
    """Puts something else in the place of a file or a directory of the harness's own; what it is now."""
    how = rng.choice(DAMAGES)
    if how == "not readable":
        path.chmod(0)
        return how
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    if how == "empty":
        path.touch()
    elif how == "FIFO":
        os.mkfifo(path)
    elif how == "directory":
        path.mkdir()
    elif how == "full directory":
        (path / "1").mkdir(parents=True)
        (path / "1" / "model.onnx").write_bytes(b"x")
    elif how == "link to a file":
        path.symlink_to(rng.choice((victim / "file", Path(os.path.relpath(victim / "file", path.parent)))))
    elif how == "link to a directory":
        path.symlink_to(victim / rng.choice(("", "directory")))
    elif how == "link to nothing":
        path.symlink_to(victim / "not there")
    elif how == "link to itself":
        path.symlink_to(path.name)
    elif how == "hard link":
        os.link(victim / "file", path)
    elif how == "socket":
        _socket(path)
    elif how == "sparse":
        with path.open("wb") as file:
            file.truncate(_SPARSE_BYTES)
    return how


def _socket(path: Path) -> None:
    """Bound through a short name, since the kernel takes 107 bytes only."""
    directory = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{directory}/{path.name[:80]}")
        if path.name[:80] != path.name:
            path.with_name(path.name[:80]).rename(path)
    finally:
        os.close(directory)
