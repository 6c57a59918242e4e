"""A stranger's models.yaml: names, wrong types in every field, and 300 mutated files are one error each, never a traceback."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tritonsmith.builder.base.errors import SpecError, TritonsmithError
from tritonsmith.builder.build.context import BuildOptions, plan_build
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.spec.spec import load_spec

SEED = 20
TENSORS = "input: [{name: x, data_type: TYPE_FP32, dims: [n]}], output: [{name: y, data_type: TYPE_FP32, dims: [1]}]"
FULL = """\
target: {triton: "25.10", gpus: [h100], tensorrt: "10.13"}
defaults: {max_batch_size: 8}
models:
  net:
    source: {torch: "net:load", files: [net.txt]}
    opset: 20
    input: [{name: x, data_type: TYPE_FP32, dims: [n]}]
    output: [{name: y, data_type: TYPE_FP32, dims: [1], label_filename: labels.txt}]
    dynamic_dims: {n: {min: 1, opt: 2, max: 8}}
    accuracy: {samples: samples.npz, relative_l2: 0.1, cosine: 0.9, max_abs: 1.0, top1: 0.5}
    variants:
      plain: {backend: onnxruntime, precision: fp32}
      half: {precision: fp16, exclude: [MatMul], keep_io: true, options: {a: 1}, accuracy: {cosine: 0.8}}
      engine:
        backend: tensorrt
        engine: {workspace_bytes: 1}
        optimization_profiles: [{batch: {max: 8}, dims: {n: {max: 8}}, inputs: {x: {min: [1], opt: [1], max: [1]}}}]
    serve: [half, plain]
    on_fail: next
    calibration: samples.npz
    model_files: {labels.txt: net.txt}
    smoke: samples.npz
    dynamic_batching: {preferred_batch_size: [4, 8], max_queue_delay_microseconds: 100}
    instance_group: [{kind: KIND_CPU, count: 2}]
    parameters: {threads: 2}
    version_policy: {latest: {num_versions: 1}}
    optimization: {priority: PRIORITY_MAX, execution_accelerators: {cpu_execution_accelerator: [{name: openvino}]}}
  script:
    source: {python: model.py, files: [net.txt], requirements: [numpy]}
    input: [{name: x, data_type: TYPE_FP32, dims: [1]}]
    output: [{name: y, data_type: TYPE_FP32, dims: [1]}]
    sequence_batching:
      max_sequence_idle_microseconds: 5
      control_input: [{name: s, control: [{kind: CONTROL_SEQUENCE_START, int32_false_true: [0, 1]}]}]
  taken:
    source: {directory: taken}
    model_warmup: [{name: w, batch_size: 1, inputs: {x: {data_type: TYPE_FP32, dims: [1], zero_data: true}}}]
  both:
    source: {steps: [{model: script, version: 1, from: {x: X}, to: {y: Y}}]}
"""


DATA = yaml.load(FULL, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def dumped(data: Any) -> str:
    """Data as YAML, by libyaml where it is there: ten times as fast."""
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def write_sources(tmp_path: Path) -> None:
    for name in ("net.txt", "samples.npz", "net.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "model.py").write_text("class TritonPythonModel:\n    def execute(self, requests): ...\n")
    (tmp_path / "taken" / "1").mkdir(parents=True)


def paths(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Key path of each value."""
    if at:
        yield at
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from paths(value, (*at, key))


def changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at the path."""
    if not path:
        return value
    copied = dict(data) if isinstance(data, dict) else list(data)
    copied[path[0]] = changed(copied[path[0]], path[1:], value)
    return copied


def test_the_full_spec_is_sound(tmp_path: Path) -> None:
    assert [m.name for m in load_spec(write(tmp_path, FULL)).models] == ["net", "script", "taken", "both"]


# Fields that take more than one type.
ANY = {"threads", "a", "workspace_bytes"}


def test_a_wrong_type_in_any_field_is_an_error_with_its_line(tmp_path: Path) -> None:
    refused = 0
    for path in paths(DATA):
        old = DATA
        for key in path:
            old = old[key]
        wrong: list[Any] = [{"a_b": [1]}] if not isinstance(old, dict) else [["no"], 7]
        wrong += [True] if not isinstance(old, bool) else ["word"]
        wrong += [] if isinstance(old, list) else [[[1]]]
        for value in wrong:
            if path[-1] in ANY or (path[-1] == "parameters" and value is True):
                continue
            file = write(tmp_path, dumped(changed(DATA, path, value)))
            with pytest.raises(SpecError) as caught:
                load_spec(file)
            assert caught.value.where is not None and caught.value.where.line is not None, (path, value)
            refused += 1
    assert refused > 300


NAMES = {
    "a model that turns the line round": ("  taken:", '  "ta\\u202eken":', "model_name"),
    "a model with a C1 character": ("  taken:", '  "ta\\u009bken":', "model_name"),
    "a model with a zero-width space": ("  taken:", '  "ta\\u200bken":', "model_name"),
    "a model with a line separator": ("  taken:", '  "ta\\u2028ken":', "model_name"),
    "a model in another form of Unicode": ("  taken:", '  "cafe\\u0301":', "model_name"),
    "a model twice in compatible forms": ("  taken:", '  "\\uff53cript":', "duplicate_name"),
    "a variant that is a path": ("plain: {backend", "../plain: {backend", "bad_name"),
    "a variant that does not print": ("plain: {backend", '"pl\\u2066ain": {backend', "bad_name"),
    "a variant too long with its model": ("plain: {backend", f"{'v' * 198}: {{backend", "bad_name"),
    "variants that differ in case": ("plain: {backend", "HALF: {backend", "duplicate_name"),
    "a model called like a variant": ("  taken:", "  net__half:", "duplicate_name"),
    "an input that does not print": ("input: [{name: x,", 'input: [{name: "x\\u200b",', "bad_name"),
    "an ensemble's tensor": ("{y: Y}", '{y: "Y\\u202e"}', "bad_name"),
    "an ensemble's key": ("{y: Y}", '{"y\\u202e": Y}', "bad_name"),
    "a placed file that climbs": ("{labels.txt: net", "{../labels.txt: net", "bad_name"),
    "a placed file that does not print": ("{labels.txt: net", '{"la\\u202ebels.txt": net', "bad_name"),
    "a placed file below another": ("{labels.txt: net", "{a: net.txt, a/b: net", "bad_name"),
    "the config itself": ("{labels.txt: net", "{config.pbtxt: net", "bad_name"),
    "a source with a zero byte": ("model.py", '"mod\\0el.py"', "bad_name"),
    "a file with a zero byte": ("files: [net.txt]}", 'files: ["net\\0.txt"]}', "bad_name"),
    "calibration with a line break": ("calibration: samples.npz", 'calibration: "a\\nb.npz"', "bad_name"),
    "a bound that is not finite": ("relative_l2: 0.1", "relative_l2: .inf", "wrong_type"),
    "an option that is not finite": ("options: {a: 1}", "options: {a: [.nan]}", "wrong_value"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "code"), NAMES.values(), ids=NAMES.keys())
def test_a_name_that_could_mislead_is_refused(tmp_path: Path, old: str, new: str, code: str) -> None:
    assert old in FULL
    text = FULL.replace("serve: [half, plain]", "serve: half").replace(old, new, 1)
    with pytest.raises(SpecError) as caught:
        load_spec(write(tmp_path, text))
    assert caught.value.code == code, caught.value
    line = next(n for n, text_line in enumerate(text.splitlines(), 1) if new in text_line)
    assert caught.value.where is not None
    assert caught.value.where.line == line or f"(line {line})" in caught.value.message
    assert str(caught.value).isprintable() or "\n" in str(caught.value)
    if code == "duplicate_name":
        assert "(line " in caught.value.message, "both places are told"


WORDS = ["", "~", "null", "-1", "1e999", ".nan", "9" * 400, "[[[[", "{{", "*a", "&a", "!!python/name:os", "? ", "- ",
         "\\0", "\u202e", "e\u0301", "'", '"', "|", "x" * 5000, "2001-01-01", "../../x", "/", "true", ": ", "#"]  # fmt: skip


VALUES: list[Any] = [
    *("", None, True, -1, 0, 2**63, 10**400, 1.5, float("nan"), float("-inf"), [], {}, [[]], [{}], {"": 1}),
    *("x" * 5000, "net", "../..", "/", "a:b", "\0", "\u202e", "e\u0301", "TYPE_FP32"),
    *([1] * 3000, {str(i): i for i in range(3000)}),
]


def mutated(random_: random.Random) -> str:
    """FULL with up to three values replaced, or with one or two edits of its text."""
    if random_.random() < 0.7:
        data = DATA
        for _ in range(random_.randint(1, 3)):
            data = changed(
                data, random_.choice([p for p in paths(data) if len(p) > 2]), random_.choice(VALUES)
            )
        return dumped(data)
    text = FULL
    for _ in range(random_.randint(1, 2)):
        at, word = random_.randrange(len(text)), random_.choice(WORDS)
        end = at + random_.randint(0, 12)
        lines = text.splitlines(keepends=True)
        line = random_.randrange(len(lines))
        edits = (
            text[:at] + word + text[at:],
            text[:at] + word + text[end:],
            text[:at] + text[end:],
            "".join([*lines[:line], lines[line], *lines[line:]]),
            "".join([*lines[:line], "  " + lines[line], *lines[line + 1 :]]),
            text[:at] + text[at : at + 40] * random_.randint(2, 50) + text[end:],
        )
        text = random_.choice(edits) or "a"
    return text


def test_300_mutated_specs_are_read_or_refused(tmp_path: Path) -> None:
    write_sources(tmp_path)
    random_, outcomes, slowest = random.Random(SEED), Counter[str](), 0.0
    options = BuildOptions(tmp_path / "models.yaml", cache=Cache(tmp_path / "cache"))
    for _ in range(300):
        write(tmp_path, mutated(random_))
        began = time.process_time()
        try:
            plan_build(options)
            outcomes["planned"] += 1
        except TritonsmithError as error:
            assert error.exit_code in (2, 4) and len(str(error)) < 5000, error
            outcomes[error.code] += 1
        slowest = max(slowest, time.process_time() - began)
    print(f"\n{dict(outcomes)}, slowest {slowest:.3f} s")
    assert outcomes.total() == 300 and slowest < 1
    assert outcomes["planned"] < 150
