"""Rules about the layout of a model repository: names, versions, files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from tritonsmith.builder.base.odd_names import encoded_in_paths
from tritonsmith.builder.lint.read.edits import Edit
from tritonsmith.builder.lint.read.files import exists, is_file
from tritonsmith.builder.lint.read.model import Model, is_version_name, model_file
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import escapes
from tritonsmith.builder.lint.target import KNOWN_AGENTS


def _as_meant(model: Model, hit: Hit) -> Iterator[Edit]:
    """A text is mended as a whole or not at all: with one mistake left in it, Triton still refuses it."""
    problems = model.parsed.problems if model.parsed is not None else ()
    if all(problem.edits for problem in problems):
        yield from (edit for problem in problems if problem.place == hit.place for edit in problem.edits)


@rule(
    "REPO001",
    "error",
    "poll",
    then="the server does not poll the model; the load API says only “failed to poll from model repository”, "
    "and the reason stands in the server's log alone",
    fix="correct the text",
    source="inference.ModelConfig in model_config.proto (common); seen live on 2.51.0",
    bad='max_batch: 8  # no such field\ninput { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }',
    good='max_batch_size: 8\ninput { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }',
    needs="",
    repair=_as_meant,
)
def unreadable_config(model: Model, context: Context) -> Iterator[Hit]:
    """config.pbtxt is no valid ModelConfig: a syntax error, an unknown field or value, or two of a oneof."""
    if model.parsed is None:
        return
    for problem in model.parsed.problems:
        message = problem.message
        if problem.valid and not (problem.fix and len(problem.valid) > 8):
            message += f"; valid: {', '.join(problem.valid)}"
        yield Hit(message, seen=problem.seen, line=problem.line, fix=problem.fix, place=problem.place)


def _as_directory(model: Model, hit: Hit) -> Iterator[Edit]:
    place = model.parsed.values.get("name") if model.parsed is not None else None
    if place is not None and model.name.isprintable() and not {'"', "\\"} & set(model.name):
        yield Edit(place, f'"{model.name}"')


@rule(
    "REPO002",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop `name`, or give it the directory's name",
    source="core/src/model_repository_manager.cc:1708",
    bad='# in model_repository/detector/config.pbtxt\nname: "detektor"',
    good='# in model_repository/detector/config.pbtxt\nname: "detector"',
    needs="files",
    repair=_as_directory,
)
def name_is_not_the_directory(model: Model, context: Context) -> Iterator[Hit]:
    """`name` differs from the model directory's name."""
    name = model.written.name if model.written is not None else ""
    if name and name != model.path.name:
        yield Hit(
            f"the config is named '{name}' and its directory '{model.path.name}'",
            "name",
            name,
            fix=f'write name: "{model.path.name}", or rename the directory',
        )


@rule(
    "REPO003",
    "error",
    "load",
    then="the model is polled and cannot be loaded: it has no version",
    fix="put the model file in a version directory, `1/`",
    source="core/src/model_lifecycle.cc:456",
    bad="detector/config.pbtxt\ndetector/model.onnx",
    good="detector/config.pbtxt\ndetector/1/model.onnx",
    needs="files",
)
def no_version(model: Model, context: Context) -> Iterator[Hit]:
    """The model directory has no version directory."""
    if not model.versions:
        yield Hit(
            f"'{model.name}' has no version directory",
            seen=", ".join(model.subdirectories) or "no directories",
            file=model.path,
        )


@rule(
    "REPO004",
    "error",
    "load",
    then="the server passes over the directory; when it is the only one, the model does not load",
    fix="name it by a number without a leading 0",
    source="server/docs/user_guide/model_repository.md:309",
    bad="detector/v1/model.onnx",
    good="detector/1/model.onnx",
    needs="files",
)
def odd_version_name(model: Model, context: Context) -> Iterator[Hit]:
    """A directory is meant as a version but not named like one: digits without a leading 0."""
    filename = model.config.default_model_filename if model.config is not None else ""
    for name in model.subdirectories:
        if is_version_name(name):
            continue
        meant = re.fullmatch(r"(?i)(v|version[-_]?)?[0-9][0-9._-]*", name) or (
            filename and exists(model.path / name / filename)
        )
        if meant:
            digits = re.search(r"[1-9][0-9]*", name)
            yield Hit(
                f"'{name}' is no version directory for Triton",
                seen=name,
                file=model.path / name,
                fix=f"rename it to {digits.group() if digits else '1'}",
                severity="warning" if model.versions else None,
            )


