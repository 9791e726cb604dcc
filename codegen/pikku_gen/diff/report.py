"""What a comparison says: for people, for programs, for a pull request."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pikku_gen.diff.edits import VERDICTS, Edit, Verdict, worst
from pikku_gen.diff.runs import RunInFlight
from pikku_gen.diff.sides import Side
from pikku_gen.diff.workflows import Change, compare

_SHOWN_RUNS: Final = 10
_MEANING: Final[dict[Verdict, str]] = {
    "safe": "goes on",
    "needs patched": "stands still where it is past the edit, unless that is guarded",
    "breaking": "stands still, and no guard helps",
}


@dataclass(frozen=True, slots=True)
class Report:
    """The changes between two states, and the runs that they touch."""

    old: str
    new: str
    changes: tuple[Change, ...]
    runs: tuple[RunInFlight, ...] | None = None
    """None where no store was looked into."""

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst(change.verdict for change in self.changes)

    def touched(self, change: Change) -> list[RunInFlight]:
        """The runs of a workflow that began under another version than the new one."""
        return [
            run
            for run in self.runs or ()
            if run.workflow == change.workflow and run.version != change.new_version
        ]


def report(old: Side, new: Side, runs: tuple[RunInFlight, ...] | None = None) -> Report:
    """Both states compared; places are those of the new one."""
    changes = tuple(
        Change(
            change.workflow,
            change.verdict,
            tuple(
                Edit(edit.verdict, edit.kind, edit.message, edit.fix, new.place(edit.at))
                for edit in change.edits
            ),
            change.old_version,
            change.new_version,
        )
        for change in compare(old.manifest, new.manifest)
    )
    return Report(old.name, new.name, changes, runs)


def as_text(told: Report) -> str:
    """For people: workflows that changed, each with its edits and the way out."""
    lines: list[str] = []
    for change in told.changes:
        touched = told.touched(change)
        if change.is_unchanged and not touched:
            continue
        lines.append(f"{change.workflow}: {change.verdict}")
        for edit in change.edits:
            place = f"{edit.at}: " if edit.at else ""
            lines.append(f"  {place}{edit.message}")
            if edit.fix:
                lines.append(f"    help: {edit.fix}")
        if not change.edits:
            lines.append("  every step is asked for as before")
        if told.runs is not None:
            lines.append(f"  {_counted(touched)}{_listed(touched)}")
    lines.append(summary(told))
    return "\n".join(lines) + "\n"


def summary(told: Report) -> str:
    """All verdicts in one line."""
    counts = Counter(change.verdict for change in told.changes)
    parts = [f"{counts[verdict]} {verdict}" for verdict in reversed(VERDICTS) if counts[verdict]]
    unchanged = sum(change.is_unchanged for change in told.changes)
    tail = f" ({unchanged} unchanged)" if unchanged else ""
    return f"{told.old} → {told.new}: {', '.join(parts) or 'no workflows'}{tail}"


def as_json(told: Report) -> str:
    """For programs."""
    document = {
        "old": told.old,
        "new": told.new,
        "verdict": told.verdict,
        "workflows": [
            {
                "workflow": change.workflow,
                "verdict": change.verdict,
                "old_version": change.old_version or None,
                "new_version": change.new_version or None,
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
                "runs": None if told.runs is None else [run.run_id for run in told.touched(change)],
            }
            for change in told.changes
        ],
    }
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def as_markdown(told: Report) -> str:
    """For a pull request."""
    return "\n".join(_markdown(told)) + "\n"


def _markdown(told: Report) -> Iterator[str]:
    yield f"### Runs in flight: {told.verdict}"
    yield ""
    changed = [change for change in told.changes if not change.is_unchanged or told.touched(change)]
    if not changed:
        yield "No workflow changed."
        return
    head = "| workflow | verdict | a run in flight |"
    yield f"{head} runs |" if told.runs is not None else head
    yield "|---|---|---|---|" if told.runs is not None else "|---|---|---|"
    for change in changed:
        row = f"| {_cell(change.workflow)} | **{change.verdict}** | {_MEANING[change.verdict]} |"
        yield row + (f" {len(told.touched(change))} |" if told.runs is not None else "")
    for change in changed:
        yield ""
        yield f"**{_cell(change.workflow)}**"
        yield ""
        for edit in change.edits:
            place = f"`{edit.at}` " if edit.at else ""
            yield f"- {place}{edit.message}" + (f"<br>{edit.fix}" if edit.fix else "")
        if not change.edits:
            yield "- every step is asked for as before"
        if touched := told.touched(change):
            yield f"- {_counted(touched)}{_listed(touched, quote='`')}"


def _counted(runs: Sequence[RunInFlight]) -> str:
    return "1 run in flight" if len(runs) == 1 else f"{len(runs) or 'no'} runs in flight"


def _listed(runs: Sequence[RunInFlight], quote: str = "") -> str:
    shown = [f"{quote}{run.run_id}{quote}" for run in runs[:_SHOWN_RUNS]]
    more = len(runs) - len(shown)
    tail = f" and {more} more" if more else ""
    return f": {', '.join(shown)}{tail}" if shown else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
