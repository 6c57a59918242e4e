"""Upstream's own repositories have no finding; each rule about language models at its edges."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builder.lint.fixtures import Tree, target
from tests.builder.lint.upstream import five_models, llmapi, vllm, vllm_with_lora
from tritonsmith.builder.lint.check import Finding, LintOptions, check


def found(files: dict[str, str | bytes], root: Path, options: LintOptions | None = None) -> list[Finding]:
    tree = Tree(files, options=options or LintOptions())
    return check(tree.write(root), tree.options)


def ids(findings: list[Finding]) -> list[str]:
    return [finding.rule for finding in findings]


@pytest.mark.parametrize(
    ("files", "options"),
    [
        pytest.param(vllm(), LintOptions(), id="vllm_model"),
        pytest.param(
            vllm(), target(release="25.06", image="vllm-python-py3", gpus=1), id="vllm_model on 25.06"
        ),
        pytest.param(vllm_with_lora(), LintOptions(), id="multi_lora"),
        pytest.param(vllm_with_lora("true"), LintOptions(), id="multi_lora, enabled by a text"),
        pytest.param(
            vllm_with_lora("false"),
            target(release="25.06", image="vllm-python-py3", gpus=2),
            id="not enabled",
        ),
        pytest.param(llmapi(), LintOptions(), id="llmapi"),
        pytest.param(
            llmapi(), target(release="26.07", image="trtllm-python-py3", gpus=1), id="llmapi on 26.07"
        ),
        pytest.param(five_models(), LintOptions(), id="five models"),
        pytest.param(
            five_models(decoupled_mode="True"),
            target(release="25.06", image="trtllm-python-py3", gpus=1),
            id="five models, decoupled, on 25.06",
        ),
        pytest.param(five_models(triton_backend="python"), LintOptions(), id="five models in Python"),
    ],
)
def test_upstreams_own_repositories_have_no_finding(
    files: dict[str, str | bytes], options: LintOptions, tmp_path: Path
) -> None:
    assert [f"{f.rule} {f.path.name}:{f.line} {f.message}" for f in found(files, tmp_path, options)] == []
