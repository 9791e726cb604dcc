"""Cron expressions and time zones, as `wire_scheduler` takes them."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Final

ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def cron_fields(schedule: object) -> str:
    """The five fields that *schedule* means, an alias spelled out.

    Raises:
        ValueError: if it is none, saying why.
    """
    if not isinstance(schedule, str):
        raise ValueError(f"{schedule!r} is no cron expression")
    fields = ALIASES.get(schedule.strip().lower(), schedule)
    if fields.startswith("@"):
        raise ValueError(f"{schedule!r} is none of {', '.join(sorted(ALIASES))}")
    count = len(fields.split())
    if count != 5:
        raise ValueError(f"{schedule!r} has {count} field{'' if count == 1 else 's'} instead of 5")
    from cronsim import CronSim, CronSimError

    try:
        ticks = CronSim(fields, datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"{schedule!r}: {str(error).lower()}") from None
    if next(ticks, None) is None:
        raise ValueError(f"{schedule!r} is never due")
    return fields


def time_zone(name: object) -> tzinfo:
    """The time zone of this *name*, such as `Europe/Berlin`.

    Raises:
        ValueError: if there is none.
    """
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        if isinstance(name, str):
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass
    raise ValueError(f"{name!r} is no time zone")


def zone_names() -> frozenset[str]:
    """The names of the time zones that this system knows."""
    from zoneinfo import available_timezones

    return frozenset(available_timezones()) | {"UTC"}
