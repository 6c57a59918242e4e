"""(a repository, its models) → an embedded Triton that polls it, clients that ask all the time, and what they saw."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.ground import answer_of
from tritonsmith.perf.server.launch import ServerSpec, launch

_PAUSE_S = 0.02
# A machine that stands still is no failed request; its answer comes late.
_TIMEOUT_S = 300.0
_SETTLED_WITHIN_S = 300.0
_FAILURE = re.compile(r"failed to (load '[^']*' version|poll)|ignore version directory")


@dataclass
class Seen:
    """What a server on the repository let its clients see.

    failed, wrong: requests without an answer; answers that no whole model of either state gives. changes: how often
    answers came to be those of the other state. log: the lines of the server's log that tell of a failure. last: model →
    the state of its latest answer.
    """

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    changes: int = 0
    log: list[str] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def count(
        self, model: str, state: int | None, failed: str | None = None, wrong: str | None = None
    ) -> None:
        """One request more; state: that of its answer."""
        with self._guard:
            self.requests += 1
            if state is not None:
                self.changes += self.last.get(model, state) != state
                self.last[model] = state
            self.failed += [failed] if failed else []
            self.wrong += [wrong] if wrong else []

    def wait_for(self, models: Sequence[str], state: int) -> list[str]:
        """Returns when every model answers as in this state; what is wrong when that takes too long."""
        deadline = time.monotonic() + _SETTLED_WITHIN_S
        while late := [model for model in models if self.last.get(model) != state]:
            if time.monotonic() > deadline:
                return [f"the server did not come to serve {late[0]} as it is in {_SETTLED_WITHIN_S:g} s"]
            time.sleep(0.05)
        return []

    @property
    def problems(self) -> list[str]:
        """What must not be."""
        return [
            *(f"a request failed: {text}" for text in self.failed[:5]),
            *(f"a wrong answer: {text}" for text in self.wrong[:5]),
            *(f"the server's log: {text}" for text in self.log[:5]),
        ]

    @property
    def text(self) -> str:
        """For the table."""
        return (
            f"{self.requests:,} requests: {len(self.failed)} failed, {len(self.wrong)} wrong or mixed; "
            f"{self.changes} changes from state to state; {len(self.log)} load failures in its log"
        )


@contextmanager
def watched(repository: Path, models: tuple[str, ...], log: Path) -> Iterator[Seen]:
    """The models have to be there. At the end of the block the clients ask for three seconds more, over two polls."""
    seen = Seen()
    spec = ServerSpec(repositories=(repository,), model_control="poll", log_path=log, exit_timeout_s=0)
    with launch(spec) as server:
        ended = threading.Event()
        clients = [
            threading.Thread(target=_ask_always, args=(server.http_url, model, seen, ended), daemon=True)
            for model in models
        ]
        for client in clients:
            client.start()
        try:
            yield seen
            time.sleep(3.0)
        finally:
            ended.set()
            for client in clients:
                client.join()
        seen.log += [line.strip()[:300] for line in log.read_text().splitlines() if _FAILURE.search(line)]


def _ask_always(url: str, model: str, seen: Seen, ended: threading.Event) -> None:
    whole = {answer_of(model, state): state for state in (0, 1)}
    connection = http.client.HTTPConnection(url, timeout=_TIMEOUT_S)
    while not ended.is_set():
        try:
            answer = _ask(connection, model)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            connection.close()
            seen.count(model, None, failed=f"{model}: {error}")
        else:
            state = whole.get(answer)
            seen.count(model, state, wrong=f"{model}: {answer}" if state is None else None)
        time.sleep(_PAUSE_S)
    connection.close()


def _ask(connection: http.client.HTTPConnection, model: str) -> tuple[str, float]:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 1.0, 1.0]}]}
    connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
    answer = connection.getresponse()
    content = json.loads(answer.read())
    if answer.status != 200:
        raise ValueError(f"HTTP {answer.status} {content.get('error', content)}")
    (output,) = content["outputs"]
    values = set(output["data"])
    if len(values) != 1:
        return output["name"], float("nan")
    return output["name"], values.pop()
