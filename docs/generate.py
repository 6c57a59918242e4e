"""The JSON Schema of models.yaml, the command line and README's table of exit codes → the reference pages of the site."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Schema = Mapping[str, Any]

_SECTIONS = {
    "Model": "A model: keys of its own, and Triton's",
    "Source": "`source:` of a model",
    "target": "`target:`",
}
"""What a section is called where the schema's name says little."""

_OUTSIDE = re.compile(r"\]\(\.\./((?!\.\.)[^)#\s]+)")
"""A link from a page to a file of the checkout that is no page."""


# What mkdocs calls.


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages, and the files of the checkout that pages link to."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    linked = {
        target
        for page in Path(config.docs_dir).glob("*.md")
        for target in _OUTSIDE.findall(page.read_text(encoding="utf-8"))
    }
    for target in sorted(linked):
        files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Files of the checkout lie in the site under the same path."""
    return markdown if "/" in page.file.src_uri else _OUTSIDE.sub(r"](\1", markdown)


# The pages.


def pages() -> dict[str, str]:
    """Path below docs/ → Markdown."""
    from tritonsmith.builder.spec.json_schema import json_schema

    return {"reference/models-yaml.md": spec_page(json_schema()), "reference/cli.md": cli_page()}


def spec_page(schema: Schema) -> str:
    """Every key of models.yaml: a section for each message, in the order in which they are met from the top."""
    parts = [
        "# models.yaml: every key",
        "Made from the JSON Schema that `tritonsmith schema` prints. Give that to an editor, and it completes all of this. "
        "A key that is left out has its default; where none is stated here, Triton's own.",
        "## The file",
        _table("file", schema, schema),
    ]
    used = _used_in(schema)
    for name, message in _messages(schema):
        title = _SECTIONS.get(name, f"`{_shown(name)}`")
        parts += [f"## {title} {{ #{_anchor(name)} }}"]
        where = [f"[`{key}`](#{_key_anchor(owner, key)})" for owner, key in used[name]]
        parts += [f"In {', '.join(where)}."] if where else []
        parts += [_text(message["description"])] if message.get("description") and name != "target" else []
        parts += [_table(name, _record(message), schema)]
    return "\n\n".join(parts) + "\n"


def cli_page() -> str:
    """Every command with its flags, defaults and exit codes."""
    parts = [
        "# The command line: every command",
        "Made from the commands themselves; `tritonsmith COMMAND --help` says the same. Results go to stdout, progress and "
        "notes to stderr.",
        _exit_codes(),
    ]
    codes = readme_exit_codes()
    for path, command, context in commands():
        level = "##" if len(path) == 1 else "###"
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts += [
            f"{level} tritonsmith {' '.join(path)}",
            f"```text\n{usage}\n```",
            *_help(command.help or ""),
        ]
        if codes.get(path[0]) and len(path) == 1:
            parts += [f"Exit codes beside 0, 2 and 3: {_text(codes[path[0]])}."]
        parts += [_flags(command, context)] if not hasattr(command, "commands") else []
    return "\n\n".join(part for part in parts if part) + "\n"


# The command line.


def commands() -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(words after `tritonsmith`, command, its context) of every command that --help shows, groups before their own."""
    from typer.main import get_command

    from tritonsmith import command_line

    root: Any = get_command(command_line.app)
    yield from _below(root, root.context_class(root, info_name="tritonsmith"), ())


