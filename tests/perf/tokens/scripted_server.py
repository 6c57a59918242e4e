"""A scripted text server, a process of its own that knows when it wrote what: python scripted_server.py [SCRIPT as JSON].

It speaks OpenAI's chat and completions, and Triton's generate_stream of a model `chat`. A request's field `script`, or the
one on the command line, says what it does; GET /log tells when each chunk went to the socket (CLOCK_MONOTONIC, ns).
Its first line of output is its port.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

DEFAULT: dict[str, Any] = {
    "first_ms": 20.0,  # from the request to the first token
    "gap_ms": 5.0,  # between chunks
    "tokens": 8,  # where the request does not say
    "most": 1 << 30,  # tokens, whatever it says: a context that ends
    "bundle": 1,  # tokens a chunk
    "role": True,  # a chunk without text before inference
    "empty": False,  # another one with an empty text
    "usage": True,
    "done": True,
    "error_after": -1,  # chunks before an error object
    "cut_after": -1,  # chunks before the connection ends
    "status": 200,
    "body": "",
    "text": " w",
    "lump": 1,  # chunks a write
    "models": {},  # a Triton model's name → what is otherwise of it
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TENSORS = (
    ("text_input", "TYPE_STRING", "BYTES"),
    ("stream", "TYPE_BOOL", "BOOL"),
    ("sampling_parameters", "TYPE_STRING", "BYTES"),
    ("return_num_input_tokens", "TYPE_BOOL", "BOOL"),
    ("return_num_output_tokens", "TYPE_BOOL", "BOOL"),
)
OUTPUTS = (("text_output", "BYTES"), ("num_input_tokens", "UINT32"), ("num_output_tokens", "UINT32"))


class Server:
    def __init__(self, script: dict[str, Any]) -> None:
        self.script = script
        self.log: list[dict[str, Any]] = []
        self.parts: dict[tuple[str, int], tuple[bytes, bytes]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if path.endswith(("/chat/completions", "/completions", "/generate_stream")):
                    if not await self.stream(path, json.loads(body), writer):
                        return
                else:
                    status, said = self.describe(method, path)
                    await self.whole(writer, status, json.dumps(said).encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def whole(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> bool:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True

    def describe(self, method: str, path: str) -> tuple[int, Any]:
        if path == "/log":
            log, self.log = self.log, []
            return 200, log
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "chat", "object": "model"}]}
        if path == "/v2":
            return 200, {"name": "triton", "version": "2.51.0", "extensions": []}
        if path == "/v2/repository/index":
            names = ("chat", "plain")
            return 200, [{"name": name, "version": "1", "state": "READY"} for name in names]
        if path == "/v2/models/chat":
            tensors = [{"name": n, "datatype": k, "shape": [1]} for n, _, k in TENSORS]
            outputs = [{"name": n, "datatype": k, "shape": [-1]} for n, k in OUTPUTS]
            return 200, {"name": "chat", "versions": ["1"], "inputs": tensors, "outputs": outputs}
        if path == "/v2/models/chat/config":
            inputs = [
                {"name": n, "data_type": c, "dims": [1], "optional": n != "text_input"} for n, c, _ in TENSORS
            ]
            return 200, {
                "name": "chat",
                "input": inputs,
                "max_batch_size": 0,
                "model_transaction_policy": {"decoupled": True},
            }
        if path == "/v2/models/plain":
            tensor = [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
            return 200, {"name": "plain", "versions": ["1"], "inputs": tensor, "outputs": tensor}
        if path == "/v2/models/plain/config":
            return 200, {"name": "plain", "max_batch_size": 8}
        return 404, {"error": f"no {method} {path}"}

    async def stream(self, path: str, asked: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        sampling = json.loads(asked.get("sampling_parameters", "{}")) | asked.get("parameters", {})
        script = self.script | (asked.get("script") or sampling.get("script") or {})
        script |= script["models"].get(path.split("/")[-2], {})
        log: dict[str, Any] = {"path": path, "asked": asked, "at_ns": time.monotonic_ns(), "writes": []}
        self.log.append(log)
        if script["status"] != 200:
            return await self.whole(writer, script["status"], script["body"].encode())
        kind = "chat" if "chat/completions" in path else "triton" if "generate" in path else "text"
        if not asked.get("stream", False):
            return await self.whole(writer, 200, b'{"choices": [{"text": "w"}], "usage": {}}')
        if kind == "triton":
            script |= {"role": False, "empty": script["empty"]}
        said = (asked.get("max_tokens"), asked.get("max_completion_tokens"), sampling.get("max_tokens"))
        total = min(next((n for n in said if n), script["tokens"]), script["most"])

        def send(events: list[tuple[bytes, int, int]]) -> None:
            """(data, tokens, bytes of text) each."""
            data = b"".join(b"data: " + event + b"\n\n" for event, _, _ in events)
            log["writes"].append([time.monotonic_ns(), sum(t for _, t, _ in events), events[0][2]])
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))

        writer.write(HEAD)
        if script["role"] and kind == "chat":
            send([(self.chunk(kind, {"role": "assistant", "content": ""}), 0, 0)])
        await asyncio.sleep(script["first_ms"] / 1000)
        if script["empty"]:
            send([(self.said(kind, "", 0, script), 0, 0)])
            await asyncio.sleep(script["gap_ms"] / 1000)
        sent = chunks = 0
        while sent < total:
            lump: list[tuple[bytes, int, int]] = []
            while sent < total and len(lump) < script["lump"]:
                if chunks == script["cut_after"]:
                    writer.transport.abort()
                    return False
                if chunks == script["error_after"]:
                    error = {"message": "engine out of\n memory", "code": 500}
                    lump.append(
                        (
                            json.dumps({"error": error if kind != "triton" else error["message"]}).encode(),
                            0,
                            0,
                        )
                    )
                    sent = total
                    break
                count = min(script["bundle"], total - sent)
                text = script["text"] * count
                lump.append((self.said(kind, text, count, script), count, len(text.encode())))
                sent, chunks = sent + count, chunks + 1
            send(lump)
            if sent < total:
                await asyncio.sleep(script["gap_ms"] / 1000)
        if kind != "triton" and script["error_after"] < 0:
            if script["usage"]:
                usage = {"prompt_tokens": 7, "completion_tokens": total, "total_tokens": 7 + total}
                ends = {"id": "c", "object": "chunk", "choices": [], "usage": usage}
                send([(json.dumps(ends).encode(), 0, 0)])
            if script["done"]:
                send([(b"[DONE]", 0, 0)])
        log["end_ns"] = time.monotonic_ns()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def said(self, kind: str, text: str, tokens: int, script: dict[str, Any]) -> bytes:
        if kind == "chat":
            return self.chunk(kind, {"content": text})
        if kind == "text":
            return self.chunk(kind, text)
        counts = {"num_input_tokens": 7, "num_output_tokens": tokens} if script["usage"] else {}
        return json.dumps({"model_name": "chat", "model_version": "1", "text_output": text} | counts).encode()

    def chunk(self, kind: str, delta: Any) -> bytes:
        choice = {
            "index": 0,
            "delta" if kind == "chat" else "text": delta,
            "logprobs": None,
            "finish_reason": None,
        }
        name = "chat.completion.chunk" if kind == "chat" else "text_completion"
        said = {"id": "cmpl-" + "0" * 32, "object": name, "created": 1_700_000_000, "model": "chat"}
        return json.dumps(said | {"choices": [choice]}, separators=(",", ":")).encode()


async def main(script: dict[str, Any]) -> None:
    server = await asyncio.start_server(Server(DEFAULT | script).serve, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # it ends with who started it


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
