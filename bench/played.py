"""Scenarios, played and counted: with processes of their own, or inside this one."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.faults.driver import Broken
from tests.faults.invariants import Figures
from tests.faults.scenarios import ROWS
from tests.replay.test_crash_life import OPENING, PLAYS, Crash, Ended, Play, Theatre
from tests.servers.postgres import PostgresServer
from tests.servers.redis import Databases, RedisServer
from tests.simulation.history import History

from pikku.stores.sqlite.store import SqliteStore
from pikku.testing import lab

CRASH = "crash_at_a_call"
HISTORY = "simulated_history"
SIMULATED = "simulated"
NO_FAULTS = ("bodies", "jobs recovered", "late bodies", "refused", "runs", "runs recovered")
PATIENCE_SECONDS = 150.0
BODIES_AT_MOST_SECONDS = 2.0


class Scenario(NamedTuple):
    """One seed of one row on one store."""

    name: str
    store: str
    seed: int

    @property
    def alone(self) -> bool:
        """Whether it needs no process but this one."""
        return self.name in (CRASH, HISTORY)


@dataclass
class Played:
    """What came of it; `broken` is what was wrong, in words."""

    scenario: Scenario
    figures: Figures
    seconds: float
    broken: str | None = None


@dataclass
class Tally:
    """What came of many."""

    scenarios: int = 0
    broken: int = 0
    figures: Figures = field(default_factory=Figures)

    def add(self, played: Played) -> None:
        """Take in one more."""
        self.scenarios += 1
        self.broken += played.broken is not None
        self.figures.add(played.figures)

    @classmethod
    def of(cls, all_played: Iterable[Played]) -> Tally:
        tally = cls()
        for played in all_played:
            tally.add(played)
        return tally


def play(scenario: Scenario) -> Played:
    """Play it, whatever comes of it."""
    began = time.monotonic()
    figures, broken = Figures(), None
    try:
        if scenario.name == HISTORY:
            figures, broken = _history(scenario.seed)
        elif scenario.name == CRASH:
            figures = asyncio.run(_stage().play(scenario))
        else:
            with tempfile.TemporaryDirectory(prefix="pikku-faults-") as folder:
                figures = asyncio.run(_row(scenario, Path(folder)))
    except Broken as error:
        figures, broken = error.figures, str(error)
    except Exception as error:
        broken = f"{scenario}: {type(error).__name__}: {error}"
    return Played(scenario, figures, time.monotonic() - began, broken)


async def _row(scenario: Scenario, folder: Path) -> Figures:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await ROWS[scenario.name].play(folder / "site", scenario.seed, scenario.store)


# --- in this process ----------------------------------------------------------------------------


def _history(seed: int) -> tuple[Figures, str | None]:
    """A history of the simulation."""
    history = History(seed)
    wrong = history.play()
    counts = history.summary.counts
    faults = {what: count for what, count in counts.items() if what not in NO_FAULTS}
    figures = Figures(
        runs=counts["runs"],
        executions=counts["bodies"],
        late_starts=counts["late bodies"],
        refused=counts["refused"],
        faults=faults,
    )
    return figures, "\n".join(wrong) if wrong else None


class Known(NamedTuple):
    """How a play goes without a crash."""

    play: Play
    theatre: Theatre
    expected: Ended


class Stage:
    """The stores of this process, on which plays are played with a crash each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._empty_file = self._folder / "empty.db"
        self._numbers = itertools.count()
        self._known: dict[tuple[str, str, str, int], Known] = {}

    @functools.cached_property
    def _redis(self) -> Databases:
        return Databases(RedisServer().start())

    @functools.cached_property
    def _postgres(self) -> tuple[PostgresServer, str]:
        server = PostgresServer().start()
        return server, server.database()

    async def _make_empty_file(self) -> None:
        if not self._empty_file.exists():
            store = SqliteStore(self._empty_file)
            await store.open()
            await store.close()

    def _url(self, store: str) -> str:
        """That of an empty store."""
        if store == "memory":
            return "memory://"
        if store == "redis":
            return self._redis.fresh_url()
        if store == "postgres":
            server, url = self._postgres
            server.empty(url)
            return url
        copy = shutil.copy(self._empty_file, self._folder / f"{next(self._numbers)}.db")
        return f"sqlite:///{copy}?durability=process"

    async def play(self, scenario: Scenario) -> Figures:
        """A play with one crash or two, at calls that the seed chooses.

        Raises:
            AssertionError: it ends otherwise than without the crash.
        """
        lab.BODIES_AT_MOST_SECONDS = BODIES_AT_MOST_SECONDS
        await self._make_empty_file()
        dice = Random(scenario.seed)
        chosen, mode = dice.choice(PLAYS), dice.choice(["inline", "remote"])
        known = await self._without(chosen, scenario.store, mode, dice.choice([0, 1000]))
        calls = range(OPENING + 1, known.expected.calls + 1)
        places = sorted(dice.sample(calls, min(len(calls), dice.choice([1, 1, 2]))))
        crashes = [Crash(at, before=dice.random() < 0.5) for at in places]
        try:
            ended = await known.theatre.play(chosen, *crashes, expected=known.expected)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            where = ", ".join(map(str, crashes))
            said = f"{scenario}: {chosen.__name__}, {mode}, {where}: {error!r}"
            raise Broken(said) from error
        return Figures(
            runs=len(ended.runs),
            executions=sum(ended.executed.values()),
            extra=sum((ended.executed - Counter(known.expected.executed)).values()),
            faults={"crash": ended.crashes},
        )

    async def _without(self, chosen: Play, store: str, mode: str, sticky: int) -> Known:
        key = (chosen.__name__, store, mode, sticky)
        if key not in self._known:
            theatre = Theatre(lambda: self._url(store), mode, sticky)
            self._known[key] = Known(chosen, theatre, await theatre.play(chosen))
        return self._known[key]


_folder: Path | None = None


def prepare(folder: Path) -> None:
    """Let this process write below a folder; the stores' own words are nobody's concern here."""
    global _folder
    _folder = folder / str(os.getpid())
    _folder.mkdir()
    for name in ("pikku", "psycopg"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@functools.cache
def _stage() -> Stage:
    assert _folder is not None, "prepare() comes first"
    return Stage(_folder)
