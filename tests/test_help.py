"""Every command's help, from one table of all commands: it fits, it says the defaults, its examples are true."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.command_tree import COMMANDS, context_of, examples_of, parsed
from tests.conftest import ROOT
from tritonsmith import command_line
from tritonsmith.builder.base.errors import TritonsmithError, UsageError
from tritonsmith.builder.base.text import quantities
from tritonsmith.builder.commands.help import OLD_NAMES
from tritonsmith.perf.commands.apply.chosen import weights_from_text
from tritonsmith.perf.commands.load import flags
from tritonsmith.perf.commands.release.options import destination_first
from tritonsmith.perf.commands.sweep import flags as sweep_flags
from tritonsmith.perf.report.compare.gate import gate_from_text
from tritonsmith.perf.stats.goodput import TOKEN_LIMITS

EACH = pytest.mark.parametrize("name", COMMANDS)


def parameters(name: str) -> list[Any]:
    context = context_of(name)
    return [p for p in context.command.get_params(context) if not getattr(p, "hidden", False)]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def help_of(*words: str) -> str:
    shown = CliRunner().invoke(command_line.app, [*words, "--help"], prog_name="tritonsmith")
    assert shown.exit_code == 0, shown.output
    return shown.stdout


def test_the_first_page_has_a_line_a_command_in_the_order_of_use() -> None:
    page = help_of()
    panels = re.findall(r"^(\w[\w ]*):\n((?:  .*\n)+)", page, re.MULTILINE)
    names = [name for name, _ in panels]
    assert names[:4] == ["Start here", "Build", "Measure", "Publish"] and names[-1] == "Global options"
    shown = [re.findall(r"^  (\S*)", lines, re.MULTILINE) for _, lines in panels[:4]]
    assert shown[0][:3] == ["init", "demo", "doctor"]
    assert sorted(name for names in shown for name in names) == sorted(n for n in COMMANDS if " " not in n), (
        "a line each, none broken"
    )


@EACH
def test_help_fits_and_names_values_in_words(name: str) -> None:
    page = help_of(*name.split())
    assert page.startswith(f"Usage: tritonsmith {name} ")
    assert all(len(line) <= 80 for line in page.splitlines()), page
    assert not re.search(r"<(list|path|int|float|str|text)\b| range>|x>=|<=x|\\\[", page), page
    for parameter in parameters(name):
        if parameter.metavar is not None:
            plain = re.sub(r"[\W\d_]", "", parameter.metavar)
            assert plain.isupper() or "|" in parameter.metavar, parameter.name


@EACH
def test_every_default_is_shown(name: str) -> None:
    page = " ".join(help_of(*name.split()).split())
    for parameter in parameters(name):
        default = parameter.default
        if default in (None, "", [], (), False) or callable(default):
            continue
        text = str(getattr(default, "value", default)).removesuffix(".0")
        on = next((n.lstrip("-") for n in parameter.opts), "") if default is True else text
        assert f"[default: {on}" in page, f"{parameter.name}: {default}"
    assert not re.search(r"[;,] (default:|by default )", page), "a default is said in brackets"


# What a command makes of a value only when it runs.
READ: dict[str, Callable[[Any], object]] = {
    "[LIMIT=]DURATION": lambda text: flags.goodput_from_flags(
        [text], streaming=True, tokens=any(f"{limit}=" in text for limit in TOKEN_LIMITS)
    ),
    "N:SHARE,N:SHARE": weights_from_text,
    "MODEL:N": lambda text: sweep_flags.counts([text]),
    "METRIC<=N%": gate_from_text,
    "N,N": sweep_flags.numbers,
    "NAME:D1,D2": lambda text: flags.shapes_from_flags([text]),
    "NAME:LOW..HIGH": lambda text: flags.ranges_from_flags([text]),
    "NAME:VALUE:TYPE": lambda text: flags.parameters_from_flags([text]),
    "PATH=V1,V2": lambda text: sweep_flags.settings([text]),
    "SIZE": lambda text: quantities.bytes_from_text(text, "SIZE"),
}


def check(line: str) -> None:
    """Raises what is wrong with the line."""
    context = parsed(line)
    for parameter in context.command.get_params(context):
        value = context.params.get(parameter.name)
        read = READ.get(parameter.metavar or "")
        if parameter.metavar == "DURATION" and "cache" not in line:
            read = flags.seconds_from_text
        elif parameter.metavar == "DURATION":
            read = lambda text: quantities.seconds_from_text(text, "DURATION")  # noqa: E731
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if read is not None and one not in (None, ""):
                read(one)


@EACH
def test_two_examples_and_the_command_line_takes_each(name: str) -> None:
    lines = examples_of(COMMANDS[name])
    own = [line for line in lines if line.startswith("tritonsmith ")]
    assert len(own) >= 2 and len(set(lines)) == len(lines)
    assert any(line.startswith(f"tritonsmith {name}") for line in own)
    for line in own:
        check(line)


DOCUMENTS = ("README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_the_documents_are_taken(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / document).read_text().replace("\\\n", " ")
    fenced = re.findall(r"^ *```.*?^ *```", text, re.MULTILINE | re.DOTALL)
    blocks = [*fenced, *re.findall(r"^    .*$", text, re.MULTILINE)]
    for line in re.findall(r"^ *(?:\$ )?(tritonsmith [a-z].*)$", "\n".join(blocks), re.MULTILINE):
        if not re.search(r"…|\.\.\.|[{}\[\]]", line):
            for certificate in re.findall(r"\S+\.pem", line):
                (tmp_path / certificate).touch()
            check(line)


@pytest.mark.parametrize(
    "line",
    [
        "tritonsmith build --fast",
        "tritonsmith cache gc --max-size many",
        "tritonsmith sweep --set instance_group.count",
        "tritonsmith biuld",
        "tritonsmith load repo --duration 5parsecs",
    ],
)
def test_a_wrong_example_would_be_seen(line: str) -> None:
    with pytest.raises(Exception) as told:
        check(line)
    assert isinstance(told.value, TritonsmithError) or "Exception" in str(type(told.value).__mro__)


@EACH
def test_help_of_a_command_is_its_help(name: str) -> None:
    shown = CliRunner().invoke(command_line.app, ["help", *name.split()], prog_name="tritonsmith")
    assert (shown.exit_code, shown.stdout) == (0, help_of(*name.split()))


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["biuld"], "did you mean 'build'?"),
        (["cache", "verfy"], "did you mean 'verify'?"),
        (["plan", "x"], ""),
    ],
)
def test_help_of_what_is_no_command_names_the_nearest(words: list[str], nearest: str) -> None:
    with pytest.raises(UsageError) as told:
        command_line.app(args=["help", *words], prog_name="tritonsmith", standalone_mode=False)
    assert told.value.code == "unknown_command" and nearest in str(told.value)


@EACH
def test_the_version_is_printed_before_a_command_and_after_it(name: str) -> None:
    for words in (["-V", *name.split()], [*name.split(), "-V"]):
        shown = CliRunner().invoke(command_line.app, words)
        assert shown.exit_code == 0 and shown.stdout.startswith("tritonsmith "), shown.output


def test_an_old_name_works_and_says_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert OLD_NAMES == {"sweep": {"--spec": "--sweep-spec"}}
    said = "note: `sweep --spec` is named --sweep-spec now; --spec is models.yaml everywhere else\n"
    told = {"--spec a.yaml": said, "--spec=a.yaml": said, "--sweep-spec a.yaml": ""}
    for words, note in told.items():
        assert Path(parsed(f"tritonsmith sweep repo {words}").params["spec"]) == Path("a.yaml")
        assert capsys.readouterr().err == note
    assert "--spec " not in help_of("sweep").replace("--sweep-spec", "")


# The words as they are typed, what the environment names, → the destination, and what follows it.
DESTINATIONS = [
    ([], "/srv/models", ("/srv/models", [])),
    (["m"], "/srv/models", ("/srv/models", ["m"])),
    (["./m"], "/srv/models", ("./m", [])),
    (["s3://b/p", "m"], "/srv/models", ("s3://b/p", ["m"])),
    ([".", "m"], "/srv/models", (".", ["m"])),
    (["published", "m", "4"], "", ("published", ["m", "4"])),
    (["m", None], None, ("m", [])),
]


@pytest.mark.parametrize(("words", "named", "expected"), DESTINATIONS)
def test_a_destination_comes_first_and_no_model_is_taken_for_one(
    words: list[str | None], named: str | None, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITONSMITH_PUBLISH_TO", raising=False)
    if named is not None:
        monkeypatch.setenv("TRITONSMITH_PUBLISH_TO", named)
    assert destination_first(*words) == expected


def test_publish_versions_and_rollback_have_the_same_first_argument() -> None:
    first = {
        (p.metavar, p.help)
        for name in ("publish", "versions", "rollback")
        for p in parameters(name)
        if p.name == "destination"
    }
    assert len(first) == 1 and next(iter(first))[0] == "DEST"


def test_errors_are_told_even_when_it_is_to_be_quiet() -> None:
    """What begins with `error[` and is told as a note would be lost."""
    silent = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("builder", "perf", "tritonsmith")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r'\bnote\(f?"error\[', line)
    ]
    assert not silent
