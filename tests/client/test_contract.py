"""docs/http-contract.md, word by word: what a server answers to plain HTTP.

It is the product's own, and any other server can be held to it just as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator
from tests.client.server import TOKEN, Served

PAGE = Path(__file__).parents[2] / "docs" / "http-contract.md"
ORDER: dict[str, Any] = {
    "order_id": "6a5fe5c2-0f0b-4b2f-9d5e-2b4c4c1b7f10",
    "lines": [{"articleNumber": "A1"}],
    "to": {"street": "Main Street 1"},
    "total": "5",
    "account": "ann",
}


@pytest.fixture
async def http(depot: Served) -> AsyncGenerator[httpx2.AsyncClient, None]:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    async with httpx2.AsyncClient(base_url=depot.url, headers=headers) as client:
        yield client


async def started(http: httpx2.AsyncClient, name: str = "count", **body: Any) -> str:
    answer = await http.post(f"/workflows/{name}/runs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["run_id"])


def error(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of a refusal, whose body has the fields that every error has."""
    document = answer.json()
    assert {"code", "message", "hint", "path"} <= set(document)
    return answer.status_code, document["code"]


def example(heading: str) -> Any:
    """The first JSON document below a heading of the page."""
    text = PAGE.read_text(encoding="utf-8").partition(heading)[2]
    found = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert found
    return json.loads(found[1])


async def test_a_function_takes_its_input_as_the_body_and_gives_its_result(
    http: httpx2.AsyncClient,
) -> None:
    assert (await http.post("/rpc/price", json=ORDER)).json() == "5"
    assert (await http.post("/rpc/ping")).json() == 42
    assert (await http.post("/rpc/all-lines", json={"items": []})).content == b"null"


async def test_a_run_is_new_once_and_then_found(http: httpx2.AsyncClient) -> None:
    body = {"input": ORDER, "run_id": "order-1"}

    first = await http.post("/workflows/order/runs", json=body)
    again = await http.post("/workflows/order/runs", json=body)
    other = await http.post("/workflows/order/runs", json=body | {"input": ORDER | {"total": "6"}})
    elsewhere = await http.post("/workflows/count/runs", json={"run_id": "order-1"})

    assert (first.status_code, again.status_code) == (201, 200)
    assert set(first.json()) == {"run_id", "workflow", "status"}
    assert error(other) == error(elsewhere) == (409, "run_conflict")


async def test_the_idempotency_key_is_the_run_id_where_the_body_has_none(
    http: httpx2.AsyncClient,
) -> None:
    answer = await http.post("/workflows/count/runs", json={}, headers={"Idempotency-Key": "k-1"})

    assert (answer.status_code, answer.json()["run_id"]) == (201, "k-1")


async def test_what_is_known_of_a_run_has_the_fields_of_the_page(http: httpx2.AsyncClient) -> None:
    run_id = await started(http)
    async with http.sse(f"/runs/{run_id}/events") as events:
        async for event in events:
            if event.event == "wait_started":
                break

    document = (await http.get(f"/runs/{run_id}")).json()

    page = example("### `GET /runs/{id}`")
    assert set(document) == set(page)
    assert set(document["run"]) == set(page["run"])
    assert [set(step) for step in document["steps"]] == [set(step) for step in page["steps"]]
    assert document["waits"] == {
        "for": "signal",
        "step": "Wait for word",
        "until": None,
        "signal": "go-on",
    }
    assert document["steps"][0] | {"created_at": ""} == page["steps"][0] | {
        "key": "Wait for word",
        "created_at": "",
    }


async def test_a_result_is_waited_for_as_long_as_was_asked(http: httpx2.AsyncClient) -> None:
    run_id = await started(http)

    early = await http.get(f"/runs/{run_id}/result", params={"wait": "0.01"})
    await http.post(f"/runs/{run_id}/signals/go-on", content="null")
    late = await http.get(f"/runs/{run_id}/result", params={"wait": 60})

    assert (early.status_code, early.json()) == (202, {"run_id": run_id, "status": "running"})
    assert late.status_code == 200
    assert late.json() == {"run_id": run_id, "status": "completed", "output": 3}


async def test_a_run_that_did_not_complete_has_an_error_for_its_result(
    http: httpx2.AsyncClient,
) -> None:
    failed, stopped = await started(http, "broken", input=True), await started(http)
    cancelled = await http.post(f"/runs/{stopped}/cancel", json={"reason": "not needed"})

    first = (await http.get(f"/runs/{failed}/result")).json()
    second = (await http.get(f"/runs/{stopped}/result")).json()
    again = await http.post(f"/runs/{stopped}/cancel", json={"reason": "again"})

    assert first["error"] == {"type": "ValueError", "message": "no such luck"}
    assert (cancelled.status_code, again.status_code) == (202, 202)
    assert (second["status"], second["error"]["message"]) == ("cancelled", "not needed")


async def test_events_are_numbered_and_resumed(http: httpx2.AsyncClient) -> None:
    run_id = await started(http)
    await http.post(f"/runs/{run_id}/signals/go-on", content="null")
    await http.get(f"/runs/{run_id}/result")

    async with http.sse(f"/runs/{run_id}/events") as stream:
        whole = [event async for event in stream]
    async with http.sse(f"/runs/{run_id}/events", headers={"Last-Event-ID": "2"}) as stream:
        rest = [event async for event in stream]

    *events, end = whole
    assert [event.id for event in events] == [str(number + 1) for number in range(len(events))]
    for event in events:
        document = json.loads(event.data)
        assert event.event == document["kind"]
        assert set(document) == {"at", "kind", "step", "attempt", "data"}
    assert (end.event, json.loads(end.data)) == ("end", {"status": "completed"})
    assert [event.event for event in rest] == [event.event for event in whole[2:]]


