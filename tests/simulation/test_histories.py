"""Many processes, one store, and everything that can go wrong between them: a thousand histories.

`PIKKU_TEST_SEED=n` replays the history of one seed and prints what happened in it;
`PIKKU_TEST_SEEDS=n` has so many of them instead of a thousand.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.simulation.history import History, Plan
from tests.simulation.network import Call, Server
from tests.simulation.summary import PROPERTY, Summary
from tests.simulation.world import World

from pikku._engine import Engine
from pikku._records import Commit, CompleteStep, Op, Reply, RunRecord, StepRecord

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 50
SEED = os.environ.get("PIKKU_TEST_SEED")
SEEDS = int(os.environ.get("PIKKU_TEST_SEEDS", "1000"))
CHUNKS = [range(at, min(at + CHUNK, SEEDS)) for at in range(0, SEEDS, CHUNK)]
# How many histories a store may have that breaks a promise before somebody notices.
NOTICED_WITHIN = 200


def told(history: History) -> str:
    """What is wrong, and how to see it again."""
    again = f"PIKKU_TEST_SEED={history.seed} pytest -n0 -s {Path(__file__).relative_to(ROOT)}"
    return "\n".join([*history.world.wrong, f"{history.plan}", f"to see it again: {again}"])


@pytest.mark.skipif(SEED is not None, reason="one seed is replayed")
@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_every_run_ends_as_it_should_whatever_happens_to_processes_and_messages(
    seeds: range, record_property: Callable[[str, object], None]
) -> None:
    summary = Summary()
    wrong: list[str] = []
    for seed in seeds:
        history = History(seed)
        if history.play():
            wrong.append(told(history))
        summary.add(history.summary)

    record_property(PROPERTY, summary.to_json())
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.skipif(SEED is None, reason="PIKKU_TEST_SEED says which seed")
def test_one_history_is_told_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    history = History(int(SEED or 0), traced=True)
    history.play()

    with capsys.disabled():
        print("\n" + "\n".join(history.world.trace or ()) + f"\n{history.summary}")
    assert not history.world.wrong, told(history)


@pytest.mark.parametrize("seed", range(20))
def test_without_faults_a_steady_program_gives_what_it_says(seed: int) -> None:
    history = History(seed, faults=False)

    assert history.play() == [], told(history)
    assert history.world.counts["refused"] == 0


# --- one seed is one history ---------------------------------------------------------------------


def trace_of(seed: int) -> list[str]:
    history = History(seed, traced=True)
    history.play()
    assert history.world.trace is not None
    return history.world.trace


@pytest.mark.parametrize("seed", [3, 14, 15, 92, 65])
def test_one_seed_is_one_history(seed: int) -> None:
    first = trace_of(seed)
    trace_of(seed + 1)

    assert trace_of(seed) == first


DIGEST = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.simulation.test_histories import digest_of
print(digest_of(range(40)))
"""


def digest_of(seeds: range) -> str:
    """Everything that happened, in few characters."""
    digest = hashlib.sha256()
    for seed in seeds:
        digest.update("\n".join(trace_of(seed)).encode())
    return digest.hexdigest()


def test_one_seed_is_the_same_history_in_every_process() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, str(ROOT)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }

    assert len(said) == 1


def test_seeds_draw_every_kind_of_fault_in_each_mode() -> None:
    plans = [Plan.drawn(Random(seed)) for seed in range(200)]

    for remote in (False, True):
        for pushes in (False, True):
            faults = {
                fault
                for plan in plans
                if (plan.remote, plan.pushes) == (remote, pushes)
                for fault in plan.faults
            }
            assert len(faults) == 6


# --- what the histories would notice -------------------------------------------------------------


def noticed(make_server: Callable[[World], Server]) -> tuple[int, str] | None:
    """The first seed in which somebody notices what is wrong with the store, and what they say."""
    for seed in range(NOTICED_WITHIN):
        wrong = History(seed, make_server=make_server).play()
        if wrong:
            return seed, wrong[0]
    return None


