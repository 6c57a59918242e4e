"""A YAML file → what an editor shows of it through yaml-language-server: text on hovering, completions, diagnostics."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

SETTINGS = {"hover": True, "completion": True, "validate": True, "schemaStore": {"enable": False}}


class LanguageServer:
    """yaml-language-server on pipes, with the files of one project."""

    def __init__(self, command: Sequence[str], project: Path) -> None:
        self._process = subprocess.Popen(
            [*command, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=project
        )
        self._asked = 0
        self._diagnostics: dict[str, list[dict[str, Any]]] = {}
        self.ask("initialize", {"processId": None, "rootUri": project.as_uri(), "capabilities": {}})
        self._tell("initialized", {})
        self._tell("workspace/didChangeConfiguration", {"settings": {"yaml": SETTINGS}})

    def __enter__(self) -> LanguageServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def opens(self, file: Path, text: str) -> str:
        """The file with this text in an editor, which need not be on disk; its URI."""
        uri = file.as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._tell("textDocument/didOpen", {"textDocument": document})
        return uri

    def hover(self, uri: str, line: int, character: int) -> str:
        """What is shown when the mouse rests there; counted from 0."""
        answer = self.ask("textDocument/hover", _place(uri, line, character))
        return str(answer["contents"]["value"]) if answer else ""

    def completions(self, uri: str, line: int, character: int) -> dict[str, str]:
        """Label → description."""
        answer = self.ask("textDocument/completion", _place(uri, line, character))
        items = answer["items"] if isinstance(answer, dict) else answer or []
        return {item["label"]: _text(item.get("documentation") or "") for item in items}

    def diagnostics(self, uri: str) -> list[str]:
        """`line: message`, of the file as it was opened."""
        while uri not in self._diagnostics:
            self._read()
        return [f"{d['range']['start']['line'] + 1}: {d['message']}" for d in self._diagnostics[uri]]

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        """A request's result."""
        self._asked += 1
        wanted = self._asked
        self._send({"id": wanted, "method": method, "params": params})
        while (message := self._read()).get("id") != wanted or "method" in message:
            pass
        assert "error" not in message, message
        return message["result"]

    def _tell(self, method: str, params: dict[str, Any]) -> None:
        self._send({"method": method, "params": params})

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        out = self._process.stdout
        assert out is not None
        length = 0
        while line := out.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name == b"Content-Length" else length
        assert length, "yaml-language-server ended"
        message: dict[str, Any] = json.loads(out.read(length))
        if message.get("method") == "textDocument/publishDiagnostics":
            self._diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif "method" in message and "id" in message:  # it asks, for instance to register capabilities
            self._send({"id": message["id"], "result": None})
        return message


def _place(uri: str, line: int, character: int) -> dict[str, Any]:
    return {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}


def _text(documentation: Any) -> str:
    return str(documentation["value"] if isinstance(documentation, dict) else documentation)
