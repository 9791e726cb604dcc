"""What can be wired to a queue and to a schedule, and what is refused where it is declared."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated, Any

import pytest

from pikku import BoundQueue, FunctionContext, QueueAttributes, QueueConfig, RateLimit, Registry
from pikku.errors import (
    DeclarationError,
    DuplicateNameError,
    UnknownQueueError,
    UnknownScheduleError,
)

Ctx = FunctionContext[Any, Any]


@pytest.fixture
def registry() -> Registry:
    return Registry("toy")


async def send(ctx: Ctx, data: int) -> None: ...


async def send_other(ctx: Ctx, data: int) -> None: ...


async def report(ctx: Ctx) -> None: ...


async def report_of(ctx: Ctx, due: datetime) -> None: ...


async def flow(ctx: Any, due: Annotated[datetime | None, "the time"]) -> None: ...


async def report_day(ctx: Ctx, due: date) -> None: ...


# --- queues -----------------------------------------------------------------------------------


def test_a_queue_has_the_function_that_does_its_jobs(registry: Registry) -> None:
    func = registry.pikku_func(send)
    config = QueueConfig(concurrency=20, rate_limit=RateLimit(100, "1min"))

    registry.wire_queue_worker(queue="mail", func=func, config=config)

    wired = registry.queue_worker("mail")
    assert (wired.queue, wired.func, wired.config) == ("mail", func, config)
    assert registry.queues == {"mail"}


def test_wiring_the_same_again_changes_nothing(registry: Registry) -> None:
    registry.wire_queue_worker(queue="mail", func=registry.pikku_func(send))

    registry.wire_queue_worker(queue="mail", func=registry.pikku_func(send))

    assert registry.queue_worker("mail").config == QueueConfig()


def test_a_queue_has_one_function(registry: Registry) -> None:
    registry.wire_queue_worker(queue="mail", func=registry.pikku_func(send))

    with pytest.raises(DuplicateNameError, match="queue 'mail'"):
        registry.wire_queue_worker(queue="mail", func=registry.pikku_func(send_other))


@pytest.mark.parametrize("queue", ["", "no room", "é", "x" * 65, "inline", "orchestrator", 7])
def test_what_is_no_name_for_a_queue_is_refused(registry: Registry, queue: Any) -> None:
    with pytest.raises(DeclarationError):
        registry.wire_queue_worker(queue=queue, func=registry.pikku_func(send))


def test_a_queue_takes_functions_only(registry: Registry) -> None:
    with pytest.raises(DeclarationError, match="pikku_func"):
        registry.wire_queue_worker(queue="mail", func=registry.pikku_workflow_func(flow))
    with pytest.raises(DeclarationError, match="QueueConfig"):
        registry.wire_queue_worker(
            queue="mail",
            func=registry.pikku_func(send),
            config={"concurrency": 1},  # type: ignore[arg-type]
        )


def test_the_nearest_queue_is_named(registry: Registry) -> None:
    registry.wire_queue_worker(queue="mail", func=registry.pikku_func(send))

    with pytest.raises(UnknownQueueError, match="did you mean 'mail'"):
        registry.queue_worker("mial")


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "20", 1_000_001])
def test_a_number_of_jobs_is_a_whole_number_from_one_on(value: Any) -> None:
    for make in (
        lambda: QueueConfig(concurrency=value),
        lambda: QueueConfig(group_concurrency=value),
        lambda: RateLimit(value, "1min"),
    ):
        with pytest.raises(DeclarationError, match="1 to 1 000 000"):
            make()


@pytest.mark.parametrize("per", ["0s", timedelta(0), 60, "soon"])
def test_a_rate_counts_over_some_time(per: Any) -> None:
    with pytest.raises(DeclarationError, match="RateLimit"):
        RateLimit(100, per)


def test_a_rate_is_a_rate() -> None:
    assert RateLimit(100, timedelta(minutes=1)).per_us == 60_000_000
    with pytest.raises(DeclarationError, match="rate_limit"):
        QueueConfig(rate_limit=100)  # type: ignore[arg-type]


DEFAULTS: dict[str, Any] = {
    "delay": None,
    "priority": 0,
    "retries": None,
    "dedupe_id": None,
    "group": None,
    "keep_result": False,
}


class Noting:
    """Notes what it is asked to add."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    async def add_job(self, queue: str, /, *data: Any, **options: Any) -> Any:
        self.said.append((queue, *data, options))

    async def add_jobs(self, queue: str, items: Any, /, **options: Any) -> Any:
        self.said.append((queue, *items, options))
        return []

    def get_job(self, queue: str, job_id: str, /) -> Any:
        self.said.append((queue, job_id))


