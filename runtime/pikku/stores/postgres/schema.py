"""Numbered migrations: a schema is brought to this version when the store is opened, or by
`pikku db migrate`."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from psycopg import Connection

from pikku.errors import SchemaVersionError, StoreUnavailableError
from pikku.stores._queries import load_queries
from pikku.stores.postgres.connections import Address
from pikku.stores.postgres.workspace import COLUMNS

Row = tuple[Any, ...]

# Held while a schema is migrated, so that two processes do not do so at once; "pikk" in ASCII, and
# a number of the schema's own.
_LOCK = "SELECT pg_advisory_xact_lock(x'70696b6b'::int, hashtext(%s))"
_VERSIONS = "CREATE TABLE IF NOT EXISTS {schema}.migrations (version integer PRIMARY KEY)"


def queries(schema: str) -> dict[str, bytes]:
    """The statements of the store, for its tables in *schema*."""
    found = load_queries("pikku.stores.postgres")
    return {name: _filled(text, schema).encode() for name, text in found.items()}


def _filled(text: str, schema: str) -> str:
    for name, value in {**COLUMNS, "schema": schema}.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def migrations(schema: str) -> list[tuple[int, str]]:
    """(version, script), ascending."""
    folder = files("pikku.stores.postgres") / "migrations"
    found = sorted(each.name for each in folder.iterdir() if each.name.endswith(".sql"))
    return [
        (int(name.split("_")[0]), _filled((folder / name).read_text("utf-8"), schema))
        for name in found
    ]


def pending_script(connection: Connection[Row], address: Address) -> str:
    """The SQL that brings the schema up to date, as text to be reviewed and run by hand; empty if
    it is up to date.

    Raises:
        SchemaVersionError: the schema is from a newer pikku.
    """
    current = version_of(connection, address)
    wanted = [(number, text) for number, text in migrations(address.schema) if number > current]
    if not wanted:
        return ""
    schema = address.schema
    lines = ["BEGIN;", f"SELECT pg_advisory_xact_lock(x'70696b6b'::int, hashtext('{schema}'));"]
    if not current:
        lines += [f"CREATE SCHEMA IF NOT EXISTS {schema};", _filled(_VERSIONS, schema) + ";"]
    for number, text in wanted:
        lines += [text.rstrip(), f"INSERT INTO {schema}.migrations VALUES ({number});"]
    return "\n".join([*lines, "COMMIT;", ""])


def migrate(connection: Connection[Row], address: Address) -> list[int]:
    """Bring the schema up to date in one transaction; the versions that were new.

    Raises:
        SchemaVersionError: the schema is from a newer pikku.
    """
    wanted = migrations(address.schema)
    if version_of(connection, address) == wanted[-1][0]:
        return []
    with connection.transaction():
        connection.execute(_LOCK, (address.schema,))
        current = version_of(connection, address)
        if not current:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {address.schema}".encode())
            connection.execute(_filled(_VERSIONS, address.schema).encode())
        new = [number for number, _ in wanted if number > current]
        for number, text in wanted:
            if number in new:
                connection.execute(text.encode())
                connection.execute(
                    f"INSERT INTO {address.schema}.migrations VALUES ({number})".encode()
                )
    return new


def check_version(connection: Connection[Row], address: Address) -> None:
    """Refuse a schema that is not this version's.

    Raises:
        SchemaVersionError: it is from a newer pikku.
        StoreUnavailableError: it is older, or not there.
    """
    newest = migrations(address.schema)[-1][0]
    current = version_of(connection, address)
    if current < newest:
        there = f"has version {current} of the schema" if current else "has no schema yet"
        raise StoreUnavailableError(
            f"{address.shown} {there}, and version {newest} is needed", hint="pikku db migrate"
        )


def version_of(connection: Connection[Row], address: Address) -> int:
    """The version of the schema, 0 where there is none.

    Raises:
        SchemaVersionError: it is from a newer pikku.
    """
    # Asked of the catalogue's rows: a name that was looked up in vain before the lock was had would
    # be answered from the server's memory.
    there = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = %s AND tablename = 'migrations'"
    if connection.execute(there, (address.schema,)).fetchone() is None:
        return 0
    table = f"{address.schema}.migrations"
    row = connection.execute(f"SELECT max(version) FROM {table}".encode()).fetchone()
    current: int = (row[0] if row is not None else 0) or 0
    newest = migrations(address.schema)[-1][0]
    if current > newest:
        raise SchemaVersionError(
            f"{address.shown} has schema version {current}, and this pikku knows versions up to"
            f" {newest}"
        )
    return current
