"""What the shop's functions work with: a ledger in a file, a mailer that writes to it, and a table
of customers."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

DEFAULT_FOLDER = ".pikku/shop"


class Ledger:
    """A file with one JSON line for each execution of a side effect.

    A line holds the function's name, the idempotency key, the process and the details. Who reads
    the file sees how often each effect was executed, by whom, and whether the key was there before.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.jsonl"
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def record(self, function: str, invocation_id: str, **details: str) -> bool:
        """Appends a line. False when the key was already there: the effect must not be repeated."""
        with self._lock:
            first = self.find(invocation_id) is None
            entry = {
                "function": function,
                "invocation_id": invocation_id,
                "pid": os.getpid(),
                "repeated": not first,
                **details,
            }
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        return first

    def find(self, invocation_id: str) -> dict[str, object] | None:
        """The first entry under a key."""
        entries = self.entries()
        return next((found for found in entries if found["invocation_id"] == invocation_id), None)

    def entries(self) -> list[dict[str, object]]:
        """Every line of the file, oldest first."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [cast("dict[str, object]", json.loads(line)) for line in lines]


class Mailer:
    """Sends an email once for each key, by writing it into the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def send(self, key: str, to: str, message: str) -> None:
        """Sends one email; under a key that is known nothing is sent again."""
        self._ledger.record("send_email", key, to=to, message=message)


class Customers:
    """The customers' records, in an SQLite file. `updates` counts how often each was migrated."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "customers.db"
        with closing(self._connect()) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS customers ("
                "id INTEGER PRIMARY KEY, email TEXT NOT NULL, updates INTEGER NOT NULL DEFAULT 0)"
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    def add(self, emails: Iterable[str]) -> None:
        """Adds a record for each email."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN")
            rows = [(email,) for email in emails]
            connection.executemany("INSERT INTO customers (email) VALUES (?)", rows)
            connection.execute("COMMIT")

    def page(self, after: int, size: int) -> list[int]:
        """The numbers of the records that follow *after*, at most *size*."""
        with closing(self._connect()) as connection:
            found = connection.execute(
                "SELECT id FROM customers WHERE id > ? ORDER BY id LIMIT ?", (after, size)
            )
            return [number for (number,) in found]

    def migrate(self, number: int) -> None:
        """Brings one record into today's form; ValueError for one that has no email address."""
        with closing(self._connect()) as connection:
            (email,) = connection.execute(
                "SELECT email FROM customers WHERE id = ?", (number,)
            ).fetchone()
            if "@" not in email:
                raise ValueError(f"customer {number} has no email address: {email!r}")
            connection.execute(
                "UPDATE customers SET email = lower(email), updates = updates + 1 WHERE id = ?",
                (number,),
            )

    def mend(self) -> None:
        """Gives every record without an email address one."""
        with closing(self._connect()) as connection:
            connection.execute(
                "UPDATE customers SET email = 'mended' || id || '@example.com' "
                "WHERE instr(email, '@') = 0"
            )

    def updates(self) -> dict[int, int]:
        """How many records were migrated how often: 0 times, once, twice."""
        with closing(self._connect()) as connection:
            return dict(
                connection.execute("SELECT updates, count(*) FROM customers GROUP BY updates")
            )


@dataclass(frozen=True)
class Services:
    """What `ctx.services` is."""

    ledger: Ledger
    mailer: Mailer

    @property
    def customers(self) -> Customers:
        """The customers, in the ledger's folder."""
        return Customers(self.ledger.path.parent)


@asynccontextmanager
async def create_services() -> AsyncGenerator[Services, None]:
    """The services of one process; `SHOP_DATA` names their folder."""
    ledger = Ledger(Path(os.environ.get("SHOP_DATA", DEFAULT_FOLDER)))
    yield Services(ledger, Mailer(ledger))
