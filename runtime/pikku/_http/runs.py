"""Starting runs, asking after them, and words for them."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic_core import from_json, to_json
from starlette.responses import Response

from pikku._access import scopes_of
from pikku._error_info import ErrorInfo
from pikku._http.answers import answer, invalid, not_found, refused_input
from pikku._http.bodies import fields, parsed, text_field
from pikku._http.documents import error_document, run_document
from pikku._http.incoming import Incoming
from pikku._ids import check_run_id
from pikku._payloads import check_size
from pikku._records import FINAL_STATUSES
from pikku.errors import (
    InvalidInputError,
    PayloadError,
    ResultTimeoutError,
    RunConflictError,
    RunIdError,
)

# Of what ids may have, what needs no thought in a header; ids of children have a ~.
_PLAIN_ID = re.compile(r"[!-z]+")
WAIT_SECONDS = 30.0
WAIT_AT_MOST_SECONDS = 60.0
_OUTCOMES: dict[str, Literal["approved", "rejected"]] = {
    "approve": "approved",
    "reject": "rejected",
}


async def start(incoming: Incoming) -> Response:
    """`POST /workflows/{name}/runs`: a new run, or the one that was started with the same id."""
    name = incoming.action.name or ""
    wired = incoming.opened.registry.workflows.get(name)
    if wired is None or not wired.expose:
        raise not_found()
    given = fields(await incoming.body(), ("input", "run_id"))
    run_id = text_field(given, "run_id")
    key = incoming.request.headers.get("idempotency-key")
    for each in (run_id, key):
        if each is not None and not _PLAIN_ID.fullmatch(check_run_id(each)):
            raise RunIdError(f"run_id {each!r}", hint="use printable ASCII, and no ~")
    run_id = key if run_id is None else run_id
    declaration = wired.workflow.declaration
    if declaration.takes_input and "input" not in given:
        raise invalid([(("input",), "is missing")])
    if not declaration.takes_input and given.get("input") is not None:
        raise invalid([(("input",), "the workflow takes none")])
    where = f"workflow {name!r}"
    engine = incoming.opened.engine
    try:
        text = declaration.input.admit_json(to_json(given.get("input")).decode(), where)
        check_size(text, engine.options.max_payload_bytes, f"the input of {where}")
    except (InvalidInputError, PayloadError) as error:
        raise refused_input(error, ("input",)) from None
    made, there = await engine.start_or_find(
        wired, text, run_id=run_id, wait=False, started_by=incoming.who
    )
    if there is not None and there.started_by != incoming.who:
        raise RunConflictError(f"run {made!r} was started by somebody else")
    status = "running" if there is None else there.status
    document = {"run_id": made, "workflow": name, "status": status}
    return answer(document, 201 if there is None else 200)


async def read(incoming: Incoming) -> Response:
    """`GET /runs/{id}`: what is known of the run."""
    run = await incoming.run()
    engine = incoming.opened.engine
    loaded = await engine.store.load_steps(run.run_id)
    if loaded is None:  # it was deleted just now
        raise not_found()
    return answer(run_document(loaded, engine.clock.now_us()))


async def result(incoming: Incoming) -> Response:
    """`GET /runs/{id}/result`: how the run ended, once it has, if that is soon enough."""
    seconds = _wait_of(incoming.request.query_params.get("wait"))
    run = await incoming.run()
    run_id, status = run.run_id, run.status
    output, error = run.output, run.error
    if status not in FINAL_STATUSES:
        results = incoming.opened.engine.results
        try:
            settle = await incoming.while_there(results.result(run_id, int(seconds * 1e6)))
        except ResultTimeoutError:
            settle = None
        if settle is None:
            return answer({"run_id": run_id, "status": (await incoming.run()).status}, 202)
        status, output, error = settle.status, settle.output, settle.error
    document: dict[str, Any] = {"run_id": run_id, "status": status}
    if status == "completed":
        document["output"] = from_json(output or "null")
    else:
        info = ErrorInfo.from_json(error) if error else ErrorInfo("Exception", "")
        document["error"] = error_document(info)
    return answer(document)


def _wait_of(given: str | None) -> float:
    try:
        seconds = WAIT_SECONDS if given is None else float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= WAIT_AT_MOST_SECONDS:
        most = f"{WAIT_AT_MOST_SECONDS:g}"
        raise invalid([(("wait",), f"should be a number of seconds from 0 to {most}")])
    return seconds


async def signal(incoming: Incoming) -> Response:
    """`POST /runs/{id}/signals/{signal}`: send it to the run."""
    run = await incoming.run()
    body = await incoming.body()
    payload = parsed(body) if body else None
    signal_id = incoming.request.headers.get("idempotency-key")
    control = incoming.opened.control
    await control.signal(run.run_id, incoming.part, payload, signal_id)
    return answer({"run_id": run.run_id}, 202)


async def approve(incoming: Incoming) -> Response:
    """`POST /runs/{id}/approvals/{step}`: answer what the run waits for."""
    run = await incoming.run()
    given = fields(await incoming.body(), ("decision", "input", "note"))
    decision, note = text_field(given, "decision"), text_field(given, "note") or ""
    if decision not in _OUTCOMES:
        raise invalid([(("decision",), "should be approve or reject")])
    try:
        await incoming.opened.control.decide(
            run.run_id,
            incoming.part,
            _OUTCOMES[decision],
            given.get("input"),
            incoming.who,
            note,
            scopes_of(incoming.session),
        )
    except (InvalidInputError, PayloadError) as error:
        raise refused_input(error, ("input",)) from None
    return answer({"run_id": run.run_id})


async def cancel(incoming: Incoming) -> Response:
    """`POST /runs/{id}/cancel`: ask the run to unwind."""
    run = await incoming.run()
    reason = text_field(fields(await incoming.body(), ("reason",)), "reason")
    if reason is None or not reason.strip() or "\0" in reason:
        raise invalid([(("reason",), "should say something")])
    await incoming.opened.control.cancel(run.run_id, reason)
    return answer({"run_id": run.run_id}, 202)
