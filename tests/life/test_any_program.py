"""Any workflow under any script of words ends in the same way, kept or evicted, inline or remote,
crashed or not."""

import asyncio
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.life.kit import Mode, Place
from tests.runtime.kit import CrashingStore, Ctx, Lab, Toy, Wf

from pikku import SignalTimeoutError, StepFailedError, Undo
from pikku.errors import AlreadyDecidedError, CompensationError, RunStateError

FINAL = ("completed", "failed", "cancelled")

# A program is a list: what it does, then its arguments. Every wait has a length of its own, so that
# no two things happen in one instant and the way that a run takes does not depend on the machine.


def leaf(draw: Random) -> list[Any]:
    makers: list[list[Any]] = [
        ["do", draw.randint(0, 3)],
        ["inline", draw.randint(0, 3)],
        ["fail"],
        ["flaky", draw.randint(1, 3)],
        ["sleep", draw.randint(0, 4)],
        ["signal", draw.choice("ab"), draw.choice([0, 2, 5])],
        ["approval", draw.choice([0, 3])],
        ["suspend"],
        ["patched", draw.choice("xy")],
        ["random"],
        ["map", draw.randint(0, 4)],
        ["detached"],
    ]
    return draw.choice(makers)


def program(draw: Random, depth: int = 3) -> list[Any]:
    """Something to do, of parts that are *depth* deep at most."""
    if depth == 0 or draw.random() < 0.25:
        return leaf(draw)
    kind = draw.choice(
        ["seq", "seq", "gather", "gather", "race", "group", "child", "guard", "saga"]
    )
    if kind in ("seq", "gather", "race", "group"):
        return [kind, [program(draw, depth - 1) for _ in range(draw.randint(2, 4))]]
    more = [draw.random() < 0.3] if kind == "saga" else []
    return [kind, program(draw, depth - 1), *more]


def words(draw: Random) -> dict[int, str]:
    """What is said, by the minute."""
    known = ["a", "b", "approve", "resume", "a", "b", "approve", "resume", "reject", "cancel"]
    known.append("crash")
    return {draw.randint(0, 9): draw.choice(known) for _ in range(draw.randint(1, 6))}


@dataclass(frozen=True)
class Variant:
    """A way to execute a program; `crashes` kills the process every minute."""

    mode: Mode
    sticky: int
    crashes: bool = False


VARIANTS = [
    Variant("inline", 1000),
    Variant("inline", 0),
    Variant("remote", 1000),
    Variant("remote", 0, crashes=True),
    Variant("inline", 0, crashes=True),
]


def moment(path: str, minutes: int = 0) -> timedelta:
    """So many minutes and a part of one that no other place in the program has."""
    part = int.from_bytes(sha256(path.encode()).digest()[:8], "big") % 59_999_999
    return timedelta(minutes=minutes, microseconds=1 + part)


