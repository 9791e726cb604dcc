"""What a comparison says: for people, for programs, for a pull request."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pikku_gen.diff import queues, schedules, workflows
from pikku_gen.diff.edits import VERDICTS, Change, Subject, Verdict, worst
from pikku_gen.diff.runs import RunInFlight, flow_of
from pikku_gen.diff.sides import Side

_SHOWN_RUNS: Final = 10
_IN_FLIGHT: Final[dict[Subject, str]] = {"workflow": "run", "queue": "job", "schedule": "tick"}
_MEANING: Final[dict[Subject, dict[Verdict, str]]] = {
    "workflow": {
        "safe": "goes on",
        "needs patched": "stands still where it is past the edit, unless that is guarded",
        "breaking": "stands still, and no guard helps",
    },
    "queue": {"safe": "is done", "breaking": "is not done, or its result is not read"},
    "schedule": {"safe": "is done", "breaking": "may stand still"},
}


@dataclass(frozen=True, slots=True)
class Report:
    """The changes between two states, and what they touch: runs, jobs and ticks."""

    old: str
    new: str
    changes: tuple[Change, ...]
    runs: tuple[RunInFlight, ...] | None = None
    """None where no store was looked into."""

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst(change.verdict for change in self.changes)

    @property
    def changed_queues(self) -> list[str]:
        """The queues whose jobs may be touched."""
        changed = [change for change in self.changes if not change.is_unchanged]
        return [change.name for change in changed if change.subject == "queue"]

    def of(self, subject: Subject) -> list[Change]:
        """The workflows, the queues or the schedules."""
        return [change for change in self.changes if change.subject == subject]

    def touched(self, change: Change) -> list[RunInFlight]:
        """The runs of a workflow that began under another version than the new one; the jobs of a
        queue and the ticks of a schedule that changed."""
        if change.subject != "workflow" and change.is_unchanged:
            return []
        return [
            run
            for run in self.runs or ()
            if run.workflow == flow_of(change.subject, change.name)
            and not run.is_pause
            and (change.subject != "workflow" or run.version != change.new_version)
        ]

    def is_told(self, change: Change) -> bool:
        """True where there is something to say."""
        return not change.is_unchanged or bool(self.touched(change))


def report(old: Side, new: Side, runs: tuple[RunInFlight, ...] | None = None) -> Report:
    """Both states compared; places are those of the new one."""
    manifests = old.manifest, new.manifest
    found = [each for room in (workflows, queues, schedules) for each in room.compare(*manifests)]
    changes = tuple(
        replace(
            change,
            edits=tuple(replace(edit, at=new.place(edit.at)) for edit in change.edits),
        )
        for change in found
    )
    return Report(old.name, new.name, changes, runs)


def as_text(told: Report) -> str:
    """For people: what changed, each with its edits and the way out."""
    lines: list[str] = []
    for change in told.changes:
        if not told.is_told(change):
            continue
        lines.append(f"{change.title}: {change.verdict}")
        for edit in change.edits:
            place = f"{edit.at}: " if edit.at else ""
            lines.append(f"  {place}{edit.message}")
            if edit.fix:
                lines.append(f"    help: {edit.fix}")
        if not change.edits:
            lines.append("  every step is asked for as before")
        if told.runs is not None:
            touched = told.touched(change)
            lines.append(f"  {_counted(touched, change.subject)}{_listed(touched)}")
    lines.append(summary(told))
    return "\n".join(lines) + "\n"


def summary(told: Report) -> str:
    """All verdicts in one line."""
    counts = Counter(change.verdict for change in told.changes)
    parts = [f"{counts[verdict]} {verdict}" for verdict in reversed(VERDICTS) if counts[verdict]]
    unchanged = sum(change.is_unchanged for change in told.changes)
    tail = f" ({unchanged} unchanged)" if unchanged else ""
    return f"{told.old} → {told.new}: {', '.join(parts) or 'nothing to compare'}{tail}"


def as_json(told: Report) -> str:
    """For programs."""
    document = {
        "old": told.old,
        "new": told.new,
        "verdict": told.verdict,
        "workflows": [
            {
                **_document(told, change),
                "old_version": change.old_version or None,
                "new_version": change.new_version or None,
            }
            for change in told.of("workflow")
        ],
        "queues": [_document(told, change) for change in told.of("queue")],
        "schedules": [_document(told, change) for change in told.of("schedule")],
    }
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _document(told: Report, change: Change) -> dict[str, object]:
    touched = None if told.runs is None else [run.run_id for run in told.touched(change)]
    return {
        change.subject: change.name,
        "verdict": change.verdict,
        "edits": [
            {
                "verdict": edit.verdict,
                "kind": edit.kind,
                "message": edit.message,
                "fix": edit.fix,
                "at": edit.at or None,
            }
            for edit in change.edits
        ],
        f"{_IN_FLIGHT[change.subject]}s": touched,
    }


def as_markdown(told: Report) -> str:
    """For a pull request."""
    return "\n".join(_markdown(told)) + "\n"


def _markdown(told: Report) -> Iterator[str]:
    yield f"### Runs in flight: {told.verdict}"
    if not any(map(told.is_told, told.changes)):
        yield ""
        yield "No workflow, queue or schedule changed."
    for subject in _IN_FLIGHT:
        yield from _section(told, subject)


def _section(told: Report, subject: Subject) -> Iterator[str]:
    changed = list(filter(told.is_told, told.of(subject)))
    if not changed:
        return
    what, counts = _IN_FLIGHT[subject], told.runs is not None
    yield ""
    yield f"| {subject} | verdict | a {what} in flight |" + (f" {what}s |" if counts else "")
    yield "|---|---|---|" + ("---|" if counts else "")
    for change in changed:
        meaning = _MEANING[subject][change.verdict]
        row = f"| {_cell(change.name)} | **{change.verdict}** | {meaning} |"
        yield row + (f" {len(told.touched(change))} |" if counts else "")
    for change in changed:
        yield ""
        yield f"**{_cell(change.name)}**"
        yield ""
        for edit in change.edits:
            place = f"`{edit.at}` " if edit.at else ""
            yield f"- {place}{edit.message}" + (f"<br>{edit.fix}" if edit.fix else "")
        if not change.edits:
            yield "- every step is asked for as before"
        if touched := told.touched(change):
            yield f"- {_counted(touched, subject)}{_listed(touched, quote='`')}"


def _counted(runs: Sequence[RunInFlight], subject: Subject) -> str:
    what = _IN_FLIGHT[subject]
    return f"1 {what} in flight" if len(runs) == 1 else f"{len(runs) or 'no'} {what}s in flight"


def _listed(runs: Sequence[RunInFlight], quote: str = "") -> str:
    shown = [f"{quote}{run.run_id}{quote}" for run in runs[:_SHOWN_RUNS]]
    more = len(runs) - len(shown)
    tail = f" and {more} more" if more else ""
    return f": {', '.join(shown)}{tail}" if shown else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
