"""What is particular to PostgreSQL: transactions side by side, answers that are lost, poolers,
migrations, and runs that begin with somebody else's transaction."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, LiteralString, cast

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from tests.runtime.kit import Toy, Wf
from tests.servers.fixtures import MakeProxy
from tests.servers.postgres import PostgresAt

from pikku._records import (
    CancelRun,
    FireTimers,
    Op,
    ReapSessions,
    RunFilter,
    Settle,
    SignalRun,
)
from pikku.errors import (
    RunConflictError,
    RunNotFoundError,
    SchemaVersionError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreUrlError,
    TransactionError,
)
from pikku.stores import make_store
from pikku.stores.base import DEFAULT_QUEUE, INLINE_QUEUE, JOBS, MAIL, ORCHESTRATOR_QUEUE
from pikku.stores.postgres import connections, workspace
from pikku.stores.postgres import store as postgres_store
from pikku.stores.postgres.store import PostgresStore
from pikku.testing.store_contract import LEASE_US, must, new_run, run_of, step_of, turn, write

JOB_QUEUE = JOBS + DEFAULT_QUEUE

Open = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture
async def opened(postgres_url: str) -> AsyncIterator[Open]:
    """Opens stores on the test's database, and closes them after the test."""
    async with AsyncExitStack() as stack:

        async def opened(options: str = "", url: str | None = None) -> PostgresStore:
            store = make_store((url or postgres_url) + (f"?{options}" if options else ""))
            assert isinstance(store, PostgresStore)
            await store.open()
            stack.push_async_callback(store.close)
            return store

        yield opened


