"""What was edited, and what that means for what is in flight: runs, jobs and ticks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Manifest: TypeAlias = Mapping[str, Any]  # JSON
Entry: TypeAlias = Mapping[str, Any]  # JSON
Subject = Literal["workflow", "queue", "schedule"]
Verdict = Literal["safe", "needs patched", "breaking"]
VERDICTS: Final[tuple[Verdict, ...]] = ("safe", "needs patched", "breaking")


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit: what it does to what is in flight, and the way out."""

    verdict: Verdict
    kind: str
    """One word, for programs."""
    message: str
    fix: str = ""
    at: str = ""
    """Where it stands in the new code, `path:line`."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one workflow, queue or schedule."""

    subject: Subject
    name: str
    edits: tuple[Edit, ...]
    old_version: str = ""
    """Of a workflow; empty for a new one."""
    new_version: str = ""
    """Of a workflow; empty for one that is gone."""

    @property
    def title(self) -> str:
        """As people are told of it."""
        return self.name if self.subject == "workflow" else f"{self.subject} {self.name}"

    @property
    def verdict(self) -> Verdict:
        """The worst of its edits."""
        return worst(edit.verdict for edit in self.edits)

    @property
    def is_unchanged(self) -> bool:
        """True with no edit, and the same version."""
        return not self.edits and self.old_version == self.new_version


def by_name(entries: Iterable[Entry]) -> dict[str, Entry]:
    """What a manifest has of functions, workflows, queues or schedules, by name."""
    return {entry["name"]: entry for entry in entries}


def wired_at(entry: Entry | None) -> str:
    """Where a queue or a schedule is wired; empty where that is not told."""
    return str(entry.get("at", "")) if entry else ""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on all of them together."""
    return VERDICTS[max((VERDICTS.index(verdict) for verdict in verdicts), default=0)]
