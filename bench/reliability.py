"""The fault matrix, played and counted: `python -m bench.reliability --seed 7`.

Scenarios are seeds of the rows of `tests/faults` on each store, with processes and servers of their
own, and inside this process crashes at a call to the store and histories of the simulation. What is
counted is printed as tables, and written into a page with `--out docs/reliability.md`. The exit
code is 1 when a guarantee was broken; the scenario that broke it is told with its seed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from tests.faults.invariants import percentile
from tests.faults.places import PLACES
from tests.faults.scenarios import ROWS

from .played import CRASH, HISTORY, SIMULATED, Played, Scenario, Tally, play, prepare

PROCESSES = 300
ALONE = 1_700
# The quick ones more often.
ALONE_KINDS = (
    *[(CRASH, "memory"), (CRASH, "sqlite"), (HISTORY, SIMULATED), (HISTORY, SIMULATED)] * 2,
    (CRASH, "redis"),
    (CRASH, "postgres"),
)
NAMES = {
    "memory": "Memory",
    "sqlite": "SQLite",
    "redis": "Redis",
    "postgres": "PostgreSQL",
    "pgbouncer": "PostgreSQL behind PgBouncer",
    SIMULATED: "Simulation",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, count, print. 1 when a guarantee was broken."""
    options = _parser().parse_args(arguments)
    stores = _stores_here(options.stores.split(","))
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", file=sys.stderr, flush=True)
    plan = [*with_processes(seed, stores, options.scenarios), *alone(seed, options.in_process)]
    began = time.monotonic()
    played = _play_all(plan, options.jobs, options.seconds)
    page = written(played, command_of(options, seed), time.monotonic() - began)
    print(page)
    if options.out is not None:
        options.out.write_text(page, encoding="utf-8")
    return int(any(each.broken for each in played))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.reliability", description=__doc__)
    parser.add_argument(
        "--stores", default=",".join(PLACES), help="names, joined by commas (all that are here)"
    )
    parser.add_argument(
        "--scenarios", type=int, default=PROCESSES, help=f"with real processes ({PROCESSES})"
    )
    parser.add_argument(
        "--in-process", type=int, default=ALONE, help=f"inside this process ({ALONE})"
    )
    parser.add_argument("--seconds", type=float, help="begin nothing after so many")
    parser.add_argument("--seed", type=int, help="of the plan; drawn and printed without it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    parser.add_argument("--out", type=Path, help="write the page here")
    return parser


def _stores_here(wanted: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in wanted:
        if name not in PLACES:
            raise SystemExit(f"there is no store {name!r}: {', '.join(PLACES)}")
        why = PLACES[name].missing()
        if why is None:
            found.append(name)
        else:
            print(f"without {name}: {why}", file=sys.stderr)
    return found


# --- the plan -----------------------------------------------------------------------------------


def with_processes(seed: int, stores: Sequence[str], count: int) -> Iterator[Scenario]:
    """So many seeds of rows: every row on every store, in a random order, and all over again."""
    dice = random.Random(seed)
    pairs = [(row.name, store) for row in ROWS.values() for store in row.stores if store in stores]
    left = count if pairs else 0
    while left:
        dice.shuffle(pairs)
        for name, store in pairs[:left]:
            yield Scenario(name, store, dice.randrange(10**6))
        left -= min(left, len(pairs))


def alone(seed: int, count: int) -> Iterator[Scenario]:
    """So many that need no process: of each kind in turn."""
    dice = random.Random(seed + 1)
    kinds = [
        (name, store)
        for name, store in ALONE_KINDS
        if store not in PLACES or PLACES[store].missing() is None
    ]
    for number in range(count):
        name, store = kinds[number % len(kinds)]
        yield Scenario(name, store, dice.randrange(10**6))


def _play_all(plan: Sequence[Scenario], jobs: int, seconds: float | None) -> list[Played]:
    """All of it, so many at once, for no longer than that."""
    until = None if seconds is None else time.monotonic() + seconds
    played: list[Played] = []
    left = iter(plan)
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="pikku-plays-") as folder,
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=prepare, initargs=(Path(folder),)
        ) as pool,
    ):
        flying: set[Future[Played]] = set()
        while True:
            for scenario in left if until is None or time.monotonic() < until else ():
                flying.add(pool.submit(play, scenario))
                if len(flying) >= 2 * jobs:
                    break
            if not flying:
                return played
            done, flying = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                played.append(future.result())
                _tell(played, len(plan))


def _tell(played: Sequence[Played], of: int) -> None:
    last = played[-1]
    name, store, seed = last.scenario
    if last.broken is not None:
        print(f"BROKEN {name} {store} {seed}: {last.broken}", file=sys.stderr, flush=True)
    elif not last.scenario.alone or len(played) % 100 == 0:
        counted = f"{last.figures.runs} runs, {last.seconds:.1f} s"
        print(f"{len(played)}/{of} {name} {store} {seed}: {counted}", file=sys.stderr, flush=True)


# --- the page -----------------------------------------------------------------------------------

_PAGE = Path(__file__).with_suffix(".md")


def command_of(options: argparse.Namespace, seed: int) -> str:
    """The command that plays the same plan."""
    words = ["python -m bench.reliability", f"--seed {seed}"]
    if options.stores != ",".join(PLACES):
        words.append(f"--stores {options.stores}")
    words += [f"--scenarios {options.scenarios}", f"--in-process {options.in_process}"]
    if options.seconds is not None:
        words.append(f"--seconds {options.seconds:.0f}")
    return " ".join([*words, f"--jobs {options.jobs}", "--out docs/reliability.md"])


