"""An address → the Destination behind it."""

from __future__ import annotations

import os
from pathlib import Path

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.files.object_store import open_store
from tritonsmith.builder.publish.destinations.destination import Destination
from tritonsmith.builder.publish.destinations.disk import DiskDestination
from tritonsmith.builder.publish.destinations.store import StoreDestination


def open_destination(url: str) -> Destination:
    """A directory, or an object store's address (s3://, gs://, az://; file:// is a directory written as a store is)."""
    if "://" not in url:
        return DiskDestination(Path(os.path.abspath(url)))  # noqa: PTH100 - links are not to be resolved
    if url.startswith("memory://"):
        raise UsageError("no server can read models from memory://", code="store_url", seen=url)
    return StoreDestination(open_store(url))
