"""A connection with a thread of its own, which is made again when it was lost."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import Connection

from pikku.errors import StoreError

T = TypeVar("T")
Row = tuple[Any, ...]


class ConnectionThread:
    """Runs functions one after the other against one connection, off the event loop.

    Args:
        connect: makes the connection; raises `StoreError`.
        translate: the error of pikku's that a driver's error amounts to.
        name: the thread's.
    """

    def __init__(
        self,
        connect: Callable[[], Connection[Row]],
        translate: Callable[[psycopg.Error], StoreError],
        name: str,
    ) -> None:
        self._connect = connect
        self._translate = translate
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._connection: Connection[Row] | None = None
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Open the connection.

        Raises:
            StoreError: if that fails.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Close the connection after what was already asked for."""
        self._calls.put(None)
        self._thread.join()

    async def run(self, function: Callable[[Connection[Row]], T], *, again: bool = True) -> T:
        """What *function* returns, called on the thread; a second time, unless not *again*, where
        the connection broke the first time: it had been idle, and the server was restarted."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            try:
                value = self._called(function, again=again)
            except BaseException as error:
                _post(loop, answer.set_exception, error, answer)
            else:
                _post(loop, answer.set_result, value, answer)

        self._calls.put(call)
        return await answer

    def _called(self, function: Callable[[Connection[Row]], T], *, again: bool) -> T:
        connection = self._connection
        if connection is None or connection.closed:
            connection, again = self._connect(), False
            self._connection = connection
        try:
            return function(connection)
        except psycopg.Error as error:
            if again and connection.closed:
                return self._called(function, again=False)
            raise self._translate(error) from error

    def _serve(self) -> None:
        try:
            self._connection = self._connect()
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        while (call := self._calls.get()) is not None:
            call()
        self._connection.close()


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
