"""Whether this machine lets a test mount a small or read-only file system of its own."""

from __future__ import annotations

import subprocess


def can_mount() -> bool:
    """Tries it, in a namespace of its own."""
    command = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
