"""Dataclasses of flags → a command that typer reads; the sweep's flags → its spec's values."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

import pytest
import typer
from typer.testing import CliRunner

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.commands.flattened import flattened
from tritonsmith.perf.commands.load.load import load
from tritonsmith.perf.commands.sweep.flags import NOT_OF_SPEC, values_of
from tritonsmith.perf.commands.sweep.options import (
    ArmFlags,
    PayloadFlags,
    RoundFlags,
    SweepFlags,
    VerdictFlags,
)
from tritonsmith.perf.commands.sweep.sweep import sweep
from tritonsmith.perf.sweep.plan import SweepSpec


@dataclass(frozen=True, slots=True)
class Colours:
    """A panel."""

    PANEL: ClassVar[str] = "Colours"

    ink: Annotated[Literal["red", "blue"], typer.Option(help="Of lines.")] = "red"
    paper: Annotated[Literal["white", "grey"] | None, typer.Option(help="Below.")] = None
    marks: Annotated[list[str] | None, typer.Option("--mark", help="Marks.")] = None


@pytest.fixture
def told() -> Iterator[list[Any]]:
    yield []


def run(told: list[Any], *arguments: str) -> Any:
    @flattened
    def draw(
        *,
        file: Annotated[str, typer.Argument()],
        colours: Colours,
        width: Annotated[int, typer.Option(min=1)] = 2,
    ) -> None:
        """Draw."""
        told.append((file, colours, width))

    app = typer.Typer()
    app.command()(draw)
    return CliRunner().invoke(app, arguments)


def test_fields_are_flags_and_the_command_gets_its_dataclass(told: list[Any]) -> None:
    assert run(told, "a").exit_code == 0
    assert run(told, "b", "--ink", "blue", "--paper", "grey", "--mark", "x", "--mark", "y").exit_code == 0
    first, second = (colours for _, colours, _ in told)
    assert (first.ink, first.paper, first.marks or []) == ("red", None, [])
    assert second == Colours("blue", "grey", ["x", "y"]) and type(second.ink) is str
    refused = run(told, "a", "--ink", "green")
    assert refused.exit_code == 2 and "'red', 'blue'" in refused.output


def test_a_panel_is_that_of_the_class(told: list[Any]) -> None:
    text = run(told, "--help").output
    assert text.index("--width") < text.index("Colours") < text.index("--ink")


@pytest.mark.parametrize("command", [load, sweep])
def test_a_flag_has_one_help(command: Any) -> None:
    parameters = inspect.signature(command).parameters.values()
    helps = [info.help for p in parameters for info in p.annotation.__metadata__]
    assert all(helps) and len(set(helps)) == len(helps) > 30


@pytest.mark.parametrize("command", [load, sweep])
def test_no_panel_is_longer_than_a_screen(command: Any) -> None:
    infos = [p.annotation.__metadata__[0] for p in inspect.signature(command).parameters.values()]
    assert max(Counter(info.rich_help_panel for info in infos).values()) <= 12


def test_every_flag_of_a_sweep_is_a_key_of_its_spec() -> None:
    assert values_of(SweepFlags(model="", set_=[])) == {}
    given = (
        SweepFlags("m", ["instance_group.count=1,2"], "1,8", "60s"),
        ArmFlags(["a=b"], None, "e", ["o:4"], "grid", 5, "in_place"),
        VerdictFlags("p99", 8, 0.1, "20ms", 1.5, "30ms", 100.0, 0.1, 0.0, "any", 0.5),
        RoundFlags(3, "2s", "100ms", 0),
        PayloadFlags(2, repeat="0", isl=16, osl=8, shared_prefix=4),
    )
    values = values_of(*given)
    assert values.keys() <= SweepSpec.model_fields.keys()
    assert len(values) == sum(len(fields(group)) for group in given) - len(NOT_OF_SPEC)
    assert values["space"] == {"instance_group.count": [1, 2]} and values["beside"] == {"o": 4}
    assert (values["budget_s"], values["slo_p99_ms"], values["max_p99_ms"]) == (60.0, 20.0, 30.0)
    with pytest.raises(UsageError, match="not a time"):
        values_of(RoundFlags(duration=""))
