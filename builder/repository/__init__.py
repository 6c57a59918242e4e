"""Model directories and lock as they lie on disk: written by rename, read with care."""
