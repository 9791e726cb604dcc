"""A store behind a payload codec: the same promises, and nothing to read for those without it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from tests.runtime.kit import Ctx, StoreProxy, Toy, Wf, World, steps_of

from pikku import (
    ErrorInfo,
    PayloadCodec,
    RunCancelledError,
    RunFailedError,
    StepFailedError,
    StepFailure,
)
from pikku._commands.timeline import timeline
from pikku._documents import show_document
from pikku._payloads import SEALED
from pikku._records import CompleteStep, Op, Reply, RunFilter
from pikku._settings import Work
from pikku._waits import NOTHING, progress_line
from pikku.errors import ConfigurationError, CorruptStateError, SealError, StoreUnavailableError
from pikku.stores.base import Store
from pikku.stores.memory import MemoryStore
from pikku.stores.sealed import SealedStore
from pikku.testing import WorkflowLab
from pikku.testing.clock import FakeClock
from pikku.testing.store_checks import CHECKS, Check
from pikku.testing.store_contract import must, new_run, step_of, turn, write

SECRET = "s3cret"
AT_MOST_SECONDS = 5.0
Mode = Literal["none", "store"]


class Locked:
    """A toy: a key stream from a hash, and a tag that tells another key from one's own."""

    def __init__(self, key: str = "right", *, varying: bool = True) -> None:
        self._key = key.encode()
        self._varying = varying

    def seal(self, text: str) -> str:
        plain = text.encode()
        nonce = secrets.token_bytes(8) if self._varying else self._hash(plain)[:8]
        cipher = self._mixed(nonce, plain)
        return (nonce + self._hash(nonce + cipher)[:8] + cipher).hex()

    def open(self, text: str) -> str:
        sealed = bytes.fromhex(text)
        nonce, tag, cipher = sealed[:8], sealed[8:16], sealed[16:]
        if self._hash(nonce + cipher)[:8] != tag:
            raise ValueError("sealed with another key")
        return self._mixed(nonce, cipher).decode()

    def _hash(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._key).digest()

    def _mixed(self, nonce: bytes, data: bytes) -> bytes:
        blocks = (self._hash(nonce + number.to_bytes(4)) for number in itertools.count())
        stream = itertools.chain.from_iterable(blocks)
        return bytes(one ^ other for one, other in zip(data, stream, strict=False))


def with_codec(codec: object) -> Any:
    """Services that have it."""
    return SimpleNamespace(payload_codec=codec)


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until something has happened."""
    async with asyncio.timeout(AT_MOST_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


# --- the contract ---------------------------------------------------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> AsyncGenerator[Store, None]:
    made = SealedStore(MemoryStore(clock=clock), Locked(varying=False))
    await made.open()
    yield made
    await made.close()


# An error is sealed, too: nobody finds a run by it.
READS_VALUES = {"check_list_runs_finds_by_text_and_time"}


@pytest.mark.parametrize(
    "check",
    [check for check in CHECKS if check.__name__ not in READS_VALUES],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
async def test_a_sealed_store_keeps_the_promises_of_the_one_inside(
    check: Check, store: Store, clock: FakeClock
) -> None:
    await check(store, clock)


class Deaf(StoreProxy):
    """Carries out the next batch, and loses the answer."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.deaf = True

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        reply = await self.inner.apply(session, ops, want)
        if self.deaf:
            self.deaf = False
            raise StoreUnavailableError("no answer")
        return reply


async def test_an_outcome_that_is_sent_again_is_known_even_if_each_sealing_gives_another_text(
    clock: FakeClock,
) -> None:
    inner = MemoryStore(clock=clock)
    codec = Locked()
    assert codec.seal("x") != codec.seal("x")
    plain = SealedStore(inner, codec)
    plain.beat("s1", 6_000_000)
    await must(plain, "s1", new_run("r", claim=True))
    await must(plain, "s1", turn("r", 1, asks=[write("A", "running")]))
    deaf: Any = Deaf(inner)
    store = SealedStore(deaf, codec)
    failed = CompleteStep("r", "A", 1, "failed", None, '{"type": "E"}', 1_000_000)
    with pytest.raises(StoreUnavailableError):
        await store.apply("s1", [failed], {})

    reply = await store.apply("s1", [failed], {})

    assert [result.code for result in reply.results] == ["ok"]
    assert (await step_of(plain, "r", "A")).failures == 1
    assert store._unanswered == {}