async def test_a_signal_is_sent_once_for_each_key(http: httpx2.AsyncClient) -> None:
    run_id = await started(http, "order", input=ORDER)
    for _ in range(2):
        answer = await http.post(
            f"/runs/{run_id}/signals/paid", json={"amount": "5"}, headers={"Idempotency-Key": "p"}
        )
        assert answer.status_code == 202
    assert (await http.get(f"/runs/{run_id}/result")).json()["output"]["total"] == "5"

    late = await http.post(f"/runs/{run_id}/signals/paid", json={"amount": "5"})

    assert error(late) == (409, "run_state")


async def test_an_approval_is_answered_once(http: httpx2.AsyncClient) -> None:
    run_id = await started(http, "order", input=ORDER | {"total": "2000"})
    await http.post(f"/runs/{run_id}/signals/paid", json={"amount": "5"})
    async with http.sse(f"/runs/{run_id}/events") as events:
        async for event in events:
            if event.event == "approval_asked":
                break
    path = f"/runs/{run_id}/approvals/Approve%20%2F%20order"

    wrong = await http.post(path, json={"decision": "approve", "input": {}})
    odd = await http.post(path, json={"decision": "maybe"})
    answer = await http.post(path, json={"decision": "approve", "input": {"cost_centre": "7"}})
    again = await http.post(path, json={"decision": "reject"})

    assert (error(wrong), error(odd)) == ((422, "invalid_input"), (422, "invalid_input"))
    assert (answer.status_code, answer.json()) == (200, {"run_id": run_id})
    assert error(again)[0] == 409


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/rpc/price", "{", (400, "malformed")),
        ("POST", "/rpc/price", '{"lines": []}', (422, "invalid_input")),
        ("POST", "/rpc/stock", '["broken"]', (500, "function_failed")),
        ("POST", "/rpc/restock", "", (404, "not_found")),
        ("POST", "/rpc/nothing", "", (404, "not_found")),
        ("POST", "/workflows/secret/runs", "{}", (404, "not_found")),
        ("POST", "/workflows/order/runs", "[]", (422, "invalid_input")),
        ("POST", "/workflows/order/runs", "{}", (422, "invalid_input")),
        ("POST", "/workflows/count/runs", '{"run_id": "a b"}', (422, "invalid_input")),
        ("GET", "/runs/nobody", "", (404, "not_found")),
        ("GET", "/runs/nobody/result", "", (404, "not_found")),
        ("GET", "/runs/nobody/events", "", (404, "not_found")),
        ("POST", "/runs/nobody/cancel", '{"reason": "x"}', (404, "not_found")),
        ("POST", "/runs/nobody/signals/paid", "null", (404, "not_found")),
        ("POST", "/runs/nobody/approvals/any", '{"decision": "reject"}', (404, "not_found")),
    ],
)
async def test_what_is_refused_has_its_status_and_code(
    method: str, path: str, body: str, expected: tuple[int, str], http: httpx2.AsyncClient
) -> None:
    assert error(await http.request(method, path, content=body)) == expected


async def test_problems_with_an_input_have_the_fields_that_they_are_about(
    http: httpx2.AsyncClient,
) -> None:
    wrong = ORDER | {"lines": [{"articleNumber": ""}, {}], "total": "-1"}

    document = (await http.post("/workflows/order/runs", json={"input": wrong})).json()

    paths = [each["path"] for each in document["errors"]]
    assert paths == [
        ["input", "lines", 0, "articleNumber"],
        ["input", "lines", 1, "articleNumber"],
        ["input", "total"],
    ]
    assert document["path"] == paths[0]


async def test_nothing_is_there_without_a_token(depot: Served) -> None:
    async with httpx2.AsyncClient(base_url=depot.url) as http:
        assert error(await http.post("/rpc/ping")) == (401, "unauthorized")


async def test_the_answers_fit_the_openapi_document_of_the_client(
    http: httpx2.AsyncClient, project: Path
) -> None:
    openapi = json.loads((project / "client" / "openapi.json").read_text(encoding="utf-8"))
    run_id = await started(http, "order", input=ORDER)
    await http.post(f"/runs/{run_id}/signals/paid", json={"amount": "5"})
    asked = [
        ("post", "/rpc/same", await http.post("/rpc/same", json=ORDER)),
        ("get", "/runs/{id}/result", await http.get(f"/runs/{run_id}/result")),
        ("get", "/runs/{id}", await http.get(f"/runs/{run_id}")),
        ("get", "/runs/{id}", await http.get("/runs/nobody")),
        ("post", "/rpc/price", await http.post("/rpc/price", json={})),
    ]

    for method, path, answer in asked:
        described = openapi["paths"][path][method]["responses"][str(answer.status_code)]
        if "$ref" in described:
            described = openapi["components"]["responses"][str(answer.status_code)]
        schema = described["content"]["application/json"]["schema"]
        validator = Draft202012Validator({**openapi, **schema})
        assert [each.message for each in validator.iter_errors(answer.json())] == []