def _below(group: Any, context: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        own = command.context_class(command, info_name=name, parent=context)
        yield (*path, name), command, own
        if hasattr(command, "commands"):
            yield from _below(command, own, (*path, name))


def readme_exit_codes() -> dict[str, str]:
    """Command → the last column of README's table of commands."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `tritonsmith (\w+)` \|.*\| ?([^|]*?) ?\|$", readme, re.MULTILINE)
    return dict(rows)


def _exit_codes() -> str:
    return (
        "| exit code | means |\n|--:|---|\n"
        "| 0 | done |\n"
        "| 1 | a build or a trial failed |\n"
        "| 2 | a bad spec or command line |\n"
        "| 3 | a tool, a server or a GPU is missing |\n"
        "| 4 | a gate said no: stale, lint errors, accuracy, a limit that nothing meets, a regression |\n"
        "| 130, 143 | interrupted, terminated; nothing half-written was left |"
    )


def _help(text: str) -> list[str]:
    """Paragraphs; examples become a block of commands."""
    parts = []
    for paragraph in text.split("\n\n"):
        example = re.match(r"Examples?:\s*", paragraph)
        if example:
            lines = [line.strip() for line in paragraph[example.end() :].split("\n") if line.strip()]
            parts.append("```text\n" + "\n".join(lines) + "\n```")
        else:
            parts.append(_text(" ".join(paragraph.split())))
    return parts


def _flags(command: Any, context: Any) -> str:
    from tritonsmith.builder.commands.help import options_of
    from tritonsmith.builder.commands.parameters.everywhere import PANEL

    groups = {name: rows for name, rows in options_of(command, context).items() if name != PANEL}
    tables = []
    for name, rows in groups.items():
        lines = [f"| {_text(name)} | |", "|---|---|"]
        lines += [f"| {_code(flag)} | {_text(' '.join(text.split()))} |" for flag, text in rows]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


# The schema.


def _messages(schema: Schema) -> list[tuple[str, Schema]]:
    """Every message that a key of the file leads to, parents before their children; `target` is written in place there."""
    found: dict[str, Schema] = {"target": schema["properties"]["target"]}
    waiting = ["Model"]
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found[name] = schema["$defs"][name]
            waiting += list(_references(found[name]))
    return list(found.items())


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "$ref" in value:
            yield str(value["$ref"]).rpartition("/")[2]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _used_in(schema: Schema) -> Mapping[str, list[tuple[str, str]]]:
    """Message → (message, key) of the keys that hold it."""
    used: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for owner, message in [("file", schema), *_messages(schema)]:
        for key, value in _record(message).get("properties", {}).items():
            for name in dict.fromkeys(_references(value)):
                if owner != "file" or key != "target":
                    used[name].append((owner, key))
    used["target"] = [("file", "target")]
    return used


def _record(message: Schema) -> Schema:
    """The form with keys of a message that may be written as a scalar, too."""
    return next((o for o in message.get("anyOf", ()) if "properties" in o), message)


def _table(owner: str, message: Schema, schema: Schema) -> str:
    lines = ["| key | what it is |", "|---|---|"]
    required = message.get("required", ())
    for key, value in message.get("properties", {}).items():
        kind = "[`target`](#target)" if (owner, key) == ("file", "target") else _type(value)
        about = [_text(value.get("description", "")), *_limits(value)]
        if key in required:
            about.append("**Must be there.**")
        anchor = f'<span id="{_key_anchor(owner, key)}"></span>'
        lines.append(f"| {anchor}`{key}`<br><small>{kind}</small> | {' '.join(filter(None, about))} |")
    return "\n".join(lines) if len(lines) > 2 else "It has no keys: write `{}`."


def _type(value: Schema) -> str:
    """In words, with links to messages: `a list of ModelInput`, `text → ModelQueuePolicy`."""
    if "$ref" in value:
        name = str(value["$ref"]).rpartition("/")[2]
        return f"[{_shown(name)}](#{_anchor(name)})"
    if "enum" in value:
        return "one of: " + ", ".join(_code(_yaml(one)) for one in value["enum"])
    if "anyOf" in value:
        kinds = [_type(one) for one in value["anyOf"]]
        return " or ".join(dict.fromkeys(kinds))
    kind = value.get("type")
    if isinstance(kind, list):
        return " or ".join(_type({**value, "type": one}) for one in kind)
    if kind == "array":
        return f"a list of {_type(value['items'])}" if "items" in value else "a list"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"name → {_type(inner)}" if isinstance(inner, Mapping) else "a mapping"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    return words.get(str(kind), "anything")


_WIDE = {2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1}


def _limits(value: Schema) -> list[str]:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "gt": "above",
        "ge": "at least",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "lt": "below",
        "le": "at most",
    }
    told = [
        f"{word} {value[key]:g}" for key, word in words.items() if key in value and value[key] not in _WIDE
    ]
    pattern = [f"must match {_code(value['pattern'])}"] if "pattern" in value else []
    return [f"({', '.join(told + pattern)})"] if told + pattern else []


# Markdown.


def _text(text: str) -> str:
    """Plain text with `code` in it, so that nothing else of it is taken for Markdown."""
    pieces = text.split("`")
    return "".join(
        _code(piece) if index % 2 else re.sub(r"([\\*_\[\]<>|#])", r"\\\1", piece)
        for index, piece in enumerate(pieces)
    )


def _code(text: str) -> str:
    """As code inside a table."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text.replace('|', chr(92) + '|')}{fence}"


def _yaml(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _shown(name: str) -> str:
    return name.lstrip("_").replace("_", ".")


def _anchor(name: str) -> str:
    return _shown(name).lower().replace(".", "-")


def _key_anchor(owner: str, key: str) -> str:
    return f"{_anchor(owner)}.{key}"
