"""Workers under random faults for as long as one likes: `python -m bench.soak --minutes 30`.

The scenarios are those of `tests/faults` on one store, in random order with random seeds. What is
printed at the end is what was counted; a scenario that breaks a guarantee is told at once, with its
seed, and makes the exit code 1. `--recovery 12` measures instead how long it takes from the kill of
a worker to the next attempt of what it was doing, with the lease that a user has.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.invariants import Figures, percentile
from tests.faults.matrix import Setting
from tests.faults.places import PLACES
from tests.faults.rows.processes import recovery
from tests.faults.scenarios import ROWS

from .played import Scenario, Tally, play


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, then print. 1 when a guarantee was broken."""
    options = _parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    if (why := PLACES[options.store].missing()) is not None:
        raise SystemExit(why)
    print(f"seed {seed}, {PLACES[options.store].program()}", flush=True)
    if options.recovery:
        print(_recovery_line(_recovery(seed, options.store, options.recovery)))
        return 0
    rows = _soak(seed, options.store, options.minutes * 60, options.only)
    print(table(rows))
    return int(any(row.broken for row in rows.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--store", choices=list(PLACES), default="redis", help="which (redis)")
    parser.add_argument("--seed", type=int, help="of the plan; drawn and printed without it")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--recovery", type=int, default=0, metavar="KILLS", help="measure this")
    return parser


def _soak(seed: int, store: str, seconds: float, only: str) -> dict[str, Tally]:
    dice = random.Random(seed)
    chosen = [row.name for row in ROWS.values() if store in row.stores and only in row.name]
    if not chosen:
        raise SystemExit(f"no scenario on {store} has a name that holds {only!r}")
    rows: dict[str, Tally] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        # Each at least once, then any.
        unseen = [name for name in chosen if name not in rows]
        name = dice.choice(unseen or chosen)
        played = play(Scenario(name, store, dice.randrange(10**6)))
        rows.setdefault(name, Tally()).add(played)
        its_seed, figures = played.scenario.seed, played.figures
        if played.broken is not None:
            print(f"BROKEN {name} {its_seed}: {played.broken}", flush=True)
        else:
            print(f"{name} {its_seed}: {figures.runs} runs, {played.seconds:.1f} s", flush=True)
    return rows


def _recovery(seed: int, store: str, kills: int) -> Figures:
    """Kills under load with the default lease, one after the other."""
    with tempfile.TemporaryDirectory(prefix="pikku-soak-") as folder:
        return asyncio.run(recovery(Setting(Path(folder) / "site", seed, store), kills))


def _recovery_line(figures: Figures) -> str:
    times = figures.recoveries
    return (
        f"{figures.faults.get('kill', 0)} kills, {len(times)} executions under way at them: "
        f"to their next attempt p50 {percentile(times, 0.5):.2f} s, "
        f"p99 {percentile(times, 0.99):.2f} s, longest {max(times, default=0):.2f} s"
    )


HEADS = (
    "scenario",
    "count",
    "broken",
    "runs",
    "faults",
    "executions",
    "extra",
    "under way",
    "lost runs",
    "forgotten",
    "lost acks",
    "repeated",
    "late starts",
    "refused",
    "p50 s",
    "p99 s",
)


def table(rows: dict[str, Tally]) -> str:
    """One line for each kind of scenario, and one for all.

    `extra` are executions beyond the first and the declared retries, `under way` what the faults
    met; `forgotten` runs and `lost acks` are counted where the store itself forgot; `repeated` are
    executions of what was known to be recorded, `late starts` those in processes that had stood
    still; `refused` are writes of zombies. The times are from a kill to the next attempt of what
    was under way.
    """
    total = Tally.of(())
    for row in rows.values():
        total.scenarios += row.scenarios
        total.broken += row.broken
        total.figures.add(row.figures)
    cells = [HEADS, *(_cells(name, rows[name]) for name in sorted(rows)), _cells("all", total)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADS))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def _cells(name: str, row: Tally) -> tuple[str, ...]:
    figures = row.figures
    counts = (
        row.scenarios,
        row.broken,
        figures.runs,
        sum(figures.faults.values()),
        figures.executions,
        figures.extra,
        figures.in_flight,
        figures.lost_runs,
        figures.forgotten_runs,
        figures.lost_acknowledged,
        figures.repeated_recorded,
        figures.late_starts,
        figures.refused,
    )
    times = [percentile(figures.recoveries, share) for share in (0.5, 0.99)]
    return (
        name,
        *(str(count) for count in counts),
        *("-" if each != each else f"{each:.2f}" for each in times),
    )


if __name__ == "__main__":
    sys.exit(main())
