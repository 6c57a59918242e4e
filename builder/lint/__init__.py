"""A Triton model repository or one config.pbtxt → Findings: what Triton would refuse or silently ignore."""

from __future__ import annotations

from tritonsmith.builder.lint.check import Finding, LintOptions, check

__all__ = ["Finding", "LintOptions", "check"]
