"""`POST /rpc/{name}`: a call of an exposed function."""

from __future__ import annotations

import logging

from starlette.responses import Response

from pikku._http.answers import Refusal, invalid, json_answer, not_found, refused_input
from pikku._http.bodies import parsed
from pikku._http.incoming import Incoming
from pikku.errors import (
    InvalidInputError,
    PermissionDeniedError,
    PublicError,
    RetryError,
)

log = logging.getLogger("pikku.http")


async def call(incoming: Incoming) -> Response:
    """What the function returns."""
    from pikku._callers import StepCaller

    name = incoming.action.name or ""
    func = incoming.opened.registry.functions.get(name)
    if func is None or not func.expose:
        raise not_found()
    body = await incoming.body()
    declaration = func.declaration
    where, data = f"function {name!r}", None
    if not declaration.takes_input:
        if body and parsed(body) is not None:
            raise invalid([((), "the function takes no input")])
    elif not body:
        raise invalid([((), "is missing")])
    else:
        try:
            data = declaration.input.receive(body, where)
        except InvalidInputError as error:
            parsed(body)  # that it is no JSON is said otherwise
            raise refused_input(error) from None
    caller = StepCaller(incoming.app, None, incoming.session)
    try:
        value = await caller.call(func, data)
        returned = declaration.output.tell(value, f"the result of {where}")
    except (PermissionDeniedError, RetryError):
        raise
    except Exception as error:
        extra = {"function": name, "user_id": incoming.who}
        log.error("function %r failed", name, exc_info=error, extra=extra)
        raise _failure(error) from None
    return json_answer(returned)


def _failure(error: Exception) -> Refusal:
    """What is told of an error that a function raised: nothing, unless it is meant to be told."""
    if isinstance(error, PublicError):
        shown = {"type": type(error).__name__}
        return Refusal(500, "function_failed", str(error), shown=shown)
    return Refusal(500, "function_failed", "the function failed")
