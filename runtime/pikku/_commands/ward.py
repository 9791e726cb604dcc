"""The unfinished runs of a store under examination: which are wrong, and giving them a next action.

Others may be at work on the store meanwhile. A run counts as wrong if it looks so three times, in
the same state; one that looks wrong only once was moving.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, cast

from pikku._diagnosis import Symptom, awaited_children, diagnose
from pikku._ids import new_session_id
from pikku._records import (
    FINAL_STATUSES,
    LoadedRun,
    Op,
    ReapSessions,
    RequeueRun,
    RunFilter,
    RunRecord,
    RunStatus,
)
from pikku.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pikku.stores.base import Store

PAGE = 500
LOOKS = 3
LOOK_AGAIN_SECONDS = 1.0
# A repair gives a step one more attempt, however many processes it has lost.
NEVER_TOO_MANY = 1_000_000


class Case(NamedTuple):
    """A run with something wrong."""

    run_id: str
    workflow: str
    symptoms: tuple[Symptom, ...]


async def unfinished_runs(store: Store) -> dict[str, RunRecord]:
    """Every run that is not final, newest first; a status that nobody knows is not."""
    runs: dict[str, RunRecord] = {}
    for status in sorted((await store.count_runs()).keys() - FINAL_STATUSES):
        limit = PAGE
        before_us: int | None = None
        while True:
            # Times are not unique: a page begins with the last moment of the one before it.
            wanted = RunFilter(status=cast("RunStatus", status), limit=limit, before_us=before_us)
            page = await store.list_runs(wanted)
            known = len(runs)
            runs.update((run.run_id, run) for run in page)
            if len(page) < limit:
                break
            if len(runs) == known:
                limit *= 2
            else:
                before_us = min(run.created_us for run in page) + 1
    return runs


async def cases_of(store: Store, runs: dict[str, RunRecord]) -> list[Case]:
    """Those of *runs* that have something wrong, looked at again while others are at work."""
    sick, still = await _look(store, runs)
    for _ in range(LOOKS - 1):
        if still or not sick:
            break
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        again, still = await _look(store, sick)
        sick = _in_both(sick, again)
    return [
        Case(run_id, runs[run_id].workflow if run_id in runs else "?", tuple(symptoms))
        for run_id, symptoms in sick.items()
    ]


def _in_both(
    before: dict[str, list[Symptom]], after: dict[str, list[Symptom]]
) -> dict[str, list[Symptom]]:
    stayed = {
        run_id: [each for each in symptoms if each in before[run_id]]
        for run_id, symptoms in after.items()
    }
    return {run_id: symptoms for run_id, symptoms in stayed.items() if symptoms}


async def _look(store: Store, run_ids: Iterable[str]) -> tuple[dict[str, list[Symptom]], bool]:
    """What is wrong with each run, and whether nobody is there who could move one."""
    found = await store.examine()
    sick: dict[str, list[Symptom]] = {
        run_id: [Symptom("corrupt", f"cannot be read: {why}")]
        for run_id, why in found.unreadable.items()
    }
    for number, run_id in enumerate(run_ids, start=1):
        if number % PAGE == 0:
            found = await store.examine()
        if run_id in found.unreadable:
            continue
        try:
            loaded = await store.load_steps(run_id)
            ended, gone = await _children_at_rest(store, loaded)
        except StoreError as error:
            sick[run_id] = [Symptom("corrupt", f"cannot be read: {error}")]
            continue
        if loaded is not None and (symptoms := diagnose(loaded, found, ended, gone)):
            sick[run_id] = symptoms
    still = not any(until >= found.now_us for until in found.sessions.values())
    return sick, still


async def _children_at_rest(store: Store, loaded: LoadedRun | None) -> tuple[set[str], set[str]]:
    """Of the runs that the run waits for, those that are final, and those that are not there."""
    ended: set[str] = set()
    gone: set[str] = set()
    if loaded is None or loaded.run.status != "running":
        return ended, gone
    for child_id in awaited_children(loaded):
        child = await store.load_run(child_id)
        if child is None:
            gone.add(child_id)
        elif child.status in FINAL_STATUSES:
            ended.add(child_id)
    return ended, gone


async def mend(store: Store, cases: list[Case]) -> list[Case]:
    """Give each run the next actions that its records call for; those that took it. Nothing mends
    records that make no sense, or brings back a run that is gone."""
    mendable = [case for case in cases if any(symptom.mends for symptom in case.symptoms)]
    session = new_session_id()
    mended: list[Case] = []
    for start in range(0, len(mendable), PAGE):
        part = mendable[start : start + PAGE]
        ops: list[Op] = [RequeueRun(case.run_id) for case in part]
        if any(symptom.heals for case in part for symptom in case.symptoms):
            # First, so that attempts lost with their process are counted as such.
            await store.apply(session, [ReapSessions(max_lost=NEVER_TOO_MANY)], {})
        reply = await store.apply(session, ops, {})
        mended += [
            case for case, result in zip(part, reply.results, strict=True) if result.code == "ok"
        ]
    return mended