def told(url: str, statement: LiteralString) -> list[tuple[Any, ...]]:
    """What the server answers to a statement, on a connection of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def cut_off(url: str) -> int:
    """End every other connection to the database; how many there were."""
    ended = told(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    return len(ended)


async def claimed_by(store: PostgresStore, session: str, count: int = 100) -> list[str]:
    reply = await store.apply(session, [], {INLINE_QUEUE: count})
    return [each.run.run_id for each in reply.claimed]


# --- side by side ---------------------------------------------------------------------------------


async def test_many_sessions_claim_at_once_and_every_run_goes_to_one(opened: Open) -> None:
    stores = [await opened() for _ in range(4)]
    for number, store in enumerate(stores):
        store.beat(f"s{number}", LEASE_US)
    await must(stores[0], "s0", *(new_run(f"r{number}") for number in range(200)))

    async def take(number: int) -> list[str]:
        mine: list[str] = []
        while len(found := await claimed_by(stores[number], f"s{number}", 7)):
            mine += found
        return mine

    shares = await asyncio.gather(*(take(number) for number in range(4)))
    taken = [run_id for share in shares for run_id in share]
    taken += await claimed_by(stores[0], "s0")
    assert sorted(taken) == sorted(f"r{number}" for number in range(200))


async def test_many_workers_claim_jobs_at_once_and_every_job_goes_to_one(opened: Open) -> None:
    stores = [await opened() for _ in range(3)]
    for number, store in enumerate(stores):
        store.beat(f"s{number}", LEASE_US)
    await must(stores[0], "s0", new_run("r", claim=True, inline=False))
    jobs = [
        write(f"j{number}", "scheduled")._replace(queue=DEFAULT_QUEUE, position=number)
        for number in range(90)
    ]
    await must(stores[0], "s0", turn("r", 1, asks=jobs))

    async def take(number: int) -> list[str]:
        mine: list[str] = []
        while True:
            reply = await stores[number].apply(f"s{number}", [], {JOB_QUEUE: 5})
            mine += [job.step.key for job in reply.jobs]
            if not reply.jobs and not reply.more:
                return mine

    shares = await asyncio.gather(*(take(number) for number in range(3)))
    assert sorted(key for share in shares for key in share) == sorted(each.key for each in jobs)


async def test_a_run_that_somebody_is_writing_to_does_not_hold_up_who_claims_another(
    opened: Open, postgres_url: str
) -> None:
    store = await opened()
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("first"), new_run("second"))
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM pikku.runs WHERE run_id = 'first' FOR UPDATE")
        reply = await store.apply("s1", [], {INLINE_QUEUE: 5})
        assert [each.run.run_id for each in reply.claimed] == ["second"]
        assert reply.more == [INLINE_QUEUE]  # there is something left to ask for
        other.rollback()
    assert await claimed_by(store, "s1") == ["first"]


async def test_sessions_that_lock_the_same_runs_in_turn_get_on(opened: Open) -> None:
    """Each signals a family's members in an order of its own: the server breaks the deadlock, and
    whoever was chosen tries again."""
    one, other = await opened(), await opened()
    one.beat("s1", LEASE_US)
    await must(one, "s1", *(new_run(f"r{number}") for number in range(8)))

    async def say(store: PostgresStore, name: str, order: list[int]) -> None:
        for round_ in range(5):
            ops: list[Op] = [
                SignalRun(f"r{number}", f"{name}-{round_}", "go", "1") for number in order
            ]
            for op in ops:
                await must(store, name, op)
            await must(store, name, *ops)

    await asyncio.gather(say(one, "s1", list(range(8))), say(other, "s2", list(reversed(range(8)))))
    for number in range(8):
        assert len(await one.load_history(f"r{number}")) == 10


async def test_a_deadlock_is_broken_and_the_batch_made_again(
    opened: Open, postgres_url: str
) -> None:
    store = await opened()
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("a", claim=True), new_run("b", claim=True))
    locked, waited = threading.Event(), threading.Event()

    def cross() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("SET deadlock_timeout = '10s'")  # the store's side is the victim
            connection.execute("SELECT 1 FROM pikku.runs WHERE run_id = 'b' FOR UPDATE")
            locked.set()
            connection.execute("SELECT 1 FROM pikku.runs WHERE run_id = 'a' FOR UPDATE")
            connection.commit()
        waited.set()

    thread = threading.Thread(target=cross)
    thread.start()
    await asyncio.to_thread(locked.wait)
    await must(store, "s1", CancelRun("a", "enough"), CancelRun("b", "enough"))
    thread.join()
    assert waited.is_set()
    assert {(await run_of(store, run_id)).cancel_reason for run_id in "ab"} == {"enough"}
    assert len(await store.load_history("a")) == 1


async def test_transactions_that_the_server_refuses_again_and_again_are_made_at_last(
    opened: Open, postgres_url: str
) -> None:
    """What a refusal kept from being prepared is prepared when it is asked for again."""
    store = await opened()
    store.beat("s1", LEASE_US)
    told(postgres_url, REFUSALS)
    for number in range(12):
        run_id = f"r{number}"
        await must(store, "s1", new_run(run_id, claim=True))
        await must(store, "s1", turn(run_id, 1, asks=[write("a", "running")]))
        await must(store, "s1", turn(run_id, 2, 0, ends=[write("a", "succeeded", result="1")]))
        assert (await step_of(store, run_id, "a")).result == "1"


async def test_a_run_whose_values_are_gone_is_told_of_and_keeps_no_other_from_being_claimed(
    opened: Open, postgres_url: str
) -> None:
    store = await opened()
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("damaged"), new_run("sound"))
    told(
        postgres_url,
        "DELETE FROM pikku.run_values WHERE run = (SELECT min(number) FROM pikku.runs)",
    )
    reply = await store.apply("s1", [], {INLINE_QUEUE: 5})
    assert {each.run.run_id: bool(each.run.input) for each in reply.claimed} == {
        "damaged": False,
        "sound": True,
    }
    assert (await run_of(store, "damaged")).input == ""


REFUSALS: LiteralString = """
CREATE SEQUENCE pikku.asked;
CREATE FUNCTION pikku.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('pikku.asked') % 7 BETWEEN 1 AND 5 THEN
        RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER refuse AFTER UPDATE OR INSERT ON pikku.steps
    FOR EACH STATEMENT EXECUTE FUNCTION pikku.refuse();
"""


async def test_what_others_change_is_seen_by_who_has_the_run_at_hand(opened: Open) -> None:
    one, other = await opened(), await opened()
    one.beat("s1", LEASE_US)
    await must(one, "s1", new_run("r", claim=True))
    await must(one, "s1", turn("r", 1, asks=[write("a", "running")]))
    await must(other, "s2", SignalRun("r", "one", "go", "1"), CancelRun("r", "enough"))
    reply = await one.apply("s1", [turn("r", 2, 0, ends=[write("a", "succeeded")])], {})
    assert reply.results[0].code == "conflict"
    assert [word.what for word in reply.inbox] == ["cancel"]
    await must(one, "s1", turn("r", 2, 1, ends=[write("a", "succeeded", result="1")]))
    assert (await step_of(one, "r", "a")).result == "1"


# --- leases ---------------------------------------------------------------------------------------


async def test_a_frozen_process_with_rows_locked_keeps_nobody_from_its_runs(
    opened: Open, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends a transaction that stands still, and its locks with it."""
    monkeypatch.setattr(
        connections, "IDLE_AT_MOST", b"SET idle_in_transaction_session_timeout = 200"
    )
    store = await opened()
    store.beat("zombie", -1)
    await must(store, "zombie", new_run("r", claim=True))
    frozen = connections.connect(connections.address_of(postgres_url))
    frozen.execute("BEGIN")
    frozen.execute("SELECT 1 FROM pikku.sessions FOR KEY SHARE")
    frozen.execute("SELECT 1 FROM pikku.runs FOR NO KEY UPDATE")
    store.beat("s2", LEASE_US)
    async with asyncio.timeout(20):
        while not await claimed_by(store, "s2"):
            await must(store, "s2", ReapSessions())
    assert (await run_of(store, "r")).owner == "s2"
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        frozen.execute("SELECT 1")
    frozen.close()


