"""GGUF type → what a variant of a language model is held to where it states no bounds.

Types that gguf-py writes (gguf.quants.quantize, gguf 0.17 to 0.19) and vLLM's GGUF loader reads (vllm,
model_executor/layers/quantization/gguf.py: UNQUANTIZED_TYPES, STANDARD_QUANT_TYPES). gguf-py writes no K- or I-quants: a file
of those, made by llama-quantize, is a variant by its own name.

The bounds lie between what a large and a small model lose. Perplexity of a 7-billion llama against F16 (llama.cpp, README,
"Quantization"): Q8_0 ×1.0001, Q5_1 ×1.007, Q5_0 ×1.013, Q4_1 ×1.031, Q4_0 ×1.042. SmolLM2-135M on the built-in prompts: Q8_0
×1.000 and 97.9 % of tokens, BF16 ×1.000 and 99.9 %, Q4_0 ×1.24 and 78 %, which its answers show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LanguageBounds:
    """token_agreement: the least share of tokens, 0 to 1; perplexity_ratio: the most, variant's / source's."""

    token_agreement: float
    perplexity_ratio: float


GGUF_PRECISIONS: Mapping[str, LanguageBounds] = {
    "f16": LanguageBounds(0.99, 1.01),
    "bf16": LanguageBounds(0.95, 1.01),
    "q8_0": LanguageBounds(0.95, 1.01),
    "q5_1": LanguageBounds(0.85, 1.05),
    "q5_0": LanguageBounds(0.85, 1.05),
    "q4_1": LanguageBounds(0.75, 1.15),
    "q4_0": LanguageBounds(0.75, 1.15),
}

FILE_BOUNDS = LanguageBounds(0.75, 1.15)
"""Of a file that is a variant by its name, whatever it holds: those of 4 bits."""
