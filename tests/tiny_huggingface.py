"""A seed → a Hugging Face directory of a llama with random weights and a tokenizer of its own, and what it answers greedily."""

from __future__ import annotations

from pathlib import Path

from tests.tiny_gguf import CHAT_TEMPLATE, tiny_tokenizer

CONTEXT_LENGTH = 512


def tiny_huggingface(path: Path, seed: int = 0, dtype: str = "float32") -> Path:
    """Write the model to `path` (0.5 MB; two layers, 448 tokens) and return it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=448,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        # Large enough that the best token stands out: an answer must not hang on the order of a sum.
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(path)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tiny_tokenizer(),
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)
    return path


def greedy(path: Path, prompt: str, tokens: int) -> tuple[list[int], str]:
    """(token ids, text) that transformers gives in float32, whatever token would end the answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    asked = tokenizer(prompt, return_tensors="pt").input_ids
    model.generation_config.eos_token_id = None
    answer = model.generate(asked, max_new_tokens=tokens, do_sample=False, pad_token_id=0)[0]
    ids = answer[asked.shape[1] :].tolist()
    return ids, str(tokenizer.decode(ids, skip_special_tokens=True))
