"""The vllm backend's pure parts: what model.json and a request's parameters say, and text as it grows."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tritonsmith.perf.server
from tests.tiny_gguf import CONTEXT_LENGTH, tiny_gguf, tiny_tokenizer
from tritonsmith.perf.server.environment.requirements import has_vllm_models

BACKEND = Path(tritonsmith.perf.server.__file__).with_name("backends") / "vllm"
# As NVIDIA's samples and production have it.
PRODUCTION = {
    "model": "model.gguf",
    "disable_log_requests": True,
    "gpu_memory_utilization": 0.9,
    "tensor_parallel_size": 1,
    "quantization": "awq",
    "enforce_eager": True,
    "dtype": "float16",
    "max_num_seqs": 32,
    "max_num_batched_tokens": 512,
    "max_model_len": 2048,
    "enable_prefix_caching": False,
    "trust_remote_code": True,
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BACKEND / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


arguments, sampling, text, weights = map(
    load, ("vllm_arguments", "vllm_sampling", "vllm_text", "vllm_weights")
)
sequence = load("vllm_sequence")


class TinyTokenizer:
    """The test model's tokenizer, called as openvino_genai's is."""

    def __init__(self) -> None:
        self._own = tiny_tokenizer()
        self.special = {0, 1, 2}

    def get_vocab(self) -> dict[bytes, int]:
        alphabet = {c: b for b, c in _byte_letters().items()}
        return {
            t.encode() if i in self.special else bytes(alphabet[c] for c in t): i
            for t, i in self._own.get_vocab().items()
        }

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> Any:
        if ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens) for row in ids]
        return self._own.decode(ids, skip_special_tokens=skip_special_tokens)

    def encode(self, words: str, add_special_tokens: bool = True) -> Any:
        ids = self._own.encode(words).ids

        class Encoded:
            class input_ids:
                data = (ids,)

        return Encoded


def _byte_letters() -> dict[int, str]:
    """GPT-2's letters for bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in shown}
    return letters | {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in letters)}


@pytest.fixture(scope="module")
def vocabulary() -> Any:
    return text.Vocabulary(TinyTokenizer())


def settings(cache_gib: float | None = None, **given: Any) -> Any:
    return arguments.settings_from({"model": "m.gguf", **given}, cores=2, cache_gib=cache_gib)


def test_a_model_json_written_for_production_loads_and_what_it_says_for_gpus_is_told_in_one_line() -> None:
    made = arguments.settings_from(PRODUCTION, cores=2)

    assert made.scheduler == {
        "max_num_seqs": 32,
        "max_num_batched_tokens": 512,
        "enable_prefix_caching": False,
        "dynamic_split_fuse": True,
        "num_kv_blocks": 0,
        "cache_size": 0,
    }
    assert made.properties["INFERENCE_PRECISION_HINT"] == "f16"
    assert made.properties["INFERENCE_NUM_THREADS"] == 2
    line = arguments.told(made, PRODUCTION)
    assert line.endswith("gpu_memory_utilization=0.9, quantization='awq', trust_remote_code=True")
    assert "\n" not in line