def deployed() -> Toy:
    toy = Toy()
    signals = {n: toy.registry.wire_signal(name=n, payload=int) for n in "ab"}

    @toy.func
    async def work(ctx: Ctx, n: int) -> int:
        return n

    @toy.func
    async def fail(ctx: Ctx) -> int:
        raise ValueError("no")

    @toy.func(retries=3, retry_delay="90s")
    async def flaky(ctx: Ctx, n: int) -> int:
        if ctx.step.attempt_count <= n:
            raise ValueError("not yet")
        return n

    @toy.func
    async def undo(ctx: Ctx, what: Undo[int, int]) -> None:
        return None

    async def play(ctx: Wf, part: Any, path: str) -> Any:
        steps = ctx.workflow
        match part:
            case ["do", n]:
                return await steps.do(path, work, n)
            case ["inline", n]:
                return await steps.do(path, lambda: n)
            case ["fail"]:
                await steps.sleep(f"{path} wait", moment(path))
                return await steps.do(path, fail)
            case ["flaky", n]:
                return await steps.do(path, flaky, n)
            case ["sleep", minutes]:
                return await steps.sleep(path, moment(path, minutes))
            case ["signal", name, minutes]:
                timeout = moment(path, minutes) if minutes else None
                try:
                    return await steps.wait_for_signal(path, signals[name], timeout=timeout)
                except SignalTimeoutError:
                    return "late"
            case ["approval", minutes]:
                timeout = moment(path, minutes) if minutes else None
                return (await steps.approval(path, expires_in=timeout)).outcome
            case ["suspend"]:
                await steps.sleep(f"{path} wait", moment(path))
                return await steps.suspend(path)
            case ["patched", name]:
                return steps.patched(name)
            case ["random"]:
                return 0 <= await steps.random() < 1
            case ["map", n]:
                return await steps.map(path, work, range(n), max_concurrency=2)
            case ["detached"]:
                return bool(await steps.do(path, sub, ["sleep", 1], detached=True))
            case ["seq", parts]:
                return [await play(ctx, each, f"{path}.{n}") for n, each in enumerate(parts)]
            case ["gather", parts]:
                return list(
                    await asyncio.gather(
                        *(play(ctx, each, f"{path}.{n}") for n, each in enumerate(parts))
                    )
                )
            case ["race", parts]:
                place, value = await steps.race(
                    *(late(ctx, each, f"{path}.{n}") for n, each in enumerate(parts))
                )
                return [place, value]
            case ["group", parts]:
                failed, tasks = False, list[asyncio.Task[Any]]()
                try:
                    async with asyncio.TaskGroup() as group:
                        for n, each in enumerate(parts):
                            tasks.append(group.create_task(late(ctx, each, f"{path}.{n}")))
                except* StepFailedError:
                    failed = True
                if failed:
                    return await steps.do(f"{path} failed", lambda: "group failed")
                return [task.result() for task in tasks]
            case ["child", inner]:
                return await steps.do(path, sub, inner)
            case ["guard", inner]:
                try:
                    return await play(ctx, inner, f"{path}.0")
                finally:
                    await steps.do(f"{path} clean", work, 1)
            case ["saga", inner, broken]:
                try:
                    async with steps.saga() as saga:
                        await saga.do(f"{path} one", work, 1, undo=undo)
                        value = await play(ctx, inner, f"{path}.0")
                        await saga.do(f"{path} two", work, 2, undo=undo)
                        if broken:
                            raise KeyError(path)
                        return value
                except (KeyError, CompensationError):
                    return "undone"
            case _:
                raise AssertionError(part)

    async def late(ctx: Wf, part: Any, path: str) -> Any:
        """*part* between waits that no other branch has."""
        await ctx.workflow.sleep(f"{path} begin", moment(f"{path} ?"))
        value = await play(ctx, part, path)
        await ctx.workflow.sleep(f"{path} end", moment(f"{path} !"))
        return value

    @toy.workflow
    async def sub(ctx: Wf, program: Any) -> Any:
        await ctx.workflow.sleep("begin", moment(str(program)))
        return await play(ctx, program, "c")

    @toy.workflow
    async def top(ctx: Wf, program: Any) -> Any:
        try:
            return await play(ctx, program, "t")
        except StepFailedError as failed:
            return f"failed: {failed.step_name}"

    return toy


async def say(lab: Lab, toy: Toy, word: str) -> None:
    """Say *word* to every run that can hear it, the oldest first."""
    infos = sorted(
        await toy.app.list_runs(limit=200), key=lambda info: (info.created_at, info.depth)
    )
    for info in sorted(infos, key=lambda info: (info.created_at, info.depth, str(info.input))):
        run = toy.app.get_run(info.workflow, info.run_id)
        try:
            match word:
                case "a" | "b":
                    await run.signal(toy.registry.signals[word], 7)
                case "approve" | "reject":
                    for request in sorted(await run.approvals(), key=lambda each: each.step):
                        answer = run.approve if word == "approve" else run.reject
                        await answer(request.step, by="bob")
                        await lab.settle()
                case "resume":
                    if info.status == "suspended":
                        await run.resume()
                case "cancel":
                    if info.parent is None and info.workflow == "top":
                        await run.cancel("enough")
                case _:
                    raise AssertionError(word)
        except (RunStateError, AlreadyDecidedError):
            pass
        await lab.settle()


async def pass_minute(lab: Lab) -> None:
    """Let a minute pass; who dies in it is followed by another at once."""
    until = lab.clock.now_us() + 60_000_000
    while True:
        await lab.settle()
        if lab._crashed:
            await lab.recover()
            continue
        due = lab.clock.next_alarm_us()
        if lab.clock.now_us() == until and (due is None or due > until):
            return
        lab.clock.move_to(until if due is None else min(due, until))


async def ended(lab: Lab) -> Any:
    """How all runs have ended, with what they recorded."""
    shown: list[Any] = []
    for info in await lab.app.list_runs(limit=500):
        loaded = await lab._store.load_steps(info.run_id)
        assert loaded is not None
        steps = {
            step.key: (step.kind, step.status, step.result if step.kind == "rpc" else None)
            for step in loaded.steps
            if step.status in ("succeeded", "failed")
        }
        shown.append((info.workflow, info.status, json.dumps(info.output), sorted(steps.items())))
    return sorted(shown, key=str)


