"""LIVE SERVER, SWEEP → TRIALS → RECORDS → REPORT: the perf harness."""