@rule(
    "REPO005",
    "error",
    "load",
    then="a named version that is absent is not served; when none is left, the model does not load",
    fix="add the version directory, or change version_policy",
    source="core/src/model_lifecycle.cc:456; seen live on 2.51.0",
    bad="version_policy { specific { versions: [ 3 ] } }  # there is only 1/",
    good="version_policy { specific { versions: [ 1 ] } }",
    needs="files",
)
def version_policy_selects_nothing(model: Model, context: Context) -> Iterator[Hit]:
    """version_policy names a version that has no directory, or selects none."""
    if not model.versions:
        return
    policy = model.config.version_policy
    if policy.HasField("latest") and not policy.latest.num_versions:
        yield Hit(
            "version_policy.latest counts 0 versions", "version_policy.latest", 0, fix="write num_versions: 1"
        )
    if not policy.HasField("specific"):
        return
    present = {version.number for version in model.versions}
    for index, number in enumerate(model.config.version_policy.specific.versions):
        if number not in present:
            yield Hit(
                f"version {number} has no directory; there are {', '.join(map(str, sorted(present)))}",
                f"version_policy.specific.versions[{index}]",
                number,
                severity="warning" if model.selected else None,
            )
    if not model.config.version_policy.specific.versions:
        yield Hit("version_policy.specific lists no version", "version_policy.specific", "[]")


@rule(
    "REPO006",
    "error",
    "load",
    then="the backend does not find its file; the python backend of 2.51 leaves the load call unanswered",
    fix="put the file there, or name it by default_model_filename",
    source="onnxruntime_backend/src/onnxruntime.cc:424; tensorrt_backend/src/instance_state.cc:167",
    bad='backend: "python"\ndefault_model_filename: "net.py"  # 1/ holds model.py',
    good='backend: "python"  # 1/ holds model.py',
    needs="files",
)
def model_file_absent(model: Model, context: Context) -> Iterator[Hit]:
    """The model file is absent from a version that is to be served."""
    config = model.config
    name = config.default_model_filename
    if not name or config.platform == "ensemble" or config.HasField("ensemble_scheduling"):
        return
    if config.runtime == "model.py" and config.backend == "pytorch":
        return  # The backend's Python runtime serves from model.py.
    if any(file in v.entries for v in model.versions for file in config.cc_model_filenames.values()):
        return
    for version in model.selected:
        if not exists(model_file(config, version)):
            has = ", ".join(sorted(version.entries)[:8]) or "nothing"
            yield Hit(f"'{name}' is absent from version {version.number}", seen=has, file=version.path)


@rule(
    "REPO007",
    "error",
    "load",
    then="ONNX Runtime cannot read the weights and the model does not load",
    fix="lay it out as 1/model.onnx/ holding model.onnx and its data files",
    source="server/docs/user_guide/model_repository.md:352-354",
    bad="detector/1/model.onnx  # its weights are in model.onnx.data, which is not here",
    good="detector/1/model.onnx/model.onnx\ndetector/1/model.onnx/model.onnx.data",
    needs="files",
)
def external_data_absent(model: Model, context: Context) -> Iterator[Hit]:
    """External data of an ONNX model is absent, outside its directory, or not laid out as documented."""
    files = {version.number: model_file(model.config, version) for version in model.selected}
    for number, surface in model.onnx_models:
        file = files[number]
        misplaced = bool(surface.external_data) and file.parent.name != file.name
        for location in surface.external_data:
            inside = PurePosixPath(location)
            if inside.is_absolute() or ".." in inside.parts:
                yield Hit(f"external data lies outside the model: '{location}'", seen=location, file=file)
                misplaced = False
            elif not is_file(file.parent / inside):
                yield Hit(f"external data '{location}' is absent", seen=location, file=file)
                misplaced = False
        if misplaced:
            yield Hit(
                "a model with external data belongs into a directory of its own name",
                seen=f"{number}/{file.name} is a file",
                file=file,
                severity="warning",
            )


@rule(
    "REPO008",
    "error",
    "load",
    then="the server refuses the name",
    fix="use letters, digits, _, - and .",
    source="core/src/model_repository_manager.cc:84",
    bad='name: "../detector"',
    good='name: "detector"',
)
def nameescapes(model: Model, context: Context) -> Iterator[Hit]:
    """A model's name is empty or could lead out of the repository."""
    for name, field in ((model.path.name, None), (model.written.name, "name")):
        meant = bool(name) if field else not model.loose
        if meant and (not name.strip() or ".." in name or "/" in name or "\\" in name):
            yield Hit(f"'{name}' is no name for a model", field, name)


@rule(
    "REPO009",
    "warning",
    "load",
    then="the name is ambiguous: the server loads neither without --model-namespacing",
    fix="rename one of them",
    source="core/src/model_repository_manager.cc:1316",
    bad="repository_a/detector/\nrepository_b/detector/",
    good="repository_a/detector/\nrepository_b/detector_v2/",
    needs="files",
)
def name_twice(model: Model, context: Context) -> Iterator[Hit]:
    """Two repositories have a model of the same name."""
    for other in context.repositories:
        if other is context.repository or model.name not in other.models:
            continue
        twin = other.models[model.name]
        if not twin.loose and twin.path.resolve() != model.path.resolve():
            yield Hit(f"'{model.name}' is also in {other.path}", seen=str(twin.path))


