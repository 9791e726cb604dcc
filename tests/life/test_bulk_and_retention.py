"""Deleting, and what is kept for how long; many runs at once."""

from datetime import timedelta
from typing import Any

import pytest
from tests.life.kit import Place, cancelled, children, done, everything, failure
from tests.runtime.kit import Lab, Toy, Wf

from pikku import Run
from pikku.errors import RunNotFoundError, RunStateError


@pytest.fixture
def app(toy: Toy) -> Any:
    """The app, with workflows that end in each way."""
    word = toy.registry.wire_signal(name="word", payload=int)

    @toy.workflow
    async def completing(ctx: Wf) -> int:
        return 1

    @toy.workflow
    async def failing(ctx: Wf) -> None:
        raise ValueError("no")

    @toy.workflow
    async def waiting(ctx: Wf) -> int:
        return await ctx.workflow.wait_for_signal("Word", word)

    @toy.workflow
    async def held(ctx: Wf) -> None:
        await ctx.workflow.suspend("audit")

    return toy.app


async def one_of_each(lab: Lab, app: Any, **options: Any) -> dict[str, Run[Any]]:
    """A run in each status."""
    names = ("completing", "failing", "waiting", "waiting", "held")
    runs = [await app.start_workflow(name, **options) for name in names]
    await lab.settle()
    await runs[2].cancel("x")
    await cancelled(lab, runs[2])
    statuses = ("completed", "failed", "cancelled", "running", "suspended")
    assert [await run.status() for run in runs] == list(statuses)
    return dict(zip(statuses, runs, strict=True))


async def there(app: Any) -> set[str]:
    return {info.run_id for info in await app.list_runs(limit=1000)}


async def test_a_run_that_has_ended_is_deleted_with_everything(
    toy: Toy, place: Place, app: Any
) -> None:
    async with place.lab(toy) as lab:
        for status, run in (await one_of_each(lab, app)).items():
            if status in ("running", "suspended"):
                before = await everything(lab)
                with pytest.raises(RunStateError):
                    await run.delete()
                assert await everything(lab) == before
                continue
            await run.delete()
            for call in (run.info(), run.history(), run.export(), run.delete(), run.cancel("x")):
                with pytest.raises(RunNotFoundError):
                    await call
            with pytest.raises(RunNotFoundError):
                await run.result(timeout="1s")
            assert str(run) not in await there(app)
            assert await lab._store.load_history(str(run)) == []


async def test_the_id_of_a_deleted_run_is_free(toy: Toy, place: Place, app: Any) -> None:
    async with place.lab(toy) as lab:
        run = await app.start_workflow("waiting", run_id="r", delay="1h")
        await run.signal(toy.registry.signals["word"], 1, signal_id="s")
        await run.signal(toy.registry.signals["word"], 2, signal_id="t")
        await lab.advance("1h")
        assert await done(lab, run) == 1
        await run.delete()
        again = await app.start_workflow("waiting", run_id="r")
        await lab.settle()
        assert await again.status() == "running"  # nothing of the old run's signals is left
        await again.signal(toy.registry.signals["word"], 3, signal_id="s")
        assert await done(lab, again) == 3


async def test_many_are_deleted_by_what_they_have_in_common(
    toy: Toy, evicted: Place, app: Any
) -> None:
    async with evicted.lab(toy) as lab:
        old = await one_of_each(lab, app, tags=["old"])
        await lab.advance("2h")
        new = await one_of_each(lab, app, tags=["new"])
        assert await app.delete_runs(tag="nothing") == 0
        border = lab.clock.now() - timedelta(hours=1)
        assert await app.delete_runs(finished_before=border, status="failed") == 1
        assert await app.delete_runs(finished_before=border) == 2
        left = {str(old[s]) for s in ("running", "suspended")} | {str(r) for r in new.values()}
        assert await there(app) == left
        assert await app.delete_runs(workflow="completing") == 1
        assert await app.delete_runs() == 2
        assert {info.status for info in await app.list_runs()} == {"running", "suspended"}