async def test_a_queue_is_reached_by_attribute_and_by_name() -> None:
    class Queues(QueueAttributes):
        names = {"mail_out": "mail-out"}  # noqa: RUF012

    noting = Noting()
    caller: Any = noting
    queues = Queues(caller)

    await queues.mail_out.add(3, priority=5)
    await queues.add("mail-out", 3, priority=5)
    await queues.sweep.add()
    queues.sweep.get_job("j1")
    added = await BoundQueue[int, None]("mail", caller).add_many([1, 2], group="g")

    assert added == []
    assert noting.said[:4] == [
        ("mail-out", 3, {"priority": 5}),
        ("mail-out", 3, DEFAULTS | {"priority": 5}),
        ("sweep", {}),
        ("sweep", "j1"),
    ]
    assert noting.said[4][:3] == ("mail", 1, 2)
    assert noting.said[4][3]["group"] == "g"


# --- schedules --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [report, report_of])
def test_a_function_is_due_by_a_schedule(registry: Registry, function: Any) -> None:
    func = registry.pikku_func(function)

    registry.wire_scheduler(
        name="nightly", schedule="0 3 * * *", timezone="Europe/Berlin", func=func, catch_up="all"
    )

    wired = registry.schedule("nightly")
    assert (wired.schedule, wired.timezone, wired.func) == ("0 3 * * *", "Europe/Berlin", func)
    assert (wired.catch_up, wired.description) == ("all", "")


def test_a_workflow_is_due_by_a_schedule(registry: Registry) -> None:
    func = registry.pikku_workflow_func(flow)

    registry.wire_scheduler(name="hourly", schedule="@hourly", func=func)

    assert registry.schedule("hourly").func is func
    assert registry.schedule("hourly").timezone == "UTC"


@pytest.mark.parametrize("function", [send, report_day])
def test_what_takes_anything_but_a_time_cannot_be_scheduled(
    registry: Registry, function: Any
) -> None:
    with pytest.raises(DeclarationError, match="another input than a datetime"):
        registry.wire_scheduler(
            name="nightly", schedule="@daily", func=registry.pikku_func(function)
        )


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ("61 * * * *", "bad minute"),
        ("* * * *", "4 fields instead of 5"),
        ("0 0 0 * * *", "6 fields instead of 5"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("@often", "none of @annually"),
        ("", "0 fields"),
        (None, "no cron expression"),
    ],
)
def test_what_is_no_schedule_is_refused(registry: Registry, schedule: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        registry.wire_scheduler(name="nightly", schedule=schedule, func=registry.pikku_func(report))


@pytest.mark.parametrize("timezone", ["Europe/Berln", "", "Europe", "../etc/passwd", "é", None])
def test_a_time_zone_is_one_that_the_system_knows(registry: Registry, timezone: Any) -> None:
    with pytest.raises(DeclarationError, match="no time zone"):
        registry.wire_scheduler(
            name="nightly",
            schedule="@daily",
            timezone=timezone,
            func=registry.pikku_func(report),
        )


def test_the_nearest_time_zone_is_named(registry: Registry) -> None:
    with pytest.raises(DeclarationError, match="Europe/Berlin"):
        registry.wire_scheduler(
            name="nightly",
            schedule="@daily",
            timezone="Europe/Berln",
            func=registry.pikku_func(report),
        )


def test_a_schedule_has_a_name_of_its_own(registry: Registry) -> None:
    registry.wire_scheduler(name="nightly", schedule="@daily", func=registry.pikku_func(report))

    with pytest.raises(DuplicateNameError, match="'nightly'"):
        registry.wire_scheduler(
            name="nightly", schedule="@daily", func=registry.pikku_func(report_of)
        )
    with pytest.raises(DeclarationError, match="no name for a schedule"):
        registry.wire_scheduler(name="", schedule="@daily", func=registry.pikku_func(report))
    with pytest.raises(UnknownScheduleError, match="did you mean 'nightly'"):
        registry.schedule("nightli")


def test_what_is_missed_is_made_up_for_in_three_ways(registry: Registry) -> None:
    with pytest.raises(DeclarationError, match="catch_up"):
        registry.wire_scheduler(
            name="nightly",
            schedule="@daily",
            func=registry.pikku_func(report),
            catch_up="twice",  # type: ignore[arg-type]
        )


# --- names that are taken -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["schedule:nightly", "queue:mail"])
def test_the_names_of_pikku_itself_are_no_workflows(registry: Registry, name: str) -> None:
    with pytest.raises(DeclarationError, match="begins with"):
        registry.wire_workflow(name=name, func=registry.pikku_workflow_func(flow))
