from __future__ import annotations

import pytest

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.files.address import (
    Address,
    address_of,
    host_port,
    is_bracketed,
    refuse_bare_ipv6,
)

HTTP = ("http", "https")


@pytest.mark.parametrize(
    ("url", "meant", "authority"),
    [
        ("http://h", Address("http", "h", None, ""), "h"),
        ("http://127.0.0.1:8000/", Address("http", "127.0.0.1", 8000, ""), "127.0.0.1:8000"),
        ("https://h:1/a/b/", Address("https", "h", 1, "/a/b"), "h:1"),
        ("http://[::1]:8000", Address("http", "::1", 8000, ""), "[::1]:8000"),
        ("http://[fe80::2]/x", Address("http", "fe80::2", None, "/x"), "[fe80::2]"),
    ],
)
def test_an_address_is_its_parts(url: str, meant: Address, authority: str) -> None:
    assert address_of(url, HTTP, "http://h:8000") == meant
    assert meant.authority == authority


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("::1:8000", "http://[::1]:8000"),
        ("http://::1:8000", "http://[::1]:8000"),
        ("grpc://::1:8001", "grpc://[::1]:8001"),
        ("grpc://::1", "grpc://[::1]:8001"),
        ("::1", "http://[::1]:8000"),
        ("fe80::1:2", "http://[fe80::1:2]:8000"),
        ("https://2001:db8::5:8443/", "https://[2001:db8::5]:8443"),
    ],
)
def test_a_bare_ipv6_address_is_told_its_brackets(text: str, right: str) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_bare_ipv6(text)
    assert caught.value.code == "bad_url" and caught.value.fix == right
    assert not is_bracketed(text)


def test_what_is_no_bare_ipv6_address_passes() -> None:
    for text in ("[::1]:8000", "h:8000", "docker:a:b", "1.2.3.4:8000", "a/b:c:d", "model_repository", "1:2"):
        refuse_bare_ipv6(text)
    assert is_bracketed("[::1]:8000") and is_bracketed("[fe80::1]") and not is_bracketed("[x]/y")
    assert host_port("::1", 80) == "[::1]:80" and host_port("h", 80) == "h:80"


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://[::1]]:80", "http://h:99999", "http://h:x", "http://h:0", "ftp://h", "http://"],
)
def test_what_is_no_address_is_one_error(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        address_of(url, HTTP, "http://h:8000")
    assert caught.value.code == "bad_url" and caught.value.seen == url
