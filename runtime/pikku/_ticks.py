"""When a schedule is due: its ticks, which of them were missed, and what becomes of each. Pure: no
store, no clock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import quote

from pikku._cron import cron_fields, time_zone

if TYPE_CHECKING:
    from pikku._records import RunStatus

# The workflow of a schedule, and the ids of its runs, begin with this.
PREFIX = "schedule:"
# A tick that begins later than this was missed, where missed ticks are skipped.
GRACE = timedelta(seconds=60)
MAX_SPELLED = 130

CatchUp = Literal["skip", "once", "all"]
# A tick in its time, one that somebody asked for, or the mark of a schedule that is paused.
TickKind = Literal["tick", "asked", "paused"]


@dataclass(frozen=True)
class Tick:
    """The input of a run that is one tick: all that it needs to make the next one.

    Attributes:
        at: when it is due.
        since: when the row of ticks that it belongs to began. A schedule that was changed or
            resumed begins a new row, and the older one ends there.
        before: runs of earlier ticks, newest first, of which the one that completed last is kept.
    """

    name: str
    schedule: str
    timezone: str
    catch_up: CatchUp
    at: datetime
    since: datetime
    kind: TickKind = "tick"
    before: list[str] = field(default_factory=list[str])

    @property
    def version(self) -> str:
        """The version of its schedule."""
        return version_of(self.schedule, self.timezone, self.catch_up)


class Verdict(NamedTuple):
    """What becomes of a tick.

    Attributes:
        at: the tick that is executed; None where none is.
        next: when the next one is due; None where the row ends.
        said: what the run returns.
        in_turn: the next one was missed, too, and begins once this one is over.
    """

    at: datetime | None
    next: datetime | None
    said: str
    in_turn: bool = False


@dataclass(frozen=True)
class ScheduleInfo:
    """What is known of a schedule.

    Attributes:
        paused: whether it stands still until somebody resumes it.
        next_at: when it is due next; None where it is paused, or nothing has made its next tick.
        last_run: the id of the run of its last tick, done or failed; None before the first.
        last_status: how that run ended.
        last_at: when it ended.
        wired: whether the app has it; else it is left over from an earlier version.
    """

    name: str
    schedule: str
    timezone: str
    catch_up: CatchUp
    description: str
    paused: bool
    next_at: datetime | None
    last_run: str | None
    last_status: RunStatus | None
    last_at: datetime | None
    wired: bool

    def upcoming(self, count: int) -> list[datetime]:
        """The next *count* times at which it is due, in UTC; none while it is paused."""
        if self.next_at is None or count < 1:
            return []
        times = [self.next_at]
        for at in ticks_after(self.schedule, self.timezone, self.next_at):
            if len(times) == count:
                break
            times.append(at)
        return times


# --- names ---------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def version_of(schedule: str, timezone: str, catch_up: str) -> str:
    """The version of a schedule's workflow: what decides when it is due."""
    text = json.dumps([cron_fields(schedule).split(), timezone, catch_up])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def workflow_of(name: str) -> str:
    """The workflow whose runs are the ticks of the schedule *name*."""
    return PREFIX + name


def tick_id(name: str, at: datetime, nth: int = 1) -> str:
    """The id of the run of one tick; *nth* counts from 2 where earlier ones were called off."""
    again = "" if nth == 1 else f".{nth}"
    return f"{PREFIX}{_spelled(name)}:{stamp(at)}{again}"


def asked_id(name: str, at: datetime, token: str) -> str:
    """The id of the run of a tick that somebody asked for."""
    return f"{PREFIX}{_spelled(name)}:{stamp(at)}.{token}"


def pause_id(name: str) -> str:
    """The id of the run that marks the schedule *name* as paused."""
    return f"{PREFIX}{_spelled(name)}:paused"


def started_id(run_id: str, tick: Tick, at: datetime) -> str:
    """The id of the run that a tick starts of its workflow: the same for one tick, whoever
    starts it."""
    if tick.kind == "asked":
        return run_id.removeprefix(PREFIX)
    return f"{_spelled(tick.name)}:{stamp(at)}"


