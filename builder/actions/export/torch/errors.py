"""What torch raised while it exported a module → the ExportError for people: the reason, the user's line, what mends it."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tritonsmith.builder.actions.export.sources.callables import one_line, users_place, users_place_now
from tritonsmith.builder.base.errors import ExportError, Where, shortened

DATA_DEPENDENT = "data-dependent"
"""In the message of every refusal of control flow that follows values."""

_NO_FORM = "put other operators in its place, or a model that was split there: ONNX has no form of it"
# What torch says, and what mends it; the first that is found counts.
_ADVICE: Sequence[tuple[str, str]] = (
    (
        r"pack_padded_sequence|pad_packed_sequence|PackedSequence|_pack_padded",
        "packed sequences take lengths as Python values: run the RNN on the padded batch, and mask what it answers behind the "
        "end of each sequence",
    ),
    (
        r"torch\.classes\.quantized|quantized::|quantized\.|QuantizedCPU",
        "return the float module, and let tritonsmith quantise it: variants: {int8: {precision: int8}}",
    ),
    (
        r"specialized it to be a constant|0/1 specialized",
        "take the size from the tensor, x.view(x.shape[0], -1); for the first dimension, max_batch_size: 0 also does",
    ),
    (
        r"data-dependent|GuardOnDataDependent|Dynamic control flow|data dependent|_local_scalar_dense|\.item\(\)",
        "forward may not look at values (if, while, int(), .item(), a slice by a value): torch.where or torch.cond for a "
        "branch, a mask for a choice of rows",
    ),
    (
        r"\.numpy\(\)|numpy\.ndarray|from_numpy",
        "stay in torch from input to output; NumPy cannot be exported",
    ),
    (
        r"does not require grad|autograd\.grad|requires_grad|requires grad",
        "forward takes a gradient; return what it is taken of, or write the derivative out",
    ),
    (
        r"same device|cuda|Torch not compiled with CUDA",
        "the model is exported on the CPU: register_buffer() what forward needs, and name no device in forward",
    ),
    (
        r"no fake impl|fake impl|register_fake|custom op",
        "put torch's own operators in the place of the compiled one",
    ),
    (r"No ONNX function found|Unsupported: ONNX|UnsupportedOperator|is not supported", _NO_FORM),
)
_OTHERWISE = "rewrite that part of forward in tensor operations: torch.where for a branch on values, no NumPy"

_NOISE = (
    "Failed to export the model",
    "Failed to convert the exported program",
    "## ",
    "⬆️",
    "- ",
    "  -",
    "Refer to",
    "This is step",
    "Please",
    "##",
)


@dataclass(slots=True)
class Guards:
    """Sizes that the code under torch.export turned out to fix: (`s95 == 2`, the user's line)."""

    fixed: list[tuple[str, Where | None]] = field(default_factory=list)


@contextmanager
def watching_guards() -> Iterator[Guards]:
    """torch reports what it assumes of sizes in a log, while the user's own frames are still on the stack."""
    guards = Guards()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found = re.match(r"eval Eq\((\S+, \d+)\) \[guard added\]", record.getMessage())
            if found:
                guards.fixed.append((found.group(1).replace(", ", " == "), users_place_now()))

    logger, handler = logging.getLogger("torch.fx.experimental.symbolic_shapes"), Handler(logging.INFO)
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield guards
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


def not_exportable(
    error: BaseException, what: str, code: str, names: Sequence[str] = (), guards: Guards | None = None
) -> ExportError:
    """torch's reason in a line or two, the operator it names, the user's line, and what lay below in details.

    names: of the inputs, in the order of the tensors that torch numbers.
    """
    chain = _chain(error)
    text = "\n".join(str(item) for item in reversed(chain))
    operator = re.search(
        r"OpOverload\(op='([\w.]+)'|\b((?:aten|prims|torchvision|quantized)[.:]+[\w.]+)", text
    )
    place = next((p for p in (users_place(item) for item in reversed(chain)) if p is not None), None)
    if guards is not None and guards.fixed and "specialized" in text:
        place = next((where for _, where in guards.fixed if where is not None), place)
    reason = _named(_reason(chain), names)
    below = [
        line for line in dict.fromkeys(_named(one_line(item), names) for item in chain) if line != reason
    ]
    return ExportError(
        f"{what}: {reason}",
        code=code,
        where=place or _place_in_text(text),
        seen=operator.group(1) if operator else None,
        fix=advice(text),
        details=[
            shortened(f"from {line}", 300)
            for line in below[:4]
            if not line.partition(": ")[2].startswith(_NOISE)
        ],
    )


def _functions(chain: Sequence[BaseException]) -> str:
    """The functions that the exceptions came through: what was called is told by torch's own names."""
    frames = (frame for item in chain for frame, _ in traceback.walk_tb(item.__traceback__))
    return " ".join(dict.fromkeys(frame.f_code.co_name for frame in frames))


def line_of(place: Where | None) -> str:
    """The user's own words, for advice."""
    if place is None or place.line is None:
        return ""
    try:
        return place.path.read_text(encoding="utf-8").splitlines()[place.line - 1]
    except (OSError, ValueError, IndexError):
        return ""


def advice(text: str) -> str:
    """What mends a refusal of these words."""
    return next((fix for pattern, fix in _ADVICE if re.search(pattern, text)), _OTHERWISE)


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _named(text: str, names: Sequence[str]) -> str:
    """torch's `L['tensors'][0].size()[1]` in the words of the source: `x.shape[1]`."""

    def name(found: re.Match[str]) -> str:
        index = int(found.group(1))
        return names[index] if index < len(names) else found.group(0)

    return re.sub(r"L\['tensors'\]\[(\d+)\]", name, text).replace(".size()[", ".shape[")


def _reason(chain: Sequence[BaseException]) -> str:
    for item in reversed(chain):
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(item).splitlines()]
        head = next((line for line in lines if line and not line.startswith(_NOISE)), None)
        if head is None:
            continue
        if "Constraints violated" in head or "conflicts between user-specified" in head:
            details = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
            if details:
                head = details[0]
        return f"{type(item).__name__}: {head.partition(' If you')[0][:400]}"
    return type(chain[0]).__name__


def _place_in_text(text: str) -> Where | None:
    """torch quotes the user's frame as `File "…", line N`; the last one outside torch is the innermost."""
    found = None
    for file, line in re.findall(r'File "?([^":\n]+\.py)"?[:,](?: line )?(\d+)', text):
        if "site-packages" not in file and Path(file).is_file():
            found = Where(Path(file), int(line))
    return found


def both_refused(first: ExportError, second: ExportError, names: Iterable[str]) -> ExportError:
    """The first exporter's refusal, with what the second said below it."""
    one, other = names
    return ExportError(
        first.message,
        code=first.code,
        where=first.where,
        seen=first.seen,
        valid=first.valid,
        fix=second.fix if first.fix == _OTHERWISE else first.fix,
        details=[
            *first.details,
            f"{one} refused; {other} was tried, too:",
            f"  {second.message}" + (f" ({second.where})" if second.where not in (None, first.where) else ""),
            *(f"  {line}" for line in second.details[:2]),
        ],
    )
