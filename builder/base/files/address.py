"""A server's address as people write it → its parts, or the one error that shows how it is to be written; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from tritonsmith.builder.base.errors import UsageError

_BRACKETED = re.compile(r"\[[0-9A-Fa-f.]*:[\w:.%]*\](:\d+)?(/.*)?")
_NETLOC = re.compile(r"(.*@)?([^\[\]]+|\[[^\[\]]+\](:\d+)?)")
_BARE = re.compile(r"(?:\w+://)?([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)/?")


@dataclass(frozen=True, slots=True)
class Address:
    """Of SCHEME://HOST[:PORT][/PATH]. host: without the brackets of an IPv6 one; port: None where none is named."""

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def authority(self) -> str:
        """HOST[:PORT] as in a URL."""
        return bracketed(self.host) if self.port is None else host_port(self.host, self.port)


def bracketed(host: str) -> str:
    """A host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def host_port(host: str, port: int) -> str:
    """`127.0.0.1:8000`, `[::1]:8000`."""
    return f"{bracketed(host)}:{port}"


def is_bracketed(text: str) -> bool:
    """Whether it is `[::1]:8000`, which can be nothing but an address."""
    return _BRACKETED.fullmatch(text) is not None


def address_of(url: str, schemes: Sequence[str], example: str) -> Address:
    """A URL's parts; UsageError bad_url for another scheme, no host, a port that is none, an IPv6 address without brackets.

    example: a URL that would do, for the error.
    """
    refuse_bare_ipv6(url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:  # brackets that do not match, a port that is no number or too large
        raise _bad(url, f"not an address: {error}", example) from None
    if parts.scheme not in schemes or not host or port == 0 or not _NETLOC.fullmatch(parts.netloc):
        raise _bad(url, f"not {' or '.join(f'{s}://HOST:PORT' for s in schemes)}", example)
    return Address(parts.scheme, host, port, parts.path.rstrip("/"))


def refuse_bare_ipv6(text: str) -> None:
    """UsageError bad_url with the right form when a text is an IPv6 address, or one and a port, without brackets."""
    bare = _BARE.fullmatch(text)
    if bare is None:
        return
    host, _, last = bare[1].rpartition(":")
    # `::1:8000` is an address itself; nobody means it.
    port = last if last.isdecimal() and 4 <= len(last) <= 5 and _is_ipv6(host) else ""
    if not port and not _is_ipv6(bare[1]):
        return
    scheme = text.partition("://")[0] if "://" in text else "http"
    default = "8001" if scheme.startswith("grpc") else "8000"
    right = f"[{host if port else bare[1]}]:{port or default}"
    raise UsageError(
        "an IPv6 address stands in brackets, or nobody can tell its end from a port",
        code="bad_url",
        seen=text,
        valid=(right, f"{scheme}://{right}"),
        fix=f"{scheme}://{right}",
    )


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _bad(url: str, why: str, example: str) -> UsageError:
    return UsageError(why, code="bad_url", seen=url, valid=(example,))
