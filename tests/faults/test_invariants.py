"""The judge finds what it is there for: every broken invariant, and nothing in a clean story."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from tests.faults.driver import bugs
from tests.faults.invariants import Fault, Judge, Story, percentile
from tests.servers.ledger import Row

from pikku._records import LoadedRun, RunRecord, StepRecord

STORY = Story("r", "flow", 3, 3)


def made(record: Any, /, **values: Any) -> Any:
    """A record with these values and nothing besides."""
    return record(**dict.fromkeys(record.__dataclass_fields__) | values)


def run(status: str = "completed") -> RunRecord:
    record: RunRecord = made(RunRecord, run_id="r", workflow="flow", status=status)
    return record


def step(attempt: int = 1, *, said: int | None = None, **changes: Any) -> StepRecord:
    result = json.dumps({"value": 3, "attempt": said or attempt, "pid": 1})
    values = {"key": "a", "kind": "rpc", "status": "succeeded", "attempt": attempt}
    values |= {"failures": 0, "lost": 0, "result": result}
    record: StepRecord = made(StepRecord, **values | changes)
    return record


def row(what: Literal["began", "acknowledged"], at_ns: int, attempt: int = 1, pid: int = 1) -> Row:
    return Row(what, "r", "a", attempt, pid, at_ns)


CLEAN = [row("began", 10), row("acknowledged", 20)]
KILL = Fault("kill", frozenset({1}), 15, 16, killed=True)


def judged(
    rows: list[Row],
    *steps: StepRecord,
    faults: tuple[Fault, ...] = (),
    story: Story = STORY,
    status: str = "completed",
) -> tuple[Judge, str]:
    loaded = LoadedRun(run(status), steps or (step(),))
    judge = Judge(rows, faults, [story], {"r": loaded})
    return judge, "".join(sorted({each[0] for each in judge.wrong()}))


def test_a_clean_story_is_clean() -> None:
    judge, wrong = judged(CLEAN)
    assert wrong == ""
    assert (judge.figures.executions, judge.figures.extra) == (1, 0)


def test_a_kill_and_a_second_attempt_are_clean_and_measured() -> None:
    rows = [row("began", 10), row("began", 2_000_000_015, 2, 2), row("acknowledged", 3 * 10**9, 2)]
    judge, wrong = judged(rows, step(2), faults=(KILL,))
    assert wrong == ""
    assert (judge.figures.extra, judge.figures.in_flight) == (1, 1)
    assert judge.figures.recoveries == [2.0]


@pytest.mark.parametrize(
    ("rows", "steps", "expected"),
    [
        ([*CLEAN, row("began", 30, 2, 2)], [step()], "BR"),
        ([*CLEAN, row("began", 12, 1, 2)], [step()], "BR"),
        ([row("began", 10), row("began", 12, 2, 2), row("acknowledged", 20)], [step()], "BR"),
        ([row("began", 10), row("began", 12, 2, 2), row("acknowledged", 20, 2)], [step(2)], "B"),
        (CLEAN, [step(2)], "AZ"),
        (CLEAN, [step(said=2)], "Z"),
        (CLEAN, [step(status="running")], "A"),
        ([], [step()], "Z"),
    ],
)
def test_what_is_wrong_is_found(rows: list[Row], steps: list[StepRecord], expected: str) -> None:
    assert judged(rows, *steps)[1] == expected


def test_a_late_start_after_standing_still_is_counted_apart() -> None:
    frozen = Fault("stop", frozenset({2}), 5, 40, froze=True)
    rows = [row("began", 10, 2), row("acknowledged", 20, 2), row("began", 30, 1, 2)]
    judge, wrong = judged(rows, step(2), faults=(frozen,))
    assert wrong == ""
    assert (judge.figures.late_starts, judge.figures.repeated_recorded) == (1, 0)


def test_a_declared_retry_is_no_further_execution() -> None:
    rows = [row("began", 10), row("began", 12, 2), row("acknowledged", 20, 2)]
    assert judged(rows, step(2, failures=1))[1] == ""


def test_a_run_that_did_not_end_and_a_wrong_output_are_found() -> None:
    assert judged(CLEAN, status="running")[1] == "L"
    assert judged(CLEAN, story=Story("r", "flow", 4, 3))[1] == "O"
    judge = Judge([], [], [STORY], {"r": None})
    assert judge.wrong() == ["L: run r of flow is gone"]


def test_percentiles() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_that_a_run_was_mended_is_no_bug_where_it_was_damaged_on_purpose() -> None:
    log = "step 'a' of run r-1 was claimed here and forgotten\nrun r-1 does not go by its records"

    assert bugs(log, {"r-1"}) == []
    assert bugs(log) == bugs(log, {"r"}) == bugs(log, {"r-10"})
    assert bugs(log) == ["claimed here and forgotten", "does not go by its records"]
    assert bugs("run r-1: InternalError", {"r-1"}) == ["InternalError"]