async def outcome(url: str, variant: Variant, program: Any, script: dict[int, str]) -> Any:
    """How the run and its family end."""
    toy = deployed()
    place = Place(url, sticky=variant.sticky, mode=variant.mode)
    async with place.lab(toy) as lab, asyncio.timeout(20):
        await toy.app.start_workflow("top", program, run_id="r", wait=False)
        await lab.settle()
        for minute in itertools.count():
            word = script.get(minute)
            if variant.crashes or word == "crash":
                await lab.crash()
                await lab.recover()
            if word is not None and word != "crash":
                await say(lab, toy, word)
            if minute > 9:  # let it end
                for each in ("resume", "a", "b", "approve"):
                    await say(lab, toy, each)
            infos = await toy.app.list_runs(limit=200)
            if all(info.status in FINAL for info in infos):
                break
            assert minute < 120, [(info.workflow, info.status, info.input) for info in infos]
            await lab.advance("1min")
        return await ended(lab)


async def alike(urls: Iterable[str], seed: int, variants: Sequence[Variant]) -> None:
    """Assert that the program and the script of *seed* end in one way in all of *variants*."""
    draw = Random(seed)
    made, script = program(draw), words(draw)
    print(f"PIKKU_TEST_SEED={seed}: {made} {script}")
    expected: Any = None
    for url, variant in zip(urls, variants, strict=True):
        found = await outcome(url, variant, made, script)
        expected = expected or found
        assert found == expected, variant


FIRST = int(os.environ.get("PIKKU_TEST_SEED", "0"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + 60))
async def test_any_program_ends_in_the_same_way_whatever_happens(seed: int) -> None:
    await alike(["memory://"] * len(VARIANTS), seed, VARIANTS)


@pytest.mark.parametrize("seed", range(FIRST + 1000, FIRST + 1010))
async def test_any_program_ends_in_the_same_way_on_every_store(
    seed: int, tmp_path: Path, redis_url: str
) -> None:
    file = tmp_path / "runs.db"
    urls = ["memory://", f"sqlite:///{file}?durability=process", redis_url]
    await alike(urls, seed, [Variant("inline", 1000), Variant("remote", 0), Variant("remote", 0)])


def without_flaky(part: Any) -> Any:
    """*part* with nothing that looks at the number of its attempt, which a lost one raises."""
    if isinstance(part, list):
        return ["do", 1] if part[:1] == ["flaky"] else [without_flaky(each) for each in part]
    return part


async def dying(variant: Variant, made: Any, at: int, *, before: bool) -> tuple[Any, int]:
    """How the program ends where its process dies at the *at*-th call, and how many there were."""
    toy = deployed()
    place = Place("memory://", sticky=variant.sticky, mode=variant.mode)
    lab = place.proxied(toy, lambda lab, store: CrashingStore(lab, store, at, before=before))
    lab.queue_service = "store" if variant.mode == "remote" else "none"
    lab._auto = False
    async with lab, asyncio.timeout(20):
        starting = asyncio.ensure_future(
            toy.app.start_workflow("top", made, run_id="r", wait=False)
        )
        while not lab.crashed and not starting.done():
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        if lab.crashed:
            await lab.recover()
            await toy.app.start_workflow("top", made, run_id="r", wait=False)
        for _ in range(10):
            await pass_minute(lab)
        calls = len(lab.wrapped.applied)
        for _ in range(60):
            for each in ("resume", "a", "b", "approve"):
                await say(lab, toy, each)
            if all(info.status in FINAL for info in await toy.app.list_runs(limit=500)):
                return await ended(lab), calls
            await pass_minute(lab)
    raise AssertionError("it does not end")


@pytest.mark.parametrize("seed", range(FIRST + 2000, FIRST + 2030))
async def test_a_crash_at_any_call_of_any_program_changes_no_outcome(seed: int) -> None:
    draw = Random(seed)
    made = without_flaky(program(draw))
    variant = draw.choice(VARIANTS[:3])
    print(f"PIKKU_TEST_SEED={seed}: {made}")
    expected, calls = await dying(variant, made, 10**9, before=True)
    for _ in range(6):
        at, before = draw.randint(3, max(3, calls)), draw.random() < 0.5
        found, _ = await dying(variant, made, at, before=before)
        assert found == expected, (variant, at, before)
