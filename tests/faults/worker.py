"""`pikku worker` as it is, with shorter leases and somebody who takes down what it was told.

A program. `FAULT_OPTIONS` are engine options as JSON. The outcomes that its store has confirmed go
to the ledger as acknowledged; how often it was refused goes to the file that `FAULT_REFUSED` names.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tests.servers.ledger import Ledger

from pikku import _settings
from pikku._records import Commit, CompleteStep, Op, OpResult, Reply
from pikku.stores.redis.store import RedisStore


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


def watch_store() -> None:
    ledger = Ledger.here()
    real = RedisStore.apply

    async def apply(
        self: RedisStore, session: str, ops: Sequence[Op], want: Mapping[str, int], /
    ) -> Reply:
        reply = await real(self, session, ops, want)
        for op, result in zip(ops, reply.results, strict=True):
            take_down(ledger, op, result)
        return reply

    patched: Any = RedisStore
    patched.apply = apply


def main() -> None:
    options: dict[str, Any] = json.loads(os.environ.get("FAULT_OPTIONS", "{}"))
    changed: Any = _settings
    changed.EngineOptions = functools.partial(_settings.EngineOptions, **options)
    watch_store()
    from pikku.cli import main

    main()


if __name__ == "__main__":
    main()
