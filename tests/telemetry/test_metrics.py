"""Metrics: their names and words are a contract, and each counts what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.docs.blocks import ROOT
from tests.runtime.kit import Ctx, Toy, Wf

from pikku._commands import scrapes
from pikku._metrics import Exposition, Metrics
from pikku.errors import MissingDependencyError
from pikku.testing import WorkflowLab

PAGE = ROOT / "docs" / "observability.md"

NAMES = """\
pikku_late_outcomes_refused_total counter: Outcomes that the store refused, as the run or job had gone to somebody else.
pikku_lease_losses_total counter: Times that the lease of a process ran out.
pikku_queue_waiting gauge: Jobs that wait in a queue, as of the scrape.
pikku_run_duration_seconds histogram: From the creation of a run to its end.
pikku_run_replays_total counter: Runs taken up here whose function was called again over their history.
pikku_runs gauge: Runs in the store, by status, as of the scrape.
pikku_runs_ended_total counter: Runs that ended here, by outcome: completed, failed, cancelled.
pikku_runs_recovered_total counter: Runs taken up here whose process was lost while a step was under way.
pikku_runs_started_total counter: Runs created here.
pikku_runs_suspended_total counter: Runs suspended here until somebody resumes them, by reason.
pikku_step_duration_seconds histogram: How long the attempts of steps took.
pikku_steps_executed_total counter: Attempts of steps that ended here.
pikku_steps_failed_total counter: Attempts of steps that failed here.
pikku_steps_retried_total counter: Failed attempts of steps that another attempt follows.
pikku_store_call_duration_seconds histogram: How long the store took to answer a batch of operations.
pikku_store_calls_total counter: Batches of operations sent to the store, by outcome: ok, failed.
"""  # noqa: E501


class Scraped:
    """A registry of a test's own, and what an exposition of it says."""

    def __init__(self, toy: Toy) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        toy.app._observers.append(self.metrics)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"pikku_{name}", labels) or 0.0


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def scraped(toy: Toy) -> Scraped:
    return Scraped(toy)


def named(text: str) -> Iterator[str]:
    """Name, kind and help of each metric of pikku's in an exposition."""
    kinds: dict[str, str] = {}
    helps: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith(("# HELP pikku_", "# TYPE pikku_")):
            _, what, name, rest = line.split(" ", 3)
            (helps if what == "HELP" else kinds)[name] = rest
    for name in sorted(kinds):
        if not name.endswith("_created"):
            yield f"{name} {kinds[name]}: {helps[name]}\n"


async def test_names_kinds_and_helps_are_these(toy: Toy, scraped: Scraped) -> None:
    async with WorkflowLab[Any](toy.app) as lab:
        loop = asyncio.get_running_loop()
        exposition = Exposition(lab._store, loop, registry=scraped.registry)
        text = (await asyncio.to_thread(exposition.text)).decode()

    assert "".join(named(text)) == NAMES


def test_the_page_lists_every_metric() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "| `pikku_" in line]

    listed = [row.split("`")[1] for row in rows]

    assert sorted(listed) == sorted(line.split()[0] for line in NAMES.splitlines())


async def test_what_happens_is_counted(toy: Toy, scraped: Scraped) -> None:
    @toy.func
    async def fail(ctx: Ctx) -> None:
        raise ValueError("no")

    @toy.workflow(name="good")
    async def good(ctx: Wf) -> None:
        await ctx.workflow.do("One", lambda: 1)
        await ctx.workflow.do("Two", lambda: 2)

    @toy.workflow(name="bad")
    async def bad(ctx: Wf) -> None:
        await ctx.workflow.do("Fail", fail, retries=2, retry_delay="1s")

    @toy.workflow(name="idle")
    async def idle(ctx: Wf) -> None:
        await ctx.workflow.suspend("until somebody looks")

    async with WorkflowLab[Any](toy.app) as lab:
        await toy.start("good", run_id="g")
        await toy.start("good", run_id="g")
        await toy.start("bad")
        await toy.start("idle")
        await lab.settle()

    value = scraped.value
    assert value("runs_started_total", workflow="good") == 1
    assert value("runs_ended_total", workflow="good", outcome="completed") == 1
    assert value("runs_ended_total", workflow="bad", outcome="failed") == 1
    assert value("run_duration_seconds_count", workflow="bad", outcome="failed") == 1
    assert value("run_duration_seconds_sum", workflow="bad", outcome="failed") >= 2
    assert value("runs_suspended_total", workflow="idle", reason="requested") == 1
    assert value("steps_executed_total", function="inline") == 2
    assert value("steps_executed_total", function="fail") == 3
    assert value("steps_failed_total", function="fail") == 3
    assert value("steps_retried_total", function="fail") == 2
    assert value("step_duration_seconds_count", function="fail") == 3
    assert value("store_calls_total", outcome="ok") > 0


async def test_a_run_whose_process_was_lost_is_counted_as_recovered(
    toy: Toy, scraped: Scraped
) -> None:
    begun = asyncio.Event()

    @toy.func
    async def hang(ctx: Ctx) -> None:
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()

    @toy.workflow(name="hanging")
    async def hanging(ctx: Wf) -> None:
        await ctx.workflow.do("Before", lambda: 1)
        await ctx.workflow.do("Hang", hang)

    async with WorkflowLab[Any](toy.app) as lab:
        await toy.start("hanging", wait=False)
        await begun.wait()
        await lab.crash()
        await lab.recover()

    assert scraped.value("runs_recovered_total", workflow="hanging") == 1
    assert scraped.value("run_replays_total", workflow="hanging") == 1
    assert scraped.value("runs_ended_total", workflow="hanging", outcome="completed") == 1


def test_without_the_extra_the_line_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "pikku._metrics")

    with pytest.raises(MissingDependencyError, match="metrics"):
        scrapes.metrics_here("--metrics-port")
