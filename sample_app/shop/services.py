"""What the shop's functions work with: a ledger in a file, and a mailer that writes to it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
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


@dataclass(frozen=True)
class Services:
    """What `ctx.services` is."""

    ledger: Ledger
    mailer: Mailer


@asynccontextmanager
async def create_services() -> AsyncGenerator[Services, None]:
    """The services of one process; `SHOP_DATA` names their folder."""
    ledger = Ledger(Path(os.environ.get("SHOP_DATA", DEFAULT_FOLDER)))
    yield Services(ledger, Mailer(ledger))