def test_float32_is_float32_throughout() -> None:
    made = settings(dtype="float32").properties
    assert (made["INFERENCE_PRECISION_HINT"], made["KV_CACHE_PRECISION"]) == ("f32", "f32")
    assert made["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == 0
    assert "DYNAMIC_QUANTIZATION_GROUP_SIZE" not in settings(dtype="auto").properties


def test_a_line_is_said_only_where_there_is_something_to_say() -> None:
    assert arguments.told(settings(tensor_parallel_size=1, max_num_seqs=3), {}) is None


@pytest.mark.parametrize(
    ("given", "cache_gib", "blocks", "gib", "tokens"),
    [
        ({"num_gpu_blocks_override": 20}, None, 10, 0, 320),  # 20 blocks of vLLM's 16 tokens
        ({"num_gpu_blocks_override": 4, "block_size": 32}, None, 4, 0, 128),
        ({"kv_cache_memory_bytes": 2**30 + 1}, None, 0, 2, None),
        ({}, 3.0, 0, 3, None),  # VLLM_CPU_KVCACHE_SPACE
        ({"kv_cache_memory_bytes": 2**30}, 3.0, 0, 1, None),
    ],
)
def test_the_kv_cache_holds_as_many_tokens_as_vllms_would(
    given: dict[str, Any], cache_gib: float | None, blocks: int, gib: int, tokens: int | None
) -> None:
    made = settings(cache_gib, **given)

    assert (made.scheduler["num_kv_blocks"], made.scheduler["cache_size"], made.kv_tokens) == (
        blocks,
        gib,
        tokens,
    )
    assert not made.unused, "what sized it was of use"


def test_a_kv_cache_that_memory_cannot_hold_is_refused_before_the_engine_takes_it() -> None:
    made = settings(kv_cache_memory_bytes=900 * 10**9)
    arguments.check_room(made, None)
    arguments.check_room(made, 10**12)
    with pytest.raises(arguments.ArgumentRefused, match=r"839 GiB and 4\.0 GiB of memory are available"):
        arguments.check_room(made, 4 * 2**30)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": ""}, "names no 'model'"),
        ({"max_num_seqs": 0}, "max_num_seqs: 0 is not a whole number of at least 1"),
        ({"max_model_len": "long"}, "max_model_len: 'long'"),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, "must be at least max_num_seqs (64)"),
        ({"dtype": "int4"}, "dtype: 'int4' is none of auto, bfloat16"),
        ({"enable_prefix_caching": "maybe"}, "enable_prefix_caching: 'maybe' is neither"),
        ({"enable_lora": "true"}, "no LoRA adapters"),
        (
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 300, "max_model_len": 512},
            "smaller than max_model_len (512)",
        ),
    ],
)
def test_an_engine_argument_that_cannot_be_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(arguments.ArgumentRefused) as refused:
        settings(**given)
    assert said in str(refused.value)


def test_the_context_is_the_least_of_what_is_asked_made_for_and_cached() -> None:
    assert arguments.context(settings(), 2048) == 2048
    assert arguments.context(settings(max_model_len=512), 2048) == 512
    assert arguments.context(settings(num_gpu_blocks_override=10), 2048) == 160
    for made, made_for, said in (
        (settings(max_model_len=4096), 2048, "greater than the derived max_model_len (2048)"),
        (settings(max_model_len=512, num_gpu_blocks_override=10), 2048, "stored in KV cache (160)"),
        (settings(), None, "set max_model_len"),
    ):
        with pytest.raises(arguments.ArgumentRefused) as refused:
            arguments.context(made, made_for)
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("value", "given", "wanted"),
    [("yes", {}, True), ("TRUE", {}, True), ("no", {}, False), ("yes", {"disable_log_stats": True}, False)],
)
def test_metrics_are_reported_where_both_files_ask_for_them(
    value: str, given: dict[str, Any], wanted: bool
) -> None:
    config = {"parameters": {"REPORT_CUSTOM_METRICS": {"string_value": value}}}

    assert arguments.wants_metrics(config, given) is wanted
    assert arguments.wants_metrics({}, given) is False


