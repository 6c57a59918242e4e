"""A GGUF file of a llama, token ids → its logits, by NumPy and gguf-py alone: an account of the model that owes nothing to
the engine it is held against.

Llama as llama.cpp has it: RMS norms, rotary positions over neighbouring pairs of a head's values, grouped heads of keys and
values, SwiGLU; the embeddings are the output matrix where there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

Array = np.ndarray[Any, Any]


def logits_of(path: Path, tokens: list[int]) -> Array:
    """[tokens, vocabulary], float64."""
    reader = gguf.GGUFReader(path)
    weights = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors
    }
    told = {name.removeprefix("llama."): field.contents() for name, field in reader.fields.items()}
    heads, kv_heads = told["attention.head_count"], told["attention.head_count_kv"]
    epsilon, base = told["attention.layer_norm_rms_epsilon"], told["rope.freq_base"]

    def norm(x: Array, name: str) -> Array:
        scaled: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[name]
        return scaled

    x = weights["token_embd.weight"][tokens]
    count, width = x.shape
    size = width // heads
    angles = np.arange(count)[:, None] * base ** (-np.arange(0, size, 2) / size)
    sine, cosine = np.sin(angles)[:, None], np.cos(angles)[:, None]

    def turned(values: Array) -> Array:
        even, odd = values[..., 0::2], values[..., 1::2]
        pairs: Array = np.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1)
        together: Array = pairs.reshape(values.shape)
        return together

    later = np.triu(np.full((count, count), -np.inf), 1)
    for layer in range(told["block_count"]):
        at = f"blk.{layer}"
        h = norm(x, f"{at}.attn_norm.weight")
        q, k, v = (h @ weights[f"{at}.attn_{n}.weight"].T for n in "qkv")
        q = turned(q.reshape(count, heads, size))
        k = turned(k.reshape(count, kv_heads, size)).repeat(heads // kv_heads, 1)
        v = v.reshape(count, kv_heads, size).repeat(heads // kv_heads, 1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(size) + later
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", shares, v).reshape(count, width)
        x = x + mixed @ weights[f"{at}.attn_output.weight"].T
        h = norm(x, f"{at}.ffn_norm.weight")
        gate = h @ weights[f"{at}.ffn_gate.weight"].T
        up = gate / (1 + np.exp(-gate)) * (h @ weights[f"{at}.ffn_up.weight"].T)
        x = x + up @ weights[f"{at}.ffn_down.weight"].T
    output = weights.get("output.weight", weights["token_embd.weight"])
    logits: Array = norm(x, "output_norm.weight") @ output.T
    return logits


def nll_of(logits: Array, tokens: list[int]) -> float:
    """−ln p of the tokens but the first, summed."""
    before = logits[: len(tokens) - 1]
    largest = before.max(-1, keepdims=True)
    log_p = before - largest - np.log(np.exp(before - largest).sum(-1, keepdims=True))
    return -float(log_p[np.arange(len(tokens) - 1), tokens[1:]].sum())
