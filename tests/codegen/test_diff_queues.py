"""Edits of queues and schedules: what is said of jobs and ticks in flight, and what becomes of
them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.codegen.test_diff_catalogue import manifest_of
from tests.life.kit import Mode, Place
from tests.runtime.kit import Ctx, Lab, Toy, Wf

from pikku import Job, QueueAttributes, QueueConfig
from pikku.errors import PayloadError
from pikku_gen.diff.edits import Change
from pikku_gen.diff.report import report
from pikku_gen.diff.sides import Side

MODULE = """\
from dataclasses import dataclass
from datetime import datetime

from pikku import QueueConfig
from shop_pikku import (
    Context,
    WorkflowContext,
    pikku_func,
    pikku_workflow_func,
    wire_queue_worker,
    wire_scheduler,
    wire_workflow,
)


@dataclass
class Letter:
    to: str


@dataclass
class Posted:
    number: int


@pikku_func
async def send(ctx: Context, letter: Letter) -> Posted:
    return Posted(1)


@pikku_func
async def post(ctx: Context, letter: Letter) -> Posted:
    return Posted(1)


@pikku_func
async def stamp(ctx: Context, letter: Letter) -> str:
    return "stamped"


@pikku_func
async def count(ctx: Context, at: datetime) -> None: ...


@pikku_func
async def sweep(ctx: Context) -> None: ...


@pikku_workflow_func
async def nightly(ctx: WorkflowContext) -> None:
    await ctx.workflow.sleep("Wait", "1h")


@pikku_workflow_func
async def weekly(ctx: WorkflowContext) -> None:
    await ctx.workflow.sleep("Wait", "1h")