def test_sampling_parameters_have_vllms_defaults_and_may_be_texts() -> None:
    plain = sampling.sampling_from("{}")
    assert (plain.max_tokens, plain.temperature, plain.top_k, plain.n, plain.seed) == (16, 1.0, 0, 1, None)
    assert sampling.sampling_from("") == plain

    given = {
        "temperature": "0.5",
        "top_k": "-1",
        "max_tokens": "7",
        "stop": "END",
        "ignore_eos": "true",
        "seed": None,
    }
    asked = sampling.sampling_from(json.dumps(given))
    assert (asked.temperature, asked.top_k, asked.max_tokens, asked.stop) == (0.5, 0, 7, ("END",))
    assert asked.ignore_eos is True and asked.seed is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{nope", "sampling_parameters is no JSON: "),
        ("[1]", "no JSON object but a list"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_tokens": 1.5}, "max_tokens: 1.5 is not a whole number"),
        ({"temperature": -1}, "temperature must be at least 0.0, got -1"),
        ({"temperature": "hot"}, "temperature: 'hot' is not a number"),
        ({"temperature": float("nan")}, "temperature: nan is not a number"),
        ({"top_p": 0}, "top_p must be above 0.0 and at most 1.0, got 0"),
        ({"n": 2, "temperature": 0}, "n must be 1 when using greedy sampling"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens must be at most max_tokens=8, got 9"),
        ({"stop": ["a", ""]}, "stop cannot contain an empty string"),
        ({"ignore_eos": "perhaps"}, "ignore_eos: 'perhaps' is neither true nor false"),
        ({"logprobs": 5}, "logprobs=5 is not possible here"),
        ({"logit_bias": {"5": 1}}, "logit_bias={'5': 1} is not possible here"),
        ({"guided_decoding": {"json": {}}}, "guided_decoding={'json': {}} is not possible here"),
        ({"lora_name": "x"}, "lora_name='x' is not possible here"),
        ({"max_token": 5}, "unknown sampling parameter 'max_token'; there are frequency_penalty"),
    ],
)
def test_a_sampling_parameter_that_cannot_be_is_refused_and_never_left_out(given: Any, said: str) -> None:
    with pytest.raises(sampling.SamplingRefused) as refused:
        sampling.sampling_from(given if isinstance(given, str) else json.dumps(given))
    assert said in str(refused.value)


def test_the_tests_tokenizer_is_one_whose_bytes_join(vocabulary: Any) -> None:
    assert vocabulary.joins
    assert vocabulary.special == {0, 1, 2}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_text_that_grows_by_tokens_is_the_whole_text_and_never_holds_half_a_character(words: str) -> None:
    tokenizer = TinyTokenizer()
    grown = text.Text(text.Vocabulary(tokenizer))
    seen = [grown.settled]
    for token in tokenizer.encode(words).input_ids.data[0]:
        grown.add(token)
        seen.append(grown.settled)
    grown.end()

    assert grown.settled == words
    assert all(words.startswith(part) for part in seen)


def test_a_tokenizer_whose_bytes_do_not_join_is_asked_for_the_whole_text(vocabulary: Any) -> None:
    whole = text.Vocabulary(TinyTokenizer())
    whole.joins = False
    words = "Tell me é 😀 and the end"
    grown = text.Text(whole)
    seen = []
    for token in whole.tokenizer.encode(words).input_ids.data[0]:
        grown.add(token)
        seen.append(grown.settled)
    grown.end()

    assert grown.settled == words
    assert all(words.startswith(part) for part in seen) and "\ufffd" not in "".join(seen)


def test_bytes_that_never_become_a_character_are_shown_at_the_end(vocabulary: Any) -> None:
    half = vocabulary.tokenizer.encode("é").input_ids.data[0][0]
    grown = text.Text(vocabulary)
    grown.add(half)
    assert grown.settled == ""
    grown.end()
    assert grown.settled == "\ufffd"


def answers(vocabulary: Any, words: str, eos: bool = False, **given: Any) -> tuple[Any, list[str]]:
    """The sequence that `words` ends, and its text after each token."""
    ids = vocabulary.tokenizer.encode(words).input_ids.data[0]
    one = sequence.Sequence(vocabulary, sampling.sampling_from(json.dumps(given)))
    shown = []
    for number, token in enumerate(ids, 1):
        one.add(token, -1.0, ("stop" if eos else "length") if number == len(ids) else None)
        shown.append(one.text)
        if one.finish_reason is not None:
            break
    return one, shown


@pytest.mark.parametrize(
    ("given", "shown", "reason"),
    [
        ({"stop": ["story"]}, "Tell me a ", "stop"),
        ({"stop": ["number", "a st"]}, "Tell me ", "stop"),  # the one that comes first, across tokens
        ({"stop": ["story"], "include_stop_str_in_output": True}, "Tell me a story", "stop"),
        ({"stop": ["storm"]}, "Tell me a story about a number", "length"),
        ({"stop": ["story"], "min_tokens": 9, "max_tokens": 20}, "Tell me a story about a number", "length"),
    ],
)
def test_an_answer_ends_before_its_stop_string_and_never_shows_the_beginning_of_one(
    vocabulary: Any, given: dict[str, Any], shown: str, reason: str
) -> None:
    one, texts = answers(vocabulary, "Tell me a story about a number", **given)

    assert (one.text, one.finish_reason) == (shown, reason)
    assert all(shown.startswith(part) for part in texts)


def test_the_token_that_stopped_an_answer_is_counted_and_not_shown(vocabulary: Any) -> None:
    ids = vocabulary.tokenizer.encode("Tell me a story").input_ids.data[0]

    one, _ = answers(vocabulary, "Tell me a story", stop_token_ids=[ids[-1]])
    assert (one.text, one.finish_reason, len(one.token_ids)) == ("Tell me a", "stop", len(ids))

    shown, _ = answers(
        vocabulary, "Tell me a story", stop_token_ids=[ids[-1]], include_stop_str_in_output=True
    )
    assert shown.text == "Tell me a story"

    at_eos, _ = answers(vocabulary, "Tell me<|im_end|>", eos=True)
    assert (at_eos.text, at_eos.finish_reason) == ("Tell me", "stop")


def test_weights_are_found_beside_model_json_and_by_their_absolute_path(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "model.gguf")

    for model in ("model.gguf", str(path), "."):
        found = weights.find(model, tmp_path)
        assert (found.path.resolve(), found.context_length) == (path, CONTEXT_LENGTH)


def test_an_openvino_directory_is_taken_as_it_is_and_a_hugging_face_one_is_to_be_converted(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 77}')
    assert weights.find(".", tmp_path).context_length == 77
    assert weights.is_hugging_face(tmp_path)

    (tmp_path / "openvino_model.xml").write_text("<net/>")
    assert not weights.is_hugging_face(tmp_path)


def _gguf_of(architecture: str) -> bytes:
    def words(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pair = words("general.architecture") + struct.pack("<I", 8) + words(architecture)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04", "is not a GGUF file: it does not begin with 'GGUF'"),
        (
            _gguf_of("mamba"),
            "is of the architecture 'mamba'; the embedded vllm backend runs GGUF files of llama",
        ),
        (_gguf_of("llama")[:-3], "is a damaged GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "is GGUF of version 9"),
    ],
)
def test_a_file_that_is_no_model_is_refused_before_the_engine_sees_it(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(weights.WeightsRefused) as refused:
        weights.find("model.gguf", tmp_path)
    assert said in str(refused.value) and str(tmp_path / "model.gguf") in str(refused.value)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.999])
