"""Drivers for PostgreSQL at the store's own work: `python -m bench.drivers`, one table.

The batch is the store's: it locks the runs, adds a step to each, ends the one before, and commits.
psycopg does it as the store does, synchronously in a thread, in a pipeline, each column a text;
asyncpg on the loop, with lists. Who asks is a coroutine in both cases.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import re
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from .meter import cpu_s
from .postgres import PostgresServer, postgres_server, postgres_version

Columns = list[list[Any]]
Ask = Callable[[], Awaitable[object]]

TURNS, SAVED, ADDED = "nnnnn", "nttnnntttnnnnttbt", "ntntttnnntttttnnnnnttbtn"
WARM = 20


class Batches:
    """The columns of one batch after the other, for runs that are there."""

    def __init__(self, first: int, size: int) -> None:
        self.numbers = list(range(first, first + size))
        self._turn = 0

    def next(self) -> Columns:
        """Those of `save_turns`: what the runs become, the steps that end, the steps that begin."""
        self._turn += 1
        turn, now = self._turn, 1_780_000_000_000_000 + self._turn
        turns = [(each, turn, turn, turn, now) for each in self.numbers]
        ended = ("succeeded", 1, 0, 0, '{"i": 1, "ok": true}', None, None, None, now, now, turn)
        saved = [(each, f"s{turn - 1}", *ended, None, None, False, None) for each in self.numbers]
        begun = ("running", 1, 0, 0, "", None, None, None, None, None, now, now, None, None)
        added = [
            (each, f"s{turn}", turn, "inline", "", *begun, None, None, False, None, 1)
            for each in self.numbers
        ]
        return [
            list(column) for rows in (turns, saved, added) for column in zip(*rows, strict=True)
        ]


# --- the drivers --------------------------------------------------------------


async def psycopg_in_a_thread(server: PostgresServer, batches: Batches | None) -> tuple[Ask, Ask]:
    """What asks once, and what closes."""
    from pikku.stores.postgres.arrays import numbers, texts, truths
    from pikku.stores.postgres.connections import address_of, connect, translated
    from pikku.stores.postgres.schema import queries
    from pikku.stores.postgres.threads import ConnectionThread

    address, statements = address_of(server.url), queries("pikku")
    thread = ConnectionThread(
        lambda: connect(address, writes=True), lambda error: translated(error, address), "bench"
    )
    thread.start()
    spell: dict[str, Callable[[Any], str]] = {"n": numbers, "t": texts, "b": truths}

    def alone(connection: Any) -> None:
        connection.execute("SELECT 1").fetchone()

    def batch(connection: Any) -> None:
        assert batches is not None
        columns = batches.next()
        with connection.pipeline():
            connection.execute("BEGIN")
            begun = connection.cursor(binary=True)
            begun.execute(statements["begin_known"], (None, "s", numbers(batches.numbers)))
            assert len(begun.fetchall()) == len(batches.numbers)
            kinds = TURNS + SAVED + ADDED
            values = [spell[kind](column) for kind, column in zip(kinds, columns, strict=True)]
            connection.cursor(binary=True).execute(statements["save_turns"], values)
            connection.execute("COMMIT")

    async def close() -> None:
        thread.stop()

    return lambda: thread.run(alone if batches is None else batch), close


async def asyncpg_on_the_loop(server: PostgresServer, batches: Batches | None) -> tuple[Ask, Ask]:
    """What asks once, and what closes."""
    from pikku.stores.postgres.schema import queries

    asyncpg: Any = importlib.import_module("asyncpg")
    connection = await asyncpg.connect(server.url)
    for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"):
        await connection.execute(f"SET {setting} = off")
    statements = {name: _numbered(text.decode()) for name, text in queries("pikku").items()}

    async def alone() -> None:
        await connection.fetchval("SELECT 1")

    async def batch() -> None:
        assert batches is not None
        columns = batches.next()
        async with connection.transaction():
            begun = await connection.fetch(statements["begin_known"], None, "s", batches.numbers)
            assert len(begun) == len(batches.numbers)
            await connection.fetch(statements["save_turns"], *columns)

    return alone if batches is None else batch, connection.close


def _numbered(statement: str) -> str:
    """The statement with `$1`, `$2`, ... for its parameters."""
    places = iter(range(1, 1000))
    return re.sub("%s", lambda _: f"${next(places)}", statement)


# --- what is asked of them ----------------------------------------------------

DRIVERS = {
    "psycopg, thread, pipeline": (psycopg_in_a_thread, False),
    "asyncpg, asyncio": (asyncpg_on_the_loop, False),
    "asyncpg, uvloop": (asyncpg_on_the_loop, True),
}
WORK = {"a statement alone": (0, 400), "a batch of 1": (1, 200), "a batch of 50": (50, 60)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then print."""
    parser = argparse.ArgumentParser(prog="python -m bench.drivers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, interleaved (5)")
    options = parser.parse_args(arguments)
    uvloop = _uvloop()
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory(prefix="pikku-drivers-") as folder:
        with postgres_server(Path(folder)) as server:
            _prepare(server)
            first = 1
            for _ in range(options.rounds):
                for work, (size, times) in WORK.items():
                    for driver, (start, fast) in DRIVERS.items():
                        if fast and uvloop is None:
                            continue
                        batches = Batches(first, size) if size else None
                        if size:
                            _add_runs(server, first, size)
                        first += size
                        run = uvloop.run if fast and uvloop is not None else asyncio.run
                        sample = run(_measured(server, start, batches, times))
                        found.setdefault((work, driver), []).append(sample)
    print(f"{postgres_version()}, {options.rounds} rounds\n")
    print(_table(found))
    return 0


