"""What a request is answered with when it is refused, and JSON answers in general."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from pikku.errors import (
    AlreadyDecidedError,
    AppNotOpenError,
    ApproverError,
    InvalidInputError,
    LeaseLostError,
    NoSuchStepError,
    PayloadError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RetryError,
    RunConflictError,
    RunIdError,
    RunNotFoundError,
    RunStateError,
    StoreError,
    UnauthorizedError,
    UnknownSignalError,
)

Place = Sequence[str | int]
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
RETRY_AFTER_SECONDS = 1


class Refusal(Exception):
    """A request is refused: with a status, a code, words for people, and the way out.

    Attributes:
        errors: where in the request something is wrong, and what.
        shown: what the answer has besides.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        *,
        errors: Sequence[tuple[Place, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        shown: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.errors = errors
        self.headers = headers
        self.shown = shown
        super().__init__(message)

    def answer(self) -> Response:
        """The response."""
        document: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "hint": self.hint or None,
            "path": list(self.errors[0][0]) if self.errors else None,
            **(self.shown or {}),
        }
        if self.errors is not None:
            document["errors"] = [
                {"path": list(place), "message": message} for place, message in self.errors
            ]
        return answer(document, self.status, self.headers)


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of JSON."""
    return json_answer(to_json(document), status, headers)


def json_answer(
    text: str | bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response of JSON that is written already."""
    every = _HEADERS if headers is None else {**_HEADERS, **headers}
    return Response(text, status, every, media_type="application/json")


def not_found() -> Refusal:
    """There is no such thing, or it is nobody's business: the two are not told apart."""
    return Refusal(404, "not_found", "there is nothing here by that name")


def invalid(problems: Sequence[tuple[Place, str]]) -> Refusal:
    """Parts of the request are not what they should be."""
    return Refusal(422, "invalid_input", "the request does not fit", errors=problems)


def refused_input(error: InvalidInputError | PayloadError, before: Place = ()) -> Refusal:
    """What is wrong with an input that stands at *before* in the body."""
    if isinstance(error, PayloadTooLargeError):
        return too_large(error.limit)
    if isinstance(error, PayloadError):
        return invalid([(before, error.problem)])
    places = error.places or [()] * len(error.problems)
    told = zip(places, error.problems, strict=True)
    return invalid([((*before, *place), problem) for place, (_, problem) in told])


def too_large(limit: int) -> Refusal:
    """The body is larger than that."""
    return Refusal(413, "too_large", f"the body has more than {limit:,} bytes")


def unavailable(seconds: float = RETRY_AFTER_SECONDS) -> Refusal:
    """It may work in a while."""
    after = {"retry-after": str(max(1, math.ceil(seconds)))}
    return Refusal(503, "unavailable", "not at the moment", "try again later", headers=after)


def refusal_of(error: Exception) -> Refusal | None:
    """How an error of pikku's is told to whoever asked; None for one that is no answer."""
    match error:
        case Refusal():
            return error
        case UnauthorizedError():
            header = {"www-authenticate": "Bearer"}
            return Refusal(401, "unauthorized", "it is not known who asks", headers=header)
        case PermissionDeniedError() | ApproverError():
            return Refusal(403, "forbidden", "whoever asks may not do this")
        case RunNotFoundError() | NoSuchStepError() | UnknownSignalError():
            return not_found()
        case RunConflictError():
            words = "a run of this id was started by somebody else, or with other input"
            return Refusal(409, "run_conflict", words, "choose another run_id")
        case AlreadyDecidedError():
            return Refusal(409, "already_decided", "it was answered before, or has expired")
        case RunStateError():
            return Refusal(409, "run_state", "the run is not in a state in which this is possible")
        case RunIdError():
            return invalid([(("run_id",), error.hint)])
        case InvalidInputError() | PayloadError():
            return refused_input(error)
        case StoreError() | AppNotOpenError() | LeaseLostError():
            return unavailable()
        case RetryError():
            return unavailable(error.after.total_seconds())
        case _:
            return None