def stamp(at: datetime) -> str:
    """A time as it stands in an id: 20260131T030000Z."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def _spelled(name: str) -> str:
    """*name* with what a run's id cannot have, or would read otherwise, as %XX."""
    spelled = quote(name, safe="!$&'()*+,-./:;=?@[]^_").replace("~", "%7E")
    if len(spelled) <= MAX_SPELLED:
        return spelled
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{spelled[: MAX_SPELLED - 33]}.{digest}"


# --- times ---------------------------------------------------------------------------------------


def ticks_after(schedule: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """The ticks later than *after*, in UTC.

    Hours are those of the time zone. What is due at a time that the change to summer time leaves
    out is due right after it; what is due at one that comes twice is due the first time. Schedules
    that go through the hours with `*` follow the hours as they pass.
    """
    from cronsim import CronSim

    for each in CronSim(_fields(schedule), after.astimezone(time_zone(timezone))):
        at = each.astimezone(UTC)
        if at > after:  # where an hour comes twice, the first of them may be over
            yield at


@lru_cache(maxsize=4096)
def _fields(schedule: str) -> str:
    return cron_fields(schedule)


def next_tick(schedule: str, timezone: str, after: datetime) -> datetime | None:
    """The first tick later than *after*; None where there is none in decades."""
    return next(ticks_after(schedule, timezone, after), None)


def last_tick(schedule: str, timezone: str, tick: datetime, until: datetime) -> datetime:
    """The last tick up to *until*, which may be *tick* itself, one of the schedule's."""
    from cronsim import CronSim

    following = next_tick(schedule, timezone, tick)
    if following is None or following > until:
        return tick
    found = tick
    for each in CronSim(_fields(schedule), until.astimezone(time_zone(timezone)), reverse=True):
        if each.astimezone(UTC) <= until:
            found = max(tick, each.astimezone(UTC))
            break
    # Backwards, cronsim does not see what a change of time has moved.
    for each in ticks_after(schedule, timezone, found):
        if each > until:
            break
        found = each
    return found


# --- decisions -----------------------------------------------------------------------------------


def verdict(
    tick: Tick, now: datetime, *, row_ends: datetime | None = None, paused: bool = False
) -> Verdict:
    """What becomes of a tick that begins *now*.

    Args:
        row_ends: when a younger row of ticks has taken over; what was due by then is still this
            one's.
        paused: nothing happens until somebody resumes the schedule.
    """
    if paused:
        return Verdict(None, None, "paused")
    if row_ends is not None and tick.at > row_ends:
        return Verdict(None, None, "replaced")
    schedule, timezone = tick.schedule, tick.timezone
    # A clock that was set back makes no tick come twice.
    reached = max(tick.at, now)
    if row_ends is not None:
        reached = min(reached, row_ends)
    at: datetime | None = tick.at
    after = reached
    if tick.catch_up == "all":
        after = tick.at
    elif tick.catch_up == "once":
        at = last_tick(schedule, timezone, tick.at, reached)
    elif now - tick.at > GRACE:
        at = None
    following = next_tick(schedule, timezone, after)
    if following is not None and row_ends is not None and following > row_ends:
        following = None
    in_turn = tick.catch_up == "all" and following is not None and following <= now
    said = "done" if at is not None else f"missed by {_whole(now - tick.at)}"
    return Verdict(at, following, said, in_turn)


def _whole(span: timedelta) -> str:
    minutes = int(span.total_seconds()) // 60
    for unit, size in (("d", 1440), ("h", 60)):
        if minutes >= 2 * size:
            return f"{minutes // size} {unit}"
    return f"{minutes} min"


def healed(tick: Tick, now: datetime, *, row_ends: datetime | None, paused: bool) -> Verdict:
    """What becomes of the row when a tick's run was cancelled before it began: that tick is left
    out."""
    if paused or (row_ends is not None and tick.at > row_ends):
        return Verdict(None, None, "cancelled")
    return Verdict(None, next_tick(tick.schedule, tick.timezone, max(tick.at, now)), "cancelled")