async def test_nobody_claims_in_the_name_of_a_session_that_is_being_reaped(
    opened: Open, postgres_url: str
) -> None:
    store = await opened()
    store.beat("zombie", -1)
    await must(store, "zombie", new_run("r"))
    with psycopg.connect(postgres_url) as reaper:
        reaper.execute("SELECT 1 FROM pikku.sessions FOR UPDATE")
        claiming = asyncio.create_task(claimed_by(store, "zombie"))
        while not told(postgres_url, "SELECT 1 FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0)
        reaper.execute("DELETE FROM pikku.sessions")
        reaper.commit()
    assert await claiming == []
    run = await run_of(store, "r")
    assert (run.owner, run.queued) == (None, True)


async def test_a_session_that_reaps_itself_takes_nothing_in_the_same_breath(opened: Open) -> None:
    store = await opened()
    store.beat("zombie", -1)
    await must(store, "zombie", new_run("mine", claim=True))
    await must(store, "other", new_run("waiting"))
    reply = await store.apply("zombie", [ReapSessions()], {INLINE_QUEUE: 5})
    assert (reply.session_alive, reply.claimed) == (False, [])
    for run_id in ("mine", "waiting"):
        run = await run_of(store, run_id)
        assert (run.owner, run.queued) == (None, True)


async def test_a_zombies_commit_hides_none_of_the_steps_that_its_run_has_by_now(
    opened: Open,
) -> None:
    """What the zombie takes for new is there, and its timer and its job are not lost on it."""
    zombie, other = await opened(), await opened()
    other.beat("s2", LEASE_US)
    await must(other, "s2", new_run("r", claim=True, inline=False))
    job = write("job", "scheduled")._replace(queue=DEFAULT_QUEUE, position=1)
    asks = [write("nap", "scheduled", kind="sleep", wait_us=1), job]
    await must(other, "s2", turn("r", 1, asks=asks))
    zombie.beat("s1", LEASE_US)
    reply = await zombie.apply("s1", [turn("r", 1, asks=asks), FireTimers()], {JOB_QUEUE: 1})
    assert [result.code for result in reply.results] == ["fenced", "ok"]
    assert [each.step.key for each in reply.jobs] == ["job"]
    assert (await step_of(other, "r", "nap")).status == "succeeded"


# --- answers that are lost ------------------------------------------------------------------------


async def test_a_connection_that_was_ended_is_made_again(opened: Open, postgres_url: str) -> None:
    store = await opened()
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True))
    assert cut_off(postgres_url) >= 2
    await must(store, "s1", turn("r", 1, asks=[write("a", "running")]))
    assert (await step_of(store, "r", "a")).status == "running"
    assert store.beat("s1", LEASE_US)


async def test_a_commit_whose_answer_was_lost_is_found_out_about(
    opened: Open, postgres_url: str, postgres_server: PostgresAt, make_proxy: MakeProxy
) -> None:
    """What was claimed and what was told is not lost with the answer; nothing is done twice."""
    direct = await opened()
    direct.beat("s1", LEASE_US)
    await must(direct, "s1", new_run("mine", claim=True), new_run("waiting"))
    await must(direct, "s2", SignalRun("mine", "one", "go", "1"), CancelRun("mine", "enough"))
    proxy = make_proxy(postgres_server)
    store = await opened(url=proxy.through(postgres_url))
    proxy.reset_after(1, of="reply", when=b"COMMIT\x00")
    ops = [turn("mine", 1, None, asks=[write("a", "running")])]
    reply = await store.apply("s1", ops, {INLINE_QUEUE: 5, MAIL: 1})
    assert [result.code for result in reply.results] == ["ok"]
    assert [each.run.run_id for each in reply.claimed] == ["waiting"]
    assert [word.what for word in reply.inbox] == ["cancel"]
    assert (await run_of(direct, "mine")).turn == 1
    assert proxy.counts.resets == 1