def _uvloop() -> Any:
    try:
        return importlib.import_module("uvloop")
    except ImportError:
        return None


def _prepare(server: PostgresServer) -> None:
    from pikku.stores.postgres.connections import address_of, connect
    from pikku.stores.postgres.schema import migrate

    address = address_of(server.url)
    with connect(address) as connection:
        migrate(connection, address)
        connection.execute("INSERT INTO pikku.sessions VALUES ('s', 9000000000000000)")


def _add_runs(server: PostgresServer, first: int, size: int) -> None:
    server.sql(
        "INSERT INTO pikku.runs (number, run_id, workflow, status, version, inline, owner, queued,"
        " tags, created_us, updated_us) SELECT n, 'r' || n, 'w', 'running', '1', true, 's', false,"
        f" '{{}}', 1, 1 FROM generate_series({first}, {first + size - 1}) AS n RETURNING 1"
    )


async def _measured(
    server: PostgresServer,
    start: Callable[[PostgresServer, Batches | None], Coroutine[Any, Any, tuple[Ask, Ask]]],
    batches: Batches | None,
    times: int,
) -> tuple[float, ...]:
    """Microseconds of the client, of the server, and from question to answer (p50)."""
    ask, close = await start(server, batches)
    for _ in range(WARM):
        await ask()
    took: list[float] = []
    of_server, of_client = server.cpu_s(), cpu_s()
    for _ in range(times):
        began = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - began)
    of_client, of_server = cpu_s() - of_client, server.cpu_s() - of_server
    await close()
    return of_client / times * 1e6, of_server / times * 1e6, statistics.median(took) * 1e6


HEAD = ("what", "driver", "client us", "min-max", "server us", "both us", "p50 us")


def _table(found: dict[tuple[str, str], list[tuple[float, ...]]]) -> str:
    rows: list[tuple[str, ...]] = [HEAD]
    for (work, driver), samples in sorted(found.items()):
        client, of_server, took = zip(*samples, strict=True)
        both = [sum(sample[:2]) for sample in samples]
        rows.append(
            (
                work,
                driver,
                f"{statistics.median(client):.0f}",
                f"{min(client):.0f}-{max(client):.0f}",
                f"{statistics.median(of_server):.0f}",
                f"{statistics.median(both):.0f}",
                f"{statistics.median(took):.0f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
