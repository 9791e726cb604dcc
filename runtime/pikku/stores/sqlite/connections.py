"""A SQLite connection with a thread of its own, and what its errors mean."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pikku.errors import (
    CorruptStoreError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

T = TypeVar("T")
BUSY_TIMEOUT_SECONDS = 10.0
# Between two attempts to begin writing, at first and after a second.
ATTEMPT_SECONDS = 0.001
LATER_ATTEMPT_SECONDS = 0.005
# "pikk" in ASCII; marks the file as ours (https://sqlite.org/pragma.html#pragma_application_id).
APPLICATION_ID = 0x70696B6B

_BY_NAME: tuple[tuple[str, type[StoreError], str], ...] = (
    ("SQLITE_FULL", StoreFullError, "the disk that holds {path} is full"),
    ("SQLITE_READONLY", StoreReadOnlyError, "{path} is read-only"),
    ("SQLITE_PERM", StoreReadOnlyError, "{path} may not be opened"),
    ("SQLITE_NOTADB", CorruptStoreError, "{path} is not a SQLite database"),
    ("SQLITE_CORRUPT", CorruptStoreError, "{path} is damaged"),
    ("SQLITE_BUSY", StoreUnavailableError, "{path} is locked by another process"),
    ("SQLITE_LOCKED", StoreUnavailableError, "{path} is locked by another process"),
    ("SQLITE_CANTOPEN", StoreUnavailableError, "{path} cannot be opened"),
    ("SQLITE_IOERR", StoreUnavailableError, "{path} cannot be read or written"),
)


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    """The error of pikku's that a driver's *error* amounts to."""
    name = getattr(error, "sqlite_errorname", None) or ""
    for prefix, kind, message in _BY_NAME:
        if name.startswith(prefix):
            return kind(f"{message.format(path=path)}: {error}")
    return StoreError(f"{path}: {error}")


class ConnectionThread:
    """Runs functions one after the other against one connection, off the event loop."""

    def __init__(self, path: Path, *, synchronous: str, name: str) -> None:
        self._path = path
        self._synchronous = synchronous
        self._calls: queue.SimpleQueue[Callable[[sqlite3.Connection], None] | None] = (
            queue.SimpleQueue()
        )
        self._opened: list[BaseException | None] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Open the connection.

        Raises:
            StoreError: if that fails.
        """
        self._thread.start()
        self._ready.wait()
        if (failure := self._opened[0]) is not None:
            raise failure

    def stop(self) -> None:
        """Close the connection after what was already asked for."""
        self._calls.put(None)
        self._thread.join()

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What *function* returns, called on the thread."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def call(connection: sqlite3.Connection) -> None:
            try:
                value = function(connection)
            except sqlite3.Error as error:
                failure = translated(error, self._path)
                failure.__cause__ = error
                _post(loop, answer.set_exception, failure, answer)
            except BaseException as error:
                _post(loop, answer.set_exception, error, answer)
            else:
                _post(loop, answer.set_result, value, answer)

        self._calls.put(call)
        return await answer

    def _serve(self) -> None:
        try:
            connection = connect(self._path, self._synchronous)
        except BaseException as error:
            self._opened.append(error)
            self._ready.set()
            return
        self._opened.append(None)
        self._ready.set()
        while (call := self._calls.get()) is not None:
            call(connection)
        connection.close()


def _post(
    loop: asyncio.AbstractEventLoop,
    deliver: Callable[[T], None],
    value: T,
    answer: asyncio.Future[Any],
) -> None:
    def settle() -> None:
        if not answer.done():
            deliver(value)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop was closed while the call was under way
        pass


def refuse_strangers(connection: sqlite3.Connection, path: Path) -> None:
    """Raise, with the file untouched, if it is a database of some other program."""
    connection.execute("BEGIN")  # one snapshot: another process may be making the file just now
    try:
        tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    finally:
        connection.execute("ROLLBACK")
    if owner != APPLICATION_ID and (owner or version or tables):
        raise CorruptStoreError(f"{path} is a database of another program")


def is_busy(error: sqlite3.Error) -> bool:
    """Whether it says that somebody else has the file locked."""
    return (getattr(error, "sqlite_errorname", None) or "").startswith("SQLITE_BUSY")


def begin_writing(connection: sqlite3.Connection, patience: float) -> None:
    """Begin a transaction as soon as no other connection is writing; one that does not wait by
    itself.

    SQLite's own waiting looks less and less often, up to ten times a second, and so gives way to
    whoever commits one batch after the other: of four such processes it kept one waiting for 8 s,
    and this one none for longer than a quarter of a second.

    Raises:
        sqlite3.OperationalError: the connection has not got its turn within *patience* seconds.
    """
    began = time.monotonic()
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            waited = time.monotonic() - began
            if not is_busy(error) or waited > patience:
                raise
        time.sleep(ATTEMPT_SECONDS if waited < 1 else LATER_ATTEMPT_SECONDS)


def checkpointed(connection: sqlite3.Connection, patience: float) -> bool:
    """Move all of the write-ahead log into the file, and cut it off; False if others have kept that
    from happening for *patience* seconds. The connection waits for readers by itself; for another
    that moves a part of the log it does not."""
    until = time.monotonic() + patience
    while True:
        in_vain: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if not in_vain or time.monotonic() > until:
            return not in_vain
        time.sleep(ATTEMPT_SECONDS)


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    """Change the journal mode, which SQLite answers with BUSY at once while another process does,
    whatever the timeout."""
    until = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """A connection to *path* in WAL mode, usable from any one thread at a time.

    Raises:
        StoreError: if it cannot be opened, or is not ours.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailableError(f"cannot make the folder {path.parent}: {error}") from error
    try:
        connection = sqlite3.connect(
            path,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            refuse_strangers(connection, path)
            _enter_wal_mode(connection)
            connection.execute(f"PRAGMA synchronous = {synchronous}")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise translated(error, path) from error
    return connection