async def test_a_commit_that_the_server_never_got_is_made_again(
    opened: Open, postgres_url: str, postgres_server: PostgresAt, make_proxy: MakeProxy
) -> None:
    direct = await opened()
    direct.beat("s1", LEASE_US)
    await must(direct, "s1", new_run("mine", claim=True), new_run("waiting"))
    proxy = make_proxy(postgres_server)
    store = await opened(url=proxy.through(postgres_url))
    proxy.reset_after(1, of="request", when=b"COMMIT\x00")
    ops = [turn("mine", 1, None, asks=[write("a", "running")])]
    reply = await store.apply("s1", ops, {INLINE_QUEUE: 5})
    assert [result.code for result in reply.results] == ["ok"]
    assert [each.run.run_id for each in reply.claimed] == ["waiting"]
    assert (await run_of(direct, "mine")).turn == 1


def lose_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next commit be made, and the word after it be that the connection is ended."""
    pipeline = psycopg.Connection.pipeline

    @contextmanager
    def ended(connection: psycopg.Connection[Any]) -> Generator[Any, None, None]:
        with pipeline(connection) as made:
            yield made
        monkeypatch.setattr(psycopg.Connection, "pipeline", pipeline)
        raise psycopg.errors.AdminShutdown("terminating connection due to administrator command")

    monkeypatch.setattr(psycopg.Connection, "pipeline", ended)


async def test_a_commit_is_found_out_about_when_the_server_ends_the_connection_after_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("mine", claim=True), new_run("waiting"))
    lose_the_next_answer(monkeypatch)
    ops = [turn("mine", 1, None, asks=[write("a", "running")])]
    with pytest.raises(StoreUnavailableError):
        await store.apply("s1", ops, {INLINE_QUEUE: 5})
    reply = await store.apply("s1", ops, {INLINE_QUEUE: 5})
    assert [result.code for result in reply.results] == ["ok"]
    assert [each.run.run_id for each in reply.claimed] == ["waiting"]
    assert (await run_of(store, "mine")).turn == 1


def fail_the_next_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next transaction fail before it has begun."""
    pipeline = psycopg.Connection.pipeline

    def failing(connection: psycopg.Connection[Any]) -> Any:
        monkeypatch.setattr(psycopg.Connection, "pipeline", pipeline)
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(psycopg.Connection, "pipeline", failing)


