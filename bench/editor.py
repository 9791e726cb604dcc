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
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

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
_PLAIN: Final = '''"""What is written in the editor."""

from pathlib import Path


async def typed(path: Path, name: str) -> None:
    path.
'''

Message = dict[str, Any]


def type_in_editor(data: Path, *, functions: int) -> list[Metrics]:
    """The first completion after a file was opened, with nothing read before; the same again, and
    after each of several edits. First of a class of the standard library in a project of that one
    file, then of all functions of a generated project."""
    floor = data / "floor"
    (floor / _PROJECT).mkdir(parents=True)
    plain = _typed(floor, _PLAIN, names=["joinpath"])
    project = data / "project"
    synthesize_calls(project, _PROJECT, functions, "attribute")
    pikku_gen(project)
    offered = [f"handle_{number:04}" for number in range(0, functions, 4)]
    return [*plain, *_typed(project, _FILE.format(root=_PROJECT), names=offered)]


def _typed(project: Path, text: str, *, names: Sequence[str]) -> list[Metrics]:
    """What completions cost at the end of a text; the first has to offer the names."""
    path = project / _PROJECT / "typed.py"
    path.write_text(text, encoding="utf-8")
    lines = text.splitlines()
    typed = lines[-1]
    with language_server(project, project.with_suffix(".server")) as server:
        before = server.cpu_s()
        server.open(path, text)
        found = server.complete(path, len(lines) - 1, len(typed))
        first = server.cpu_s() - before
        missing = {*names} - {*found}
        if missing:
            raise AssertionError(f"{len(missing)} names were not offered: {sorted(missing)[:3]}")
        again: list[float] = []
        for _ in range(_TIMES):
            before = server.cpu_s()
            server.complete(path, len(lines) - 1, len(typed))
            again.append(server.cpu_s() - before)
        edited: list[float] = []
        for number in range(_TIMES):
            longer = typed + names[0][: 1 + number % len(names[0])]
            server.change(path, number + 2, text.replace(typed, longer))
            before = server.cpu_s()
            if names[0] not in server.complete(path, len(lines) - 1, len(longer)):
                raise AssertionError(f"{names[0]} was not offered after {longer!r}")
            edited.append(server.cpu_s() - before)
    return [
        {"cpu_ms": first * 1e3},
        {"cpu_ms": statistics.median(again) * 1e3, "max_ms": max(again) * 1e3},
        {"cpu_ms": statistics.median(edited) * 1e3, "max_ms": max(edited) * 1e3},
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
        items = cast("list[Message]", found["items"] if isinstance(found, dict) else found or [])
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
