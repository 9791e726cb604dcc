"""A connection to a Redis server, to ask one thing after another; not the client under test."""

from __future__ import annotations

import contextlib
import socket
import ssl
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

Reply = Any  # str, int, None or a list of them: what RESP2 can say


class ReplyError(Exception):
    """The server answered with an error."""


class Connection:
    """Connected, authenticated and in the database that the URL names."""

    def __init__(self, url: str, *, timeout: float = 10) -> None:
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        database = parts.path.strip("/")
        if parts.scheme == "unix":
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(timeout)
            address: Any = parts.path
            database = options.get("db", "")
        else:
            self._socket = socket.socket()
            self._socket.settimeout(timeout)
            address = (parts.hostname or "127.0.0.1", parts.port or 6379)
        try:
            self._socket.connect(address)
            if parts.scheme == "rediss":
                trusted = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
                self._socket = trusted.wrap_socket(self._socket, server_hostname=parts.hostname)
            self._replies = self._socket.makefile("rb")
        except BaseException:
            self._socket.close()
            raise
        with contextlib.ExitStack() as failing:
            failing.callback(self.close)
            if parts.password:
                self.ask("AUTH", *map(unquote, filter(None, [parts.username, parts.password])))
            if database not in ("", "0"):
                self.ask("SELECT", database)
            failing.pop_all()

    def ask(self, *command: str | bytes | float) -> Reply:
        """The answer to one command; text is decoded as UTF-8."""
        words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
        lines = [b"*%d" % len(words)]
        for word in words:
            lines += [b"$%d" % len(word), word]
        self._socket.sendall(b"\r\n".join([*lines, b""]))
        reply = self._reply()
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _reply(self) -> Reply:
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode(errors="surrogateescape")
        if kind == b"+":
            return rest
        if kind == b"-":
            return ReplyError(rest)
        if kind == b":":
            return int(rest)
        if rest == "-1":
            return None
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        return self._replies.read(int(rest) + 2)[:-2].decode(errors="surrogateescape")
