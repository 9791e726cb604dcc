"""Any text for a run id, a tag, a starter, a step, a signal or a key works, or is refused with a
typed error before anything is written."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.fuzz.kit import ODD_TEXTS, rounds
from tests.life.kit import Place, everything
from tests.runtime.kit import Ctx, Lab, Toy, Wf

from pikku._ids import MAX_RUN_ID, MAX_STEP_NAME
from pikku.errors import DeclarationError, PikkuError, RunFailedError, RunIdError, RunNotFoundError


@pytest.fixture(params=["memory", "sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "redis":
        return Place(request.getfixturevalue("redis_url"))
    return Place("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db")


ALPHABET = (
    "abcXYZ019-_.:/#[]{}|~%*?\\'\" \t\n\r\x00\x1f\x7f\x85\xa0éß中"
    "\u0301\u200b\u200d\u2028\u202e\ufeff\ufffe"
    "\U0001f986\U000e0001\U0010ffff\ud800\udfff"
)
LENGTHS = (0, 1, 1, 1, 2, 3, 8, MAX_RUN_ID, MAX_RUN_ID + 1, MAX_STEP_NAME, MAX_STEP_NAME + 1)


def text(draw: Random) -> str:
    """Any text; most of it such as a name may be, with one odd character."""
    match draw.randrange(4):
        case 0:
            return draw.choice(ODD_TEXTS)
        case 1:
            return draw.choice(ALPHABET) * draw.choice(LENGTHS)
        case 2:
            return "".join(draw.choice(ALPHABET) for _ in range(draw.choice(LENGTHS)))
        case _:
            return f"order{draw.choice(ALPHABET)}{draw.randint(0, 99)}"


def kit() -> Toy:
    toy = Toy()
    toy.registry.wire_signal(name="word", payload=str)

    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        return n

    @toy.workflow
    async def named(ctx: Wf, name: str) -> list[Any]:
        first = await ctx.workflow.do(name, work, 1)
        second = await ctx.workflow.do(name, work, 2)
        each = await ctx.workflow.map(name + "s", work, [3, 4])
        await ctx.workflow.sleep(name + " nap", "1s")
        return [first, second, *each]

    @toy.workflow
    async def quick(ctx: Wf) -> int:
        return await ctx.workflow.do("Work", work, 1)

    @toy.workflow
    async def waiting(ctx: Wf) -> str:
        return await ctx.workflow.wait_for_signal("Word", toy.registry.signals["word"])

    return toy


async def refused(lab: Lab, call: Any, before: Any) -> bool:
    """Whether a call is refused: with an error of ours that can be shown, and nothing written."""
    try:
        await call
    except PikkuError as error:
        str(error).encode()
        assert await everything(lab) == before
        return True
    return False


async def test_any_run_id_works_or_is_refused_before_anything_is_written(place: Place) -> None:
    toy = kit()
    async with place.lab(toy) as lab:
        for draw in rounds(60, "run id"):
            run_id = text(draw)
            before = await everything(lab)

            if await refused(lab, toy.start("quick", run_id=run_id), before):
                with pytest.raises((RunNotFoundError, RunIdError)):
                    await toy.app.get_run("quick", run_id).status()
                continue

            await lab.settle()
            run = toy.app.get_run("quick", run_id)
            assert await run.result() == 1
            assert run_id in [info.run_id for info in await toy.app.list_runs(text=run_id)]
            await run.delete()


async def test_any_tags_and_any_starter_work_or_are_refused_before_anything_is_written(
    place: Place,
) -> None:
    toy = kit()
    async with place.lab(toy) as lab:
        for draw in rounds(60, "tags"):
            tags = [text(draw) for _ in range(draw.randint(0, 3))]
            starter = draw.choice([None, text(draw)])
            before = await everything(lab)
            start = toy.app.start_workflow("quick", tags=tags, started_by=starter)

            if await refused(lab, start, before):
                continue

            await lab.settle()
            (info,) = await toy.app.list_runs()
            assert list(info.tags) == list(dict.fromkeys(tags))
            assert info.started_by == starter
            for tag in tags:
                assert await toy.app.list_runs(tag=tag) == [info]
            await toy.app.get_run("quick", info.run_id).delete()


async def test_any_step_name_works_or_fails_the_run_with_the_reason(place: Place) -> None:
    toy = kit()
    async with place.lab(toy) as lab:
        for draw in rounds(40, "step name"):
            name = text(draw)
            before = await everything(lab)
            if await refused(lab, toy.start("named", name, run_id="one"), before):
                continue  # the name is the input, too

            await lab.advance("1s")
            run = toy.app.get_run("named", "one")
            try:
                assert await run.result() == [1, 2, 3, 4]
            except RunFailedError as error:
                assert "StepNameError" in str(error.error.type)
                loaded = await lab._store.load_steps("one")
                assert loaded is not None
                assert all(step.key.isprintable() for step in loaded.steps)
            await run.history()
            await run.delete()


async def test_any_filter_finds_what_fits_or_nothing(place: Place) -> None:
    toy = kit()
    async with place.lab(toy) as lab:
        run = await toy.app.start_workflow("quick", tags=["a_b%c*"], run_id="a*b_c[d]")
        await lab.settle()
        for draw in rounds(40, "filter"):
            word = text(draw)
            for wanted in ({"text": word}, {"tag": word}, {"workflow": word}):
                try:
                    found = await toy.app.list_runs(**wanted)  # type: ignore[arg-type]
                    counted = await toy.app.count_runs(**wanted)  # type: ignore[arg-type]
                except PikkuError as error:
                    str(error).encode()
                    continue
                assert len(found) == sum(counted.values())
                if "text" not in wanted:
                    assert not found
                elif found:
                    assert word in str(run) or word in "quick" or word in "a_b%c*"


async def test_any_signal_name_id_and_payload_is_taken_or_refused(place: Place) -> None:
    toy = kit()
    async with place.lab(toy) as lab:
        for draw in rounds(50, "signal"):
            run = await toy.start("waiting", run_id="one")
            await lab.settle()
            name = draw.choice(["word", "word", "word", text(draw)])
            signal_id, payload = draw.choice([None, text(draw)]), text(draw)
            before = await everything(lab)
            send = toy.app.send_signal("one", name, payload, signal_id=signal_id)

            if await refused(lab, send, before):
                reason = text(draw).replace("\0", "").encode("utf-8", "replace").decode()
                await run.cancel(f"because {reason}")
            await lab.settle()

            if await run.status() == "completed":
                assert await run.result() == payload
            await run.delete()


async def test_any_reason_of_a_cancellation_is_kept_or_refused(place: Place) -> None:
    toy = kit()
    async with place.lab(toy) as lab:
        for draw in rounds(40, "reason"):
            run = await toy.start("waiting", run_id="one")
            await lab.settle()
            reason = text(draw)

            if await refused(lab, run.cancel(reason), await everything(lab)):
                await run.cancel("enough")
                reason = "enough"
            await lab.settle()

            assert (await run.info()).cancel_reason == reason
            await run.delete()


async def test_what_is_no_unicode_is_refused_before_a_store_is_asked(place: Place) -> None:
    toy = kit()
    async with place.lab(toy):
        with pytest.raises(RunIdError):
            toy.app.get_run("quick", "\ud800")
        with pytest.raises(RunIdError):
            await toy.app.send_signal("\ud800", "word", "x")
        for wanted in ("text", "tag", "workflow"):
            with pytest.raises(DeclarationError):
                await toy.app.list_runs(**{wanted: "\ud800"})  # type: ignore[arg-type]


async def test_a_handle_to_any_id_finds_no_run(place: Place) -> None:
    toy = kit()
    async with place.lab(toy) as lab:
        await toy.start("quick", run_id="one")
        await lab.settle()
        before = await everything(lab)
        for draw in rounds(40, "handle"):
            try:
                run = toy.app.get_run("quick", text(draw))
            except RunIdError as error:
                str(error).encode()
                continue
            for call in (run.status(), run.info(), run.history(), run.cancel("x"), run.delete()):
                with pytest.raises(RunNotFoundError):
                    await call
        assert await everything(lab) == before
