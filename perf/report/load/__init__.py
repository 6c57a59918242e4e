"""One load test's records → its report."""
