"""The OpenAPI document of what an app exposes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from pikku._codec import Codec, TypedCodec

if TYPE_CHECKING:
    from pikku._app import App

Schema = dict[str, Any]
Mode = Literal["validation", "serialization"]
_TEXT: Schema = {"type": "string"}
_STATUS: Schema = {
    "type": "string",
    "enum": ["running", "suspended", "completed", "failed", "cancelled"],
}
_RUN_ID: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 200,
    "pattern": "^[!-z]+$",
}
_PLACE: Schema = {
    "type": "array",
    "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
}
_ERROR: Schema = {
    "type": "object",
    "required": ["code", "message", "hint", "path"],
    "properties": {
        "code": _TEXT,
        "message": _TEXT,
        "hint": {"anyOf": [_TEXT, {"type": "null"}]},
        "path": {"anyOf": [_PLACE, {"type": "null"}]},
        "type": _TEXT,
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "message"],
                "properties": {
                    "path": _PLACE,
                    "message": _TEXT,
                },
            },
        },
    },
}
_FAILURE: Schema = {
    "type": "object",
    "required": ["type", "message"],
    "properties": {"type": _TEXT, "message": _TEXT},
}
_REFUSALS = {
    "400": "the body is no JSON",
    "401": "it is not known who asks",
    "403": "whoever asks may not do this",
    "404": "there is nothing by that name",
    "405": "it is asked for by another method",
    "409": "the run is in another state, or was started otherwise",
    "413": "the body is too large",
    "415": "the body is no JSON in UTF-8",
    "422": "the request does not fit",
    "500": "the function failed",
    "429": "too many requests, or streams that are open",
    "503": "not at the moment",
}
_SECONDS: Schema = {
    "description": "in how many seconds to ask again",
    "schema": {"type": "integer", "minimum": 1},
}
_LATER = ("429", "503")
_READING = ("401", "403", "404", "405", "429", "503")
_WRITING = ("400", *_READING, "413", "415", "422")


def openapi(app: App[Any], root: str = "") -> dict[str, Any]:
    """The document, in OpenAPI 3.1, of the app where it is mounted at *root*."""
    registry = app.registry
    schemas = _Schemas()
    functions = [registry.functions[name] for name in sorted(registry.functions)]
    workflows = [registry.workflows[name] for name in sorted(registry.workflows)]
    signals = [registry.signals[name] for name in sorted(registry.signals)]
    paths: dict[str, Any] = {}
    for func in functions:
        if not func.expose:
            continue
        declaration = func.declaration
        taken = schemas.of(declaration.input, "validation") if declaration.takes_input else None
        made = schemas.of(declaration.output, "serialization")
        paths[f"/rpc/{quote(func.name, safe='')}"] = {
            "post": {
                **_words(f"call {func.name}", func.description, ["functions", *func.tags]),
                **_body(taken),
                "responses": _responses(("200", made), *_WRITING, "500"),
            }
        }
    exposed = [flow for flow in workflows if flow.expose]
    for flow in exposed:
        declaration = flow.workflow.declaration
        given: Schema = {"run_id": {"anyOf": [_RUN_ID, {"type": "null"}]}}
        if declaration.takes_input:
            given["input"] = schemas.of(declaration.input, "validation")
        body: Schema = {
            "type": "object",
            "properties": given,
            "required": ["input"] if declaration.takes_input else [],
            "additionalProperties": False,
        }
        started = _object(run_id=_TEXT, workflow=_TEXT, status=_STATUS)
        paths[f"/workflows/{quote(flow.name, safe='')}/runs"] = {
            "post": {
                **_words(f"start {flow.name}", flow.description, ["workflows", *flow.tags]),
                "parameters": [_key("the run's id, where the body names none")],
                **_body(body, required=declaration.takes_input),
                "responses": _responses(("200", started), ("201", started), *_WRITING, "409"),
            }
        }
    if exposed:
        outputs = [
            schemas.of(each.workflow.declaration.output, "serialization") for each in exposed
        ]
        paths |= _runs(outputs)
        for signal in signals:
            payload = schemas.of(signal.payload, "validation")
            paths[f"/runs/{{run_id}}/signals/{quote(signal.name, safe='')}"] = {
                "parameters": [_in_path("run_id")],
                "post": {
                    **_words(f"send {signal.name}", signal.description, ["runs"]),
                    "parameters": [_key("the same key again sends nothing")],
                    **_body(payload, required=signal.declared is not None),
                    "responses": _responses(("202", _object(run_id=_TEXT)), *_WRITING, "409"),
                },
            }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": app.package.removesuffix("_pikku"), "version": "1"},
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {"schemas": {**schemas.definitions(), "Refusal": _ERROR}},
    }
    if app.authorize is not None:
        document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"bearer": []}]
    return document


def _runs(outputs: list[Schema]) -> dict[str, Any]:
    run_id = [_in_path("run_id")]
    ended = _object(run_id=_TEXT, status=_STATUS)
    ended["properties"] |= {"output": {"anyOf": outputs}, "error": _FAILURE}
    waiting = _object(run_id=_TEXT, status=_STATUS)
    known = _object(
        run=_object(run_id=_TEXT, workflow=_TEXT, status=_STATUS),
        waits={"anyOf": [_object(step={}, until={}), {"type": "null"}]},
        approvals={"type": "array", "items": _TEXT},
        steps={"type": "array", "items": _object(key=_TEXT, kind=_TEXT, status=_TEXT)},
    )
    accepted = _object(run_id=_TEXT)
    seconds = {"type": "number", "minimum": 0, "maximum": 60, "default": 30}
    decision: Schema = {
        "type": "object",
        "required": ["decision"],
        "properties": {
            "decision": {"type": "string", "enum": ["approve", "reject"]},
            "input": {},
            "note": {"anyOf": [_TEXT, {"type": "null"}]},
        },
        "additionalProperties": False,
    }
    reason: Schema = {
        "type": "object",
        "required": ["reason"],
        "properties": {"reason": {"type": "string", "pattern": r"\S"}},
        "additionalProperties": False,
    }
    last = {"name": "Last-Event-ID", "in": "header", "schema": _TEXT}
    stream = {"description": "the events", "content": {"text/event-stream": {"schema": _TEXT}}}
    return {
        "/runs/{run_id}": {
            "parameters": run_id,
            "get": {
                **_words("read a run", "", ["runs"]),
                "responses": _responses(("200", known), *_READING),
            },
        },
        "/runs/{run_id}/result": {
            "parameters": run_id,
            "get": {
                **_words("wait for a run's result", "", ["runs"]),
                "parameters": [{"name": "wait", "in": "query", "schema": seconds}],
                "responses": _responses(("200", ended), ("202", waiting), *_READING, "422"),
            },
        },
        "/runs/{run_id}/events": {
            "parameters": run_id,
            "get": {
                **_words("follow a run", "", ["runs"]),
                "parameters": [last],
                "responses": {"200": stream, **_responses(*_READING)},
            },
        },
        "/runs/{run_id}/approvals/{step}": {
            "parameters": [*run_id, _in_path("step")],
            "post": {
                **_words("answer an approval", "", ["runs"]),
                **_body(decision),
                "responses": _responses(("200", accepted), *_WRITING, "409"),
            },
        },
        "/runs/{run_id}/cancel": {
            "parameters": run_id,
            "post": {
                **_words("cancel a run", "", ["runs"]),
                **_body(reason),
                "responses": _responses(("202", accepted), *_WRITING, "409"),
            },
        },
    }


class _Schemas:
    """The JSON schemas of codecs, and the definitions that they refer to."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}

    def of(self, codec: Codec, mode: Mode) -> Schema:
        """The schema of the values of *codec*; that of any value where there is none to be had."""
        from pydantic.errors import PydanticInvalidForJsonSchema

        if not isinstance(codec, TypedCodec):
            return {}
        suffix = "Input" if mode == "validation" else "Output"
        template = f"#/components/schemas/{{model}}.{suffix}"
        try:
            schema = codec.adapter.json_schema(mode=mode, ref_template=template)
        except PydanticInvalidForJsonSchema:
            return {}
        for name, definition in schema.pop("$defs", {}).items():
            self._definitions[f"{name}.{suffix}"] = definition
        return schema

    def definitions(self) -> dict[str, Any]:
        """What the schemas refer to, by name."""
        return dict(sorted(self._definitions.items()))


def _words(summary: str, description: str, tags: Iterable[str]) -> dict[str, Any]:
    said = {"summary": summary, "tags": list(tags)}
    return said | ({"description": description} if description else {})


def _body(schema: Schema | None, *, required: bool = True) -> dict[str, Any]:
    if schema is None:
        return {}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": required, "content": content}}


def _responses(*each: str | tuple[str, Schema]) -> dict[str, Any]:
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    found: dict[str, Any] = {}
    for item in each:
        if isinstance(item, str):
            found[item] = {"description": _REFUSALS[item], "content": refusal}
            if item in _LATER:
                found[item]["headers"] = {"Retry-After": _SECONDS}
        else:
            status, schema = item
            content = {"application/json": {"schema": schema}}
            found[status] = {"description": "done", "content": content}
    return found


def _object(**properties: Mapping[str, Any]) -> Schema:
    return {"type": "object", "required": list(properties), "properties": dict(properties)}


def _in_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _key(words: str) -> Schema:
    return {"name": "Idempotency-Key", "in": "header", "description": words, "schema": _RUN_ID}
