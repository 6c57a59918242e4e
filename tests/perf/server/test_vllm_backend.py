"""The embedded vllm backend, live: NVIDIA's contract, continuous batching, cancellation, metrics, on a tiny model."""

from __future__ import annotations

import json
import queue
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.tiny_gguf import tiny_gguf
from tritonsmith.builder.base.errors import TrialError
from tritonsmith.perf.server import control
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.launch import Server, ServerSpec, launch

pytestmark = pytest.mark.server

CONFIG = """backend: "vllm"
instance_group [{ count: 1 kind: KIND_MODEL }]
model_transaction_policy { decoupled: true }
parameters { key: "REPORT_CUSTOM_METRICS" value { string_value: "yes" } }
"""
# f32, so that an answer is the same token for token whoever shares its batch.
CHAT = {"model": "model.gguf", "max_num_seqs": 8, "dtype": "float32", "gpu_memory_utilization": 0.5}
MODELS: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    # One at a time, and 160 tokens of KV cache.
    "tight": {**CHAT, "max_num_seqs": 2, "num_gpu_blocks_override": 10, "enable_prefix_caching": False},
}
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


def write_model(repository: Path, name: str, arguments: Any, weights: Path | None = None) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(CONFIG)
    (version / "model.json").write_text(arguments if isinstance(arguments, str) else json.dumps(arguments))
    if weights is not None:
        (version / "model.gguf").hardlink_to(weights)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    if environment.vllm_ready() is None:
        pytest.skip("no packages for language models: tritonsmith server install --with vllm")
    repository = tmp_path_factory.mktemp("language_models")
    weights = tiny_gguf(tmp_path_factory.mktemp("weights") / "tiny.gguf")
    for name, arguments in MODELS.items():
        write_model(repository, name, arguments, weights)
    with launch(ServerSpec(repositories=(repository,), model_control="explicit", exit_timeout_s=0)) as server:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: control.load_model(server.http_url, name), MODELS))
        yield server, repository


@pytest.fixture(scope="module")
def server(served: tuple[Server, Path]) -> Server:
    return served[0]


@dataclass
class Answer:
    """The responses to one request: their outputs, whether the last was the final one, an error's text."""

    responses: list[dict[str, Any]] = field(default_factory=list)
    final: bool = False
    error: str | None = None
    sent: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    @property
    def text(self) -> str:
        """Of its first sequence, joined."""
        return "".join(str(r["text_output"][0]) for r in self.responses)


class Client:
    """A gRPC stream."""

    def __init__(self, server: Server) -> None:
        self._client = grpcclient.InferenceServerClient(server.grpc_url)
        self._seen: queue.Queue[Any] = queue.Queue()
        self._client.start_stream(lambda result, error: self._seen.put(error or result))

    def send(
        self, prompt: str, model: str = "chat", request_id: str = "", stream: bool = True, **given: Any
    ) -> None:
        inputs = [_input("text_input", [prompt.encode()], np.object_)]
        if stream:
            inputs.append(_input("stream", [True], np.bool_))
        flags = {k: given.pop(k) for k in list(given) if k.startswith(("return_", "exclude_"))}
        inputs += [_input(name, [value], np.bool_) for name, value in flags.items()]
        inputs.append(_input("sampling_parameters", [json.dumps(given).encode()], np.object_))
        self._client.async_stream_infer(model, inputs, request_id=request_id)

    def next(self) -> Any:
        """The next response: a dictionary of outputs with `final`, or an exception."""
        seen = self._seen.get(timeout=30)
        if isinstance(seen, InferenceServerException):
            return seen
        response = seen.get_response()
        outputs = {o.name: seen.as_numpy(o.name).tolist() for o in response.outputs}
        outputs = {k: [v.decode() if isinstance(v, bytes) else v for v in vs] for k, vs in outputs.items()}
        return outputs | {"final": response.parameters["triton_final_response"].bool_param, "id": response.id}

    def ask(self, prompt: str, **given: Any) -> Answer:
        answer = Answer()
        self.send(prompt, **given)
        while not answer.final:
            seen = self.next()
            if isinstance(seen, InferenceServerException):
                answer.error = seen.message()
                break
            answer.final = seen["final"]
            answer.responses.append(seen)
        answer.ended = time.monotonic()
        return answer

    def go(self) -> None:
        """Leave, whatever is still to come."""
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_stream()
        self._client.close()


