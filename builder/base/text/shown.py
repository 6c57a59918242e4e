"""Text that holds what others wrote → text that is safe to show: no control characters, no passwords of addresses."""

from __future__ import annotations

import re

from tritonsmith.builder.base.errors import UsageError

# All of C0 but newline and tab, DEL and C1, what turns the direction of writing, and half a surrogate pair, which
# cannot be printed at all.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_HIDDEN = "***"
# A user name is no secret in abfs://CONTAINER@ACCOUNT alone. A secret may hold slashes; `host:8000/` is none.
_USER = re.compile(
    r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?:(?<!abfs://)(?<!abfss://)[^\s/@?#'"<>]+|[^\s/@:?#'"<>]*:(?!\d{1,5}/)[^\s'"<>]*)@""",
    re.IGNORECASE,
)
_QUERY = re.compile(
    r"""([?&;][^\s=&'"<>]*(?:sig|token|secret|passw|key|credential|auth)[^\s=&'"<>]*=)[^\s&'"<>]+""",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(r"(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?)[^\s'\"]+", re.IGNORECASE)


def visible(text: str) -> str:
    """Control characters as their escapes, `\\x1b` for ESC; newlines and tabs stay."""
    return _CONTROL.sub(lambda found: _escape(found.group()), text)


def one_line(text: str) -> str:
    """The same for a name or another part of a line: whatever is not printable becomes its escape."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def without_secrets(text: str) -> str:
    """Passwords, keys and tokens of the addresses in a text, and of an Authorization header, as ***."""
    if "://" in text:
        text = _USER.sub(rf"\g<scheme>{_HIDDEN}@", text)
        text = _QUERY.sub(rf"\g<1>{_HIDDEN}", text)
    return _AUTHORIZATION.sub(rf"\g<1>{_HIDDEN}", text)


def refuse_secrets(address: str, fix: str) -> None:
    """UsageError secret_in_address when an address holds a password or a token."""
    shown = without_secrets(address)
    if shown != address:
        raise UsageError(
            "an address may hold no password, key or token: command lines, messages and records would show it",
            code="secret_in_address",
            seen=shown,
            fix=fix,
        )
