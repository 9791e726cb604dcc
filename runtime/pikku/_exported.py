"""A run with its history as JSON, for other stores, for tests and for safe keeping."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any, Literal, TypedDict, cast

from pikku._ids import check_run_id
from pikku._payloads import is_sealed
from pikku._records import ENDED_STEP, HistoryEntry, LoadedRun, PutRun, RunRecord, StepRecord
from pikku.errors import HistoryFormatError, RunIdError


class ExportedRun(TypedDict):
    """What `Run.export` gives: plain JSON data. Values are JSON text, exactly as they are kept."""

    pikku: Literal["run"]
    format: Literal[1]
    run: dict[str, Any]
    steps: list[dict[str, Any]]
    history: list[dict[str, Any]]


@dataclass
class _Checked:
    pikku: Literal["run"]
    format: Literal[1]
    run: RunRecord
    steps: list[StepRecord]
    history: list[HistoryEntry]


def exported(loaded: LoadedRun, history: Sequence[HistoryEntry]) -> ExportedRun:
    """The run as plain JSON data."""
    return {
        "pikku": "run",
        "format": 1,
        "run": json.loads(json.dumps(asdict(loaded.run))),
        "steps": [asdict(step) for step in sorted(loaded.steps, key=_place)],
        "history": [entry._asdict() for entry in history],
    }


def _place(step: StepRecord) -> tuple[int, bool]:
    """A patch has the position of the step that is asked for next."""
    return step.position, step.kind != "patch"


def imported(data: object) -> tuple[LoadedRun, list[HistoryEntry]]:
    """The run that *data* is an export of.

    Raises:
        HistoryFormatError: it is no export, with the place where it goes wrong.
    """
    from pydantic import ValidationError

    if not isinstance(data, Mapping):
        raise HistoryFormatError("", f"{type(data).__name__} is no exported run")
    try:
        checked: _Checked = _adapter().validate_python(data)
    except ValidationError as refused:
        first = refused.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise HistoryFormatError(place, first["msg"]) from refused
    _refuse_unknown(cast(Any, data))
    run, steps, history = checked.run, checked.steps, checked.history
    _check(run, steps)
    _check_texts(run, steps)
    steps.sort(key=_place)
    return LoadedRun(run, tuple(steps)), history


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_Checked)


def _refuse_unknown(data: Any) -> None:
    """What is not known would be lost."""
    parts = [("", data, set(_Checked.__annotations__))]
    parts += [("run.", data["run"], {field.name for field in fields(RunRecord)})]
    known = {field.name for field in fields(StepRecord)}
    parts += [(f"steps.{place}.", step, known) for place, step in enumerate(data["steps"])]
    entries = enumerate(data["history"])
    parts += [(f"history.{place}.", entry, set(HistoryEntry._fields)) for place, entry in entries]
    for place, part, known in parts:
        for name in part:
            if name not in known:
                raise HistoryFormatError(f"{place}{name}", "this version of pikku does not know it")


def _check(run: RunRecord, steps: Sequence[StepRecord]) -> None:
    try:
        check_run_id(run.run_id)
    except RunIdError as error:
        raise HistoryFormatError("run.run_id", str(error)) from None
    seen: set[str] = set()
    numbers: set[int] = set() if run.cancel_delivery is None else {run.cancel_delivery}
    for place, step in enumerate(steps):
        if step.key in seen:
            raise HistoryFormatError(f"steps.{place}.key", f"{step.key!r} is there twice")
        seen.add(step.key)
        if step.attempt < 1:
            raise HistoryFormatError(f"steps.{place}.attempt", "attempts count from 1")
        number = step.delivery
        if number is None:
            continue
        if step.status not in ENDED_STEP or number in numbers or not 1 <= number <= run.deliveries:
            raise HistoryFormatError(
                f"steps.{place}.delivery", f"{number} is no place in the order of outcomes"
            )
        numbers.add(number)
    if len(numbers) != run.deliveries:
        raise HistoryFormatError(
            "run.deliveries", f"it says {run.deliveries}, and {len(numbers)} outcomes are there"
        )


def _check_texts(run: RunRecord, steps: Sequence[StepRecord]) -> None:
    texts = {
        "run.input": run.input,
        "run.output": run.output,
        "run.error": run.error,
    }
    for number, step in enumerate(steps):
        for name in ("input", "result", "error"):
            texts[f"steps.{number}.{name}"] = getattr(step, name)
    for place, text in texts.items():
        if text is None or is_sealed(text):
            continue
        try:
            said = json.loads(text)
        except ValueError:
            raise HistoryFormatError(place, "it is no JSON text") from None
        if place.endswith("error") and not (isinstance(said, dict) and "message" in said):
            raise HistoryFormatError(place, "it is no recorded error")


def as_put(loaded: LoadedRun, history: Sequence[HistoryEntry]) -> PutRun:
    """The run as it is written to another store: one that was under way is suspended there, so that
    nothing happens a second time unless somebody resumes it."""
    run = loaded.run
    if run.finished_us is None:
        run = replace(run, status="suspended", suspend_reason="requested")
    steps = [replace(step, worker=None, queue=None) for step in loaded.steps]
    return PutRun(replace(run, owner=None, turned_by=None, queued=False), steps, history)