def _input(name: str, values: Sequence[Any], dtype: Any) -> Any:
    made = grpcclient.InferInput(name, [len(values)], "BOOL" if dtype is np.bool_ else "BYTES")
    made.set_data_from_numpy(np.array(values, dtype=dtype))
    return made


def ask(server: Server, prompt: str, **given: Any) -> Answer:
    with Client(server) as client:
        return client.ask(prompt, **given)


def generate(server: Server, body: dict[str, Any], model: str = "chat") -> tuple[int, dict[str, Any]]:
    url = f"http://{server.http_url}/v2/models/{model}/generate"
    request = urllib.request.Request(url, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def metrics(server: Server, model: str = "chat") -> dict[str, float]:
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if f'model="{model}"' in line]
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("vllm:") and "_bucket" not in line)
    return {name.partition("{")[0]: float(value) for name, value in pairs}


def wait_for_idle(server: Server, model: str, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while metrics(server, model)["vllm:num_requests_running"]:
        assert time.monotonic() < deadline, "a request still runs"
        time.sleep(0.02)


def test_the_config_is_completed_as_upstreams_backend_completes_it(server: Server) -> None:
    config = control.model_config(server.http_url, "chat")

    assert [io["name"] for io in config["input"]] == [
        "text_input", "image", "stream", "sampling_parameters", "exclude_input_in_output", "return_finish_reason",
        "return_cumulative_logprob", "return_logprobs", "return_num_input_tokens", "return_num_output_tokens",
    ]  # fmt: skip
    assert [io["name"] for io in config["input"] if not io["optional"]] == ["text_input"]
    assert [io["name"] for io in config["output"]] == [
        "text_output", "finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens",
    ]  # fmt: skip
    assert config["model_transaction_policy"]["decoupled"] is True


def test_what_model_json_says_for_gpus_is_told_in_one_line_of_the_log(server: Server) -> None:
    assert server.log_path is not None
    told = [line for line in server.log_path.read_text().splitlines() if "has no use for" in line]
    assert len(told) == len(MODELS)
    assert "gpu_memory_utilization=0.5" in told[0]


def test_a_stream_is_the_answer_in_pieces_and_its_last_response_is_the_final_one(server: Server) -> None:
    whole = ask(
        server, "Tell me a story", stream=False, exclude_input_in_output=True, max_tokens=24, **GREEDY
    )
    stream = ask(server, "Tell me a story", max_tokens=24, **GREEDY)

    assert (len(whole.responses), len(stream.responses)) == (1, 24)
    assert stream.text == whole.text != ""
    assert [r["final"] for r in stream.responses] == [False] * 23 + [True]


def test_the_prompt_comes_before_the_answer_unless_it_is_excluded(server: Server) -> None:
    body = {"text_input": "Tell me a story", "max_tokens": 4, **GREEDY}
    _, plain = generate(server, body)
    _, without = generate(server, body | {"exclude_input_in_output": True})

    assert plain["text_output"] == "Tell me a story" + without["text_output"]
    # As upstream: no prompt in a stream, not even on request.
    refused = ask(server, "Tell me a story", exclude_input_in_output=False)
    assert refused.error is not None
    assert "When streaming, `exclude_input_in_output` = False is not allowed" in refused.error


def test_request_parameters_do_what_the_sampling_parameters_tensor_does(server: Server) -> None:
    base = {"text_input": "Tell me a story"}
    texts = {json.dumps(k): v for k, v in (({"temperature": "0", "max_tokens": "5", "ignore_eos": True}, 0),)}
    (tensor,) = texts
    _, by_tensor = generate(server, base | {"sampling_parameters": tensor})
    _, by_parameters = generate(server, base | {"temperature": 0, "max_tokens": 5, "ignore_eos": True})

    assert by_tensor == by_parameters


def test_the_optional_outputs_tell_of_each_response_what_is_new(server: Server) -> None:
    flags = dict.fromkeys(
        (
            "return_finish_reason", "return_cumulative_logprob", "return_logprobs", "return_num_input_tokens",
            "return_num_output_tokens",
        ),
        True,
    )  # fmt: skip
    answer = ask(server, "Tell me a story", max_tokens=6, logprobs=1, **GREEDY, **flags)
    rows = answer.responses

    assert [r["finish_reason"] for r in rows] == [["None"]] * 5 + [["length"]]
    assert [r["num_output_tokens"] for r in rows] == [[1]] * 6
    assert [r["num_input_tokens"] for r in rows] == [[5]] * 6
    told = [json.loads(r["logprobs"][0]) for r in rows]
    assert all(len(t) == 1 for t in told)
    taken = [next(iter(t[0].values())) for t in told]
    assert all(t["rank"] == 1 and t["logprob"] < 0 for t in taken)
    sums = [r["cumulative_logprob"][0] for r in rows]
    assert sums == pytest.approx(np.cumsum([t["logprob"] for t in taken]).tolist(), rel=1e-5)
    # Unasked, as upstream: "null" for log probabilities, no output for the rest.
    plain = ask(server, "Tell me", max_tokens=1, return_logprobs=True, **GREEDY).responses[0]
    assert plain["logprobs"] == ["null"] and "finish_reason" not in plain


def test_an_answer_ends_before_a_stop_string_in_every_response(server: Server) -> None:
    whole = ask(server, "Tell me a story", max_tokens=30, **GREEDY).text
    stop = whole[20:23]
    at = whole.index(stop)
    answer = ask(server, "Tell me a story", max_tokens=30, stop=[stop], return_finish_reason=True, **GREEDY)

    assert answer.text == whole[:at]
    assert answer.responses[-1]["finish_reason"] == ["stop"]
    assert len(answer.responses) < 30
    with_stop = ask(
        server, "Tell me a story", max_tokens=30, stop=[stop], include_stop_str_in_output=True, **GREEDY
    )
    assert with_stop.text == whole[: at + len(stop)]


def test_n_answers_differ_and_a_seed_makes_them_again(server: Server) -> None:
    body = {"text_input": "Tell me a story", "max_tokens": 8, "n": 3, "ignore_eos": True}
    _, first = generate(server, body | {"seed": 7})
    _, again = generate(server, body | {"seed": 7})
    _, other = generate(server, body)
    _, another = generate(server, body)

    assert len(set(first["text_output"])) == 3
    assert first == again
    assert other["text_output"] != another["text_output"]


def test_penalties_and_a_least_number_of_tokens_are_heeded(server: Server) -> None:
    given = {"max_tokens": 60, "logprobs": 1, "return_logprobs": True, **GREEDY}

    def tokens(answer: Answer) -> list[str]:
        return [next(iter(json.loads(r["logprobs"][0])[0])) for r in answer.responses]

    plain = tokens(ask(server, "Tell me a story", **given))
    penalised = tokens(ask(server, "Tell me a story", repetition_penalty=9.0, **given))
    assert len(set(plain)) < len(set(penalised)) == 60

    stop = int(plain[3])
    ended = ask(server, "Tell me a story", **given | {"stop_token_ids": [stop]})
    assert len(ended.responses) == 4
    long = {"stop_token_ids": [stop], "min_tokens": 20, "ignore_eos": False}
    later = ask(server, "Tell me a story", **given | long)
    assert len(later.responses) > 20


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"sampling_parameters": "{nope"}, "sampling_parameters is no JSON: "),
        ({"logit_bias": "x"}, "logit_bias='x' is not possible here"),
        ({"image": ["aGk="]}, "image: the embedded vllm backend runs models of text only"),
        ({"text_input": ""}, "The decoder prompt cannot be empty"),
        ({"text_input": "x" * 3000}, "is longer than the maximum model length of 2048"),
    ],
)
def test_a_request_that_cannot_be_answered_gets_one_clear_line(
    server: Server, body: dict[str, Any], said: str
) -> None:
    _, answer = generate(server, {"text_input": "Tell me"} | body)

    assert answer["error"].startswith("Error generating stream: ")
    assert said in answer["error"] and "\n" not in answer["error"]


