"""Rules about which backend serves a model, and what it needs beside the model file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tritonsmith.builder.base.machine.releases import NVIDIA_BACKENDS
from tritonsmith.builder.base.odd_names import stub_words
from tritonsmith.builder.lint.read.autofill import PLATFORMS
from tritonsmith.builder.lint.read.files import exists, is_file
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import is_ensemble

# Backends whose platform the core insists on. Source: core, GetBackendType and GetBackendTypeFromPlatform.
CHECKED = frozenset({"tensorrt", "onnxruntime", "pytorch", "tensorflow"})
MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"


@rule(
    "BACK001",
    "error",
    "poll",
    then="the server does not know who is to serve the model and does not poll it",
    fix='write backend: "NAME"',
    source="core/src/model_config_utils.cc:1464",
    bad='platform: "onnx"  # no such platform',
    good='backend: "onnxruntime"',
)
def no_backend(model: Model, context: Context) -> Iterator[Hit]:
    """Neither backend nor a known platform is given, and the model file's name does not tell."""
    config = model.config
    if config.backend or is_ensemble(model):
        return
    if config.platform:
        yield Hit(
            f"'{config.platform}' is no platform of Triton's; known: {', '.join(PLATFORMS)}",
            "platform",
            config.platform,
        )
    elif not model.loose and model.versions:
        yield Hit(
            "the files of its first version do not tell the backend",
            seen=", ".join(sorted(model.versions[0].entries)[:6]) or "nothing",
        )


@rule(
    "BACK002",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop platform: backend is enough",
    source="core/src/model_config_utils.cc:1474",
    bad='backend: "onnxruntime"\nplatform: "tensorrt_plan"',
    good='backend: "onnxruntime"\nplatform: "onnxruntime_onnx"',
)
def platform_disagrees(model: Model, context: Context) -> Iterator[Hit]:
    """platform and backend belong to different backends."""
    config = model.config
    if config.backend not in CHECKED or config.platform in ("", "ensemble"):
        return
    if PLATFORMS.get(config.platform) != config.backend:
        yield Hit(
            f"platform '{config.platform}' is not one of the backend '{config.backend}'",
            "platform",
            config.platform,
        )


@rule(
    "BACK003",
    "warning",
    "silent",
    then="the server ignores platform",
    fix="drop platform",
    source="core/src/model_config_utils.cc:1468; seen live on 2.51.0",
    bad='backend: "python"\nplatform: "onnxruntime_onnx"',
    good='backend: "python"',
)
def platform_ignored(model: Model, context: Context) -> Iterator[Hit]:
    """A backend without platforms of its own is given another one's platform."""
    config = model.config
    if not config.backend or config.backend in CHECKED or config.platform in ("", "ensemble"):
        return
    if PLATFORMS.get(config.platform) != config.backend:
        yield Hit(
            f"the backend '{config.backend}' has no platform '{config.platform}'",
            "platform",
            config.platform,
        )


@rule(
    "BACK004",
    "error",
    "load",
    then="the server does not find the backend's library and the model does not load",
    fix="serve it from an image that has the backend",
    source="core/src/backend_model.cc:441; triton-inference-server/server issue 8342",
    bad='backend: "onnxruntime"  # --target 25.06-trtllm-python-py3',
    good='backend: "onnxruntime"  # --target 25.06-py3',
    needs="target",
)
def backend_not_in_image(model: Model, context: Context) -> Iterator[Hit]:
    """The target's image does not contain the backend."""
    available = context.target.backends
    backend = model.config.backend
    if available is not None and backend in NVIDIA_BACKENDS and backend not in available:
        yield Hit(
            f"the image {context.target.release}-{context.target.image} has no backend '{backend}', "
            f"only {', '.join(sorted(available))}",
            "backend",
            backend,
        )


@rule(
    "BACK005",
    "error",
    "load",
    then="the server refuses the library and the model does not load",
    fix="name a library that lies in the backend's directory, or drop runtime",
    source="core/src/backend_model.cc:383",
    bad='backend: "python"\nruntime: "../libtriton_other.so"',
    good='backend: "python"',
)
def runtime_escapes(model: Model, context: Context) -> Iterator[Hit]:
    """runtime names a library outside the backend's directory, or no library or model.py at all."""
    runtime = model.config.runtime
    if not runtime:
        return
    path = PurePosixPath(runtime)
    if path.is_absolute() or ".." in path.parts or "/" in runtime:
        yield Hit(f"'{runtime}' leads out of the backend's directory", "runtime", runtime)
    elif runtime != "model.py" and not re.fullmatch(r"libtriton_[\w.-]+\.so", runtime):
        yield Hit(
            f"'{runtime}' is neither libtriton_NAME.so nor model.py", "runtime", runtime, severity="warning"
        )


