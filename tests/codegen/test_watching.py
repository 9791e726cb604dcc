"""`pikku-gen --watch`: once for each burst of edits, and through whatever is saved."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from pikku_gen.pipeline import Outcome
from pikku_gen.watching import follow

FUNCTION = """\
from shop_pikku import Context, pikku_func


@pikku_func
async def {}(ctx: Context) -> {}: ...
"""
BROKEN = "from shop_pikku import ("
SETTINGS = '[tool.pikku]\nroot = "shop"\n'

Edit = Callable[[], object]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "functions.py").write_text(FUNCTION.format("ping", "int"), "utf-8")
    (tmp_path / "pyproject.toml").write_text(SETTINGS, "utf-8")
    return tmp_path


class Watched:
    """What a watch does while these edits are made, one for each wait."""

    def __init__(self, project: Path, *edits: Edit) -> None:
        self.runs: list[tuple[str, ...]] = []
        self.said: list[str] = []
        self.folders: tuple[str, ...] = ()
        self._edits = list(edits)
        with pytest.raises(KeyboardInterrupt):
            follow(project, self._wait, self.runs.append, self._ended)

    def _wait(self, folders: tuple[str, ...]) -> None:
        self.folders = folders
        if not self._edits:
            raise KeyboardInterrupt
        self._edits.pop(0)()

    def _ended(self, outcome: Outcome | OSError, seconds: float) -> None:
        assert seconds >= 0
        if isinstance(outcome, OSError):
            self.said.append(type(outcome).__name__)
        elif outcome.failed:
            self.said.append(",".join(found.code for found in outcome.diagnostics))
        else:
            self.said.append("written" if outcome.wrote else "up to date")


def saves(path: Path, text: str) -> Edit:
    def save() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    return save


def test_it_generates_first_and_then_what_is_saved(project: Path) -> None:
    watched = Watched(project, saves(project / "shop/functions.py", FUNCTION.format("pong", "int")))

    assert watched.runs == [(), ("shop/functions.py changed",)]
    assert watched.said == ["written", "written"]
    assert "    pong: " in (project / "shop_pikku/_rpc.pyi").read_text("utf-8")


def test_many_edits_of_one_burst_are_one_run(project: Path) -> None:
    def burst() -> None:
        saves(project / "shop/more.py", FUNCTION.format("more", "int"))()
        saves(project / "shop/yet.py", FUNCTION.format("yet", "int"))()
        (project / "shop/functions.py").unlink()

    watched = Watched(project, burst)

    assert watched.runs[1:] == [
        ("shop/functions.py removed", "shop/more.py added", "shop/yet.py added")
    ]


def test_what_it_writes_itself_and_what_is_unrelated_does_nothing(project: Path) -> None:
    watched = Watched(
        project,
        lambda: None,
        saves(project / "README.md", "# Shop"),
        saves(project / "shop/notes.txt", "note"),
        saves(project / "tests/test_shop.py", "X = 1"),
        saves(project / "shop_pikku/_rpc.pyi", "# touched"),
        saves(project / "shop/__pycache__/x.py", "X = 1"),
        saves(project / "shop/.#functions.py", "X = 1"),
    )

    assert watched.runs == [()]


def test_a_syntax_error_is_told_and_outlived(project: Path) -> None:
    watched = Watched(
        project,
        saves(project / "shop/functions.py", BROKEN),
        saves(project / "shop/functions.py", FUNCTION.format("pong", "int")),
    )

    assert watched.said == ["written", "PKG103", "written"]


def test_broken_settings_are_told_and_outlived(project: Path) -> None:
    watched = Watched(
        project,
        saves(project / "pyproject.toml", "[tool.pikku"),
        saves(project / "shop/functions.py", FUNCTION.format("pong", "int")),
        saves(project / "pyproject.toml", SETTINGS),
    )

    assert watched.runs[1] == watched.runs[-1] == ("pyproject.toml changed",)
    assert watched.said[1] == "PKG502"
    assert watched.said[-1] == "written"


def test_a_pyproject_that_goes_and_comes_back_is_outlived(project: Path) -> None:
    watched = Watched(
        project,
        (project / "pyproject.toml").unlink,
        saves(project / "pyproject.toml", SETTINGS),
    )

    assert watched.runs[1:] == [("pyproject.toml removed",), ("pyproject.toml added",)]
    assert watched.said == ["written", "PKG501", "up to date"]


def test_a_renamed_folder_is_followed(project: Path) -> None:
    saves(project / "shop/sales/orders.py", FUNCTION.format("order", "int"))()

    watched = Watched(
        project,
        lambda: (project / "shop/sales").rename(project / "shop/trade"),
        saves(project / "shop/trade/orders.py", FUNCTION.format("sell", "int")),
    )

    assert watched.runs[1:] == [
        ("shop/sales/orders.py removed", "shop/trade/orders.py added"),
        ("shop/trade/orders.py changed",),
    ]
    assert str(project / "shop/trade") in watched.folders
    assert str(project / "shop/sales") not in watched.folders


def test_an_empty_folder_is_watched_before_there_is_a_file_in_it(project: Path) -> None:
    watched = Watched(
        project,
        (project / "shop/new").mkdir,
        saves(project / "shop/new/orders.py", FUNCTION.format("order", "int")),
    )

    assert watched.runs == [(), ("shop/new/orders.py added",)]
    assert str(project / "shop/new") in watched.folders


def test_other_source_folders_are_followed(project: Path) -> None:
    saves(project / "lib/shop/__init__.py", "")()
    saves(project / "lib/shop/late.py", FUNCTION.format("late", "int"))()

    watched = Watched(
        project,
        saves(project / "pyproject.toml", SETTINGS + 'source = ["lib"]\n'),
        saves(project / "shop/functions.py", FUNCTION.format("pong", "int")),
        saves(project / "lib/shop/late.py", FUNCTION.format("later", "int")),
    )

    assert watched.runs[1:] == [("pyproject.toml changed",), ("lib/shop/late.py changed",)]
    assert "    later: " in (project / "lib/shop_pikku/_rpc.pyi").read_text("utf-8")


def test_types_of_a_package_beside_the_root_are_followed_once_they_are_read(project: Path) -> None:
    saves(project / "common/types.py", "class Money: ...\n")()
    use = "from common.types import Money\n" + FUNCTION.format("pay", "Money")

    watched = Watched(
        project,
        saves(project / "common/types.py", "class Money: ...\n# not read yet\n"),
        saves(project / "shop/functions.py", use),
        saves(project / "common/types.py", "class Coin: ...\n"),
        saves(project / "common/types.py", "class Money: ...\n"),
    )

    assert watched.runs[1:] == [
        ("shop/functions.py changed",),
        ("common/types.py changed",),
        ("common/types.py changed",),
    ]
    assert watched.said == ["written", "written", "PKG202", "up to date"]


def test_a_module_that_was_missing_is_noticed_wherever_it_appears(project: Path) -> None:
    services = "class Services: ...\ndef create_services() -> Services: ...\n"
    saves(project / "wiring/other.py", "")()

    watched = Watched(
        project,
        saves(project / "pyproject.toml", f'{SETTINGS}services = "wiring.made:create_services"\n'),
        saves(project / "wiring/made.py", services),
    )

    assert watched.runs[-1] == ("wiring/made.py added",)
    assert watched.said == ["written", "PKG507", "written"]


def test_a_root_package_that_is_renamed_and_comes_back_is_followed(project: Path) -> None:
    watched = Watched(
        project,
        lambda: (project / "shop").rename(project / "store"),
        lambda: (project / "store").rename(project / "shop"),
    )

    assert watched.said == ["written", "PKG505", "up to date"]


def test_what_is_saved_during_a_run_is_seen_by_the_next_look(project: Path) -> None:
    saving = saves(project / "shop/functions.py", FUNCTION.format("pong", "int"))
    runs: list[tuple[str, ...]] = []

    def began(changed: tuple[str, ...]) -> None:
        runs.append(changed)

    def ended(outcome: Outcome | OSError, seconds: float) -> None:
        if len(runs) == 1:
            saving()

    def wait(folders: tuple[str, ...]) -> None:
        if len(runs) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(project, wait, began, ended)

    assert runs == [(), ("shop/functions.py changed",)]


# --- with the operating system's own events -----------------------------------------------------


@contextmanager
def watching(project: Path, *options: str) -> Generator[subprocess.Popen[str], None, None]:
    """`pikku-gen --watch`, which does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pikku_gen", "--watch", *options],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def until(stream: IO[str] | None, end: str) -> list[str]:
    """The lines of *stream* up to the one that ends so."""
    lines: list[str] = []
    for line in stream or ():
        lines.append(line.rstrip("\n"))
        if lines[-1].endswith(end):
            return lines
    raise AssertionError(f"no line ends with {end!r}: {lines}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_it_sees_saves_and_new_folders_and_a_signal_ends_it_with_0(
    project: Path, number: signal.Signals
) -> None:
    with watching(project) as process:
        first = until(process.stderr, "; waiting")
        saves(project / "shop/functions.py", BROKEN)()
        broken = until(process.stderr, "; waiting")
        saves(project / "shop/functions.py", FUNCTION.format("pong", "int"))()
        mended = until(process.stderr, "; waiting")
        saves(project / "shop/deep/down/orders.py", FUNCTION.format("order", "int"))()
        deep = until(process.stderr, "; waiting")
        process.send_signal(number)
        rest = process.communicate(timeout=30)

    assert first[0] == "pikku-gen: generating: the whole project"
    assert first[1].startswith("pikku-gen: shop_pikku: 20 written, 0 unchanged (")
    assert broken[0] == "pikku-gen: generating: shop/functions.py changed"
    assert broken[1].startswith("shop/functions.py:1:")
    assert broken[-1].startswith("pikku-gen: 1 error; nothing was written (")
    assert mended[0] == "pikku-gen: generating: shop/functions.py changed"
    assert deep[0] == "pikku-gen: generating: shop/deep/down/orders.py added"
    assert (process.returncode, *rest) == (0, "", "pikku-gen: stopped\n")


def test_json_puts_a_document_for_each_beginning_and_end_on_a_line_of_stdout(project: Path) -> None:
    with watching(project, "--format", "json") as process:
        lines = [json.loads((process.stdout or sys.stdin).readline()) for _ in range(2)]
        saves(project / "shop/functions.py", BROKEN)()
        lines += [json.loads((process.stdout or sys.stdin).readline()) for _ in range(2)]

    events: list[tuple[Any, ...]] = [(each["event"], each.get("failed")) for each in lines]
    assert events == [("began", None), ("ended", False), ("began", None), ("ended", True)]
    assert lines[2]["changed"] == ["shop/functions.py changed"]
    assert [found["code"] for found in lines[3]["diagnostics"]] == ["PKG103"]


@pytest.mark.parametrize("other", [["--check"], ["--fix"], ["--format", "sarif"]])
def test_what_does_not_go_with_watching_is_refused(project: Path, other: list[str]) -> None:
    with watching(project, *other) as process:
        said = process.communicate(timeout=30)[1]

    assert process.returncode == 2
    assert "--watch" in said
