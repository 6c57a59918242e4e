"""A built repository → numbered, immutable versions where servers read them, on disk or in an object store."""

from tritonsmith.builder.publish.destinations.address import open_destination
from tritonsmith.builder.publish.destinations.destination import Destination
from tritonsmith.builder.publish.listing import VersionRow, list_versions, text_of_versions
from tritonsmith.builder.publish.publish import ModelPublication, PublishOptions, PublishResult, publish
from tritonsmith.builder.publish.release import Expected, Release, Switched
from tritonsmith.builder.publish.rollback import Rollback, rollback

__all__ = [
    "Destination",
    "Expected",
    "ModelPublication",
    "PublishOptions",
    "PublishResult",
    "Release",
    "Rollback",
    "Switched",
    "VersionRow",
    "list_versions",
    "open_destination",
    "publish",
    "rollback",
    "text_of_versions",
]