async def test_an_operation_whose_values_cannot_be_sealed_is_refused_alone(
    clock: FakeClock,
) -> None:
    class Picky(Locked):
        def seal(self, text: str) -> str:
            if "never" in text:
                raise RuntimeError(text)
            return super().seal(text)

    store = SealedStore(MemoryStore(clock=clock), Picky())

    ops = [new_run("r1"), new_run("r2", input='"never"'), new_run("r3")]
    reply = await store.apply("s1", ops, {})

    assert [result.code for result in reply.results] == ["ok", "error", "ok"]
    assert [result.run and result.run.run_id for result in reply.results] == ["r1", None, "r3"]
    assert isinstance(reply.results[1].error, SealError)
    assert "never" not in str(reply.results[1].error)
    assert sorted(run.run_id for run in await store.list_runs(RunFilter())) == ["r1", "r3"]


# --- what the store inside has --------------------------------------------------------------------


def wire_everything(toy: Toy) -> None:
    """A workflow with every kind of value that a store keeps."""

    @toy.func(retries=1)
    async def work(ctx: Ctx, given: str) -> str:
        if ctx.step.attempt_count == 1:
            raise ValueError(f"not yet: {given}")
        return f"worked on {given}"

    @toy.func(dispatch="queue")
    async def fail(ctx: Ctx, given: str) -> None:
        raise ValueError(f"never: {given}")

    @toy.func
    async def handle(ctx: Ctx, failure: StepFailure[str]) -> str:
        return f"handled {failure.input}, {failure.error.message}"

    @toy.workflow
    async def everything(ctx: Wf, given: str) -> str:
        worked = await ctx.workflow.do("Work", work, given)
        # A second one of the name, with another policy, has a job that says so.
        await ctx.workflow.do("Work", work, given, retries=2, timeout="1min")
        try:
            await ctx.workflow.do("Fail", fail, given, on_error=handle)
        except StepFailedError as failed:
            assert given in failed.error.message
        inline = await ctx.workflow.do("Compute", lambda: f"computed {given}")
        await ctx.workflow.sleep("Wait", "1h")
        await ctx.workflow.now()
        return f"{worked}, {inline}"


@pytest.mark.parametrize("mode", ["none", "store"], ids=["inline", "remote"])
async def test_nothing_of_a_value_can_be_read_in_the_store_inside(
    toy: Toy, world: World, tmp_path: Path, mode: Mode
) -> None:
    wire_everything(toy)
    lab: WorkflowLab[Any] = WorkflowLab(
        toy.app,
        services=with_codec(Locked()),
        store=world.url,
        queue_service=mode,
        options=world.options(),
    )
    async with lab:
        run = await toy.start("everything", SECRET)
        assert await run.result() == f"worked on {SECRET}, computed {SECRET}"
        history = await run.history()
        assert SECRET in repr(history)
        assert SECRET in repr(await run.info())
        inner: Any = lab._store
        loaded = await inner.load_steps(str(run))
        shown = [loaded, await inner.load_history(str(run)), vars(inner)]
        assert SECRET not in repr(shown)
        assert loaded.run.input.startswith(SEALED)
        assert loaded.run.output.startswith(SEALED)
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert SECRET.encode() not in files
        assert not files or SEALED.encode() in files


async def test_a_run_that_was_left_behind_goes_on_from_its_sealed_records(
    toy: Toy, world: World
) -> None:
    wire_everything(toy)
    async with world.lab(toy, services=with_codec(Locked())) as lab:
        lab.crash_after("Compute")
        run = await toy.start("everything", SECRET, wait=False)
        await lab.recover()
        assert await run.result() == f"worked on {SECRET}, computed {SECRET}"
        assert lab.executions("Compute") == 1


async def test_starting_again_finds_the_run_though_its_input_is_sealed_anew(
    toy: Toy, world: World
) -> None:
    wire_everything(toy)
    async with world.lab(toy, services=with_codec(Locked())) as lab:
        await toy.start("everything", SECRET, run_id="r")
        again = await toy.start("everything", SECRET, run_id="r")
        assert SECRET in await again.result()
        assert len(await lab._store.list_runs(RunFilter())) == 1


async def test_reasons_for_a_cancel_stay_readable(toy: Toy, world: World) -> None:
    @toy.workflow
    async def sleeping(ctx: Wf) -> None:
        await ctx.workflow.sleep("Wait", "1h")

    async with world.lab(toy, services=with_codec(Locked()), auto_advance=False) as lab:
        run = await toy.start("sleeping")
        await run.cancel(f"{SEALED} is no sealed text")
        with pytest.raises(RunCancelledError, match="is no sealed text"):
            await run.result()
        record = await lab._store.load_run(str(run))
        assert record is not None
        assert record.cancel_reason == f"{SEALED} is no sealed text"
        kinds = {event.kind: event.data for event in await run.history()}
        assert kinds["cancel"]["reason"] == record.cancel_reason


