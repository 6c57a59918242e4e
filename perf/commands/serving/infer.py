"""`tritonsmith infer`: one request to a model → its outputs, or the code that asks the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tritonsmith.perf.commands.flattened import argument, flag, flattened
from tritonsmith.perf.commands.load.options import ProtocolFlags, ValueFlags


@flattened
def infer(
    *,
    target: Annotated[
        str,
        typer.Argument(
            metavar="URL|DIR",
            help="A Triton's URL (http, https, or grpc, grpcs for one without HTTP), or a model repository, "
            "which is then served for the request.",
        ),
    ],
    values: list[str] | None = argument(None, "As --input.", metavar="NAME=VALUE"),
    model: str = flag("", "The model; default: the only one that is ready.", "--model", "-m"),
    version: str = flag("", "The version of the model; default: Triton's choice."),
    input_: list[str] | None = flag(
        None,
        "An input's value: JSON ([[1,2,3]], 3.5), a text, or a file: @FILE.npy, @IMAGE.jpg, @AUDIO.wav, for BYTES any.",
        "--input",
        "-i",
        metavar="NAME=VALUE",
    ),
    data: ValueFlags,
    wire: ProtocolFlags,
    timeout: str = flag("30s", "How long an answer may take."),
    seed: int = flag(0, "Of values that are drawn."),
    show_code: bool = flag(
        False, "Send nothing: print the curl line and the Python code that ask the same.", "--show-code"
    ),
    output: Path | None = flag(
        None,
        "Keep inputs and outputs here (.npz), as --data takes them; with --show-code the inputs, for the code to read.",
        "--output",
        "-o",
    ),
    format: Literal["text", "json"] = flag("text", "How to write the answer; json has all values."),
) -> None:
    """Send one request to a model and show what it answers.

    Inputs that are not given are drawn as `load` draws them, all together or none. A batch dimension is added where a value
    has none. Models that answer any number of times are asked over gRPC streams, models that keep state with a sequence of
    one request. Exit code 1 when the server refuses, 3 when nothing answers.

    Examples: tritonsmith infer http://localhost:8000 -m minilm "input_ids=[[101, 7592, 102]]" "attention_mask=[[1, 1, 1]]"
              tritonsmith infer http://localhost:8000 -m detector --input image=@street.jpg -o answer.npz
              tritonsmith infer model_repository/ -m sentences 'text="a short sentence"' --show-code
              tritonsmith infer grpc://localhost:8001 -m tokens prompt=@prompt.txt --format json
    """
    from tritonsmith.perf.commands.serving.asking import Question, run

    question = Question([*(input_ or ()), *(values or ())], model, version, data, wire, timeout, seed)
    run(target, question, show_code, output, format == "json")
