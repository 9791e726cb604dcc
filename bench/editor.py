"""The editor's cells: what basedpyright's language server costs while one types.

A client of the bench's own speaks the language server protocol over the server's standard streams:
opens a file of a generated project, asks for what may follow `ctx.rpc.`, changes the file and asks
again. Time is the CPU of the server and of all its children.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from .calls import synthesize_calls
from .checkers import ROOT
from .generation import Metrics, pikku_gen

_PROJECT: Final = "many"
_TIMES: Final = 15
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_FILE: Final = '''"""What is written in the editor."""

from {root}.types.t0000 import Request0000
from {root}_pikku import Context


async def typed(ctx: Context, r0000: Request0000) -> None:
    await ctx.rpc.
'''
_LINE: Final = 7
_TYPED: Final = "    await ctx.rpc."

Message = dict[str, Any]


def type_in_editor(data: Path, *, functions: int) -> list[Metrics]:
    """The first completion after a file was opened, with the project unread until then; the next
    ones, each after a change of the file."""
    synthesize_calls(data / "project", _PROJECT, functions, "attribute")
    project = data / "project"
    pikku_gen(project)
    path = project / _PROJECT / "typed.py"
    text = _FILE.format(root=_PROJECT)
    path.write_text(text, encoding="utf-8")
    with language_server(project, data / "server.log") as server:
        server.open(path, text)
        before = server.cpu_s()
        found = server.complete(path, _LINE, len(_TYPED))
        first = server.cpu_s() - before
        if f"handle_{functions - 1:04}" not in found and len(found) < functions:
            raise AssertionError(f"only {len(found)} names were offered: {found[:5]}")
        spent: list[float] = []
        for number in range(_TIMES):
            typed = f"{_TYPED}handle_0"[: len(_TYPED) + 1 + number % 8]
            server.change(path, number + 2, text.replace(_TYPED, typed))
            before = server.cpu_s()
            if not server.complete(path, _LINE, len(typed)):
                raise AssertionError(f"nothing was offered after {typed!r}")
            spent.append(server.cpu_s() - before)
    return [
        {"cpu_ms": first * 1e3},
        {"cpu_ms": statistics.median(spent) * 1e3, "max_ms": max(spent) * 1e3},
    ]


class LanguageServer:
    """One server at work; requests are answered one after the other."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._pid = process.pid
        self._to: IO[bytes] = process.stdin
        self._back: IO[bytes] = process.stdout
        self._folder = folder
        self._sent = 0

    def start(self) -> None:
        """The handshake."""
        root = self._folder.as_uri()
        answers = {"configuration": True, "workspaceFolders": True}
        self.request(
            "initialize",
            {
                "processId": os.getpid(),
                "rootUri": root,
                "workspaceFolders": [{"uri": root, "name": self._folder.name}],
                "capabilities": {"workspace": answers, "textDocument": {"completion": {}}},
            },
        )
        self.notify("initialized", {})

    def open(self, path: Path, text: str) -> None:
        """Says that a file is shown."""
        shown = {"uri": path.as_uri(), "languageId": "python", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": shown})

    def change(self, path: Path, version: int, text: str) -> None:
        """Says that a file is another one now."""
        document = {"uri": path.as_uri(), "version": version}
        changes = [{"text": text}]
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": changes})

    def complete(self, path: Path, line: int, column: int) -> list[str]:
        """The names that are offered at a place."""
        place = {"line": line, "character": column}
        given = {"textDocument": {"uri": path.as_uri()}, "position": place}
        found = self.request("textDocument/completion", given)
        items = found["items"] if isinstance(found, dict) else found or []
        return [str(item["label"]) for item in items]

    def request(self, method: str, given: Mapping[str, object]) -> Any:
        """The result of a request; what the server asks meanwhile is answered with nothing."""
        self._sent += 1
        number = self._sent
        self._send({"id": number, "method": method, "params": given})
        while True:
            message = self._receive()
            if "method" in message:
                if "id" in message:
                    self._answer(message)
            elif message["id"] == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]

    def notify(self, method: str, given: Mapping[str, object]) -> None:
        """Says something that nothing answers."""
        self._send({"method": method, "params": given})

    def cpu_s(self) -> float:
        """CPU seconds of the server and its children so far."""
        return sum(map(_cpu_of, _tree(self._pid))) / _TICKS

    def _answer(self, asked: Message) -> None:
        settings = asked["method"] == "workspace/configuration"
        items: list[object] = asked["params"]["items"] if settings else []
        self._send({"id": asked["id"], "result": [{} for _ in items] if settings else None})

    def _send(self, message: Message) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._to.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._to.flush()

    def _receive(self) -> Message:
        length = 0
        while line := self._back.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if not length:
            raise RuntimeError("the language server ended")
        received: Message = json.loads(self._back.read(length))
        return received


@contextmanager
def language_server(project: Path, log: Path) -> Generator[LanguageServer, None, None]:
    """A server of its own for one project."""
    config = {
        "typeCheckingMode": "strict",
        "include": [_PROJECT],
        "extraPaths": [".", str(ROOT / "runtime")],
        "pythonVersion": "3.11",
    }
    (project / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    program = str(Path(sys.executable).with_name("basedpyright-langserver"))
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [program, "--stdio"],
            cwd=project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            server = LanguageServer(process, project)
            server.start()
            yield server
        finally:
            for pid in reversed(_tree(process.pid)):
                _kill(pid)
            process.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def _tree(pid: int) -> list[int]:
    """A process and those it started, and theirs."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def _cpu_of(pid: int) -> int:
    """Clock ticks of a process, and of the children it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))
