"""The rule table → docs/rules.md; `python -m tritonsmith.builder.lint.docs` writes it."""

from __future__ import annotations

from pathlib import Path

from tritonsmith.builder.base.files.disk import write_atomically
from tritonsmith.builder.lint.render import FIXABLE, NEEDS
from tritonsmith.builder.lint.rule import STAGE_TEXT, Rule
from tritonsmith.builder.lint.table import RULES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rules.md"
"""In a checkout, to which the package's own directory is a link."""

FAMILIES: dict[str, str] = {
    "REPO": "Layout of the repository",
    "BACK": "Backends",
    "BATCH": "Batch size, dynamic batching and queues",
    "IO": "Inputs and outputs",
    "INST": "Instance groups and rate limiter",
    "SEQ": "Sequence batching",
    "ENS": "Ensembles",
    "WARM": "Warm-up",
    "CACHE": "Response cache",
    "DEC": "Decoupled models",
    "MET": "Metrics",
    "OPT": "Optimization",
    "TRT": "TensorRT engines",
    "ONNX": "ONNX files",
    "VLLM": "The vLLM backend",
    "TRTLLM": "TensorRT-LLM",
}

_HEAD = """\
# Rules of `tritonsmith check`

Generated from the rule table by `python -m tritonsmith.builder.lint.docs`; do not edit.

**error**: the model does not load or does not serve. **warning**: it loads and misbehaves, or a setting is ignored
without a word. The stage says when the server notices:

- *poll*: {poll};
- *load*: {load};
- *silent*: {silent}.

**[*]**: `tritonsmith check --fix` mends it where only one thing can be meant and nothing is lost; comments and formatting
stay, the new text is judged before it replaces the old one, and `--diff` prints it instead.

A rule that needs to know more than the files say, such as the target release, is judged only when it is told.

Suppress a rule on a line with `# tritonsmith: ignore=BATCH004` at its end or on a line of its own above, and for the
whole model with `# tritonsmith: ignore-file=BATCH004`. A family (`BATCH`) or `all` works as well.

Sources: paths are those of the repositories `core` (line numbers at 73aad7c), `server` (e1db8a6),
`onnxruntime_backend`, `tensorrt_backend` and `vllm_backend` of github.com/triton-inference-server, and of
vllm-project/vllm and NVIDIA/TensorRT-LLM; “seen live on 2.51.0” is what
tritonserver 2.51.0 did with the bad example. tests/builder/lint/test_conformance.py loads every example that the
embedded server can judge, and lists the others with the reason.
"""


def rules_md() -> str:
    """The whole page."""
    parts = [_HEAD.format(**STAGE_TEXT)]
    for family, title in FAMILIES.items():
        rules = [rule for rule in RULES.values() if rule.family == family]
        parts.append(f"\n## {family}: {title}\n\n| id | severity | stage | condition |\n|---|---|---|---|\n")
        parts += [
            f"| [{r.id}](#{r.id.lower()}){' [*]' if r.repair else ''} | {r.severity} | {r.stage} | {_cell(r.title)} |\n"
            for r in rules
        ]
        parts += [_section(rule) for rule in rules]
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _section(rule: Rule) -> str:
    return (
        f"\n### {rule.id}\n\n{rule.title}.\n\n"
        f"- Severity: {rule.severity}; stage: {rule.stage}; needs: {NEEDS[rule.needs]}\n"
        f"- Then: {rule.then}\n- Fix: {rule.fix}{f' ({FIXABLE})' if rule.repair else ''}\n- Source: {rule.source}\n\n"
        f"Bad:\n\n```\n{rule.bad}\n```\n\nGood:\n\n```\n{rule.good}\n```\n"
    )


def write(path: Path) -> None:
    """Replace the page in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, rules_md())


if __name__ == "__main__":
    write(PAGE)
