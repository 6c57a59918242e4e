"""A seed → a llama of random weights with a tokenizer of its own, as a GGUF file that OpenVINO GenAI and vLLM load.

It answers nonsense, but the same nonsense to the same prompt, which is what a test of a server needs.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CONTEXT_LENGTH = 2048
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# SmolLM2's, which says what most instruct models' do.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _FEED_FORWARD = 64, 2, 4, 2, 128
_VOCABULARY = 448
# What the tokenizer's merges are learned from; what it lacks is spelled in bytes.
_TEXT = """
Triton Inference Server serves models from a model repository. A language model reads a prompt and writes one
token after another; the server batches the requests of all users in one step, and a request that arrives joins
the batch at once. The time to the first token, the time between two tokens and the tokens per second are what
its users feel. Tell me a story about a number. What is the capital of France? Write a short poem on the sea.
The answer is that the model, with its weights drawn by chance, has nothing to say and says it in this language.
"""


def tiny_gguf(path: Path, seed: int = 0, chat_template: bool = True) -> Path:
    """Write the model to `path` (0.4 MB, the same bytes for the same seed) and return it.

    Two layers, 448 tokens of a byte-level BPE (so any text goes in and out), a context of 2,048 tokens.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_dimension_count(_HIDDEN // _HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer)
    if chat_template:
        writer.add_chat_template(CHAT_TEMPLATE)

    def matrix(name: str, rows: int, columns: int) -> None:
        # Large enough that the best token stands out: an answer must not hang on the order of a sum.
        values = random.normal(scale=2.0 / np.sqrt(columns), size=(rows, columns))
        writer.add_tensor(name, values.astype(np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(_HIDDEN, dtype=np.float32))

    kv_width = _HIDDEN // _HEADS * _KV_HEADS
    matrix("token_embd.weight", _VOCABULARY, _HIDDEN)
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm.weight")
        matrix(f"{block}.attn_q.weight", _HIDDEN, _HIDDEN)
        matrix(f"{block}.attn_k.weight", kv_width, _HIDDEN)
        matrix(f"{block}.attn_v.weight", kv_width, _HIDDEN)
        matrix(f"{block}.attn_output.weight", _HIDDEN, _HIDDEN)
        norm(f"{block}.ffn_norm.weight")
        matrix(f"{block}.ffn_gate.weight", _FEED_FORWARD, _HIDDEN)
        matrix(f"{block}.ffn_up.weight", _FEED_FORWARD, _HIDDEN)
        matrix(f"{block}.ffn_down.weight", _HIDDEN, _FEED_FORWARD)
    norm("output_norm.weight")
    matrix("output.weight", _VOCABULARY, _HIDDEN)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_tokenizer() -> Tokenizer:
    """The tokenizer that `tiny_gguf` writes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    return tokenizer


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    learned = json.loads(tiny_tokenizer().to_str())["model"]
    tokens = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    assert len(tokens) == _VOCABULARY, len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(merge) for merge in learned["merges"]])
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(False)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
