"""The generator and the runtime are of one mind about schedules, time zones and names of queues."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pikku._cron import ALIASES, cron_fields, time_zone
from pikku._functions import check_queue_name
from pikku.errors import DeclarationError
from pikku_gen.scan import queues, schedules

SCHEDULES = [
    *(*ALIASES, "@HOURLY", " @daily ", "@often", "@reboot", "@"),
    *(
        "0 3 * * *",
        "*/5 8-17 * jan,feb 1-5",
        "0 0 L * *",
        "0 0 LW * *",
        "0 0 * * 5L",
        "0 0 * * 1#2",
    ),
    *(
        "60 * * * *",
        "0 24 * * *",
        "0 0 0 * *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "0 0 30 2 *",
        "0 0 31 4 *",
    ),
    *("", " ", "never", "* * * *", "0 0 0 * * *", "0 0 * * * * *", "a b c d e", "*/0 * * * *"),
    *(
        "0 0 30 2 1",
        "5-1 * * * *",
        ", * * * *",
        "1, * * * *",
        "1//2 * * * *",
        "٣ * * * *",
        "0\n3 * * *",
    ),
    *("L * * * *", "0 0 L/2 * *", "0 0 1#1 * *", "0 0 * * 1L/2", "0 0 * * L", "-1 * * * *"),
]
ZONES = [
    *("UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+5", "utc", "CET", "GMT"),
    *("", "Berlin", "Europe", "Europe/Berln", "../etc/passwd", "/etc/localtime", "é", "a\0b", "."),
]
QUEUES = ["mail", "a.b-c_D", "x" * 64, "x" * 65, "no room", "é", "inline", "orchestrator", "a\n"]


def refused(check: object, *given: object) -> bool:
    assert callable(check)
    try:
        check(*given)
    except (ValueError, DeclarationError):
        return True
    return False


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_is_a_schedule_is_one_to_both(schedule: str) -> None:
    assert bool(schedules.cron_problem(schedule)) is refused(cron_fields, schedule)


@pytest.mark.parametrize("zone", ZONES)
def test_what_is_a_time_zone_is_one_to_both(zone: str) -> None:
    assert schedules.is_zone(zone) is not refused(time_zone, zone)


@pytest.mark.parametrize("queue", QUEUES)
def test_what_names_a_queue_names_one_to_both(queue: str) -> None:
    assert queues.is_name(queue) is not refused(check_queue_name, "", queue)


def test_the_aliases_are_the_same() -> None:
    assert sorted(schedules.ALIASES) == sorted(ALIASES)


PROJECT = {
    "pyproject.toml": '[tool.pikku]\nroot = "shop"\n',
    "shop/__init__.py": "",
    "shop/functions.py": "from shop_pikku import Context, pikku_func, wire_scheduler\n\n\n"
    "@pikku_func\nasync def report(ctx: Context) -> None: ...\n\n\n"
    'wire_scheduler(name="nightly", schedule="0 3 * * *", func=report)\n',
    "shop/other.py": "from shop_pikku import Context, pikku_func\n\n\n"
    "@pikku_func\nasync def other(ctx: Context) -> None: ...\n",
}


def loaded(folder: Path) -> set[str]:
    """What a run of the generator loads."""
    code = (
        "import sys; from pathlib import Path; from pikku_gen.pipeline import run\n"
        "outcome = run(Path(sys.argv[1])); assert not outcome.failed, outcome.diagnostics\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in made.stdout.split()}


def test_cron_is_loaded_only_for_files_with_a_schedule_that_have_changed(tmp_path: Path) -> None:
    for path, text in PROJECT.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")

    assert {"cronsim", "libcst", "jinja2"} <= loaded(tmp_path)
    assert not loaded(tmp_path) & {"cronsim", "libcst", "jinja2", "pydantic", "zoneinfo"}
    with (tmp_path / "shop/other.py").open("a", encoding="utf-8") as file:
        file.write("\n\nNUMBER = 1\n")
    after = loaded(tmp_path)
    assert "libcst" in after
    assert "cronsim" not in after
