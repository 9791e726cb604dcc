"""A run that begins with somebody else's transaction, or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pikku.errors import TransactionError

Row = tuple[Any, ...]
_NAMED = re.compile(rb"%\((\w+)\)s")


async def fetch_row(connection: object, query: bytes, values: Mapping[str, object]) -> Row | None:
    """The first row of *query*, executed in the transaction that *connection* has open.

    *connection* is one of psycopg (`Connection`, `AsyncConnection`) or of asyncpg.

    Raises:
        TransactionError: it is something else, or no transaction is open.
    """
    if isinstance(connection, psycopg.AsyncConnection):
        _check_open(connection.autocommit, connection.info.transaction_status)
        async with connection.cursor(row_factory=tuple_row) as waiting:
            await waiting.execute(query, values)
            return await waiting.fetchone()
    if isinstance(connection, psycopg.Connection):
        _check_open(connection.autocommit, connection.info.transaction_status)
        with connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(query, values).fetchone()
    if type(connection).__module__.partition(".")[0] == "asyncpg":
        return await _fetch_by_asyncpg(connection, query, values)
    raise TransactionError(
        f"a run cannot be started in the transaction of {type(connection).__qualname__!r}"
    )


def _check_open(autocommit: bool, status: TransactionStatus) -> None:
    if autocommit and status == TransactionStatus.IDLE:
        raise TransactionError("the connection has no transaction open")


async def _fetch_by_asyncpg(
    connection: Any, query: bytes, values: Mapping[str, object]
) -> Row | None:
    if not connection.is_in_transaction():
        raise TransactionError("the connection has no transaction open")
    names: list[str] = []

    def numbered(found: re.Match[bytes]) -> bytes:
        name = found[1].decode()
        if name not in names:
            names.append(name)
        return b"$%d" % (names.index(name) + 1)

    text = _NAMED.sub(numbered, query).decode()
    row = await connection.fetchrow(text, *(values[name] for name in names))
    return None if row is None else tuple(row)
