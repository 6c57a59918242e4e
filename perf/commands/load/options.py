"""The flags of `tritonsmith load`, as they are typed: one frozen dataclass a panel of its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tritonsmith.perf.commands.flattened import flag


@dataclass(frozen=True, slots=True)
class LoadFlags:
    """What load there is."""

    PANEL: ClassVar[str] = "Load"

    concurrency: int | None = flag(
        None,
        "Closed loop: requests in flight; default: 8 when no load is given.",
        "--concurrency",
        "-c",
        min=1,
    )
    request_rate: float | None = flag(None, "Open loop: requests a second, answered or not.")
    arrival: Literal["constant", "poisson"] = flag(
        "constant", "With --request-rate: how the requests are spaced."
    )
    replay: Path | None = flag(None, "Open loop: a file of send times in seconds, one a line.")
    ramp: str = flag("0s", "Time over which the load climbs (2s), before the measurement.")
    step: list[str] | None = flag(
        None,
        "A load before that of --request-rate or --concurrency (100:5s), several in order; --duration "
        "counts them in.",
    )
    sequences: int | None = flag(None, "Closed loop: sequences at once, for models that keep state.", min=1)
    sequence_length: str = flag(
        "",
        "Requests in a sequence: N, LOW..HIGH or MEAN~DEVIATION; default: those of the data's "
        "streams, else 20.",
    )
    priority: int | None = flag(None, "Triton's request priority.")
    request_timeout: str = flag(
        "", "Triton's request timeout in the queue (50ms); the model's queue policy says what follows."
    )
    request_parameter: list[str] | None = flag(
        None,
        "NAME:VALUE:TYPE of a parameter that every request carries (max_tokens:256:int); TYPE is int, uint, "
        "bool, string or double; may be repeated.",
    )
    processes: int = flag(1, "Client processes, for when one CPU is not enough (CLIENT_BOUND).", min=1)


@dataclass(frozen=True, slots=True)
class MeasurementFlags:
    """What is measured, and for how long."""

    PANEL: ClassVar[str] = "Measurement"

    slo_p99: str = flag(
        "", "Find the highest request rate with p99 within this (20ms); --duration is then the least a probe."
    )
    goodput: list[str] | None = flag(
        None,
        "Also count what is answered within this time (20ms); of streams also first=100ms, between=20ms; of "
        "--tokens ttft=200ms,itl=30ms,e2e=2s.",
    )
    duration: str = flag("5s", "Measured time (500ms, 5s, 2m).")
    requests: int | None = flag(None, "Measure this many requests instead of a time.", min=1)
    warmup: str = flag("500ms", "Time before the measurement.")
    seed: int = flag(0, "Seed of values, order and arrivals.")
    timeout: str = flag(
        "", "A request without a whole answer after this has failed; default: 30s, of --tokens 10m."
    )


@dataclass(frozen=True, slots=True)
class ValueFlags:
    """Where the values of a request come from."""

    PANEL: ClassVar[str] = "Data"

    batch_size: int | None = flag(
        None, "Rows of each request; default: 1, or as the data has them.", "--batch-size", "-b", min=1
    )
    data: Path | None = flag(
        None,
        "Input values: .npz, perf_analyzer's .json, or a directory of .npz files, NAME.npy files or "
        "raw bytes in NAME; default: values are drawn.",
    )
    shape: list[str] | None = flag(
        None, "NAME:D1,D2 without the batch; a dimension may be LOW..HIGH or MEAN~DEVIATION."
    )
    range_: list[str] | None = flag(None, "NAME:LOW..HIGH of the values that are drawn.", "--range")


@dataclass(frozen=True, slots=True)
class DataFlags(ValueFlags):
    """What is sent, and what is to come back."""

    pool: int | None = flag(
        None, "Distinct requests made before the test; default: 32, of --tokens 512 prompts.", min=1
    )
    repeat: str = flag(
        "pool",
        "How requests repeat: the pool's again and again; 0: never, each is changed a little; 0.3: that share; "
        "zipf:EXPONENT:REQUESTS.",
    )
    check_every: int = flag(
        100, "Compare one answer of this many with the data's expected outputs; 0: none.", min=0
    )


@dataclass(frozen=True, slots=True)
class ServerFlags:
    """What a server wants to see."""

    PANEL: ClassVar[str] = "Wire"

    header: list[str] | None = flag(
        None, "NAME:VALUE sent with every request, or @FILE with such lines.", "--header", "-H"
    )
    ca_file: Path | None = flag(None, "Certificates to trust for https and grpcs.", exists=True)
    insecure: bool = flag(False, "Trust any certificate, like curl's flag.", "--insecure", "-k")
    cert: Path | None = flag(
        None, "The client's own certificate (PEM), for a server that requires one.", exists=True
    )
    key: Path | None = flag(None, "The key of --cert, where it is in a file of its own.", exists=True)


@dataclass(frozen=True, slots=True)
class ProtocolFlags(ServerFlags):
    """Over which protocol a model is asked."""

    protocol: Literal["http", "grpc"] | None = flag(
        None, "Wire protocol; by default http, or where answers are streamed grpc."
    )
    grpc_url: str = flag("", "HOST:PORT of gRPC; by default the HTTP port + 1.")


@dataclass(frozen=True, slots=True)
class WireFlags(ProtocolFlags):
    """How requests travel."""

    metrics_url: str = flag("", "HOST:PORT of Triton's metrics; by default the HTTP port + 2.")
    streaming: bool = flag(
        False,
        "For decoupled models; times each response. gRPC streams, or with --protocol http generate_stream.",
        "--streaming",
    )
    shared_memory: Literal["none", "system", "cuda"] = flag(
        "none", "Where tensors travel, for a server on this machine."
    )
    cuda_device: int = flag(0, "The GPU of --shared-memory cuda, as CUDA counts them.", min=0)
    output_shared_memory_size: int = flag(
        102_400, "Bytes for an output whose size the model does not fix.", min=1
    )


@dataclass(frozen=True, slots=True)
class TokenFlags:
    """A language model's load: what is asked, how long the answers are, what tokens cost."""

    PANEL: ClassVar[str] = "Tokens"

    tokens: bool = flag(
        False,
        "Load a language model and measure by tokens: TTFT, ITL, tokens a second. Of a Triton by generate_stream, or "
        "--protocol grpc; openai:// targets mean it.",
        "--tokens",
    )
    endpoint: Literal["chat", "completions"] = flag("chat", "Of an openai:// target: what is asked.")
    isl: str = flag("", "Input tokens of made-up prompts: N, LOW..HIGH or MEAN~DEVIATION; default: 128.")
    osl: str = flag(
        "",
        "Output tokens, however the model would end (ignore_eos, min_tokens): N, LOW..HIGH or MEAN~DEVIATION; default: "
        "128, of --prompts as they say.",
    )
    prompts: Path | None = flag(
        None,
        "Prompts instead of made-up ones: JSON lines (text, prompt, messages), ShareGPT's JSON, or a trace (timestamp, "
        "input_length, output_length, hash_ids), which is replayed when no load is given.",
    )
    shared_prefix: int = flag(0, "Tokens at the front of made-up prompts that all of them share.", min=0)
    sessions: int | None = flag(
        None, "Closed loop: sessions at once, whose next turn carries the answers before it.", min=1
    )
    turns: str = flag("", "Turns of a made-up session: N, LOW..HIGH or MEAN~DEVIATION; default: 3.")
    tokenizer: Path | None = flag(
        None,
        "The model's tokenizer.json or GGUF file: prompts of exact lengths, and output tokens that the server does not "
        "count.",
        exists=True,
    )
    dollars_per_hour: float | None = flag(
        None, "What the server costs, for the price of a million output tokens.", min=0
    )