def written(played: Sequence[Played], command: str, seconds: float) -> str:
    """The page."""
    real = [each for each in played if not each.scenario.alone]
    inside = [each for each in played if each.scenario.alone]
    by_store = {name: [p for p in real if p.scenario.store == name] for name in NAMES}
    tables = ["## All stores\n", _summary(real, inside), _remarks(played)]
    for name, those in by_store.items():
        if those:
            tables += [f"## {NAMES[name]}\n", f"{_rows(those)}\n"]
    return _PAGE.read_text(encoding="utf-8").format(
        command=command,
        circumstances=_circumstances(played, seconds),
        tables="\n".join(tables).strip(),
        legend=_legend(real),
    )


def _summary(real: Sequence[Played], inside: Sequence[Played]) -> str:
    by_store = {name: [p for p in real if p.scenario.store == name] for name in NAMES}
    lines = [
        *((NAMES[name], *_cells(Tally.of(those))) for name, those in by_store.items() if those),
        ("**with processes and servers**", *_cells(Tally.of(real))),
        *_inside(inside),
        ("**inside one process**", *_cells(Tally.of(inside))),
        ("**all**", *_cells(Tally.of([*real, *inside]))),
    ]
    return _table(("store", "scenarios", *_COUNTS, "recovery p50", "p99"), lines)


def _circumstances(played: Sequence[Played], seconds: float) -> str:
    stores = {each.scenario.store for each in played if not each.scenario.alone}
    servers = ", ".join(PLACES[name].program() for name in PLACES if name in stores)
    machine = f"Python {platform.python_version()}, {os.cpu_count()} shared cores"
    return f"It took {seconds / 60:.0f} minutes, with {servers}; {machine}."


def _inside(played: Sequence[Played]) -> Iterator[tuple[str, ...]]:
    by_kind: dict[tuple[str, str], list[Played]] = defaultdict(list)
    for each in played:
        by_kind[each.scenario.name, each.scenario.store].append(each)
    for (name, store), those in sorted(
        by_kind.items(), key=lambda pair: list(NAMES).index(pair[0][1])
    ):
        what = "a simulated history" if name == HISTORY else f"a crash at a call, {NAMES[store]}"
        yield (what, *_cells(Tally.of(those)))


_COUNTS = (
    "faults",
    "runs",
    "lost runs",
    "granted again",
    "zombie writes refused",
    "late starts",
    "broken",
)


def _cells(tally: Tally) -> tuple[str, ...]:
    figures = tally.figures
    times = [percentile(figures.recoveries, share) for share in (0.5, 0.99)]
    counts = (
        tally.scenarios,
        sum(figures.faults.values()),
        figures.runs,
        figures.lost_runs,
        figures.repeated_recorded,
        figures.refused,
        figures.late_starts,
        tally.broken,
    )
    return (
        *(f"{count:,}" for count in counts),
        *("-" if each != each else f"{each:.1f} s" for each in times),
    )


def _rows(played: Sequence[Played]) -> str:
    by_row: Mapping[str, list[Played]] = defaultdict(list)
    for each in played:
        by_row[each.scenario.name].append(each)
    lines = [
        (ROWS[name].numbers, _spoken(name), *_cells(Tally.of(those)))
        for name, those in sorted(by_row.items(), key=lambda pair: _order(pair[0]))
    ]
    return _table(("row", "scenario", "scenarios", *_COUNTS, "recovery p50", "p99"), lines)


def _order(name: str) -> tuple[int, str]:
    return int(ROWS[name].numbers.split(",")[0]), name


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _legend(played: Sequence[Played]) -> str:
    names = {each.scenario.name for each in played}
    return _table(
        ("row", "scenario", "what happens"),
        [
            (ROWS[name].numbers, _spoken(name), ROWS[name].says)
            for name in sorted(names, key=_order)
        ],
    )


def _remarks(played: Sequence[Played]) -> str:
    """What the table does not say."""
    all_of_them = Tally.of(played).figures
    remarks: list[str] = []
    if all_of_them.forgotten_runs or all_of_them.lost_acknowledged:
        remarks.append(
            f"Besides, {all_of_them.forgotten_runs} runs and {all_of_them.lost_acknowledged} "
            "outcomes were forgotten by a server itself, in rows 6 (a server that keeps nothing) "
            "and 9 (a replica that lagged behind takes over): counted, and not promised."
        )
    if all_of_them.accidents:
        remarks.append(
            f"{all_of_them.accidents} times a worker lost its lease though nothing was done to it: "
            "a machine that is too busy is a fault as well."
        )
    broken = [each for each in played if each.broken is not None]
    if broken:
        told = [
            f"- `{each.scenario.name}` on {each.scenario.store}, seed {each.scenario.seed}"
            for each in broken
        ]
        remarks.append("\n".join(["Broken:", "", *told]))
    return "".join(f"\n{remark}\n" for remark in remarks)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Words on the left, numbers on the right."""
    kept = list(lines)
    rule = [
        "--:" if kept and all(line[i][:1].isdigit() or line[i] == "-" for line in kept) else "---"
        for i in range(len(head))
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *kept))


if __name__ == "__main__":
    sys.exit(main())
