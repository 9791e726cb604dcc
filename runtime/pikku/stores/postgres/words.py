"""Words between processes: `NOTIFY` from whoever fills a queue, `LISTEN` by whoever waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection

from pikku.errors import StoreUnavailableError
from pikku.stores.base import MAIL
from pikku.stores.postgres.connections import Address, translated

log = logging.getLogger("pikku")

Row = tuple[Any, ...]
PAYLOAD_BYTES = 7_900
"""A payload must be shorter than 8,000 bytes (https://www.postgresql.org/docs/current/sql-notify.html)."""
EVERYTHING = "*"
"""The word that stands for all that did not fit."""


class Words:
    """What was said on the channel of a schema, kept until somebody waits for it.

    Words are lost while the connection is: whoever waits is told to look at everything when it is
    there again.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self.channel = f"pikku_{address.schema}"
        self._listener: asyncio.Task[None] | None = None
        self._heard: set[str] = set()
        self._news = asyncio.Event()
        self._listening = asyncio.Event()
        self._failure: StoreUnavailableError | None = None

    def say(
        self, connection: Connection[Row], queues: Iterable[str], sessions: Iterable[str]
    ) -> None:
        """Tell of them when the transaction of *connection* commits."""
        if self._address.pooled:
            return
        words = "\n".join([*sorted(queues), *sorted(f"{MAIL}:{each}" for each in sessions)])
        if len(words.encode()) > PAYLOAD_BYTES:
            words = EVERYTHING
        connection.execute("SELECT pg_notify(%s, %s)", (self.channel, words))

    async def wait(self, session: str, queues: Sequence[str], seconds: float) -> str | None:
        """The name of one of *queues*, or `MAIL`, once that was told; None after *seconds*, and
        once when words may have been lost.

        Raises:
            StoreUnavailableError: the server cannot be listened to.
        """
        if self._listener is None or self._listener.done():
            self._failure = None
            self._listening.clear()
            self._listener = asyncio.get_running_loop().create_task(
                self._listen(), name="pikku-postgres-listener"
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    if self._failure is not None:
                        raise self._failure
                    if EVERYTHING in self._heard:
                        self._heard.clear()
                        return None
                    for name in (f"{MAIL}:{session}", *queues):
                        if name in self._heard:
                            self._heard.discard(name)
                            return MAIL if name.startswith(f"{MAIL}:") else name
                    self._heard.clear()  # for queues that nobody here waits for
                    self._news.clear()
                    await self._news.wait()
        return None

    async def _listen(self) -> None:
        try:
            async with await AsyncConnection.connect(
                self._address.conninfo, autocommit=True
            ) as connection:
                await connection.execute(f"LISTEN {self.channel}".encode())
                self._hear(EVERYTHING)
                async for word in connection.notifies():
                    self._hear(word.payload)
        except psycopg.Error as error:
            failure = translated(error, self._address)
            self._failure = StoreUnavailableError(str(failure.message))
            self._news.set()

    def _hear(self, words: str) -> None:
        self._heard.update(words.split("\n"))
        self._news.set()

    async def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None
