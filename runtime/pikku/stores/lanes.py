"""Lanes: where in a queue a job stands, and what may be claimed of a queue that has limits.

A lane is `queue`, or `queue/PRIORITY/GROUP`: a name of a queue has no slash. The step of a job has
its lane as its `queue`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

MAX_PRIORITY = 9
# A lane is kept after one byte that says how long it is.
MAX_GROUP_BYTES = 128


class QueueLimits(NamedTuple):
    """What all processes together keep to when they claim jobs of a queue; None: no limit.

    At most `concurrency` jobs are held at a time, at most `group_concurrency` of those that have
    the same group, and at most `rate` are claimed in a window of `per_us` microseconds, which
    opens with the first claim after the last one has passed.
    """

    concurrency: int | None = None
    group_concurrency: int | None = None
    rate: int | None = None
    per_us: int = 0


NO_LIMITS = QueueLimits()
# How soon whoever found a queue at its limits asks again: others free it without a word.
ASK_AGAIN_US = 250_000


class Place(NamedTuple):
    """The parts of a lane."""

    queue: str
    priority: int = 0
    group: str = ""


def lane_of(place: Place) -> str:
    """The lane of a job that stands at *place*."""
    queue, priority, group = place
    return f"{queue}/{priority}/{group}" if priority or group else queue


def place_of(lane: str) -> Place:
    """The parts of *lane*."""
    queue, slash, rest = lane.partition("/")
    if not slash:
        return Place(queue)
    return Place(queue, int(rest[0]), rest[2:])


class Room:
    """How much may still be claimed of a queue in one transaction.

    Args:
        limits: what the queue keeps to.
        held: how many jobs are held, by lane.
        begun: how many were claimed in the window under way.
    """

    def __init__(self, limits: QueueLimits, held: Mapping[str, int], begun: int) -> None:
        self._limits = limits
        self._groups: dict[str, int] = {}
        for lane, count in held.items():
            group = place_of(lane).group
            self._groups[group] = self._groups.get(group, 0) + count
        self.left: int | None = None
        if limits.concurrency is not None:
            self.left = max(0, limits.concurrency - sum(held.values()))
        if limits.rate is not None:
            rest = max(0, limits.rate - begun)
            self.left = rest if self.left is None else min(self.left, rest)

    def full_groups(self) -> list[str]:
        """The groups of which nothing may be claimed now."""
        most = self._limits.group_concurrency
        if most is None:
            return []
        return [group for group, count in self._groups.items() if group and count >= most]

    def takes(self, group: str) -> bool:
        """Whether a job of *group* may be claimed now."""
        most = self._limits.group_concurrency
        if self.left is not None and self.left <= 0:
            return False
        return not group or most is None or self._groups.get(group, 0) < most

    def take(self, group: str) -> None:
        """Count a job of *group* as claimed."""
        self._groups[group] = self._groups.get(group, 0) + 1
        if self.left is not None:
            self.left -= 1


class Window(NamedTuple):
    """A window of a queue's rate: when it opened, and how many jobs were claimed in it."""

    opened_us: int
    begun: int

    def at(self, now_us: int, per_us: int) -> Window:
        """The window under way at that time: this one, or a new one."""
        return self if self.opened_us <= now_us < self.opened_us + per_us else Window(now_us, 0)


NO_WINDOW = Window(0, 0)


def sooner(one: int | None, other: int | None) -> int | None:
    """The earlier of two times, where there are any."""
    times = [each for each in (one, other) if each is not None]
    return min(times, default=None)


def again_at(limits: QueueLimits, window: Window, now_us: int, left: int | None) -> int:
    """When to ask a queue again that holds jobs which its limits did not let go."""
    spent = limits.rate is not None and window.begun >= limits.rate
    if spent and left == 0:
        return max(window.opened_us + limits.per_us, now_us + 1)
    return now_us + ASK_AGAIN_US


def total(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Counts by lane as counts by queue."""
    found: dict[str, int] = {}
    for lane, count in counts:
        queue = place_of(lane).queue
        found[queue] = found.get(queue, 0) + count
    return found