def test_a_gguf_that_was_cut_off_is_refused_before_the_engine_sees_it(tmp_path: Path, kept: float) -> None:
    path = tiny_gguf(tmp_path / "model.gguf")
    weights.find("model.gguf", tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(weights.WeightsRefused, match=f"its weights go on to {len(whole)}"):
        weights.find("model.gguf", tmp_path)


def test_what_is_not_there_not_one_or_too_large_is_refused(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "a.gguf")
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in "ab":
        (tmp_path / "two" / f"{name}.gguf").touch()
    for model, memory, said in (
        ("org/name", None, "fetches nothing from a hub"),
        ("empty", None, "no directory of a language model"),
        ("two", None, "several GGUF files; 'model' must name one: a.gguf, b.gguf"),
        ("a.gguf", 1000, "0 MiB and 0 MiB of memory are available"),
    ):
        with pytest.raises(weights.WeightsRefused) as refused:
            weights.find(model, tmp_path, memory)
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ('backend: "vllm"\n', True),
        ("name: 'm' backend:'vllm'", True),
        ('# backend: "vllm"\nbackend: "python"', False),
        ('backend: "onnxruntime"', False),
    ],
)
def test_a_repository_says_whether_its_server_needs_what_language_models_need(
    tmp_path: Path, config: str, found: bool
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text(config)

    assert has_vllm_models([tmp_path]) is found


def test_responses_are_sent_in_their_order_and_the_engine_waits_for_none_to_arrive() -> None:
    """No sending ends before the test lets it, as none ends while a step holds the interpreter."""

    class Sender:
        def __init__(self) -> None:
            self.sent: list[int] = []

    class One:
        cancelled = False

    def send(sender: Sender, response: int, flags: int) -> None:
        begun.release()
        assert goes_on.wait(10)
        sender.sent.append(response)

    def is_gone(sender: Sender) -> bool:
        asked.append(sender)
        return True

    begun, goes_on = threading.Semaphore(0), threading.Event()
    asked: list[Sender] = []
    senders = load("vllm_senders").Senders(is_gone, send)
    pairs = [(One(), Sender()) for _ in range(32)]
    for one, sender in pairs:
        senders.open(one, sender)
        senders.put(one, sender, 0, 0)
    assert not begun.acquire(blocking=False), "a step's responses are to go together"
    senders.settle()

    assert all(begun.acquire(timeout=10) for _ in pairs)
    assert not any(sender.sent for _, sender in pairs)
    assert len(senders.live()) == 32 and senders.is_gone(pairs[0][0])
    goes_on.set()
    for number in range(1, 10):
        for one, sender in pairs:
            senders.put(one, sender, number, 1 if number == 9 else 0)
        senders.settle()
    # Nobody is asked after its last response: the server knows it no more.
    assert senders.live() == [] and not senders.is_gone(pairs[0][0])
    assert asked == [pairs[0][1]]
    senders.stop()
    assert all(sender.sent == list(range(10)) for _, sender in pairs)
