"""Rule id → the smallest tree that breaks the rule and the smallest one that does not.

Most come from the rule's own `bad` and `good` examples, so that what the documentation shows is what is tested.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.builder.lint.language_models import example_files, example_options
from tritonsmith.builder.lint.check import LintOptions
from tritonsmith.builder.lint.read.pbtxt import parse_config
from tritonsmith.builder.lint.rule import Rule
from tritonsmith.builder.lint.table import RULES
from tritonsmith.builder.lint.target import Target, server_args_from_list

MODEL_PY = """\
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [pb.InferenceResponse([]) for _ in requests]
"""

BASE = {
    "backend": 'backend: "python"',
    "max_batch_size": "max_batch_size: 8",
    "input": 'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }',
    "output": 'output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }',
}


@dataclass(frozen=True)
class Tree:
    """Files below a directory, what is given to `check`, and how."""

    files: Mapping[str, str | bytes]
    paths: tuple[str, ...] = ("repository",)
    options: LintOptions = field(default_factory=LintOptions)

    def write(self, root: Path) -> list[Path]:
        """The files on disk; the paths to check."""
        for name, content in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return [root / path for path in self.paths]


@dataclass(frozen=True)
class Pair:
    bad: Tree
    good: Tree


def with_base(text: str) -> str:
    """A snippet with the smallest config around it: what it does not say itself."""
    said = parse_config(text).lines
    if "platform" in said:
        said = {**said, "backend": said["platform"]}
    base = {**BASE, "output": BASE["output"].replace('"y"', '"y__0"')} if "pytorch" in text else BASE
    missing = [part for name, part in base.items() if name not in said]
    return "\n".join([*missing, text, ""])


def onnx_bytes(
    inputs: Mapping[str, tuple[str, tuple[int | str, ...]]] | None = None,
    outputs: Mapping[str, tuple[str, tuple[int | str, ...]]] | None = None,
    opset: int = 18,
    ir_version: int = 8,
    external: str | None = None,
) -> bytes:
    """An ONNX file in which each output copies the first input of its type; external: file of weights w[4] added."""
    from onnx import TensorProto, helper

    given = dict(inputs or {"x": ("FLOAT", ("batch", 4))})
    made = dict(outputs or {"y": ("FLOAT", ("batch", 4))})

    def info(name: str, kind: str, shape: tuple[int | str, ...]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.DataType.Value(kind), shape)

    nodes, initializers = [], []
    for name, (kind, _) in made.items():
        source = next(n for n, (k, _) in given.items() if k == kind)
        nodes.append(helper.make_node("Identity", [source], [name]))
    if external is not None:
        name, (kind, _) = next(iter(made.items()))
        source = next(n for n, (k, _) in given.items() if k == kind)
        nodes[0] = helper.make_node("Add", [source, "w"], [name])
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=external)
        initializers.append(tensor)
    graph = helper.make_graph(
        nodes,
        "g",
        [info(n, k, s) for n, (k, s) in given.items()],
        [info(n, k, s) for n, (k, s) in made.items()],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    return bytes(model.SerializeToString())


@cache
def _plain_onnx() -> bytes:
    return onnx_bytes()


Files = Mapping[str, str | bytes]


def model(text: str, name: str = "m", more: Files | None = None) -> dict[str, str | bytes]:
    """A model directory: the config, the file that its backend serves, and `more` files by their path in it."""
    said = text if "platform:" in text and "ensemble" in text else with_base(text)
    files: dict[str, str | bytes] = {f"repository/{name}/config.pbtxt": said}
    message = parse_config(said).message
    backend = message.backend if message is not None else "python"
    if message is not None and message.platform == "ensemble":
        files[f"repository/{name}/1/.keep"] = ""
    elif backend == "onnxruntime":
        files[f"repository/{name}/1/model.onnx"] = _plain_onnx()
    elif backend == "tensorrt":
        files[f"repository/{name}/1/model.plan"] = b"plan"
    elif backend == "pytorch":
        files[f"repository/{name}/1/model.pt"] = b"pt"
    else:
        files[f"repository/{name}/1/model.py"] = MODEL_PY
    for path, content in (more or {}).items():
        files[f"repository/{name}/{path}"] = content
        files.pop(f"repository/{name}/{Path(path).parent}", None)
    return files


def tree(text: str, options: LintOptions | None = None, more: Files | None = None) -> Tree:
    """A repository of that one model; an ensemble stands beside its step model `m`."""
    options = options or LintOptions()
    if "ensemble" in text:
        return Tree({**model(text, "pipeline", more), **model("", "m")}, options=options)
    return Tree(model(text, more=more), options=options)


def target(**known: Any) -> LintOptions:
    return LintOptions(target=Target(**known))


def started_with(*arguments: str) -> LintOptions:
    return target(server_args=server_args_from_list(arguments))


def onnx_tree(text: str, data: bytes, options: LintOptions | None = None) -> Tree:
    return tree('backend: "onnxruntime"\n' + text, options, more={"1/model.onnx": data})


def engine_tree(text: str, options: LintOptions | None = None, **sidecar: Any) -> Tree:
    tensors = [
        {"name": "x", "mode": "input", "data_type": "TYPE_FP32", "shape": [-1, 4]},
        {"name": "y", "mode": "output", "data_type": "TYPE_FP32", "shape": [-1, 4]},
    ]
    profiles = [{"x": {"min": [1, 4], "opt": [8, 4], "max": [32, 4]}}]
    data = {
        "tensorrt": "10.16.0",
        "compute_capability": "9.0",
        "tensors": tensors,
        "profiles": profiles,
        **sidecar,
    }
    return tree('backend: "tensorrt"\n' + text, options, more={"1/model.plan.json": json.dumps(data)})


def without(base: Tree, *names: str) -> Tree:
    return Tree({n: c for n, c in base.files.items() if n not in names}, base.paths, base.options)


def renamed(base: Tree, old: str, new: str) -> Tree:
    return Tree({n.replace(old, new): c for n, c in base.files.items()}, base.paths, base.options)


def _ensemble_of_decoupled(decoupled: bool) -> Tree:
    policy = "model_transaction_policy { decoupled: true }" if decoupled else ""
    joined = 'input { name: "x2" data_type: TYPE_FP32 dims: [ 4 ] }\n' + BASE["input"]
    maps = [("a", "x=IN", "y=A"), ("b", "x=IN", "y=B"), ("joined", "x=A x2=B", "y=OUT")]
    steps = []
    for name, reads, writes in maps:
        entries = [("input_map", p) for p in reads.split()] + [("output_map", p) for p in writes.split()]
        text = " ".join(f'{k} {{ key: "{p.split("=")[0]}" value: "{p.split("=")[1]}" }}' for k, p in entries)
        steps.append(f'{{ model_name: "{name}" model_version: -1 {text} }}')
    ensemble = (
        'platform: "ensemble"\ninput { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] }\n'
        'output { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] }\n'
        f"ensemble_scheduling {{ step [ {', '.join(steps)} ] }}"
    )
    return Tree(
        {
            **model(ensemble, "pipeline"),
            **model(policy, "a"),
            **model(policy, "b"),
            **model(joined, "joined"),
        }
    )


def _beside(text: str, m: str) -> Tree:
    return Tree({**model(text, "pipeline"), **model(m, "m")})


X = 'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }'
FLOAT = ("FLOAT", ("batch", 4))
START = (
    'sequence_batching { control_input { name: "START"\n'
    "  control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } } }"
)
SHAPE_TENSOR = {
    "name": "s",
    "mode": "input",
    "data_type": "TYPE_INT32",
    "shape": [2],
    "is_shape_tensor": True,
}
LABELS = {"labels.txt": "a\nb\n"}


def _special() -> dict[str, Pair]:
    """Rules whose example is a tree, a graph, an engine or a server."""
    gpu0, gpu1, gpu2 = target(gpus=0), target(gpus=1), target(gpus=2)
    bare = started_with()
    ensemble = {rule_id: RULES[rule_id] for rule_id in RULES if rule_id.startswith("ENS")}
    one_step = ensemble["ENS014"].good
    return {
        "REPO001": Pair(Tree(model(RULES["REPO001"].bad)), tree(RULES["REPO001"].good)),
        "REPO002": Pair(tree('name: "detektor"'), tree('name: "m"')),
        "REPO003": Pair(without(tree(""), "repository/m/1/model.py"), tree("")),
        "REPO004": Pair(renamed(tree(""), "/1/", "/v1/"), tree("")),
        "REPO006": Pair(tree('default_model_filename: "net.py"'), tree("")),
        "REPO007": Pair(
            onnx_tree("", onnx_bytes(external="w.bin")),
            tree(
                'backend: "onnxruntime"',
                more={
                    "1/model.onnx/model.onnx": onnx_bytes(external="w.bin"),
                    "1/model.onnx/w.bin": bytes(16),
                },
            ),
        ),
        "REPO008": Pair(
            Tree({"config.pbtxt": with_base('name: "../m"')}, ("config.pbtxt",)),
            Tree({"config.pbtxt": with_base('name: "m"')}, ("config.pbtxt",)),
        ),
        "REPO009": Pair(
            Tree(
                {**model(""), **{n.replace("repository", "other"): c for n, c in model("").items()}},
                ("repository", "other"),
            ),
            Tree(
                {**model(""), **{n.replace("repository", "other"): c for n, c in model("", "m2").items()}},
                ("repository", "other"),
            ),
        ),
        "REPO010": Pair(
            tree(RULES["REPO010"].bad, target(release="26.08")),
            tree(RULES["REPO010"].good, target(release="26.08")),
        ),
        "REPO011": Pair(tree(RULES["REPO011"].bad, more=LABELS), tree(RULES["REPO011"].good, more=LABELS)),
        "REPO012": Pair(tree(RULES["REPO012"].bad, more=LABELS), tree(RULES["REPO012"].good, more=LABELS)),
        "REPO013": Pair(
            tree("", bare, more={"configs/h100.pbtxt": with_base("")}),
            tree("", started_with("--model-config-name=h100"), more={"configs/h100.pbtxt": with_base("")}),
        ),
        "REPO014": Pair(
            without(tree("", started_with("--disable-auto-complete-config")), "repository/m/config.pbtxt"),
            tree("", started_with("--disable-auto-complete-config")),
        ),
        "REPO015": Pair(Tree(model("", "50%")), Tree(model("", "half"))),
        "BACK004": Pair(
            tree('backend: "onnxruntime"', target(release="25.06", image="trtllm-python-py3")),
            tree('backend: "onnxruntime"', target(release="25.06")),
        ),
        "BACK006": Pair(tree(RULES["BACK006"].bad), tree(RULES["BACK006"].good, more={"env.tar.gz": b"x"})),
        "BATCH013": Pair(
            onnx_tree("", onnx_bytes({"x": ("FLOAT", (1, 4))}, {"y": ("FLOAT", (1, 4))})),
            onnx_tree("", onnx_bytes()),
        ),
        "BATCH014": Pair(engine_tree("max_batch_size: 64"), engine_tree("max_batch_size: 32")),
        "IO013": Pair(
            onnx_tree('input { name: "images" data_type: TYPE_FP32 dims: [ 4 ] }', onnx_bytes()),
            onnx_tree(X, onnx_bytes()),
        ),
        "IO014": Pair(
            onnx_tree('input { name: "x" data_type: TYPE_INT64 dims: [ 4 ] }', onnx_bytes()),
            onnx_tree(X, onnx_bytes()),
        ),
        "IO015": Pair(
            onnx_tree('input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }', onnx_bytes()),
            onnx_tree(X, onnx_bytes()),
        ),
        "IO017": Pair(
            onnx_tree(
                'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] allow_ragged_batch: true }', onnx_bytes()
            ),
            onnx_tree(X, onnx_bytes()),
        ),
        "IO018": Pair(
            engine_tree(
                X + ' input { name: "s" data_type: TYPE_INT32 dims: [ 2 ] }',
                tensors=[
                    SHAPE_TENSOR,
                    {"name": "x", "mode": "input", "data_type": "TYPE_FP32", "shape": [-1, 4]},
                ],
            ),
            engine_tree(
                X + ' input { name: "s" data_type: TYPE_INT32 dims: [ 2 ] is_shape_tensor: true }',
                tensors=[
                    SHAPE_TENSOR,
                    {"name": "x", "mode": "input", "data_type": "TYPE_FP32", "shape": [-1, 4]},
                ],
            ),
        ),
        "IO019": Pair(
            engine_tree(
                'input { name: "x" data_type: TYPE_FP16 dims: [ 8, 4, 4 ] is_non_linear_format_io: true }',
                tensors=[
                    {
                        "name": "x",
                        "mode": "input",
                        "data_type": "TYPE_FP16",
                        "shape": [-1, 8, 4, 4],
                        "non_linear": False,
                    }
                ],
                profiles=[{"x": {"min": [1, 8, 4, 4], "opt": [1, 8, 4, 4], "max": [8, 8, 4, 4]}}],
            ),
            engine_tree(""),
        ),
        "IO028": Pair(
            onnx_tree(RULES["IO028"].bad.partition("\n")[2], onnx_bytes()),
            onnx_tree(
                RULES["IO028"].good.partition("\n")[2], onnx_bytes({"x": FLOAT, "n": ("FLOAT", ("total",))})
            ),
        ),
        "INST001": Pair(tree(RULES["INST001"].bad, gpu0), tree(RULES["INST001"].good, gpu0)),
        "INST004": Pair(tree(RULES["INST004"].bad, gpu1), tree(RULES["INST004"].good, gpu1)),
        "INST005": Pair(tree(RULES["INST005"].bad, gpu2), tree(RULES["INST005"].good, gpu2)),
        "IO012": Pair(
            Tree({**model(""), "repository/m/config.pbtxt": RULES["IO012"].bad}), tree(RULES["IO012"].good)
        ),
        "INST013": Pair(
            tree(RULES["INST013"].bad, started_with("--rate-limit=execution_count")),
            tree(RULES["INST013"].good, started_with("--rate-limit=execution_count")),
        ),
        "INST009": Pair(
            tree(RULES["INST009"].bad, bare),
            tree(RULES["INST009"].good, started_with("--host-policy=numa0,numa-node=0")),
        ),
        "INST014": Pair(
            tree(
                RULES["INST014"].bad,
                started_with("--rate-limit=execution_count", "--rate-limit-resource=R:2"),
            ),
            tree(
                RULES["INST014"].good,
                started_with("--rate-limit=execution_count", "--rate-limit-resource=R:2"),
            ),
        ),
        "INST015": Pair(
            tree(RULES["INST015"].bad, bare),
            tree(RULES["INST015"].good, started_with("--rate-limit=execution_count")),
        ),
        "SEQ018": Pair(
            tree(RULES["SEQ018"].bad), tree(RULES["SEQ018"].good, more={"initial_state/present": bytes(8)})
        ),
        "SEQ020": Pair(
            onnx_tree(START, onnx_bytes()),
            onnx_tree(START, onnx_bytes({"x": FLOAT, "START": ("FLOAT", ("batch", 1))})),
        ),
        "ENS015": Pair(tree(one_step.replace(" model_version: -1", "")), tree(one_step)),
        "ENS017": Pair(
            _beside(one_step, X + ' input { name: "z" data_type: TYPE_FP32 dims: [ 4 ] }'), tree(one_step)
        ),
        "ENS023": Pair(_ensemble_of_decoupled(True), _ensemble_of_decoupled(False)),
        "ENS025": Pair(
            _beside(ensemble["ENS025"].good, "model_transaction_policy { decoupled: true }"),
            tree(ensemble["ENS025"].good),
        ),
        "WARM003": Pair(
            tree(RULES["WARM003"].bad), tree(RULES["WARM003"].good, more={"warmup/present": bytes(16)})
        ),
        "WARM004": Pair(
            tree(RULES["WARM004"].bad, more={"warmup/short": bytes(3)}),
            tree(RULES["WARM004"].good, more={"warmup/present": bytes(16)}),
        ),
        "CACHE003": Pair(
            tree(RULES["CACHE003"].bad, bare),
            tree(RULES["CACHE003"].good, started_with("--cache-config=local,size=1048576")),
        ),
        "DEC001": Pair(
            tree(RULES["DEC001"].bad, started_with("--allow-grpc=false")),
            tree(RULES["DEC001"].good, started_with()),
        ),
        "OPT005": Pair(
            engine_tree("instance_group { kind: KIND_GPU }", devices=2),
            engine_tree("instance_group { kind: KIND_MODEL }", devices=2),
        ),
        "TRT001": Pair(
            engine_tree("", target(tensorrt="10.16"), tensorrt="10.4.0"),
            engine_tree("", target(tensorrt="10.16")),
        ),
        "TRT002": Pair(
            engine_tree("", target(compute_capability="9.0"), compute_capability="8.6"),
            engine_tree("", target(compute_capability="9.0")),
        ),
        "TRT003": Pair(engine_tree("", profiles=[]), engine_tree("")),
        "TRT004": Pair(
            engine_tree(
                'input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }',
                tensors=[{"name": "x", "mode": "input", "data_type": "TYPE_FP32", "shape": [-1, -1]}],
            ),
            engine_tree(""),
        ),
        "TRT005": Pair(
            engine_tree("", bare, plugins=["libscatter.so"]),
            engine_tree(
                "",
                started_with("--backend-config=tensorrt,plugins=/opt/libscatter.so"),
                plugins=["libscatter.so"],
            ),
        ),
        **{rule_id: Pair(_deep(proto), _deep("relu")) for rule_id, proto in _DEEP.items()},
        "ONNX001": Pair(
            onnx_tree("", onnx_bytes(opset=24), target(release="24.10")),
            onnx_tree("", onnx_bytes(opset=21), target(release="24.10")),
        ),
        "ONNX002": Pair(onnx_tree("", onnx_bytes()[:40]), onnx_tree("", onnx_bytes())),
        "ONNX003": Pair(onnx_tree("", _sequence_onnx()), onnx_tree("", onnx_bytes())),
    }


_DEEP = {"BATCH015": "mean", "BATCH016": "fourth", "BATCH017": "log", "BATCH018": "dynamic"}


def _deep(kind: str) -> Tree:
    """A model x[batch, 4] → y[batch, 4] that is run."""
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node
    nodes = {
        "relu": [node("Relu", ["x"], ["y"])],
        "mean": [node("ReduceMean", ["x", "axis"], ["m"]), node("Sub", ["x", "m"], ["y"])],
        "fourth": [node("Gather", ["x", "fourth"], ["row"]), node("Sub", ["x", "row"], ["y"])],
        "log": [node("Log", ["x"], ["y"])],
        "dynamic": [
            node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
    }[kind]
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("batch", 4)) for n in ("x", "y")]
    constants = [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("axis", [0]), ("fourth", [3]))
    ]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx_tree("max_batch_size: 8", made.SerializeToString(), LintOptions(deep=True))


def _sequence_onnx() -> bytes:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 4))],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return bytes(made.SerializeToString())


def _from_examples(rule: Rule) -> Pair:
    if rule.family in ("VLLM", "TRTLLM"):
        bad, good = (
            Tree(example_files(rule, example), options=example_options(rule, example))
            for example in (rule.bad, rule.good)
        )
        return Pair(bad, good)
    text: Callable[[str], str] = str.strip
    return Pair(tree(text(rule.bad)), tree(text(rule.good)))


@cache
def fixtures() -> dict[str, Pair]:
    """Every rule's pair."""
    special = _special()
    return {rule.id: special.get(rule.id) or _from_examples(rule) for rule in RULES.values()}
