"""The command line: the builder's commands and the perf harness's under one name."""
