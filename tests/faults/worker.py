"""`pikku worker` as it is, with shorter leases and somebody who takes down what it was told.

A program. `FAULT_OPTIONS` are engine options as JSON. The outcomes that its store has confirmed go
to the ledger as acknowledged; how often it was refused goes to the file that `FAULT_REFUSED` names.
With `FAULT_PUSH_ALONE` it hears of work by the store's word or not at all: what it does in turn, it
does every hour; with `FAULT_AUDIT_EVERY` it compares what it holds with its store at each so many
sweeps. How many pages its SQLite file may have stands in the file `FAULT_PAGES`, if any;
how far off the store's clock is, in the file `FAULT_CLOCK_FILE`. With `FAULT_DIES_AFTER` it dies
when its store has carried out so many batches, before anybody is told of the last.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.clocks import CLOCK_FILE, clock_of
from tests.servers.ledger import Ledger

from pikku import _engine, _intake, _results, _settings
from pikku._records import Commit, CompleteStep, Op, OpResult, Reply
from pikku.stores.base import Store
from pikku.stores.postgres.store import PostgresStore
from pikku.stores.redis.store import RedisStore
from pikku.stores.sqlite.store import SqliteStore

HOUR_SECONDS = 3600.0


def take_down(ledger: Ledger, op: Op, result: OpResult) -> None:
    """One line for each outcome that is known to be recorded, or refused."""
    if isinstance(op, CompleteStep):
        if result.code == "ok" and op.retry_us is None:
            ledger.acknowledged(op.run_id, op.key, op.attempt)
    elif isinstance(op, Commit) and result.code == "ok":
        for write in (*op.ends, *op.asks):
            if write.kind == "rpc" and write.status in ("succeeded", "failed"):
                ledger.acknowledged(op.run_id, write.key, write.attempt)
    if isinstance(op, Commit | CompleteStep) and result.code == "fenced":
        line = f"{os.getpid()} {type(op).__name__} {op.run_id}\n".encode()
        file = os.open(os.environ["FAULT_REFUSED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, line)
        os.close(file)


def watch_store(kind: type[PostgresStore | RedisStore | SqliteStore]) -> None:
    ledger = Ledger.here()
    real: Any = kind.apply
    left = int(os.environ.get("FAULT_DIES_AFTER", "0"))

    async def apply(
        self: Store, session: str, ops: Sequence[Op], want: Mapping[str, int], /
    ) -> Reply:
        if isinstance(self, SqliteStore):
            await limit_pages(self)
        nonlocal left
        reply: Reply = await real(self, session, ops, want)
        if any(isinstance(op, Commit | CompleteStep) for op in ops):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        for op, result in zip(ops, reply.results, strict=True):
            take_down(ledger, op, result)
        return reply

    patched: Any = kind
    patched.apply = apply


async def limit_pages(store: SqliteStore) -> None:
    """What stands for a disk that is full, or is not any more."""
    file = Path(os.environ.get("FAULT_PAGES", ""))
    if file.is_file() and store._writer is not None:
        pages = file.read_text()
        await store._writer.run(
            lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        )


def push_alone() -> None:
    """From now on this process does nothing in turn."""
    for module, name in (
        (_engine, "SWEEP_SECONDS"),
        (_intake, "LISTEN_SECONDS"),
        (_results, "LOOK_AGAIN_SECONDS"),
    ):
        setattr(module, name, HOUR_SECONDS)


def main() -> None:
    options: dict[str, Any] = json.loads(os.environ.get("FAULT_OPTIONS", "{}"))
    changed: Any = _settings
    changed.EngineOptions = functools.partial(_settings.EngineOptions, **options)
    for kind in (PostgresStore, RedisStore, SqliteStore):
        watch_store(kind)
    if "FAULT_PUSH_ALONE" in os.environ:
        push_alone()
    if every := os.environ.get("FAULT_AUDIT_EVERY"):
        patched: Any = _engine
        patched.AUDIT_EVERY = int(every)
    from pikku.cli import main

    file = os.environ.get(CLOCK_FILE)
    with clock_of(Path(file) if file else None):
        main()


if __name__ == "__main__":
    main()