async def test_runs_from_before_the_codec_go_on(toy: Toy, world: World) -> None:
    wire_everything(toy)
    async with world.lab(toy) as lab:
        lab.crash_after("Compute")
        run = await toy.start("everything", SECRET, wait=False)
        await lab.settle()
        lab._services = with_codec(Locked())
        await lab.recover()
        assert await run.result() == f"worked on {SECRET}, computed {SECRET}"


# --- another key ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "services, why",
    [
        (with_codec(Locked("wrong")), "the payload codec raised ValueError"),
        (with_codec(None), "the services have no payload_codec"),
    ],
    ids=["another key", "no codec"],
)
async def test_a_run_that_cannot_be_opened_is_suspended_alone_and_goes_on_with_the_right_key(
    toy: Toy, world: World, services: Any, why: str
) -> None:
    wire_everything(toy)

    @toy.workflow
    async def other(ctx: Wf) -> str:
        return await ctx.workflow.do("Compute", lambda: "computed")

    async with world.lab(toy, services=with_codec(Locked())) as lab:
        lab.crash_after("Work")
        run = await toy.start("everything", SECRET, wait=False)
        await lab.settle()

        lab._services = services
        await lab.recover()
        record = await lab._store.load_run(str(run))
        assert record is not None
        assert (record.status, record.suspend_reason) == ("suspended", "unreadable")
        error = ErrorInfo.from_json(record.error or "")
        assert error.is_a(SealError)
        assert error.is_a(CorruptStateError)
        assert why in error.message
        assert await (await toy.start("other")).result() == "computed"

        lab._services = with_codec(Locked())
        await lab.recover()
        await lab._opened.engine.resume(str(run))
        assert await run.result() == f"worked on {SECRET}, computed {SECRET}"


@pytest.mark.parametrize("failed", [False, True], ids=["result", "error"])
async def test_an_outcome_that_others_sealed_with_another_key_suspends_the_run_that_waits_for_it(
    toy: Toy, memory: World, failed: bool
) -> None:
    gate = asyncio.Event()

    @toy.workflow
    async def waiting(ctx: Wf) -> str:
        async def wait() -> str:
            await gate.wait()
            return "it"

        return await ctx.workflow.do("Wait for it", wait)

    async with memory.lab(toy, services=with_codec(Locked()), auto_advance=False) as lab:
        run = await toy.start("waiting", wait=False)
        await until(lambda: lab.executions("Wait for it"))
        engine = lab._opened.engine
        text = SEALED + Locked("wrong").seal('"it"')
        result, error = (None, text) if failed else (text, None)
        status: Any = "failed" if failed else "succeeded"
        op = CompleteStep(str(run), "Wait for it", 1, status, result, error)
        inner: Any = lab._store
        reply = await must(inner, engine.session_id, op)
        for word in reply.inbox:  # it was for the engine
            inner.post(engine.session_id, word)
        engine._committer.poke()
        await until(lambda: str(run) not in engine._live)
        info = await run.info()
        gate.set()
        await lab.settle()
    assert (info.status, info.suspend_reason) == ("suspended", "unreadable")
    assert info.error is not None
    what = "error" if failed else "result"
    assert f"the {what} of step 'Wait for it' of run {run} cannot be opened" in info.error.message


async def test_what_cannot_be_opened_is_listed_as_it_is_and_is_an_error_to_whoever_wants_the_value(
    toy: Toy, world: World
) -> None:
    wire_everything(toy)

    @toy.workflow
    async def failing(ctx: Wf) -> None:
        raise ValueError(SECRET)

    async with world.lab(toy, services=with_codec(Locked())) as lab:
        completed = await toy.start("everything", SECRET, run_id="completed")
        failed = await toy.start("failing", run_id="failed")
        await completed.result()

        lab._services = with_codec(Locked("wrong"))
        await lab.recover()
        listed = {info.run_id: info for info in await toy.app.list_runs()}
        assert listed["completed"].input.startswith(SEALED)
        assert listed["failed"].error is not None
        assert listed["failed"].error.message.startswith(SEALED)
        assert SEALED in repr(await completed.history())
        with pytest.raises(SealError, match="the output of run completed cannot be opened"):
            await completed.result()
        with pytest.raises(SealError, match="the error of run failed cannot be opened"):
            await failed.result()
        with pytest.raises(SealError, match="the input of run completed cannot be opened"):
            await toy.start("everything", SECRET, run_id="completed")


