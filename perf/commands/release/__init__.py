"""What live servers serve, changed: publish, rollback, versions."""
