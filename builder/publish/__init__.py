"""A built repository → numbered, immutable versions where servers read them, on disk or in an object store."""

from builder.publish.address import open_destination
from builder.publish.destination import Destination
from builder.publish.listing import VersionRow, list_versions, text_of_versions
from builder.publish.publish import ModelPublication, PublishOptions, PublishResult, publish
from builder.publish.release import Expected, Release, Switched
from builder.publish.rollback import Rollback, rollback

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
