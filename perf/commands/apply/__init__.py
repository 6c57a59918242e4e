"""A sweep's winner → models.yaml, with the evidence beside it."""