def test_an_answer_ends_where_the_context_does(server: Server) -> None:
    prompt = "x" * 2040
    answer = ask(
        server, prompt, max_tokens=100, return_finish_reason=True, return_num_input_tokens=True, **GREEDY
    )

    (length,) = answer.responses[0]["num_input_tokens"]
    assert len(answer.responses) == 2048 - length
    assert answer.responses[-1]["finish_reason"] == ["length"]


def test_users_who_join_and_leave_change_nobody_elses_answer(server: Server) -> None:
    """32 users of 8 slots, each as greedy as when alone; a third of them go in mid-stream."""
    rng = random.Random(5)
    prompts = [f"Tell me {'a very ' * rng.randrange(6)}long story of number {i}" for i in range(32)]
    lengths = [rng.randrange(4, 40) for _ in prompts]
    with Client(server) as client:
        alone = [client.ask(p, max_tokens=n, **GREEDY).text for p, n in zip(prompts, lengths, strict=True)]

    def user(index: int) -> str | None:
        time.sleep(rng.random() * 0.3)
        client = Client(server)
        if index % 3 == 0:
            client.send(prompts[index], max_tokens=1500, **GREEDY)
            seen = "".join(client.next()["text_output"][0] for _ in range(3))
            client.go()
            return seen
        try:
            return client.ask(prompts[index], max_tokens=lengths[index], **GREEDY).text
        finally:
            client.go()

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(user, range(32)))

    for index, (seen, own) in enumerate(zip(together, alone, strict=True)):
        assert seen is not None and (
            own.startswith(seen) or seen.startswith(own) if index % 3 == 0 else seen == own
        )
    wait_for_idle(server, "chat")


