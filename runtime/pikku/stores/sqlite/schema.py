"""Numbered migrations: a file is brought to this version when it is opened."""

from __future__ import annotations

import sqlite3
from importlib.resources import files
from pathlib import Path

from pikku.errors import SchemaVersionError
from pikku.stores.sqlite.connections import APPLICATION_ID


def migrations() -> list[tuple[int, str]]:
    """(version, script), ascending."""
    folder = files("pikku.stores.sqlite") / "migrations"
    found = sorted(each.name for each in folder.iterdir() if each.name.endswith(".sql"))
    return [(int(name.split("_")[0]), (folder / name).read_text("utf-8")) for name in found]


def migrate(connection: sqlite3.Connection, path: Path) -> int:
    """Bring the file up to date in one transaction and return its version.

    Raises:
        SchemaVersionError: the file is from a newer pikku.
    """
    wanted = migrations()
    newest = wanted[-1][0]
    if _version(connection, path, newest) == newest:
        return newest
    connection.execute("BEGIN IMMEDIATE")
    try:
        current = _version(connection, path, newest)
        for version, script in wanted:
            if version > current:
                for statement in _statements(script):
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return newest


def _version(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > newest:
        raise SchemaVersionError(
            f"{path} has schema version {found}, and this pikku knows versions up to {newest}"
        )
    return found


def _statements(script: str) -> list[str]:
    statements: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
