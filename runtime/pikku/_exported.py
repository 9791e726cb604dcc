"""A run with its history as JSON, for other stores, for tests and for safe keeping."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any, Literal, TypedDict, cast

from pydantic_core import from_json

from pikku._ids import check_run_id, is_unicode
from pikku._payloads import is_sealed
from pikku._records import (
    ENDED_STEP,
    FINAL_STATUSES,
    JOB_KEY,
    JOB_RUNS,
    HistoryEntry,
    LoadedRun,
    PutRun,
    RunRecord,
    StepRecord,
    is_job,
)
from pikku.errors import HistoryFormatError, RunIdError

MAX_US = 2**53 - 1  # in the year 2255: some stores keep times as floats
MAX_DUE_US = 253_402_300_799_999_999  # the last of the year 9999, to which a step may sleep
MAX_NUMBER = 2**31 - 1
MAX_DEPTH = 5
MAX_KEY = 1000
MAX_KIND = 60
MAX_DIGEST = 100


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
    _refuse_unkept(cast("Mapping[object, object]", data))
    try:
        text = json.dumps(dict(cast("Mapping[str, object]", data)))
        checked: _Checked = _adapter().validate_json(text, strict=True)
    except (TypeError, RecursionError) as error:
        raise HistoryFormatError("", f"it is no JSON data: {error}") from error
    except ValidationError as refused:
        first = refused.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise HistoryFormatError(place, first["msg"]) from refused
    if isinstance(data["format"], bool):  # True is a 1 to pydantic
        raise HistoryFormatError("format", "it is no number")
    _refuse_unknown(cast(Any, data))
    run, steps, history = checked.run, checked.steps, checked.history
    _check(run, steps)
    _check_texts(run, steps, history)
    _check_history(history)
    _check_sense(LoadedRun(run, tuple(steps)))
    steps.sort(key=_place)
    return LoadedRun(run, tuple(steps)), history


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_Checked)


def _refuse_unkept(data: object, place: str = "", depth: int = 0) -> None:
    """Not every store keeps text without a meaning, or numbers of any size."""
    if isinstance(data, str):
        if "\0" in data or (not data.isascii() and not is_unicode(data)):
            raise HistoryFormatError(place, "it holds a character that no store keeps")
    elif isinstance(data, int):
        least, most = (1, MAX_US) if place.endswith("_us") else (0, MAX_NUMBER)
        most = MAX_DUE_US if place.endswith(".due_us") else most
        if not least <= data <= most:
            raise HistoryFormatError(place, f"it is no number from {least} to {most}")
    elif depth > MAX_DEPTH:
        raise HistoryFormatError(place, "it is nested too deep")
    elif isinstance(data, Mapping):
        for name, part in cast("Mapping[object, object]", data).items():
            inside = f"{place}.{name}".lstrip(".") if isinstance(name, str) else place
            if not isinstance(name, str) or not is_unicode(name):
                raise HistoryFormatError(place, f"{name!r} is no name")
            _refuse_unkept(part, inside, depth + 1)
    elif isinstance(data, list):
        for number, part in enumerate(cast("list[object]", data)):
            _refuse_unkept(part, f"{place}.{number}", depth + 1)


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
    if run.run_attempt < 1:
        raise HistoryFormatError("run.run_attempt", "attempts count from 1")
    if (run.status in FINAL_STATUSES) != (run.finished_us is not None):
        raise HistoryFormatError("run.finished_us", f"a run that is {run.status} has another one")
    words = (run.cancel_us, run.cancel_kind, run.cancel_reason)
    if len({word is None for word in words}) > 1 or (
        run.cancel_us is None and run.cancel_delivery is not None
    ):
        raise HistoryFormatError("run.cancel_us", "a request to unwind has a time and a reason")
    for name in ("parent", "parent_step", "forked_from", "suspend_reason"):
        if getattr(run, name) == "":
            raise HistoryFormatError(f"run.{name}", "it is empty")
    for index, tag in enumerate(run.tags):
        if not tag or not tag.isprintable():
            raise HistoryFormatError(f"run.tags.{index}", f"{tag!r} is no tag")
    if is_job(run) or any(step.kind == "job" for step in steps):
        _check_job(run, steps)
    seen: set[str] = set()
    numbers: set[int] = set() if run.cancel_delivery is None else {run.cancel_delivery}
    for place, step in enumerate(steps):
        if not step.key or len(step.key) > MAX_KEY or not step.key.isprintable():
            raise HistoryFormatError(f"steps.{place}.key", f"{step.key[:40]!r} is no step's key")
        if len(step.target) > MAX_KEY or len(step.digest) > MAX_DIGEST:
            raise HistoryFormatError(f"steps.{place}", "its target or its digest is too long")
        if step.result is not None and step.error is not None:
            raise HistoryFormatError(f"steps.{place}", "it has a result and an error")
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


def _check_job(run: RunRecord, steps: Sequence[StepRecord]) -> None:
    """Nobody would do a job that stands in no queue."""
    queue = run.workflow.removeprefix(JOB_RUNS)
    lane = re.escape(queue) + r"(/[0-9]/.*)?"
    if not is_job(run) or [(step.key, step.kind) for step in steps] != [(JOB_KEY, "job")]:
        raise HistoryFormatError("steps", "a job is a run with one step, and nothing else has one")
    if re.fullmatch(lane, steps[0].queue or "") is None:
        raise HistoryFormatError("steps.0.queue", f"{steps[0].queue!r} is no place of the job")


def _check_history(history: Sequence[HistoryEntry]) -> None:
    for place, entry in enumerate(history):
        if not 0 < len(entry.kind) <= MAX_KIND or not entry.kind.isidentifier():
            raise HistoryFormatError(f"history.{place}.kind", f"{entry.kind[:40]!r} is no kind")
        if entry.attempt is not None and entry.attempt < 1:
            raise HistoryFormatError(f"history.{place}.attempt", "attempts count from 1")
        if not entry.at_us:
            raise HistoryFormatError(f"history.{place}.at_us", "it does not say when")


def _check_texts(
    run: RunRecord, steps: Sequence[StepRecord], history: Sequence[HistoryEntry]
) -> None:
    texts = {
        "run.input": run.input,
        "run.output": run.output,
        "run.error": run.error,
    }
    for number, step in enumerate(steps):
        for name in ("input", "result", "error", "progress"):
            texts[f"steps.{number}.{name}"] = getattr(step, name)
        if step.kind != "child":
            texts[f"steps.{number}.job"] = step.job
    for number, entry in enumerate(history):
        texts[f"history.{number}.data"] = entry.data
    for place, text in texts.items():
        if text is None or is_sealed(text):
            continue
        try:
            said: object = from_json(text, allow_inf_nan=False)
        except ValueError:
            raise HistoryFormatError(place, "it is no JSON text") from None
        if place.endswith("error") and not _is_error(said):
            raise HistoryFormatError(place, "it is no recorded error")
        if place.endswith("job") and not isinstance(said, dict):
            raise HistoryFormatError(place, "it says nothing of a step")


def _is_error(said: object) -> bool:
    if not isinstance(said, dict):
        return False
    fields = cast("dict[str, object]", said)
    kinds: object = fields.get("kinds") or []
    return (
        all(isinstance(fields.get(name), str) for name in ("type", "message"))
        and all(isinstance(fields.get(n) or "", str) for n in ("code", "traceback", "hint"))
        and isinstance(kinds, list)
        and all(isinstance(kind, str) for kind in cast("list[object]", kinds))
    )


def _check_sense(loaded: LoadedRun) -> None:
    """What would count as damaged as soon as it is stored is no history of a run."""
    from pikku._diagnosis import corruption

    if loaded.run.status not in FINAL_STATUSES:
        for symptom in corruption(loaded):
            raise HistoryFormatError("steps" if symptom.step else "run", symptom.text)


def as_put(loaded: LoadedRun, history: Sequence[HistoryEntry]) -> PutRun:
    """The run as it is written to another store: one that was under way is suspended there, so that
    nothing happens a second time unless somebody resumes it."""
    run = loaded.run
    if run.finished_us is None:
        run = replace(run, status="suspended", suspend_reason="imported")
    # A job has its place in a queue for good; any other step is asked for anew.
    steps = [
        replace(step, worker=None, queue=step.queue if step.kind == "job" else None)
        for step in loaded.steps
    ]
    return PutRun(replace(run, owner=None, turned_by=None, queued=False), steps, history)
