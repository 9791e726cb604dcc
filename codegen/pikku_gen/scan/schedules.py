"""What is due by the clock: `wire_scheduler`, with its cron expression and its time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import libcst as cst

from pikku_gen.diagnostics import nearest
from pikku_gen.model.facts import Option, Problem, ScheduleFact
from pikku_gen.scan.expressions import dotted, json_literal, source, string
from pikku_gen.scan.module import Locate

OPTIONS: Final = ("name", "schedule", "func", "timezone", "catch_up", "description")
NEEDED: Final = ("name", "schedule", "func")
FORM: Final = 'wire_scheduler(name="…", schedule="0 3 * * *", func=…)'

ALIASES: Final = (
    *("@annually", "@daily", "@hourly", "@midnight"),
    *("@monthly", "@weekly", "@yearly"),
)


def read_schedule(
    call: cst.Call, given: dict[str, cst.BaseExpression], locate: Locate
) -> tuple[ScheduleFact | None, list[Problem]]:
    """What a call of `wire_scheduler` declares, and what is wrong with when it is due."""
    name_node, func_node = given["name"], given["func"]
    problems: list[Problem] = []
    name, func = string(name_node), dotted(func_node)
    if not name:
        problems.append(Problem("PKG207", locate(name_node), "name"))
    if not func:
        problems.append(Problem("PKG223", locate(func_node), source(func_node)))
    schedule = string(given["schedule"])
    wrong = cron_problem(schedule) if schedule is not None else ""
    if wrong:
        problems.append(Problem("PKG225", locate(given["schedule"]), wrong, _cron_hint(schedule)))
    zone_node = given.get("timezone")
    zone = string(zone_node) if zone_node is not None else None
    if zone_node is not None and zone is not None and not is_zone(zone):
        problems.append(Problem("PKG226", locate(zone_node), zone, _zone_hint(zone)))
    if not name or not func:
        return None, problems
    described = given.get("description")
    fact = ScheduleFact(
        span=locate(call.func),
        name=name,
        name_span=locate(name_node),
        func=func,
        func_span=locate(func_node),
        description=(string(described) if described else None) or "",
        options=tuple(
            _option(option, given[option])
            for option in ("schedule", "timezone", "catch_up")
            if option in given
        ),
    )
    return fact, problems


def _option(name: str, node: cst.BaseExpression) -> Option:
    literal = json_literal(node)
    return Option(name, literal is not None, literal if literal is not None else source(node))


def cron_problem(schedule: str) -> str:
    """What is wrong with a schedule; empty where nothing is. As `pikku._cron` judges it."""
    if schedule.strip().lower() in ALIASES:
        return ""
    if schedule.startswith("@"):
        return f"`{schedule}` is none of {', '.join(ALIASES)}"
    count = len(schedule.split())
    if count != 5:
        return f"`{schedule}` has {count} field{'' if count == 1 else 's'} instead of 5"
    from cronsim import CronSim, CronSimError

    try:
        ticks = CronSim(schedule, datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        return f"`{schedule}`: {str(error).lower()}"
    return "" if next(ticks, None) is not None else f"`{schedule}` is never due"


def _cron_hint(schedule: str | None) -> str:
    close = nearest(schedule or "", ALIASES) if (schedule or "").startswith("@") else None
    return f"did you mean `{close}`?" if close else ""


def is_zone(name: str) -> bool:
    """True for the name of a time zone that this system knows."""
    if name == "UTC":
        return True
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _zone_hint(name: str) -> str:
    from zoneinfo import available_timezones

    known = available_timezones()
    if not known:
        return "this system has no time zones: pip install tzdata"
    close = nearest(name, known)
    return f"did you mean `{close}`?" if close else ""