async def test_more_than_a_page_is_cancelled_retried_and_deleted(
    toy: Toy, memory_modes: Place, app: Any
) -> None:
    async with memory_modes.lab(toy) as lab:
        runs = [await app.start_workflow("waiting", wait=False) for _ in range(450)]
        broken = [await app.start_workflow("failing", wait=False) for _ in range(250)]
        await lab.settle()
        assert len(broken) == await app.retry_runs()
        await lab.settle()
        assert (await broken[0].info()).run_attempt == 2
        assert await app.cancel_runs("enough", workflow="waiting") == len(runs)
        await lab.settle()
        assert await app.count_runs() == {"cancelled": 450, "failed": 250}
        assert await app.delete_runs() == 700
        assert await app.count_runs() == {}


async def test_retention_removes_what_ended_long_ago_by_its_status(
    toy: Toy, evicted: Place, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIKKU_RETENTION", "completed=1d,failed=3d")
    async with evicted.lab(toy) as lab:
        engine = lab._opened.engine
        runs = await one_of_each(lab, app)

        async def left() -> set[str]:
            await engine._prune()
            await lab.settle()
            found = await there(app)
            return {status for status, run in runs.items() if str(run) in found}

        everyone = set(runs)
        await lab.advance("23h")
        assert await left() == everyone
        await lab.advance("2h")
        assert await left() == everyone - {"completed"}
        await lab.advance("3d")
        assert await left() == everyone - {"completed", "failed"}
        await lab.advance("365d")
        assert await left() == everyone - {"completed", "failed"}
        with pytest.raises(RunNotFoundError):
            await runs["completed"].info()


async def test_without_retention_nothing_is_removed(
    toy: Toy, evicted: Place, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIKKU_RETENTION", raising=False)
    async with evicted.lab(toy) as lab:
        runs = await one_of_each(lab, app)
        await lab.advance("3650d")
        assert await there(app) == {str(run) for run in runs.values()}


async def test_a_deleted_child_leaves_its_parent_as_it_is(toy: Toy, place: Place, app: Any) -> None:
    @toy.workflow
    async def parent(ctx: Wf) -> int:
        value: int = await ctx.workflow.do("Child", toy.registry.workflow("completing").workflow)
        await ctx.workflow.sleep("Nap", "1h")
        return value

    async with place.lab(toy) as lab:
        run = await toy.start("parent")
        await lab.settle()
        (child,) = await children(lab, run)
        await app.get_run("completing", child).delete()
        await lab.advance("1h")
        assert await done(lab, run) == 1


async def test_a_deleted_parent_leaves_its_detached_run(toy: Toy, place: Place, app: Any) -> None:
    @toy.workflow
    async def starter(ctx: Wf) -> str:
        made: str = await ctx.workflow.do(
            "Start", toy.registry.workflow("waiting").workflow, detached=True
        )
        await ctx.workflow.do("After", lambda: None)
        return made

    async with place.lab(toy) as lab:
        run = await toy.start("starter")
        started = app.get_run("waiting", await done(lab, run))
        await run.delete()
        await started.signal(toy.registry.signals["word"], 4)
        assert await done(lab, started) == 4


async def test_a_failed_run_that_was_retried_and_completed_is_kept_as_completed(
    toy: Toy, evicted: Place, app: Any
) -> None:
    async with evicted.lab(toy) as lab:
        run = await app.start_workflow("failing")
        await failure(lab, run)

        async def mended(ctx: Wf) -> None:
            return None

        toy.replace(mended, name="failing")
        await run.retry()
        await done(lab, run)
        assert await app.count_runs() == {"completed": 1}
        assert await app.list_runs(status="failed") == []
        assert await app.delete_runs(status="failed") == 0
        assert await app.delete_runs(status="completed") == 1
