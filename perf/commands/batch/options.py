"""The flags of `tritonsmith batch`, as they are typed: one frozen dataclass a panel of its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tritonsmith.perf.commands.flattened import flag


@dataclass(frozen=True, slots=True)
class RowFlags:
    """How the input is read."""

    PANEL: ClassVar[str] = "Rows"

    map_: list[str] | None = flag(
        None,
        "COLUMN=INPUT of plain records; may be repeated. Default: columns that are called as an input is.",
        "--map",
        metavar="COLUMN=INPUT",
    )
    id_: str = flag(
        "",
        "The column with a plain record's id; default: custom_id or id, else the line's number.",
        "--id",
        metavar="COLUMN",
    )
    request_parameter: list[str] | None = flag(
        None,
        "NAME:VALUE:TYPE of a parameter that every request carries (max_tokens:256:int); may be repeated.",
    )
    chat_template: Path | None = flag(
        None,
        "Of /v1/chat/completions: a .gguf, a directory with tokenizer_config.json, or the template; default: that of the "
        "model in --repository.",
        metavar="FILE",
        exists=True,
    )
    skip_bad: bool = flag(
        False, "Go on without lines that cannot be sent; they go to the errors.", "--skip-bad"
    )


@dataclass(frozen=True, slots=True)
class SendingFlags:
    """How rows are sent."""

    PANEL: ClassVar[str] = "Sending"

    batch_size: int | None = flag(
        None, "Rows of a request; default: the model's max_batch_size.", "--batch-size", "-b", min=1
    )
    order: Literal["length", "arrival"] = flag(
        "length", "length puts rows of like length into one request; arrival takes them as they come."
    )
    in_flight: int | None = flag(
        None, "Requests in flight; default: found at the start, 1, 2, 4 … until more bring nothing.", min=1
    )
    timeout: str = flag("5m", "A request without an answer after this is asked again.")
    wait: str = flag("5m", "How long to wait for a server that is gone.", metavar="DURATION")
    restart: bool = flag(
        False, "Begin anew: forget the journal, and replace an output that is there.", "--restart"
    )
    executor: str = flag(
        "local", "local, or ray: a Ray cluster on this machine, or that at ray:ADDRESS.", metavar="EXECUTOR"
    )
    ray_actors: int | None = flag(
        None, "Of --executor ray: actors at most, each with a server of its own; default: one a node.", min=1
    )
