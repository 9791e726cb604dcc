"""What happened in all histories of a session of tests, in one line at its end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

import pytest

PROPERTY = "histories"


@dataclass
class Summary:
    """How many histories there were, how long they took by their own clocks, and what happened how
    often."""

    seeds: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Summary) -> None:
        """Take in others."""
        self.seeds += other.seeds
        self.seconds += other.seconds
        self.counts.update(other.counts)

    def to_json(self) -> str:
        return json.dumps([self.seeds, self.seconds, self.counts])

    @classmethod
    def from_json(cls, text: str) -> Summary:
        seeds, seconds, counts = json.loads(text)
        return cls(seeds, seconds, Counter(counts))

    def __str__(self) -> str:
        said = ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items()))
        return f"{self.seeds} histories, {self.seconds / 3600:.1f} h by their clocks: {said}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the line, if there were any."""
    total = Summary()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY and getattr(report, "when", "") == "call":
                    total.add(Summary.from_json(value))
    if total.seeds:
        terminalreporter.write_line(str(total))
