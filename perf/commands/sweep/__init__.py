"""`tritonsmith sweep`: flags or a sweep.yaml → a run directory with a report."""