def ended_early(server: Server, whole: int, leave: Callable[[], None]) -> bool:
    """Whether fewer tokens than that were made of answers whose clients left. A busy machine may hold this test up for as
    long as a whole answer takes, but not each time."""
    for _ in range(4):
        before = metrics(server)["vllm:generation_tokens_total"]
        leave()
        wait_for_idle(server, "chat")
        if metrics(server)["vllm:generation_tokens_total"] - before < whole:
            return True
    return False


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_is_gone_frees_its_slot(server: Server, stream: bool) -> None:
    """All 8 slots are taken by long answers; their clients leave, and who waited for a slot is answered."""
    clients = 1 if stream else 8

    def leave() -> None:
        gone = [Client(server) for _ in range(clients)]
        for client in gone:
            client.send("Tell me a story", stream=stream, max_tokens=2000, **GREEDY)
        if stream:
            assert gone[0].next()["text_output"]
        else:
            time.sleep(0.1)  # none of them can be answered by then, nor tell that it has begun
        with Client(server) as waiting:
            waiting.send("Tell me a story", max_tokens=1, **GREEDY)
            for client in gone:
                client.go()
            assert waiting.next()["final"]

    assert ended_early(server, clients * 1900, leave)


def test_a_client_of_http_that_is_gone_frees_its_slot(server: Server) -> None:
    host, _, port = server.http_url.rpartition(":")
    body = {"text_input": "Tell me a story", "stream": True, "max_tokens": 2000, **GREEDY}

    def leave() -> None:
        connection = HTTPConnection(host, int(port), timeout=20)
        connection.request("POST", "/v2/models/chat/generate_stream", json.dumps(body))
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        answer.close()
        connection.close()

    assert ended_early(server, 1900, leave)


