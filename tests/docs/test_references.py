"""The reference pages have every key of models.yaml and every flag of every command, and pages name no others."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

from tests.conftest import ROOT
from tests.pages import PAGES, blocks, commands_of
from tritonsmith import command_line
from tritonsmith.builder.commands.help import OLD_NAMES
from tritonsmith.builder.spec.json_schema import json_schema

SCHEMA = json_schema()
ROOT_COMMAND: Any = get_command(command_line.app)
COMMANDS: dict[str, Any] = ROOT_COMMAND.commands


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_subcommands() -> Iterator[tuple[str, Any]]:
    """`cache gc` → its command."""
    for name, command in COMMANDS.items():
        yield name, command
        for below, inner in getattr(command, "commands", {}).items():
            yield f"{name} {below}", inner


def flags_of(command: Any) -> set[str]:
    return {"-h", "--help", "-q", "--quiet", "-v", "--verbose", "-V"} | {
        flag
        for parameter in [*command.params, *ROOT_COMMAND.params]
        if parameter.param_type_name == "option"
        for flag in [*parameter.opts, *parameter.secondary_opts]
    }


def test_every_command_and_every_flag_is_there(generator: ModuleType) -> None:
    sections = dict(
        re.findall(r"^##+ tritonsmith ([a-z ]+)\n(.*?)(?=^##+ |\Z)", generator.cli_page(), re.M | re.S)
    )
    assert set(sections) == {name for name, command in with_subcommands() if not command.hidden}
    for name, command in with_subcommands():
        for parameter in command.params:
            if not parameter.hidden and parameter.param_type_name == "option":
                for flag in set(parameter.opts) - OLD_NAMES.get(name, {}).keys():
                    assert re.search(rf"{re.escape(flag)}(?![\w-])", sections.get(name, flag)), (
                        f"{name} {flag}"
                    )


def test_every_command_has_its_exit_codes(generator: ModuleType) -> None:
    assert set(generator.readme_exit_codes()) == set(COMMANDS) - {"help"}
    assert "Exit codes beside 0, 2 and 3: 1 failed, 4 nothing fits, 130 interrupted." in generator.cli_page()


def test_every_key_is_there_with_its_words(generator: ModuleType) -> None:
    schema = SCHEMA
    page = generator.spec_page(schema)
    rows = dict(
        re.findall(r'^\| <span id="([^"]+)"></span>`[^`]+`.*</small> \| (.*) \|$', page, re.MULTILINE)
    )
    messages = {"file": schema, "target": schema["properties"]["target"], **schema["$defs"]}
    keys = {
        f"{name.lstrip('_').lower().replace('_', '-')}.{key}"
        for name, message in messages.items()
        for form in [message, *message.get("anyOf", ())]
        for key in form.get("properties", {})
    }
    assert keys and set(rows) == keys
    assert [key for key, words in rows.items() if not re.search("[a-z]{2}", words)] == []


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("model.opset", "Default: 20."),
        ("model.on_fail", "<small>one of: `stop`, `next`</small>"),
        ("model.instance_group", "<small>a list of [ModelInstanceGroup](#modelinstancegroup)</small>"),
        ("file.models", "**Must be there.**"),
        ("accuracyspec.cosine", "(at least -1, at most 1)"),
    ],
)
def test_a_row_says(generator: ModuleType, key: str, said: str) -> None:
    page = generator.spec_page(SCHEMA)
    (row,) = [line for line in page.splitlines() if f'id="{key}"' in line]
    assert said in row


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_name_commands_and_flags_that_there_are(page: Path) -> None:
    known = dict(with_subcommands())
    for line in commands_of(page.read_text(encoding="utf-8")):
        try:
            words = shlex.split(line, comments=True)[1:]
        except ValueError:  # a quote that a table's cell or a sentence cut in two
            continue
        for word in words[: words.index("--")] if "--" in words else words:
            if not re.fullmatch(r"-[a-zA-Z]|--[a-z][a-z0-9-]*(=.*)?", word):
                continue
            command = known.get(" ".join(words[:2])) or known.get(words[0])
            assert command is not None, f"{page.name}: {line}"
            assert word.partition("=")[0] in flags_of(command), f"{page.name}: {word} in {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_specs_on_pages_are_specs(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "yaml" and re.search("^models:", block.body, re.MULTILINE):
            jsonschema.Draft202012Validator(SCHEMA).validate(yaml.safe_load(block.body))


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        ("from-perf-analyzer.md", ["load", "report", "compare"]),
        ("from-model-analyzer.md", ["sweep", "report", "apply"]),
        ("from-model-navigator.md", ["sweep"]),
    ],
)
def test_tables_of_other_tools_name_flags_that_there_are(page: str, commands: list[str]) -> None:
    ours = set().union(*(flags_of(COMMANDS[name]) for name in commands))
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    for row in re.findall(r"^\| .* \| (.*) \|$", text, re.MULTILINE):
        if "`tritonsmith " not in row:  # a command says itself whose flag it is
            for flag in re.findall(r"`(--?[a-zA-Z][a-z0-9-]*)", row):
                assert flag in ours, f"{page}: {row}"
