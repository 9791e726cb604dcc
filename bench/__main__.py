"""The command: `python -m bench`, one table of ours beside the peers, from one run."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path

from .own import run_own
from .peers import Surroundings
from .plan import CELLS, FAMILIES, OURS, Cell, Family
from .plan_postgres import POSTGRES_CELLS, POSTGRES_FAMILIES
from .plan_redis import REDIS_CELLS, REDIS_FAMILIES
from .postgres import postgres_version
from .samples import Gap, Record, from_lines, to_line
from .server import server_version
from .table import gaps, noise, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then print. 1 when a cell of ours could not be measured, 2 on misuse."""
    options = _parser().parse_args(arguments)
    cells: Sequence[Cell] = CELLS
    families: Sequence[Family] = FAMILIES
    if options.redis:
        cells, families = REDIS_CELLS, REDIS_FAMILIES
    elif options.postgres:
        cells, families = POSTGRES_CELLS, POSTGRES_FAMILIES
    if options.list:
        print("\n".join(f"{cell.name:26} {cell.title}" for cell in cells))
        return 0
    if options.table is not None:
        if not options.table.is_file():
            print(f"no samples are kept in {options.table}", file=sys.stderr)
            return 2
        lines = options.table.read_text("utf-8").splitlines()
        _print(lines[0], list(from_lines(lines)))
        return 0
    chosen = _chosen(options.only, cells)
    if not chosen:
        print(f"no cell is named {options.only}; --list shows the names", file=sys.stderr)
        return 2
    heading = _heading(redis=options.redis, postgres=options.postgres)
    records: list[Record] = []
    with options.out.open("w", encoding="utf-8") if options.out else nullcontext() as kept:
        if kept:
            print(heading, file=kept)
        for record in _measure(options, chosen, families):
            records.append(record)
            if kept:
                print(to_line(record), file=kept, flush=True)
    _print(heading, records)
    return int(any(isinstance(one, Gap) and one.engine == OURS for one in records))


def _print(heading: str, records: Sequence[Record]) -> None:
    parts = (heading, table(records), gaps(records), _footing(records))
    print("\n\n".join(part for part in parts if part))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    stores = parser.add_mutually_exclusive_group()
    stores.add_argument("--redis", action="store_true", help="the cells on Redis, instead")
    stores.add_argument("--postgres", action="store_true", help="those on PostgreSQL, instead")
    parser.add_argument("--peers", type=Path, help="folder that holds the peers' scripts")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, interleaved (3)")
    parser.add_argument("--only", default="*", help="cells, by name or pattern: a,b-*")
    parser.add_argument("--quick", action="store_true", help="smaller counts, the same shape")
    parser.add_argument("--data", type=Path, help="folder for databases and projects")
    parser.add_argument("--out", type=Path, help="keep the samples in this file")
    parser.add_argument("--table", type=Path, help="print the table of kept samples")
    parser.add_argument("--list", action="store_true", help="print the names of the cells")
    return parser


def _chosen(only: str, cells: Sequence[Cell]) -> set[str]:
    patterns = [part.strip() for part in only.split(",") if part.strip()]
    return {cell.name for cell in cells if any(fnmatch(cell.name, one) for one in patterns)}


def _measure(
    options: argparse.Namespace, chosen: set[str], families: Sequence[Family]
) -> Iterator[Record]:
    environments = os.environ.get("PEERS_ENV")
    data = (options.data or Path(tempfile.gettempdir())).resolve()
    where = Surroundings(
        scripts=options.peers.resolve() if options.peers else None,
        environments=Path(environments).resolve() if environments else None,
        data=data,
        quick=options.quick,
    )
    for number in range(1, options.rounds + 1):
        for family in families:
            for own in family.own:
                if chosen.intersection(own.cells):
                    _progress(number, options.rounds, own.cells, "pikku")
                    yield from _of(chosen, run_own(own, data, quick=options.quick))
            for peer in family.peers:
                if chosen.intersection(peer.cells):
                    _progress(number, options.rounds, peer.cells, peer.engine)
                    yield from _of(chosen, peer.run(where))


def _of(chosen: set[str], records: Iterator[Record]) -> Iterator[Record]:
    return (record for record in records if record.cell in chosen)


def _progress(number: int, rounds: int, cells: Sequence[str], engine: str) -> None:
    print(f"round {number}/{rounds}  {engine}: {', '.join(cells)}", file=sys.stderr)


def _heading(*, redis: bool, postgres: bool) -> str:
    store = f"SQLite {sqlite3.sqlite_version}"
    if redis:
        store = server_version() or "no Redis"
    elif postgres:
        store = f"{postgres_version() or 'no PostgreSQL'}, {store}"
    return (
        f"Python {platform.python_version()}, {store}, {os.cpu_count()} CPUs, {platform.system()}"
    )


def _footing(records: Sequence[Record]) -> str:
    seen = noise(records)
    if not seen:
        return "nothing was measured"
    return (
        f"others used {seen['median']:.0%} of the machine meanwhile (at worst"
        f" {seen['max']:.0%}): trust CPU and counts first, speed last"
    )


if __name__ == "__main__":
    sys.exit(main())