@rule(
    "BACK006",
    "error",
    "load",
    then="the python backend cannot unpack its environment and the model does not load",
    fix="put the archive there; $$TRITON_MODEL_DIRECTORY stands for the model's directory",
    source="core/src/model_config_utils.cc, LocalizePythonBackendExecutionEnvironmentPath; live on 2.51.0",
    bad='backend: "python"\nparameters { key: "EXECUTION_ENV_PATH" '
    'value { string_value: "$$TRITON_MODEL_DIRECTORY/absent.tar.gz" } }',
    good='backend: "python"\nparameters { key: "EXECUTION_ENV_PATH" '
    'value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }',
    needs="files",
)
def environment_absent(model: Model, context: Context) -> Iterator[Hit]:
    """EXECUTION_ENV_PATH names an archive inside the model directory that is not there."""
    value = (
        model.config.parameters["EXECUTION_ENV_PATH"].string_value
        if _has(model, "EXECUTION_ENV_PATH")
        else ""
    )
    if model.config.backend != "python" or not value.startswith(MODEL_DIRECTORY):
        return
    path = model.path / value[len(MODEL_DIRECTORY) :].lstrip("/")
    if not exists(path):
        yield Hit(f"'{value}' is not there", 'parameters["EXECUTION_ENV_PATH"]', value)


@rule(
    "BACK007",
    "error",
    "load",
    then="the server cannot load the batching strategy; with sequence batching it is not used at all",
    fix="put the library into the model's directory, or drop the parameter",
    source="core/src/backend_model.cc:212",
    bad='parameters { key: "TRITON_BATCH_STRATEGY_PATH" value { string_value: "absent.so" } }\n'
    "dynamic_batching { }",
    good="dynamic_batching { }",
    needs="files",
)
def batch_strategy_absent(model: Model, context: Context) -> Iterator[Hit]:
    """TRITON_BATCH_STRATEGY_PATH names a library that is absent, outside the repository, or never used."""
    key = "TRITON_BATCH_STRATEGY_PATH"
    if not _has(model, key):
        return
    field, value = f'parameters["{key}"]', model.config.parameters[key].string_value
    value = value.replace(MODEL_DIRECTORY, str(model.path))
    path = Path(value)
    if model.config.HasField("sequence_batching"):
        yield Hit("a batching strategy is not used by the sequence batcher", field, value, severity="warning")
    elif not path.is_absolute() and ".." in path.parts:
        yield Hit(f"'{value}' leads out of the model's directory", field, value)
    elif not path.is_absolute() and not _strategy_exists(model, path):
        yield Hit(f"'{value}' is not in the model's directory", field, value)


@rule(
    "BACK008",
    "error",
    "load",
    then="Triton starts a Python model's stub by `bash -c` without quoting the name: the shell runs what it reads as a "
    "command, the stub does not start, and the load call may stay unanswered; `tritonsmith serve` quotes it",
    fix="rename it: letters, digits and _-.@%+=:,# are safe",
    source="python_backend/src/stub_launcher.cc, StubLauncher::Launch",
    bad='backend: "python"\ninstance_group { name: "a (b)" kind: KIND_CPU }',
    good='backend: "python"\ninstance_group { name: "a-b" kind: KIND_CPU }',
)
def name_is_a_command(model: Model, context: Context) -> Iterator[Hit]:
    """A shell would read a name of a Python model as a command: its directory's, its file's or an instance group's."""
    config = model.config
    if config.backend != "python" and config.runtime != "model.py":
        return
    name = model.written.name if model.loose else model.name
    groups = [group.name for group in config.instance_group]
    for what, field, value, bad in stub_words(name, config.default_model_filename, groups):
        yield Hit(f"{what} has {bad!r} in it", field, value)


def _strategy_exists(model: Model, path: Path) -> bool:
    return any(is_file(root / path) for root in (model.path, *(v.path for v in model.versions)))


def _has(model: Model, key: str) -> bool:
    return key in model.config.parameters