@rule(
    "REPO010",
    "error",
    "poll",
    then="the server cannot load libtritonrepoagent_NAME.so and does not poll the model",
    fix="use an agent that the target has, or mount its library and pass --repoagent-directory",
    source="core/src/repo_agent.cc:401",
    bad='model_repository_agents { agents { name: "unseal" } }',
    good='model_repository_agents { agents { name: "checksum" } }',
    needs="target",
)
def unknown_agent(model: Model, context: Context) -> Iterator[Hit]:
    """model_repository_agents names an agent that the target's image does not have."""
    if context.target.release is None or context.target.flag("repoagent-directory"):
        return
    for index, agent in enumerate(model.config.model_repository_agents.agents):
        if agent.name not in KNOWN_AGENTS:
            yield Hit(
                f"the agent '{agent.name}' is not in Triton's image",
                f"model_repository_agents.agents[{index}].name",
                agent.name,
            )


@rule(
    "REPO011",
    "error",
    "load",
    then="the server cannot read the labels and the model does not load",
    fix="put the file into the model's directory",
    source="core/src/model.cc:125",
    bad='output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "absent.txt" }',
    good='output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }',
    needs="files",
)
def labels_absent(model: Model, context: Context) -> Iterator[Hit]:
    """label_filename names a file that the model directory does not have."""
    for index, output in enumerate(model.config.output):
        name = output.label_filename
        if name and not escapes(name) and not is_file(model.path / name):
            yield Hit(f"'{name}' is absent from {model.path}", f"output[{index}].label_filename", name)


@rule(
    "REPO012",
    "error",
    "load",
    then="a newer core refuses it; 2.51 reads whatever lies there",
    fix="keep the labels inside the model's directory",
    source="core/src/model.cc:125",
    bad='output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "../labels.txt" }',
    good='output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }',
)
def labels_escape(model: Model, context: Context) -> Iterator[Hit]:
    """label_filename leads out of the model directory."""
    for index, output in enumerate(model.config.output):
        if output.label_filename and escapes(output.label_filename):
            yield Hit(
                f"'{output.label_filename}' leads out of the model's directory",
                f"output[{index}].label_filename",
                output.label_filename,
            )


@rule(
    "REPO013",
    "warning",
    "silent",
    then="the server never reads the file",
    fix="start the server with --model-config-name=NAME, or drop the file",
    source="server/docs/user_guide/model_repository.md:81",
    bad="detector/configs/h100.pbtxt  # server started without --model-config-name",
    good="detector/configs/h100.pbtxt  # server started with --model-config-name=h100",
    needs="server",
)
def custom_config_unused(model: Model, context: Context) -> Iterator[Hit]:
    """configs/ holds custom configs, and the server is not told to read one of them."""
    if context.target.server_args is None or "configs" not in model.subdirectories:
        return
    names = sorted(path.stem for path in (model.path / "configs").glob("*.pbtxt"))
    if names and not set(names) & set(context.target.flag("model-config-name")):
        yield Hit(
            f"no --model-config-name for {', '.join(names)}",
            file=model.path / "configs",
            seen=", ".join(names),
        )


@rule(
    "REPO014",
    "error",
    "poll",
    then="a server that may not complete configs needs the file, and does not poll the model",
    fix="write a config.pbtxt, or start the server without --disable-auto-complete-config",
    source="server/docs/user_guide/model_configuration.md, Auto-Generated Model Configuration",
    bad="detector/1/model.onnx  # no config.pbtxt, server started with --disable-auto-complete-config",
    good="detector/config.pbtxt\ndetector/1/model.onnx",
    needs="files",
)
def config_absent(model: Model, context: Context) -> Iterator[Hit]:
    """There is no config.pbtxt, and the server is told not to complete configs."""
    if model.parsed is None and not context.auto_complete:
        yield Hit(f"'{model.name}' has no config.pbtxt", file=model.path)


@rule(
    "REPO015",
    "warning",
    "silent",
    then="Triton takes a name out of an HTTP path as it came and decodes nothing, so that clients which percent-encode "
    "it, tritonclient's among them, ask for a model that is unknown; over gRPC it answers",
    fix="use letters, digits, _, -, . and ~, or ask it over gRPC",
    source="server/src/http_server.cc, HTTPAPIServer::Handle; seen live on 2.51.0",
    bad="model_repository/50%/config.pbtxt",
    good="model_repository/half/config.pbtxt",
)
def name_encoded_in_paths(model: Model, context: Context) -> Iterator[Hit]:
    """A model's name holds what HTTP clients encode in a path."""
    name = model.name if not model.loose else model.written.name
    if (bad := encoded_in_paths(name)) is not None:
        yield Hit(f"'{name}' has {bad!r} in it", "name", name)