class ZombiesCommit(Server):
    """Takes a turn from a session that does not own the run any more."""

    def apply_now(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        for op in ops:
            run = self._runs.get(op.run_id) if isinstance(op, Commit) else None
            if run is not None and isinstance(op, Commit) and run.turned_by != session:
                run.owner, run.turn = session, op.turn - 1
        return super().apply_now(session, ops, want)


class ZombiesComplete(Server):
    """Takes the outcome of a step from a session that does not hold it any more."""

    def apply_now(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        for op in ops:
            if isinstance(op, CompleteStep):
                step = self._steps_of(op.run_id).get(op.key) if op.run_id in self._runs else None
                if step is not None and step.worker != session:
                    step.worker, step.status, step.attempt = session, "running", op.attempt
        return super().apply_now(session, ops, want)


class LosesJobs(Server):
    """Loses a job now and then."""

    pushed = 0

    def push_job(self, queue: str, run_id: str, key: str, attempt: int) -> None:
        self.pushed += 1
        if self.pushed % 10:
            super().push_job(queue, run_id, key, attempt)


class LosesMail(Server):
    """Takes mail as read when it was sent, and not when it has arrived."""

    def serve(self, call: Call) -> Reply:
        reply = super().serve(call)
        if reply.inbox:
            self._inboxes.pop(call.session, None)
        return reply


class GrantsNothingAgain(Server):
    """Does not say again what it has granted in an answer that was lost."""

    def serve(self, call: Call) -> Reply:
        return super().serve(call._replace(lost=None))


class ForgetsTheDead(Server):
    """Leaves the runs of one dead session in four where they are."""

    dead = 0

    def runs_of(self, session: str, limit: int) -> list[RunRecord]:
        self.dead += 1
        runs = list(super().runs_of(session, limit))
        return runs if self.dead % 4 else []


class TakesCallsThatWereOvertaken(Server):
    """Carries out a call that was given up, although a later one was carried out before."""

    def serve(self, call: Call) -> Reply:
        heard = self._heard.get(call.session)
        if heard is not None and call.number < heard.latest:
            heard.latest = call.number - 1
        return super().serve(call)


class OverwritesEnds(Server):
    """Lets a step that has ended begin again after its process has died."""

    def jobs_of(self, session: str, limit: int) -> list[tuple[str, StepRecord]]:
        for (run_id, key), (status, *_) in list(self._recorded.items()):
            step = self._steps_of(run_id).get(key)
            if status == "succeeded" and step is not None and step.queue and step.worker == session:
                step.status = "running"
                self._held.setdefault(session, {})[run_id, key] = None
        return list(super().jobs_of(session, limit))


MUTANTS: list[Any] = [
    ZombiesCommit,
    ZombiesComplete,
    LosesJobs,
    LosesMail,
    GrantsNothingAgain,
    ForgetsTheDead,
    TakesCallsThatWereOvertaken,
    OverwritesEnds,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_store_that_breaks_a_promise_is_noticed(mutant: Callable[[World], Server]) -> None:
    assert noticed(mutant) is not None


def test_a_process_that_does_not_look_at_its_lease_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pikku._session.Session.expired", False)

    found = next((seed for seed in range(1000) if History(seed).play()), None)

    assert found is not None


def forget_every_third_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes drop every third run that they claim."""
    on_reply, claimed = Engine._on_reply, itertools.count()

    def forgetful(engine: Engine, reply: Reply) -> None:
        kept = [loaded for loaded in reply.claimed if next(claimed) % 3]
        on_reply(engine, reply._replace(claimed=kept))

    monkeypatch.setattr(Engine, "_on_reply", forgetful)


def test_a_process_that_forgets_what_it_has_claimed_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget_every_third_run(monkeypatch)

    history = next(history for seed in range(1, 200, 2) if (history := History(seed)).play())

    assert any("F: forgotten" in each for each in history.world.wrong)


def test_what_a_process_has_forgotten_it_takes_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In histories in which processes compare with the store."""
    forget_every_third_run(monkeypatch)

    for seed in range(0, 40, 2):
        history = History(seed)
        assert history.play() == [], told(history)
