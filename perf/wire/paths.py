"""A model's name → its paths in Triton's HTTP API.

Triton takes a name out of the path as it came and decodes nothing (server, src/http_server.cc, HTTPAPIServer::Handle;
seen with 2.51), so that a name which is percent-encoded as RFC 3986 wants it is an unknown model's. It is sent as it
is, in UTF-8; encoded is only what would end the path, and no Triton knows such a model over HTTP.
"""

from __future__ import annotations

import re
from urllib.parse import quote

_ENDS_A_PATH = re.compile(r"[\x00-\x20\x7f/?]")


def model_path(model: str, version: str = "") -> str:
    """`/v2/models/M[/versions/V]`."""
    path = f"/v2/models/{_segment(model)}"
    return f"{path}/versions/{_segment(version)}" if version else path


def repository_path(model: str) -> str:
    """`/v2/repository/models/M`."""
    return f"/v2/repository/models/{_segment(model)}"


def ends_a_path(model: str) -> str | None:
    """The first character for which a Triton has no path to the model; None when there is none."""
    found = _ENDS_A_PATH.search(model)
    return None if found is None else found[0]


def _segment(name: str) -> str:
    return _ENDS_A_PATH.sub(lambda found: quote(found[0], safe=""), name)