def test_requests_wait_for_room_in_the_kv_cache_and_all_are_answered(server: Server) -> None:
    """Each of them takes most of the 160 tokens that the cache has."""
    own = ask(server, "Tell me a story", model="tight", max_tokens=120, **GREEDY).text
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(ask, server, "Tell me a story", model="tight", max_tokens=120, **GREEDY)
            for _ in range(4)
        ]
        answers = [a.result() for a in asked]

    assert [a.error for a in answers] == [None] * 4
    assert [a.text for a in answers] == [own] * 4


def test_a_prompt_that_the_cache_can_never_hold_is_refused_and_the_server_lives(server: Server) -> None:
    refused = ask(server, "x" * 400, model="tight", **GREEDY)
    assert refused.error is not None and "is longer than the maximum model length of 160" in refused.error
    assert ask(server, "Tell me", model="tight", max_tokens=2, **GREEDY).error is None


def test_metrics_count_by_vllms_names(server: Server) -> None:
    before = metrics(server)
    ask(server, "Tell me a story", max_tokens=7, **GREEDY)
    wait_for_idle(server, "chat")
    deadline = time.monotonic() + 5
    while (now := metrics(server))["vllm:request_params_n_count"] == before["vllm:request_params_n_count"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    grown = {name: now[name] - before[name] for name in now}

    assert grown["vllm:prompt_tokens_total"] == 5
    assert grown["vllm:generation_tokens_total"] == grown["vllm:request_generation_tokens_sum"] == 7
    assert (
        grown["vllm:time_to_first_token_seconds_count"]
        == grown["vllm:e2e_request_latency_seconds_count"]
        == 1
    )
    assert grown["vllm:time_per_output_token_seconds_count"] == 6
    assert 0 < grown["vllm:time_to_first_token_seconds_sum"] < grown["vllm:e2e_request_latency_seconds_sum"]
    assert now["vllm:num_requests_waiting"] == 0


def test_requests_beyond_the_slots_wait_their_turn_and_are_seen_to(server: Server) -> None:
    long = [Client(server) for _ in range(8)]
    for client in long:
        client.send("Tell me a story", stream=False, max_tokens=2000, **GREEDY)
    seen: set[tuple[float, float]] = set()
    with Client(server) as waiting:
        for _ in range(3):
            waiting.send("Tell me", stream=False, max_tokens=1, **GREEDY)
        deadline = time.monotonic() + 10
        while (8, 3) not in seen and time.monotonic() < deadline:
            now = metrics(server)
            seen.add((now["vllm:num_requests_running"], now["vllm:num_requests_waiting"]))
        for client in long:
            client.go()
        assert all(waiting.next()["final"] for _ in range(3))

    assert (8, 3) in seen


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{nope", "model.json is no JSON"),
        ({"model": "org/name"}, "fetches nothing from a hub"),
        ({"model": "model.json"}, "is not a GGUF file"),
        ({"model": "model.gguf", "max_model_len": 9999}, "greater than the derived max_model_len (2048)"),
    ],
    ids=["json", "hub", "gguf", "context"],
)
@pytest.mark.nightly
def test_a_model_that_cannot_be_served_is_refused_in_its_own_words(
    served: tuple[Server, Path], arguments: Any, said: str, tmp_path: Path
) -> None:
    server, repository = served
    name = f"bad_{abs(hash(said)) % 10**6}"
    write_model(repository, name, arguments, tiny_gguf(tmp_path / "m.gguf"))
    with pytest.raises(TrialError) as refused:
        control.load_model(server.http_url, name)
    assert said in str(refused.value)


@pytest.mark.nightly
def test_an_unload_waits_for_the_answer_under_way_and_for_nothing_else(
    served: tuple[Server, Path], tmp_path: Path
) -> None:
    server, repository = served
    write_model(repository, "short", CHAT, tiny_gguf(tmp_path / "m.gguf"))
    control.load_model(server.http_url, "short")
    with Client(server) as client:
        client.send("Tell me", model="short", max_tokens=200, **GREEDY)
        assert client.next()["text_output"]
        unloading = threading.Thread(target=control.unload_model, args=(server.http_url, "short"))
        unloading.start()
        answer = [client.next() for _ in range(199)]
    unloading.join()

    assert answer[-1]["final"]
