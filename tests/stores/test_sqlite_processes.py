"""SQLite: several processes at one file that none of them has made yet."""

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

from pikku.stores import make_store

OPENER = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from pikku.stores import make_store

    async def main(folder, name, files):
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(int(files)):
            store = make_store(f"sqlite:///{folder}/{number}.db")
            await store.open()
            store.beat(name, 6_000_000)
            await store.close()

    asyncio.run(main(*sys.argv[1:]))
""")


def test_many_processes_may_open_one_fresh_file_at_once(tmp_path: Path) -> None:
    files = 8
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(tmp_path), f"s{number}", str(files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert said == [""] * len(processes)
    assert [process.returncode for process in processes] == [0] * len(processes)
    assert {each.name for each in tmp_path.glob("*.db")} == {f"{n}.db" for n in range(files)}


async def test_who_opens_a_fresh_file_waits_for_the_process_that_is_making_it(
    tmp_path: Path,
) -> None:
    making = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    making.execute("BEGIN IMMEDIATE")  # SQLite then refuses another journal mode without waiting
    store = make_store(f"sqlite:///{tmp_path / 'runs.db'}")
    opening = asyncio.ensure_future(store.open())
    try:
        done, _ = await asyncio.wait({opening}, timeout=0.05)
    finally:
        making.close()
    await opening
    assert not done
    await store.close()