wire_workflow(name="nightly", func=nightly)
wire_workflow(name="weekly", func=weekly)
wire_queue_worker(queue="mails", func=send, config=QueueConfig(concurrency=20))
wire_scheduler(name="report", schedule="0 3 * * *", func=count)
"""
QUEUE = 'wire_queue_worker(queue="mails", func=send, config=QueueConfig(concurrency=20))\n'
SCHEDULE = 'wire_scheduler(name="report", schedule="0 3 * * *", func=count)\n'
SEND = MODULE[
    MODULE.index("@pikku_func\nasync def send") : MODULE.index("@pikku_func\nasync def p")
]
LAST = 'wire_workflow(name="weekly", func=weekly)\n'
FLOW = SCHEDULE.replace("func=count", "func=nightly")


@dataclass(frozen=True)
class Case:
    """One edit, by what is replaced; `before` is replaced in the old code as well."""

    name: str
    edits: tuple[tuple[str, str], ...]
    verdict: str
    kinds: str
    says: str = ""
    before: tuple[tuple[str, str], ...] = ()

    def texts(self) -> tuple[str, str]:
        """The old code and the new."""
        old = _replaced(MODULE, self.before)
        return old, _replaced(old, self.edits)


def _replaced(text: str, edits: tuple[tuple[str, str], ...]) -> str:
    for one, other in edits:
        assert one in text
        text = text.replace(one, other)
    return text


QUEUES = [
    Case("nothing", ((QUEUE, "\n" + QUEUE),), "safe", ""),
    Case(
        "removed",
        ((QUEUE, ""),),
        "breaking",
        "removed",
        "the queue was removed: its jobs wait, and nobody takes them",
    ),
    Case(
        "renamed",
        (('queue="mails"', 'queue="letters"'),),
        "breaking",
        "renamed",
        "the queue was renamed to `letters`: its jobs have the old name",
    ),
    Case("new", ((LAST, LAST + QUEUE),), "safe", "new", before=((QUEUE, ""),)),
    Case(
        "another function",
        ((QUEUE, QUEUE.replace("send", "post")),),
        "safe",
        "function",
        "jobs are done by `post`; those that were added for `send`, still by `send`",
    ),
    Case(
        "another function for one that is gone",
        ((QUEUE, QUEUE.replace("send", "post")), (SEND, "")),
        "breaking",
        "function",
        "those that were added for `send` wait, and nobody does them",
    ),
    Case(
        "another function with another result",
        ((QUEUE, QUEUE.replace("send", "stamp")),),
        "breaking",
        "function result",
        "results that are kept can no longer be read: it was `Posted`, and is `str`",
    ),
    Case(
        "a field more",
        (("    to: str\n", "    to: str\n    urgent: bool\n"),),
        "breaking",
        "input",
        "so that they fail and are dead letters: `Letter.urgent` has no default",
    ),
    Case(
        "a field more, with a default",
        (("    to: str\n", "    to: str\n    urgent: bool = False\n"),),
        "safe",
        "",
    ),
    Case(
        "another result",
        (("    number: int\n", "    number: str\n"),),
        "breaking",
        "result",
        "`Posted.number`: it was `int`, and is `str`",
    ),
    Case(
        "another limit",
        (("concurrency=20", "concurrency=5"),),
        "safe",
        "config",
        "`concurrency` was `20`, and is `5`: processes with the new code keep to it at once",
    ),
    Case(
        "no limit",
        ((", config=QueueConfig(concurrency=20)", ""),),
        "safe",
        "config",
        "`concurrency` was `20`, and is `None`",
    ),
    Case(
        "limits of another place",
        (("config=QueueConfig(concurrency=20)", "config=LIMITS"),),
        "safe",
        "config",
        "`config` was `QueueConfig(concurrency=20)`, and is `LIMITS`",
    ),
    Case(
        "a limit that is written otherwise",
        (("QueueConfig(concurrency=20)", "QueueConfig(\n    concurrency=20, rate_limit=None\n)"),),
        "safe",
        "",
    ),
]
SCHEDULES = [
    Case("nothing", ((SCHEDULE, "\n" + SCHEDULE),), "safe", ""),
    Case(
        "removed",
        ((SCHEDULE, ""),),
        "breaking",
        "removed",
        "it stands still, and nobody goes on with ticks that are due or under way",
    ),
    Case(
        "renamed",
        (('name="report"', 'name="mails"'),),
        "breaking",
        "renamed",
        "the schedule was renamed to `mails`",
    ),
    Case("new", ((LAST, LAST + SCHEDULE),), "safe", "new", before=((SCHEDULE, ""),)),
    Case(
        "other times",
        (("0 3 * * *", "0 4 * * *"),),
        "safe",
        "times",
        "`schedule` was `0 3 * * *`, and is `0 4 * * *`: what is due by then is done as it was",
    ),
    Case(
        "another zone and policy",
        ((SCHEDULE, SCHEDULE.replace(")", ', timezone="Europe/Berlin", catch_up="all")')),),
        "safe",
        "times",
        "`timezone` was `UTC`, and is `Europe/Berlin`; `catch_up` was `once`, and is `all`",
    ),
    Case(
        "another function",
        (("func=count)", "func=sweep)"),),
        "breaking",
        "target",
        "it called `count`, and calls `sweep`: a tick that has begun with the old one stands still;"
        " the others do the new one",
    ),
    Case(
        "a workflow",
        ((SCHEDULE, FLOW),),
        "breaking",
        "kind",
        "it called `count`, and starts `nightly`: a tick that has begun with the old one does the"
        " new one as well, and stands still",
    ),
    Case(
        "another workflow",
        ((FLOW, FLOW.replace("nightly", "weekly")),),
        "safe",
        "target",
        "it started `nightly`, and starts `weekly`; runs that it has started go on",
        before=((SCHEDULE, FLOW),),
    ),
    Case(
        "another description",
        ((SCHEDULE, SCHEDULE.replace(")", ', description="every night")')),),
        "safe",
        "",
    ),
]


def sides_of(case: Case, folder: Path) -> tuple[Side, Side]:
    """The two states of a project that an edit lies between."""
    old, new = case.texts()
    paths = {"shop.flows": "shop/flows.py"}
    return (
        Side("old", manifest_of(old, folder / "old"), paths),
        Side("new", manifest_of(new, folder / "new"), paths),
    )


def judge(case: Case, change: Change) -> None:
    """Hold what is said against what a case expects."""
    said = [edit.message for edit in change.edits]
    assert change.verdict == case.verdict, said
    assert " ".join(edit.kind for edit in change.edits) == case.kinds, said
    assert not case.says or any(case.says in message for message in said), said
    for edit in change.edits:
        assert bool(edit.fix) == (edit.verdict != "safe"), edit
        assert bool(edit.at) == (edit.kind != "removed"), edit


@pytest.mark.parametrize("case", QUEUES, ids=lambda case: case.name)
def test_the_verdict_on_a_queue(case: Case, tmp_path: Path) -> None:
    told = report(*sides_of(case, tmp_path))

    judge(case, next(change for change in told.of("queue") if change.name == "mails"))
    assert all(change.is_unchanged for change in told.of("schedule"))


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: case.name)
def test_the_verdict_on_a_schedule(case: Case, tmp_path: Path) -> None:
    told = report(*sides_of(case, tmp_path))

    judge(case, next(change for change in told.of("schedule") if change.name == "report"))
    assert all(change.is_unchanged for change in told.of("queue"))


def test_a_place_is_where_it_is_wired(tmp_path: Path) -> None:
    (case,) = [case for case in QUEUES if case.name == "another limit"]
    (change,) = report(*sides_of(case, tmp_path)).of("queue")

    line = MODULE[: MODULE.index("wire_queue_worker(")].count("\n") + 1
    assert [edit.at for edit in change.edits] == [f"shop/flows.py:{line}"]


def test_a_function_that_was_moved_is_the_same_target(tmp_path: Path) -> None:
    old, new = sides_of(SCHEDULES[0], tmp_path)
    (moved,) = [each for each in new.manifest["functions"] if each["name"] == "count"]
    moved["module"] = "shop.reports"
    new.manifest["schedules"][0]["func"] = "shop.reports:count"

    (change,) = report(old, new).of("schedule")

    assert change.is_unchanged


def test_a_manifest_from_before_queues_has_none(tmp_path: Path) -> None:
    old, new = sides_of(SCHEDULES[0], tmp_path)
    early = {key: old.manifest[key] for key in ("functions", "signals", "workflows")}

    told = report(Side("early", early), new)

    assert [change.title for change in told.changes if not change.is_unchanged] == [
        "queue mails",
        "schedule report",
    ]
    assert told.verdict == "safe"


# --- what is said, executed -----------------------------------------------------------------------


@pytest.fixture(params=["inline", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    mode: Mode = request.param
    return Place(f"sqlite:///{tmp_path.joinpath('shared.db')}", sticky=0, mode=mode)


class Mail(Toy):
    """An app with functions of these names, the first of which does the jobs of a queue."""

    def __init__(self, *names: str, queue: str = "mails", takes: Any = str, gives: Any = str):
        super().__init__()
        self.done: list[str] = []
        made = [self.func(self._function(name, takes, gives)) for name in names]
        if queue:
            config = QueueConfig()
            self.registry.wire_queue_worker(queue=queue, func=made[0], config=config)

    def _function(self, name: str, takes: Any, gives: Any) -> Any:
        async def body(ctx: Ctx, data: Any) -> Any:
            self.done.append(name)
            return name if gives is str else 1

        body.__name__ = body.__qualname__ = name
        body.__annotations__ = {"ctx": Ctx, "data": takes, "return": gives}
        return body

    @property
    def job(self) -> Job[Any]:
        return QueueAttributes(self.app).mails.get_job("mails~a")


async def left(place: Place, toy: Mail) -> Lab:
    """A process that has added a job which is not due, and is gone."""
    async with place.lab(toy) as lab:
        mails = QueueAttributes(toy.app).mails
        await mails.add("a", delay="1h", dedupe_id="a", keep_result=True)
        await lab.settle()
    return lab


@pytest.mark.parametrize(
    ("new", "status", "done"),
    [
        (lambda: Mail("send", queue=""), "waiting", []),
        (lambda: Mail("send", queue="letters"), "waiting", []),
        (lambda: Mail("post", "send"), "completed", ["send"]),
        (lambda: Mail("post"), "waiting", []),
        (lambda: Mail("send", takes=int), "failed", []),
        (lambda: Mail("send", gives=int), "completed", ["send"]),
    ],
    ids=["removed", "renamed", "another function", "gone function", "input", "result"],
)
async def test_a_job_in_flight_meets(place: Place, new: Any, status: str, done: list[str]) -> None:
    lab = await left(place, Mail("send"))
    toy: Mail = new()

    async with place.beside(lab, toy) as other:
        await other.advance("61min")
        await other.settle()
        info = await other._opened.jobs.info("mails", "mails~a")

    assert info is not None
    assert (info.status, toy.done) == (status, done)


async def test_a_job_that_nobody_took_is_done_once_its_queue_is_back(place: Place) -> None:
    lab = await left(place, Mail("send"))
    async with place.beside(lab, Mail("send", queue="")) as without:
        await without.advance("61min")

    back = Mail("send")
    async with place.beside(lab, back) as other:
        await other.settle()

    assert back.done == ["send"]


async def test_a_kept_result_is_read_as_one_of_the_function_that_is_wired(place: Place) -> None:
    old = Mail("send")
    lab = await left(place, old)
    async with place.beside(lab, old) as first:
        await first.advance("61min")

    toy = Mail("post", "send", gives=int)
    async with place.beside(lab, toy):
        with pytest.raises(PayloadError):
            await toy.job.result(timeout="5s")


class Clock(Toy):
    """An app with a schedule that calls a function, or starts a workflow."""

    def __init__(self, target: str, schedule: str = "0,30 * * * *", *, fails: bool = False):
        super().__init__()
        self.done: list[str] = []

        @self.func(retries=5, retry_delay="20min")
        async def one(ctx: Ctx, at: datetime) -> None:
            if fails:
                raise ValueError("not yet")
            self.done.append(f"one {at:%H:%M}")

        @self.func
        async def two(ctx: Ctx, at: datetime) -> None:
            self.done.append(f"two {at:%H:%M}")

        async def flow(ctx: Wf, at: datetime) -> None:
            self.done.append(f"flow {at:%H:%M}")

        targets = {"one": one, "two": two, "flow": self.workflow(flow, name="flow")}
        if target:
            self.registry.wire_scheduler(name="report", schedule=schedule, func=targets[target])


def opened(lab: Lab) -> Lab:
    lab._schedules = True
    return lab


async def ticks(lab: Lab) -> dict[str, str]:
    runs = await lab.app.list_runs(workflow="schedule:report")
    return {f"{run.run_id[-7:-3]}": f"{run.status} {run.suspend_reason or ''}" for run in runs}


@pytest.mark.parametrize(
    ("target", "done"), [("two", ["01:00", "01:30"]), ("flow", ["00:30", "01:00", "01:30"])]
)
async def test_a_tick_that_has_begun_with_another_target_stands_still(
    place: Place, target: str, done: list[str]
) -> None:
    async with opened(place.lab(Clock("one", fails=True))) as lab:
        await lab.advance("31min")

    new = Clock(target)
    async with opened(place.beside(lab, new)) as other:
        await other.advance("60min")
        found = await ticks(other)

    assert found["0030"] == "suspended nondeterminism"
    assert new.done == [f"{target} {time}" for time in done]


async def test_a_tick_that_has_begun_goes_on_at_other_times(place: Place) -> None:
    async with opened(place.lab(Clock("one", fails=True))) as lab:
        await lab.advance("31min")

    new = Clock("one", "15 * * * *")
    async with opened(place.beside(lab, new)) as other:
        await other.advance("60min")

    assert sorted(new.done) == ["one 00:30", "one 01:15"]


async def test_a_tick_of_a_removed_schedule_stands_still_until_it_is_back(place: Place) -> None:
    async with opened(place.lab(Clock("one"))) as lab:
        await lab.advance("5min")
    async with opened(place.beside(lab, Clock(""))) as without:
        await without.advance("30min")
        found = await ticks(without)
    back = Clock("one")
    async with opened(place.beside(lab, back)) as other:
        await other.settle()

    assert found == {"0030": "suspended missing_function"}
    assert back.done == ["one 00:30"]
