"""sequence_batching.state → the implicit state of each running sequence, kept in this instance.

Triton's core hands a Python backend the initial state with every request; a sequence stays with one instance,
so the instance can keep what the model returned last and feed that instead.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import ort_config

NUMPY = {
    "TYPE_BOOL": np.bool_, "TYPE_UINT8": np.uint8, "TYPE_UINT16": np.uint16, "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64, "TYPE_INT8": np.int8, "TYPE_INT16": np.int16, "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64, "TYPE_FP16": np.float16, "TYPE_FP32": np.float32, "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}  # fmt: skip


class SequenceStates:
    """States by correlation id, for as many sequences as the config lets one instance hold."""

    def __init__(self, config, model_dir):
        self.rows = ort_config.states(config)
        batching = config.get("sequence_batching", {})
        limit = max(
            int(config.get("max_batch_size", 0)),
            int(batching.get("oldest", {}).get("max_candidate_sequences", 0)),
            1,
        )
        self._limit = limit
        self._by_sequence = OrderedDict()
        lead = (1,) if config.get("max_batch_size", 0) > 0 else ()
        self._initial = {row["input_name"]: _initial(row, lead, model_dir) for row in self.rows}

    def feed(self, correlation_id, start):
        """{input name: array} of the sequence's state as it stands before this request."""
        if start or correlation_id not in self._by_sequence:
            return self._initial
        return self._by_sequence[correlation_id]

    def keep(self, correlation_id, end, arrays):
        """Remember what the model returned; {input name: array}."""
        if not correlation_id:  # the direct scheduler's filler for a slot without a sequence
            return
        self._by_sequence.pop(correlation_id, None)
        if not end:
            self._by_sequence[correlation_id] = arrays
        while len(self._by_sequence) > self._limit:
            self._by_sequence.popitem(last=False)


def _initial(row, lead, model_dir):
    dtype = NUMPY[row["data_type"]]
    shape = lead + tuple(max(int(d), 1) for d in row.get("dims", []))
    for initial in row.get("initial_state", []):
        if initial.get("data_file"):
            file = Path(model_dir, "initial_state", initial["data_file"])
            with open(str(file).encode(), "rb") as opened:  # noqa: PTH123
                data = np.fromfile(opened, dtype=dtype)
            return data[: int(np.prod(shape))].reshape(shape)
    empty = "" if dtype is np.object_ else 0
    return np.full(shape, empty, dtype=dtype)
