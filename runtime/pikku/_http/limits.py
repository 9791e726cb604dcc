"""How much may be asked: streams that are open at one time, and requests within a time."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pikku._http.answers import Refusal, unavailable

if TYPE_CHECKING:
    from pikku._queues import RateLimit
    from pikku._settings import EngineOptions

# Nobody knows when a stream ends; few do sooner.
STREAM_RETRY_SECONDS = 5


class Asker(NamedTuple):
    """Whom a request is counted for: a person, or where nobody says who it is, an address."""

    known: bool
    name: str


class Slot:
    """The place of one stream, until it is released."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Give the place back, once."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Limits:
    """Counts what one server is asked.

    Args:
        monotonic: the time in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._streams: Counter[Asker] = Counter()
        self._rate: RateLimit | None = None
        # Windows in the order in which they were opened: all are as long, so the first ends first.
        self._windows: dict[Asker, _Window] = {}

    @property
    def streams(self) -> int:
        """How many are open."""
        return self._streams.total()

    def stream(self, asker: Asker, options: EngineOptions) -> Slot:
        """A place for one more stream.

        Raises:
            Refusal: there is none, in this process or for whoever asks.
        """
        if self._streams[asker] >= options.max_streams_per_session:
            raise _too_many(
                f"{self._streams[asker]} event streams are open already",
                STREAM_RETRY_SECONDS,
                "close one of them first",
            )
        if self.streams >= options.max_streams:
            raise unavailable(STREAM_RETRY_SECONDS)
        self._streams[asker] += 1
        return Slot(lambda: self._end(asker))

    def _end(self, asker: Asker) -> None:
        self._streams[asker] -= 1
        if not self._streams[asker]:
            del self._streams[asker]

    def count(self, asker: Asker, options: EngineOptions) -> None:
        """Count a request.

        Raises:
            Refusal: it is one too many.
        """
        rate = options.request_rate
        if rate is None:
            return
        if rate != self._rate:
            self._rate = rate
            self._windows.clear()
        now, length = self._monotonic(), rate.per_us / 1e6
        while self._windows:
            first = next(iter(self._windows))
            if self._windows[first].opened + length > now:
                break
            del self._windows[first]
        window = self._windows.get(asker)
        if window is None:
            window = self._windows[asker] = _Window(now)
        if window.requests >= rate.count:
            raise _too_many("too many requests", window.opened + length - now)
        window.requests += 1


class _Window:
    """The requests since a moment."""

    __slots__ = ("opened", "requests")

    def __init__(self, opened: float) -> None:
        self.opened = opened
        self.requests = 0


def _too_many(message: str, seconds: float, hint: str = "try again later") -> Refusal:
    after = {"retry-after": str(max(1, math.ceil(seconds)))}
    return Refusal(429, "too_many_requests", message, hint, headers=after)