async def test_commands_that_read_without_the_services_show_sealed_text_as_it_is(
    toy: Toy, world: World
) -> None:
    wire_everything(toy)

    @toy.workflow
    async def failing(ctx: Wf) -> None:
        await ctx.workflow.do("Fail", toy.registry.functions["fail"], SECRET)

    async with world.lab(toy, services=with_codec(Locked())) as lab:
        run = await toy.start("failing")
        with pytest.raises(RunFailedError, match=SECRET):
            await run.result()
        store = lab._store
        loaded = await store.load_steps(str(run))
        entries = await store.load_history(str(run))
    assert loaded is not None
    assert loaded.run.error is not None
    document: Any = show_document(loaded, NOTHING)
    assert document["run"]["input"] is None or document["run"]["input"].startswith(SEALED)
    assert document["run"]["error"]["message"] == loaded.run.error
    assert document["steps"][0]["input"].startswith(SEALED)
    lines = timeline(loaded, entries, NOTHING, 0)
    assert any(f"(sealed): {SEALED}" in line for line in lines)
    assert "(sealed)" in (progress_line(loaded.steps[0]) or "")


async def test_a_worker_that_cannot_open_a_job_leaves_it_to_one_that_can(
    toy: Toy, tmp_path: Path
) -> None:
    worked: list[str] = []

    @toy.func(dispatch="queue")
    async def work(ctx: Ctx, given: str) -> str:
        worked.append(given)
        return given

    @toy.workflow
    async def working(ctx: Wf, given: str) -> str:
        return await ctx.workflow.do("Work", work, given)

    def opened(codec: Locked, *queues: str) -> Any:
        return toy.app.open(
            store=f"sqlite:///{tmp_path / 'runs.db'}?durability=process",
            services=with_codec(codec),
            queue_service="store",
            work=Work(queues),
        )

    async def has(kind: str) -> bool:
        return kind in {event.kind for event in await run.history()}

    async with opened(Locked(), "orchestrator"):
        run = await toy.start("working", SECRET)
        async with asyncio.timeout(AT_MOST_SECONDS):
            while not (await toy.app.opened.engine.store.load_steps(str(run))).steps:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
    async with opened(Locked("wrong"), "default"):
        async with asyncio.timeout(AT_MOST_SECONDS):
            while not await has("handed_back"):
                await asyncio.sleep(0.01)
        assert await run.status() == "running"
    async with opened(Locked(), "orchestrator", "default"):
        assert await run.result(timeout="10s") == SECRET
    assert worked == [SECRET]


# --- the services ---------------------------------------------------------------------------------


async def test_a_codec_that_cannot_seal_and_open_keeps_the_app_from_opening(toy: Toy) -> None:
    with pytest.raises(ConfigurationError, match="payload_codec"):
        async with toy.app.open(store="memory://", services=with_codec(object())):
            pass


async def test_a_value_that_cannot_be_sealed_starts_no_run(toy: Toy, world: World) -> None:
    class Broken(Locked):
        def seal(self, text: str) -> str:
            if SECRET in text:
                raise RuntimeError(text)
            return super().seal(text)

    wire_everything(toy)
    async with world.lab(toy, services=with_codec(Broken())) as lab:
        with pytest.raises(SealError, match="cannot be sealed: RuntimeError"):
            await toy.start("everything", SECRET)
        assert await lab._store.list_runs(RunFilter()) == []


def test_the_toy_is_a_codec() -> None:
    codec: PayloadCodec = Locked()
    assert isinstance(codec, PayloadCodec)
    for text in ("", "x", SECRET * 100, "🦊"):
        assert codec.open(codec.seal(text)) == text


async def test_steps_are_shown_to_the_engine_as_they_were(toy: Toy, memory: World) -> None:
    wire_everything(toy)
    async with memory.lab(toy, services=with_codec(Locked())) as lab:
        run = await toy.start("everything", SECRET)
        await lab.settle()
        sealed = await steps_of(lab, run)
        loaded = await lab._opened.engine.store.load_steps(str(run))
        assert loaded is not None
        for step in loaded.steps:
            assert (step.result is None) == (sealed[step.key].result is None)
            assert step.input is None or not step.input.startswith(SEALED)
