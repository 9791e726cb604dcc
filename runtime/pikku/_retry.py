"""When a failed step is tried again: retry policies and their arithmetic, pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pikku._durations import Duration, duration_us


@dataclass(frozen=True, slots=True)
class Backoff:
    """The waits between the attempts of a step.

    Made by `Backoff.fixed` or `Backoff.exponential`; a plain duration as `retry_delay` means
    `Backoff.fixed` of it.
    """

    base_us: int
    factor: float
    cap_us: int
    jitter: float

    @classmethod
    def fixed(cls, delay: Duration, *, jitter: float = 0.0) -> Backoff:
        """The same *delay* before every further attempt."""
        us = duration_us(delay)
        return cls(us, 1.0, us, _checked_jitter(jitter))

    @classmethod
    def exponential(
        cls, base: Duration, *, factor: float = 2.0, cap: Duration = "1h", jitter: float = 0.1
    ) -> Backoff:
        """*base*, then each wait *factor* times the one before, at most *cap*.

        *jitter* is the largest share (0 to 1) by which a wait is shortened at random, so that
        runs that failed together do not come back together.

        Raises:
            ValueError: if *factor* is below 1 or *jitter* outside 0 to 1.
        """
        if not 1.0 <= factor <= 1000.0:
            raise ValueError(f"factor must be between 1 and 1000, not {factor!r}")
        return cls(duration_us(base), factor, duration_us(cap), _checked_jitter(jitter))

    def delay_us(self, failures: int, draw: float) -> int:
        """The wait after the *failures*-th failure (from 1); *draw* is uniform in 0 to 1."""
        try:
            wait = min(float(self.cap_us), self.base_us * self.factor ** (failures - 1))
        except OverflowError:
            wait = float(self.cap_us)
        return int(wait * (1.0 - self.jitter * draw))


def _checked_jitter(jitter: float) -> float:
    if not 0.0 <= jitter <= 1.0:
        raise ValueError(f"jitter must be between 0 and 1, not {jitter!r}")
    return jitter


def as_backoff(value: Duration | Backoff) -> Backoff:
    """*value* itself, or the fixed backoff that a plain duration means."""
    return value if isinstance(value, Backoff) else Backoff.fixed(value)


NO_DELAY = Backoff(0, 1.0, 0, 0.0)


class StepPolicy(NamedTuple):
    """How a step is executed: the options of `do`, over the function's, over the defaults."""

    retries: int = 0
    backoff: Backoff = NO_DELAY
    timeout_us: int | None = None

    def allows_another(self, failures: int) -> bool:
        """Whether a step that failed *failures* times may be tried again."""
        return failures <= self.retries

    def delay_us(self, failures: int) -> int:
        """The wait before the next attempt, its jitter drawn now and recorded with the step."""
        if self.backoff is NO_DELAY:
            return 0
        from random import random

        return self.backoff.delay_us(failures, random())


DEFAULT_POLICY = StepPolicy()


def checked_retries(retries: object) -> int:
    """*retries* as a count of further attempts.

    Raises:
        ValueError: if it is no whole number from 0 to 1,000,000.
    """
    if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= 1_000_000:
        raise ValueError(f"retries must be a whole number from 0 to 1,000,000, not {retries!r}")
    return retries
