"""The body of a request: read as it comes, never more of it than may be, and JSON."""

from __future__ import annotations

from typing import Any, cast

from pydantic_core import from_json
from starlette.requests import Request

from pikku._codec import MAX_DEPTH
from pikku._http.answers import Refusal, invalid, too_large

# What may stand in a body besides the value that it carries.
ROOM_BYTES = 4_096


async def read_body(request: Request, max_payload_bytes: int) -> bytes:
    """The body; empty where there is none.

    Raises:
        Refusal: it is too large, however long it says it is, or it is no JSON.
    """
    limit = max_payload_bytes + ROOM_BYTES
    said = request.headers.get("content-length", "")
    if said.isdecimal() and (len(said) > 18 or int(said) > limit):
        raise too_large(limit)
    size, chunks = 0, list[bytes]()
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
    body = b"".join(chunks)
    if body:
        _check_type(request.headers.get("content-type", ""))
    return body


def _check_type(header: str) -> None:
    if header == "application/json":
        return
    kind, *parameters = [part.strip().lower() for part in header.split(";")]
    charsets = [part.partition("=")[2].strip('"') for part in parameters if "charset" in part]
    if kind != "application/json" or any(each not in ("utf-8", "utf8") for each in charsets):
        raise Refusal(
            415,
            "unsupported_media_type",
            "the body is to be JSON in UTF-8",
            "send Content-Type: application/json",
        )


def parsed(body: bytes) -> Any:
    """What the JSON *body* says.

    Raises:
        Refusal: it is none, or its values are nested too deeply.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except (ValueError, TypeError) as error:
        if "recursion limit" in str(error):
            words = f"values are nested deeper than {MAX_DEPTH} levels"
            raise Refusal(413, "too_large", words) from None
        raise Refusal(400, "malformed", f"the body is no JSON: {error}") from None


def fields(body: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    """The fields of the JSON object *body*; none where it is empty.

    Raises:
        Refusal: it is no object, or has other fields than those that are *known*.
    """
    found: object = parsed(body) if body else {}
    if not isinstance(found, dict):
        raise invalid([((), "should be an object")])
    given = cast("dict[str, Any]", found)
    strange = [name for name in given if name not in known]
    if strange:
        raise invalid([((name,), f"is none of {', '.join(known)}") for name in strange])
    return given


def text_field(given: dict[str, Any], name: str) -> str | None:
    """The text that the field *name* has; None where it is null or missing.

    Raises:
        Refusal: it is something else.
    """
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid([((name,), "should be a string")])
    return value
