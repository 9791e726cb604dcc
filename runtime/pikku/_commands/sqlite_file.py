"""What the doctor reads in a SQLite store that the store itself does not tell; read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pikku.errors import CorruptStoreError


def schema_version(file: Path) -> int:
    """The version of the schema in *file*, before anything brings it up to date."""
    with _reading(file) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return version


@contextmanager
def _reading(file: Path) -> Generator[sqlite3.Connection, None, None]:
    try:
        connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise CorruptStoreError(f"{file} cannot be read: {error}") from error
