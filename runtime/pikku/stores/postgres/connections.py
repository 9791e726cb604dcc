"""Connections to a PostgreSQL server, and what its errors mean."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
from psycopg import Connection, errors
from psycopg.conninfo import conninfo_to_dict

from pikku.errors import (
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreUrlError,
)

Row = tuple[Any, ...]
IDLE_IN_TRANSACTION_MS = 5_000
"""For how long a process may stand still with rows locked: shorter than a lease by default, so that
one that is frozen keeps nobody from taking its runs over."""
IDLE_AT_MOST = f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}".encode()
BY_INDEX = (
    b"SELECT set_config(name, 'off', false)"
    b" FROM unnest('{enable_seqscan,enable_hashjoin,enable_mergejoin,jit}'::text[]) AS name"
)
"""Every row that a transition touches is found by an index. A prepared statement keeps the plan of
its first executions, when the tables may have been empty: left to itself the server would read all
of a table that has grown, until it is analysed."""
CONNECT_SECONDS = 10
SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}")


class Address(NamedTuple):
    """Where a database is, and how it is spoken to.

    `pooled`: through a pooler that gives a connection to each transaction, so nothing may be left
    in a connection: no prepared statements, no settings, no `LISTEN`.
    """

    conninfo: str
    schema: str = "pikku"
    pooled: bool = False
    migrates: bool = True

    @property
    def shown(self) -> str:
        """The URL without its password."""
        parts = urlsplit(self.conninfo)
        name = f"{parts.username}@" if parts.username else ""
        host = parts.netloc.rpartition("@")[2]
        return f"postgresql://{name}{host}{parts.path}" + (
            f"?schema={self.schema}" if self.schema != "pikku" else ""
        )


def address_of(url: str) -> Address:
    """The address that a store URL names.

    `postgresql://user:password@host:5432/database`, with `?schema=pikku`, `?pooling=transaction`
    for a pooler such as PgBouncer in transaction mode, `?migrate=0` for a role that may not change
    the schema, and libpq's own parameters (`sslmode`, `sslrootcert`, `application_name`, …; see
    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS).

    Raises:
        StoreUrlError: an option makes no sense, or libpq does not know it.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = given.pop("schema", "pikku")
    if not SCHEMA_NAME.fullmatch(schema):
        raise StoreUrlError(
            url,
            reason=f"schema cannot be {schema!r} in",
            hint="up to 48 lower-case letters, digits and underscores, no digit first",
        )
    pooling = given.pop("pooling", "session")
    if pooling not in ("session", "transaction"):
        raise StoreUrlError(
            url,
            reason=f"pooling cannot be {pooling!r} in",
            hint="pooling=session (the default) or pooling=transaction",
        )
    migrate = given.pop("migrate", "1")
    if migrate not in ("0", "1"):
        raise StoreUrlError(
            url, reason=f"migrate cannot be {migrate!r} in", hint="migrate=1 (the default) or 0"
        )
    given.setdefault("application_name", "pikku")
    given.setdefault("connect_timeout", str(CONNECT_SECONDS))
    conninfo = parts._replace(scheme="postgresql", query=urlencode(given, quote_via=quote)).geturl()
    try:
        conninfo_to_dict(conninfo)
        _ = "," in parts.netloc or parts.port
    except (psycopg.Error, ValueError) as error:
        raise StoreUrlError(url, reason=f"{str(error).strip()}, in", hint=_HINT) from error
    return Address(conninfo, schema, pooling == "transaction", migrate == "1")


_HINT = "postgresql://user:password@host:5432/database"


def connect(address: Address, *, writes: bool = False) -> Connection[Row]:
    """A connection that commits by itself unless told to `BEGIN`.

    Args:
        writes: whether transitions are made on it.

    Raises:
        StoreError: and its kinds, if there is none to be had.
    """
    try:
        connection = Connection.connect(
            address.conninfo, autocommit=True, prepare_threshold=None if address.pooled else 1
        )
        connection.prepared_max = 512
        if not address.pooled:
            connection.execute(IDLE_AT_MOST)
            if writes:
                connection.execute(BY_INDEX)
    except psycopg.Error as error:
        raise translated(error, address) from error
    return connection


def translated(error: psycopg.Error, address: Address) -> StoreError:
    """The error of pikku's that a driver's *error* amounts to."""
    text = " ".join(str(error).split()) or type(error).__name__
    message = f"{address.shown}: {text}"
    if isinstance(error, (errors.DiskFull, errors.OutOfMemory)):
        return StoreFullError(message)
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return StoreReadOnlyError(message)
    if isinstance(error, errors.InsufficientPrivilege):
        return StoreReadOnlyError(message)
    if isinstance(error, (errors.UndefinedTable, errors.InvalidSchemaName)):
        return StoreUnavailableError(message, hint="pikku db migrate")
    gone = (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        errors.IdleInTransactionSessionTimeout,
    )
    if isinstance(error, gone):
        return StoreUnavailableError(message)
    return StoreError(message)
