"""What is particular to SQLite: its file, its disk, and other processes at the same file."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.runtime.kit import Toy, Wf, World

from pikku._records import RunFilter
from pikku.errors import (
    CorruptStoreError,
    SchemaVersionError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreUrlError,
)
from pikku.stores import make_store
from pikku.stores.sqlite.store import SqliteStore
from pikku.stores.sqlite.workspace import list_query
from pikku.testing.store_contract import LEASE_US, dump, must, new_run, turn, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def store_at(path: Path, options: str = "") -> SqliteStore:
    made = make_store(f"sqlite:///{path}{options}")
    assert isinstance(made, SqliteStore)
    return made


async def opened(path: Path, options: str = "") -> SqliteStore:
    store = store_at(path, options)
    await store.open()
    return store


async def fill(store: SqliteStore, runs: int = 3) -> None:
    store.beat("s1", LEASE_US)
    for number in range(runs):
        await must(store, "s1", new_run(f"r{number}", claim=True))
        await must(store, "s1", turn(f"r{number}", 1, asks=[write("a", "running")]))


async def refuses(path: Path, kind: type[StoreError], *words: str) -> StoreError:
    store = store_at(path)
    with pytest.raises(kind) as caught:
        await store.open()
    for word in (path.name, *words):
        assert word in str(caught.value), str(caught.value)
    await store.close()
    return caught.value


# --- the file -------------------------------------------------------------------------------------


async def test_the_folder_is_made_and_what_was_written_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "runs.db"
    store = await opened(path)
    await fill(store)
    before = await dump(store)
    await store.close()
    again = await opened(path)
    assert await dump(again) == before
    await again.close()


async def test_opening_and_closing_twice_is_harmless(path: Path) -> None:
    store = await opened(path)
    await store.open()
    await store.close()
    await store.close()
    await store.open()
    await fill(store, 1)
    await store.close()


async def test_migrating_is_idempotent_and_marks_the_file(path: Path) -> None:
    def facts() -> tuple[object, ...]:
        connection = sqlite3.connect(path)
        schema = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        marks = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("user_version", "application_id", "journal_mode")
        ]
        connection.close()
        return schema, *marks

    found = []
    for _ in range(3):
        store = await opened(path)
        await store.close()
        found.append(facts())
    assert found[0] == found[1] == found[2]
    assert found[0][3] == "wal"
    assert found[0][2] == int.from_bytes(b"pikk", "big")


async def test_many_processes_may_make_the_file_at_the_same_moment(path: Path) -> None:
    stores = [store_at(path) for _ in range(8)]
    await asyncio.gather(*[store.open() for store in stores])
    for number, store in enumerate(stores):
        store.beat(f"s{number}", LEASE_US)
    await asyncio.gather(
        *[must(store, f"s{n}", new_run(f"r{n}", claim=True)) for n, store in enumerate(stores)]
    )
    assert await stores[0].count_runs() == {"running": 8}
    for store in stores:
        await store.close()


async def test_a_file_of_a_newer_pikku_is_refused_untouched(path: Path) -> None:
    await (await opened(path)).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = path.read_bytes()
    await refuses(path, SchemaVersionError, "999", "upgrade")
    assert path.read_bytes() == before


async def test_another_program_s_database_is_refused_untouched(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.execute("INSERT INTO notes VALUES ('mine')")
    connection.commit()
    connection.close()
    await refuses(path, CorruptStoreError, "another program")
    connection = sqlite3.connect(path)
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    mode = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert tables == [("notes",)]
    assert mode == ("delete",)


async def test_a_file_that_is_no_database_is_refused_untouched(path: Path) -> None:
    path.write_text("these are my notes\n" * 500)
    await refuses(path, CorruptStoreError, "not a SQLite database")
    assert path.read_text() == "these are my notes\n" * 500


async def test_a_folder_in_the_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    await refuses(path, StoreUnavailableError)


async def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    store = store_at(tmp_path / "folder" / "runs.db")
    with pytest.raises(StoreError):
        await store.open()


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    store = await opened(path)
    await fill(store, 1)
    await store.close()


async def test_a_damaged_file_is_refused_and_not_repaired_by_guessing(path: Path) -> None:
    store = await opened(path)
    await fill(store, 50)
    await store.close()
    raw = bytearray(path.read_bytes())
    assert len(raw) > 3 * 4096
    for page in range(1, len(raw) // 4096):
        raw[page * 4096 : page * 4096 + 4096] = b"\xa5" * 4096
    path.write_bytes(bytes(raw))
    store = store_at(path)
    with pytest.raises(CorruptStoreError) as caught:
        await store.open()
        await store.load_steps("r0")
    assert "damaged" in str(caught.value)
    assert caught.value.__cause__ is not None
    await store.close()


@pytest.fixture
def immutable(path: Path) -> Iterator[Path]:
    """A store's file that even root cannot write."""
    asyncio.run(_made(path))
    if os.geteuid() != 0:
        path.chmod(0o444)
        path.parent.chmod(0o555)
        yield path
        path.parent.chmod(0o755)
        return
    files = [each for each in path.parent.iterdir() if each.name.startswith(path.name)]
    done = subprocess.run(["chattr", "+i", *files], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file can be made immutable here: {done.stderr.strip()}")
    yield path
    subprocess.run(["chattr", "-i", *files], check=True)


async def _made(path: Path) -> None:
    store = await opened(path)
    await fill(store, 1)
    await store.close()


async def test_a_file_that_cannot_be_written_is_said_so(immutable: Path) -> None:
    store = store_at(immutable)
    with pytest.raises(StoreReadOnlyError) as caught:
        await store.open()
        await must(store, "s2", new_run("another"))
    assert "permissions" in str(caught.value)
    await store.close()


# --- the disk -------------------------------------------------------------------------------------


async def full(store: SqliteStore, pages: int) -> None:
    """Let the writer's connection meet the end of the disk."""
    assert store._writer is not None
    await store._writer.run(lambda each: each.execute(f"PRAGMA max_page_count = {pages}"))


async def test_a_full_disk_is_a_typed_error_that_changes_nothing_and_passes(path: Path) -> None:
    store = await opened(path)
    await fill(store)
    before = await dump(store)
    await full(store, 1)
    with pytest.raises(StoreFullError) as caught:
        for number in range(200):
            await must(store, "s1", new_run(f"big{number}", input='"' + "x" * 20_000 + '"'))
            before = await dump(store)
    assert "full" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert await dump(store) == before
    await full(store, 1_000_000)
    await must(store, "s1", turn("r0", 2, asks=[write("b", "running")]), new_run("after"))
    await store.close()


async def test_a_run_waits_for_space_and_goes_on_when_there_is_some(toy: Toy, path: Path) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    @toy.workflow
    async def growing(ctx: Wf) -> int:
        async def wait() -> None:
            entered.set()
            await gate.wait()

        await ctx.workflow.do("Wait", wait)
        text = await ctx.workflow.do("Grow", lambda: "x" * 300_000)
        return len(text)

    async with World(f"sqlite:///{path}").lab(toy) as lab:
        store = lab._store
        assert isinstance(store, SqliteStore)
        run = await toy.start("growing", wait=False)
        await entered.wait()
        await full(store, 1)
        gate.set()
        while lab.executions("Grow") == 0 and await run.status() == "running":
            await asyncio.sleep(0.005)
        await full(store, 1_000_000)
        assert await run.result(timeout="20s") == 300_000
        assert lab.executions("Grow") == 1


# --- other processes ------------------------------------------------------------------------------

WRITER = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from pikku.stores import make_store
    from pikku.testing.store_contract import LEASE_US, must, new_run, turn, write

    async def main(url, name):
        store = make_store(url)
        await store.open()
        store.beat(name, LEASE_US)
        for number in range(100_000):
            run_id = f"{name}-{number}"
            await must(store, name, new_run(run_id, claim=True))
            end = write("a", "succeeded", result="1", deliver=True)
            await must(store, name, turn(run_id, 1, asks=[end]))
            print(run_id, flush=True)

    asyncio.run(main(*sys.argv[1:]))
""")


def writer(path: Path, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, f"sqlite:///{path}", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_what_was_acknowledged_survives_kill_9_of_several_processes(path: Path) -> None:
    processes = [writer(path, name) for name in ("one", "two")]
    acknowledged: list[str] = []
    for process in processes:
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(25)]
    for process in processes:
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged += [line for line in rest.splitlines() if line.count("-") == 1]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    store = await opened(path)
    for run_id in acknowledged[:-2]:  # the last line of each may be cut off
        loaded = await store.load_steps(run_id)
        assert loaded is not None
        assert (loaded.run.turn, loaded.steps[0].status) == (1, "succeeded")
    await store.close()


async def test_two_stores_on_one_file_claim_each_run_once(path: Path) -> None:
    from pikku.stores.base import INLINE_QUEUE

    one, two = await opened(path), await opened(path)
    one.beat("s1", LEASE_US)
    two.beat("s2", LEASE_US)
    for number in range(40):
        await must(one, "s1", new_run(f"r{number}"))
    got: list[str] = []
    while True:
        replies = await asyncio.gather(
            one.apply("s1", [], {INLINE_QUEUE: 3}), two.apply("s2", [], {INLINE_QUEUE: 3})
        )
        fresh = [loaded.run.run_id for reply in replies for loaded in reply.claimed]
        if not fresh:
            break
        got += fresh
    assert sorted(got) == sorted(f"r{number}" for number in range(40))
    await one.close()
    await two.close()


async def test_a_reader_sees_whole_transactions_while_another_store_writes(path: Path) -> None:
    one, two = await opened(path), await opened(path)
    one.beat("s1", LEASE_US)
    await must(one, "s1", new_run("r", claim=True))

    async def write_all() -> None:
        for number in range(1, 40):
            asks = [write(f"{number} {key}", "running") for key in "ab"]
            await must(one, "s1", turn("r", number, asks=asks))

    writing = asyncio.ensure_future(write_all())
    while not writing.done():
        loaded = await two.load_steps("r")
        assert loaded is not None
        assert len(loaded.steps) == 2 * loaded.run.turn
    await writing
    await one.close()
    await two.close()


async def test_the_runs_of_a_workflow_are_found_without_a_look_at_others(path: Path) -> None:
    store = await opened(path)
    await store.close()
    wanted = RunFilter(workflow="w", after_us=1)

    connection = sqlite3.connect(path)
    query = f"EXPLAIN QUERY PLAN {list_query(wanted)}"
    plan = [row[3] for row in connection.execute(query, wanted._asdict())]
    connection.close()

    assert plan[0] == "SEARCH runs USING INDEX runs_by_workflow (workflow=?)"
    assert not any("SCAN" in step or "TEMP B-TREE" in step for step in plan)


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "level"), [("", 2), ("?durability=disk", 2), ("?durability=process", 1)]
)
async def test_durability_decides_how_commits_are_synced(
    path: Path, options: str, level: int
) -> None:
    store = await opened(path, options)
    assert store._writer is not None
    found = await store._writer.run(lambda each: each.execute("PRAGMA synchronous").fetchone()[0])
    assert found == level
    await fill(store, 1)
    await store.close()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("sqlite:///a.db?durability=never", "durability=disk"),
        ("sqlite:///a.db?durability=", "durability=disk"),
        ("sqlite:///a.db?sync=1", "durability"),
        ("sqlite://a.db", "sqlite:///a.db"),
        ("sqlite:///", "sqlite:///runs.db"),
        ("sqlite:///folder/", "sqlite:///runs.db"),
        ("sqlite:///:memory:", "memory://"),
        ("memory://?durability=disk", "none"),
        ("runs.db", "sqlite:///"),
        ("", "sqlite:///"),
        ("mysql://x", "memory://"),
        ("postgresql://localhost/db?schema=No", "lower-case"),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_one_that_does(url: str, word: str) -> None:
    with pytest.raises(StoreUrlError) as caught:
        make_store(url)
    assert word in str(caught.value)


def test_a_path_is_relative_to_its_base_or_absolute(tmp_path: Path) -> None:
    relative = make_store("sqlite:///data/runs.db", base=tmp_path)
    absolute = make_store(f"sqlite:///{tmp_path}/a%20b.db", base=Path("/nowhere"))
    assert isinstance(relative, SqliteStore)
    assert isinstance(absolute, SqliteStore)
    assert relative.path == tmp_path / "data" / "runs.db"
    assert absolute.path == tmp_path / "a b.db"