async def test_what_a_lost_answer_said_is_kept_until_somebody_has_heard_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a call fails after the commit was found out about: the store takes what was
    claimed to be with a session that lives, so nobody else would see to it."""
    store = await opened()
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("mine", claim=True), new_run("first"))
    lose_the_next_answer(monkeypatch)
    with pytest.raises(StoreUnavailableError):
        await store.apply("s1", [], {INLINE_QUEUE: 1})
    for _ in range(2):
        fail_the_next_transaction(monkeypatch)
        with pytest.raises(StoreUnavailableError):
            await store.apply("s1", [], {INLINE_QUEUE: 1})
    await must(await opened(), "s2", new_run("second"), CancelRun("mine", "enough"))
    lose_the_next_answer(monkeypatch)
    with pytest.raises(StoreUnavailableError):
        await store.apply("s1", [], {INLINE_QUEUE: 1, MAIL: 1})
    fail_the_next_transaction(monkeypatch)
    with pytest.raises(StoreUnavailableError):
        await store.apply("s1", [], {})
    reply = await store.apply("s1", [], {INLINE_QUEUE: 1})
    assert [each.run.run_id for each in reply.claimed] == ["first", "second"]
    assert [word.what for word in reply.inbox] == ["cancel"]
    again = await store.apply("s1", [], {INLINE_QUEUE: 1})
    assert (list(again.claimed), list(again.inbox)) == ([], [])


async def test_what_a_lost_answer_said_is_nothing_to_another_session(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    store.beat("s1", LEASE_US)
    store.beat("s2", LEASE_US)
    await must(store, "s1", new_run("r"))
    lose_the_next_answer(monkeypatch)
    with pytest.raises(StoreUnavailableError):
        await store.apply("s1", [], {INLINE_QUEUE: 1})
    fail_the_next_transaction(monkeypatch)
    with pytest.raises(StoreUnavailableError):
        await store.apply("s2", [], {})
    assert (await store.apply("s2", [], {})).claimed == []


async def test_while_the_server_is_busy_with_a_commit_nobody_guesses_what_becomes_of_it(
    opened: Open, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("mine", claim=True))
    lose_the_next_answer(monkeypatch)
    ops = [turn("mine", 1, None, asks=[write("a", "running")])]
    with pytest.raises(StoreUnavailableError):
        await store.apply("s1", ops, {})
    monkeypatch.setattr(postgres_store, "_RESOLVE_AT_MOST", b"SET LOCAL lock_timeout = '20ms'")
    with psycopg.connect(postgres_url) as busy:
        busy.execute("SELECT * FROM pikku.batches FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="busy with a commit whose answer was lost"):
            await store.apply("s1", ops, {})
    reply = await store.apply("s1", ops, {})
    assert [result.code for result in reply.results] == ["ok"]
    assert (await run_of(store, "mine")).turn == 1


async def test_a_server_that_has_gone_back_to_an_earlier_state_ends_the_sessions_it_forgot_of(
    opened: Open, postgres_url: str
) -> None:
    """A replica that lagged behind has taken its place: what the session holds by it is worth
    nothing, and neither is what the process has at hand."""
    store = await opened()
    for session in ("s1", "s2"):
        store.beat(session, LEASE_US)
        await must(store, session, new_run(f"of {session}", claim=True))
    await must(store, "s1", turn("of s1", 1, asks=[write("a", "running")]))
    told(postgres_url, "UPDATE pikku.batches SET made = made - 1 WHERE session = 's1'")
    told(postgres_url, "UPDATE pikku.runs SET turn = 0 WHERE run_id = 'of s1'")
    told(postgres_url, "DELETE FROM pikku.steps")
    again = turn("of s1", 2, asks=[write("b", "running")])
    reply = await store.apply("s1", [again, new_run("another", claim=True)], {INLINE_QUEUE: 5})
    assert not reply.session_alive
    assert [result.code for result in reply.results] == ["fenced", "ok"]
    assert reply.claimed == []
    assert (await run_of(store, "another")).owner is None
    assert (await store.apply("s2", [], {INLINE_QUEUE: 5})).session_alive


async def test_one_of_several_hosts_takes_the_place_of_another(
    opened: Open, postgres_url: str
) -> None:
    closed = postgres_url.replace("@127.0.0.1:", "@127.0.0.1:1,127.0.0.1:", 1)
    store = await opened("target_session_attrs=read-write", url=closed)
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True))
    assert store.address.startswith("postgresql://pikku@127.0.0.1:1,127.0.0.1:")


async def test_the_last_batch_of_a_session_that_is_gone_is_forgotten_in_time(
    opened: Open, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    store.beat("stays", LEASE_US)

    async def remembered_after(session: str) -> list[str]:
        store.beat(session, LEASE_US)
        await must(store, session, new_run(f"of {session}"))
        store.beat(session, -1)
        await must(store, "stays", ReapSessions())
        rows = told(postgres_url, "SELECT session FROM pikku.batches ORDER BY session")
        return [name for (name,) in rows]

    assert await remembered_after("s1") == ["s1", "stays"]
    monkeypatch.setattr(workspace, "BATCHES_KEPT_US", -1)
    assert await remembered_after("s2") == ["stays"]


async def test_what_a_lost_answer_said_comes_with_the_next_one(
    opened: Open, postgres_url: str, postgres_server: PostgresAt, make_proxy: MakeProxy
) -> None:
    direct = await opened()
    direct.beat("s1", LEASE_US)
    await must(direct, "s1", new_run("waiting"))
    proxy = make_proxy(postgres_server)
    store = await opened(url=proxy.through(postgres_url))
    proxy.reset_after(1, of="reply", when=b"COMMIT\x00")
    proxy.reset_after(0, of="request", on="next")
    with pytest.raises(StoreUnavailableError):
        await store.apply("s1", [], {INLINE_QUEUE: 5})
    assert (await run_of(direct, "waiting")).owner == "s1"
    proxy.heal()
    reply = await store.apply("s1", [], {INLINE_QUEUE: 5})
    assert [each.run.run_id for each in reply.claimed] == ["waiting"]


# --- words ----------------------------------------------------------------------------------------


async def listening(store: PostgresStore, session: str = "s1") -> None:
    """Wait until the store listens; the first word is to look at everything."""
    assert await store.wait(session, [INLINE_QUEUE], 10) is None


async def test_who_waits_is_told_of_a_queue_that_was_filled(opened: Open) -> None:
    one, other = await opened(), await opened()
    await listening(one)
    waiting = asyncio.create_task(one.wait("s1", [INLINE_QUEUE], 30))
    await must(other, "s2", new_run("r"))
    assert await waiting == INLINE_QUEUE


async def test_the_owner_of_a_run_is_told_of_its_mail_and_nobody_else(opened: Open) -> None:
    one, other = await opened(), await opened()
    one.beat("s1", LEASE_US)
    await must(one, "s1", new_run("r", claim=True))
    await listening(one)
    await listening(other, "s3")
    waiting = asyncio.create_task(one.wait("s1", [INLINE_QUEUE], 30))
    await must(other, "s2", CancelRun("r", "enough"))
    assert await waiting == MAIL
    assert await other.wait("s3", [INLINE_QUEUE], 0.05) is None


async def test_what_a_session_takes_up_itself_is_told_to_nobody(opened: Open) -> None:
    one, other = await opened(), await opened()
    one.beat("s1", LEASE_US)
    await listening(other, "s2")
    reply = await one.apply("s1", [new_run("r")], {INLINE_QUEUE: 5})
    assert [each.run.run_id for each in reply.claimed] == ["r"]
    assert await other.wait("s2", [INLINE_QUEUE], 0.05) is None


async def test_who_listens_looks_at_everything_after_the_connection_was_lost(
    opened: Open, postgres_url: str
) -> None:
    one, other = await opened(), await opened()
    await listening(one)
    waiting = asyncio.create_task(one.wait("s1", [INLINE_QUEUE], 30))
    await asyncio.sleep(0)
    cut_off(postgres_url)
    with pytest.raises(StoreUnavailableError):
        await waiting
    await must(other, "s2", new_run("r"))
    await listening(one)
    waiting = asyncio.create_task(one.wait("s1", [INLINE_QUEUE], 30))
    await must(other, "s2", new_run("q"))
    assert await waiting == INLINE_QUEUE


async def test_more_names_than_a_word_can_hold_stand_for_everything(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pikku.stores.postgres.words.PAYLOAD_BYTES", 3)
    one, other = await opened(), await opened()
    await listening(one)
    waiting = asyncio.create_task(one.wait("s1", [INLINE_QUEUE], 30))
    await must(other, "s2", new_run("r"))
    assert await waiting is None


# --- poolers --------------------------------------------------------------------------------------


async def test_through_a_transaction_pooler_nothing_is_left_in_a_connection(
    opened: Open, postgres_url: str
) -> None:
    store = await opened("pooling=transaction")
    assert not store.pushes
    store.beat("s1", LEASE_US)
    await must(store, "s1", new_run("r", claim=True))
    for number in range(1, 8):
        await must(store, "s1", turn("r", number, asks=[write(f"s{number}", "running")]))

    def left(connection: psycopg.Connection[tuple[Any, ...]]) -> tuple[int, str]:
        prepared = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
        idle = connection.execute("SHOW idle_in_transaction_session_timeout").fetchone()
        assert prepared is not None and idle is not None
        return prepared[0], idle[0]

    writer = store._writer
    assert writer is not None
    assert await writer.run(left) == (0, "0")


# --- migrations -----------------------------------------------------------------------------------


async def test_processes_that_open_an_empty_database_at_once_migrate_it_once(
    opened: Open, postgres_url: str
) -> None:
    await asyncio.gather(*(opened() for _ in range(6)))
    assert told(postgres_url, "SELECT version FROM pikku.migrations") == [(1,), (2,)]


async def test_the_printed_script_is_what_a_migration_does(opened: Open, postgres_url: str) -> None:
    store = make_store(f"{postgres_url}?schema=by_hand&migrate=0")
    assert isinstance(store, PostgresStore)
    script = await store.pending_migrations()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(script.encode())
    assert await store.pending_migrations() == ""
    assert await store.migrate() == []
    by_hand = await opened("schema=by_hand&migrate=0")
    await must(by_hand, "s1", new_run("r"))
    await opened("schema=by_itself")
    columns = (
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = {} ORDER BY 1, 2"
    )
    with psycopg.connect(postgres_url) as connection:
        one, other = [
            connection.execute(sql.SQL(columns).format(sql.Literal(schema))).fetchall()
            for schema in ("by_hand", "by_itself")
        ]
    assert one == other and one


async def test_the_runs_of_a_workflow_are_found_without_a_look_at_others(
    opened: Open, postgres_url: str
) -> None:
    store = await opened()
    wanted = RunFilter(workflow="w", after_us=1)

    with psycopg.connect(postgres_url) as connection:
        connection.execute("SET enable_seqscan = off")  # which a table without rows would have
        query = b"EXPLAIN " + store._queries["list_runs"] + workspace.which_runs(wanted).encode()
        plan = [row[0] for row in connection.execute(query, wanted._asdict())]

    assert any("runs_by_workflow" in line for line in plan)
    assert any("Index Cond: (workflow = 'w'::text)" in line for line in plan)
    assert not any("Sort" in line for line in plan)


async def test_a_store_that_may_not_migrate_says_what_is_missing(opened: Open) -> None:
    with pytest.raises(StoreUnavailableError, match=r"has no schema yet.*pikku db migrate"):
        await opened("migrate=0")


async def test_a_schema_from_a_newer_pikku_is_refused(opened: Open, postgres_url: str) -> None:
    await opened()
    told(postgres_url, "INSERT INTO pikku.migrations VALUES (99)")
    with pytest.raises(SchemaVersionError, match="has schema version 99"):
        await opened()


async def test_schemas_of_one_database_see_nothing_of_one_another(opened: Open) -> None:
    one, other = await opened(), await opened("schema=other")
    await must(one, "s1", new_run("r"))
    assert await other.load_run("r") is None
    await must(other, "s1", new_run("r"))
    assert await one.count_runs() == await other.count_runs() == {"running": 1}


async def test_a_server_that_only_reads_is_told_as_such(opened: Open) -> None:
    await opened()
    store = await opened("options=-cdefault_transaction_read_only%3Don")
    with pytest.raises(StoreReadOnlyError):
        await store.apply("s1", [new_run("r")], {})


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://h/d?schema=Not%20One", "schema cannot be 'Not One'"),
        ("postgresql://h/d?schema=a;drop", "schema cannot be 'a;drop'"),
        ("postgresql://h/d?pooling=statement", "pooling cannot be 'statement'"),
        ("postgresql://h/d?migrate=yes", "migrate cannot be 'yes'"),
        ("postgresql://h/d?no_such=1", "no_such"),
        ("postgresql://h:port/d", "port"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, reason: str) -> None:
    with pytest.raises(StoreUrlError, match=reason):
        make_store(url)


def test_no_password_is_in_the_address() -> None:
    store = make_store("postgresql://me:s3cr3t@db.example:5432/shop?schema=x&sslmode=verify-full")
    assert store.address == "postgresql://me@db.example:5432/shop?schema=x"


async def test_a_server_that_is_not_there_is_unavailable(opened: Open) -> None:
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1"):
        await opened(url="postgresql://pikku@127.0.0.1:1/none")


# --- somebody else's transaction ------------------------------------------------------------------


@pytest.fixture
def doubling() -> Toy:
    toy = Toy()

    @toy.workflow
    async def double(ctx: Wf, n: int) -> int:
        return await ctx.workflow.do("Double", lambda: n * 2)

    return toy


async def test_a_run_begins_when_the_transaction_commits(doubling: Toy, postgres_url: str) -> None:
    app = doubling.app
    async with (
        app.open(store=postgres_url),
        await psycopg.AsyncConnection[Any].connect(postgres_url) as connection,
    ):
        run = await app.start_in_transaction(connection, "double", 4)
        with pytest.raises(RunNotFoundError):
            await run.status()
        await connection.commit()
        assert await run.result(timeout="10s") == 8


async def test_a_run_never_begins_if_the_transaction_is_rolled_back(
    doubling: Toy, postgres_url: str
) -> None:
    app = doubling.app
    async with (
        app.open(store=postgres_url),
        await psycopg.AsyncConnection[Any].connect(postgres_url) as connection,
    ):
        run = await app.start_in_transaction(connection, "double", 4, run_id="r")
        await connection.rollback()
        with pytest.raises(RunNotFoundError):
            await run.status()
        assert await (await app.start_workflow("double", 5, run_id="r")).result() == 10


async def test_a_synchronous_connection_with_rows_of_its_own_kind_will_do(
    doubling: Toy, postgres_url: str
) -> None:
    app = doubling.app
    async with app.open(store=postgres_url):
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.row_factory = cast(Any, dict_row)
            with connection.transaction():
                run = await app.start_in_transaction(connection, "double", 4)
            assert await run.result(timeout="10s") == 8
            with pytest.raises(TransactionError, match="no transaction open"):
                await app.start_in_transaction(connection, "double", 4)


async def test_a_connection_of_asyncpg_will_do(doubling: Toy, postgres_url: str) -> None:
    asyncpg: Any = importlib.import_module("asyncpg")
    app = doubling.app
    connection = await asyncpg.connect(postgres_url)
    try:
        async with app.open(store=postgres_url):
            async with connection.transaction():
                run = await app.start_in_transaction(
                    connection, "double", 4, tags=["a", "b"], delay="100ms"
                )
            assert await run.result(timeout="10s") == 8
            with pytest.raises(TransactionError, match="no transaction open"):
                await app.start_in_transaction(connection, "double", 4)
    finally:
        await connection.close()


async def test_a_start_in_a_transaction_is_idempotent_by_its_id(
    doubling: Toy, postgres_url: str
) -> None:
    app = doubling.app
    async with (
        app.open(store=postgres_url),
        await psycopg.AsyncConnection[Any].connect(postgres_url) as connection,
    ):
        await app.start_in_transaction(connection, "double", 4, run_id="r")
        again = await app.start_in_transaction(connection, "double", 4, run_id="r")
        with pytest.raises(RunConflictError):
            await app.start_in_transaction(connection, "double", 5, run_id="r")
        await connection.commit()
        assert await again.result(timeout="10s") == 8


async def test_a_store_without_transactions_to_share_says_so(doubling: Toy) -> None:
    async with doubling.app.open(store="memory://"):
        with pytest.raises(TransactionError, match="takes no part in transactions"):
            await doubling.app.start_in_transaction(object(), "double", 4)


# --- what it costs --------------------------------------------------------------------------------


async def test_a_batch_costs_the_same_statements_whatever_its_size(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement locks, one saves the runs, one or two the steps: however many there are."""
    store = await opened()
    store.beat("s1", LEASE_US)
    runs = [f"r{number}" for number in range(50)]
    await must(store, "s1", *(new_run(run_id, claim=True) for run_id in runs))
    await must(store, "s1", *(turn(each, 1, asks=[write("s1", "running")]) for each in runs))
    counted: list[str] = []
    execute = psycopg.Cursor.execute

    def counting(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        counted.append(str(query))
        return execute(self, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)

    def next_turn(run_id: str, number: int) -> Op:
        ends = [write(f"s{number - 1}", "succeeded", result="1", deliver=True)]
        return turn(run_id, number, number - 2, ends=ends, asks=[write(f"s{number}", "running")])

    costs: list[int] = []
    for number, size in ((2, 50), (3, 20), (4, 1)):
        counted.clear()
        ops = [next_turn(run_id, number) for run_id in runs[:size]]
        reply = await store.apply("s1", ops, {})
        assert {result.code for result in reply.results} == {"ok"}
        costs.append(len(counted))
    assert costs == [4, 4, 4], counted  # with BEGIN and COMMIT


async def test_timers_cost_the_same_statements_however_many_are_due(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    store.beat("s1", LEASE_US)
    nap = write("nap", "scheduled", kind="sleep", wait_us=1)
    counted: list[str] = []
    execute = psycopg.Cursor.execute

    def counting(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        counted.append(str(query))
        return execute(self, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)
    costs: list[int] = []
    for size in (2, 40):
        runs = [f"r{size}-{number}" for number in range(size)]
        await must(store, "s1", *(new_run(run_id, claim=True) for run_id in runs))
        await must(store, "s1", *(turn(each, 1, asks=[nap]) for each in runs))
        counted.clear()
        await must(store, "s2", FireTimers())
        costs.append(len(counted))
        assert (await step_of(store, runs[-1], "nap")).status == "succeeded"
    assert costs[0] == costs[1], counted


async def test_tables_that_grow_are_not_read_through(opened: Open, postgres_url: str) -> None:
    """What was prepared while they were empty, and nobody has analysed them yet."""

    def read_through() -> int:
        scans = told(
            postgres_url,
            "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables"
            " WHERE relname IN ('runs', 'run_values', 'steps', 'timers', 'queue', 'jobs', 'inbox')",
        )
        return int(scans[0][0])

    await (await opened()).close()
    before = read_through()
    store = await opened()
    store.beat("s1", LEASE_US)
    for batch in range(10):
        runs = [f"r{batch}-{number}" for number in range(5)]
        await must(store, "s1", *(new_run(run_id, inline=False) for run_id in runs))
        await store.apply("s1", [], {ORCHESTRATOR_QUEUE: 5})
        scheduled = write("a", "scheduled")._replace(queue=DEFAULT_QUEUE)
        await must(store, "s1", *(turn(each, 1, asks=[scheduled]) for each in runs))
        jobs = (await store.apply("s1", [], {JOB_QUEUE: 5, MAIL: 1})).jobs
        assert len(jobs) == 5
        await must(store, "s1", *(turn(each, 2, settle=Settle("completed")) for each in runs))
    await store.close()
    assert read_through() == before


async def test_work_that_is_asked_for_in_vain_writes_nothing(opened: Open) -> None:
    store = await opened()
    store.beat("s1", LEASE_US)

    def written(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
        row = connection.execute("SELECT pg_current_xact_id_if_assigned() IS NULL").fetchone()
        assert row is not None
        position = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert position is not None
        return int(position[0])

    writer = store._writer
    assert writer is not None
    for _ in range(3):  # what is prepared, and the server's own housekeeping
        await store.apply("s1", [], {INLINE_QUEUE: 5, JOB_QUEUE: 5, MAIL: 1})
    before = await writer.run(written)
    for _ in range(20):
        await store.apply("s1", [], {INLINE_QUEUE: 5, JOB_QUEUE: 5, MAIL: 1})
    assert await writer.run(written) - before < 1000
