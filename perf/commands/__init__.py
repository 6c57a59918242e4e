"""Command line functions of the perf harness: flags in, library calls, text or JSON out."""
