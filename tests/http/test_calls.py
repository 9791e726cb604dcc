"""`POST /rpc/{name}` calls what is exposed, and nothing else."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx2
import pytest
from tests.http.kit import Desk, bearer

NOTHING = {
    "code": "not_found",
    "message": "there is nothing here by that name",
    "hint": None,
    "path": None,
}


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def client(desk: Desk) -> AsyncGenerator[httpx2.AsyncClient, None]:
    async with desk.open() as client:
        yield client


ORDER = {"order_id": "1", "lines": [{"sku": "apple", "quantity": 2}], "total": "10.50"}


async def test_an_exposed_function_is_called_with_the_body(
    desk: Desk, client: httpx2.AsyncClient
) -> None:
    answer = await client.post("/rpc/total", json=ORDER)

    assert (answer.status_code, answer.json()) == (200, "10.50")
    assert answer.headers["content-type"] == "application/json"
    assert desk.called[0].lines[0].sku == "apple"


@pytest.mark.parametrize("value", [None, 1, 1.5, "ü", [], {"a": [1, {"b": None}]}, True])
async def test_any_value_goes_there_and_back(client: httpx2.AsyncClient, value: Any) -> None:
    answer = await client.post("/rpc/echo", content=json.dumps(value), headers=JSON)

    assert (answer.status_code, answer.json()) == (200, value)


async def test_a_function_without_input_takes_no_body(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/rpc/ping")).json() == "pong"
    assert (await client.post("/rpc/ping", content=b"null", headers=JSON)).json() == "pong"
    refused = await client.post("/rpc/ping", json={"a": 1})
    assert refused.status_code == 422
    assert refused.json()["errors"] == [{"path": [], "message": "the function takes no input"}]


JSON = {"content-type": "application/json"}


async def test_a_name_may_have_any_characters(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/rpc/with%2Fslash%20and%20%C3%BC")

    assert (answer.status_code, answer.json()) == (200, 1)


@pytest.mark.parametrize(
    "name",
    [
        "inner",
        "nobody",
        "Inner",
        "ech",
        "echo ",
        "%00",
        "%FF",
        "..%2Frpc%2Fecho",
        "__class__",
        "registry.functions",
        "shop.functions:inner",
        "%F0%9F%92%A9",
        "a" * 5000,
    ],
)
async def test_what_is_not_exposed_is_told_from_nothing_at_all_by_nothing(
    desk: Desk, client: httpx2.AsyncClient, name: str
) -> None:
    answer = await client.post(f"/rpc/{name}", json=1)

    document = answer.json()
    assert answer.status_code == 404
    assert document == NOTHING
    unknown = await client.post("/rpc/unknown", json=1)
    assert {**answer.headers, "content-length": ""} == {**unknown.headers, "content-length": ""}
    assert not desk.called


@pytest.mark.parametrize(
    "path",
    [
        *("/", "", "/rpc", "/rpc/", "/rpc/echo/", "//rpc/echo", "/rpc/echo/x", "/RPC/echo"),
        *("/inner", "/workflows/greet", "/workflows/greet/runs/", "/runs", "/runs/", "/rpc//echo"),
    ],
)
async def test_other_paths_lead_nowhere(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.post(path, json=1)).status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_another_method_is_refused_with_the_right_one(
    client: httpx2.AsyncClient, method: str
) -> None:
    answer = await client.request(method, "/rpc/echo")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_what_does_not_fit_is_told_with_its_place(
    desk: Desk, client: httpx2.AsyncClient
) -> None:
    wrong = {"order_id": 7, "lines": [{"sku": "a", "quantity": 0}, {}], "total": "x"}

    answer = await client.post("/rpc/total", json=wrong)

    assert answer.status_code == 422
    document = answer.json()
    assert (document["code"], document["path"]) == ("invalid_input", ["order_id"])
    assert [each["path"] for each in document["errors"]] == [
        ["order_id"],
        ["lines", 0, "quantity"],
        ["lines", 1, "sku"],
        ["lines", 1, "quantity"],
        ["total"],
    ]
    assert document["errors"][0]["message"] == "input should be a valid string, not 7"
    assert not desk.called


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 422),
        (b"{", 400),
        (b"nul", 400),
        (b"NaN", 400),
        (b"\xff\xfe", 400),
        (b'"\\ud800"', 400),
        (b"1 2", 400),
        (b"[" * 100_000, 413),
        (b"[" * 300 + b"]" * 300, 413),
        (b'{"a":' * 300 + b"1" + b"}" * 300, 413),
    ],
)
async def test_a_body_that_is_no_json_is_refused(
    desk: Desk, client: httpx2.AsyncClient, body: bytes, code: int
) -> None:
    answer = await client.post("/rpc/echo", content=body, headers=JSON)

    assert answer.status_code == code, answer.text
    assert not desk.called


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=latin-1",
        "application/jsonp",
        "",
    ],
)
async def test_a_body_has_to_say_that_it_is_json(
    desk: Desk, client: httpx2.AsyncClient, kind: str
) -> None:
    answer = await client.post("/rpc/echo", content=b"1", headers={"content-type": kind})

    assert answer.status_code == 415
    assert not desk.called


async def test_a_body_that_says_it_is_too_large_is_not_read(client: httpx2.AsyncClient) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    answer = await client.post(
        "/rpc/echo", content=never(), headers={**JSON, "content-length": "99999999"}
    )

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("said", [None, "10", "-1", "abc"])
async def test_a_body_is_read_no_further_than_it_may_be_long(
    desk: Desk, client: httpx2.AsyncClient, said: str | None
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    headers = {**JSON, **({} if said is None else {"content-length": said})}
    answer = await client.post("/rpc/echo", content=endless(), headers=headers)

    assert answer.status_code == 413
    assert sent < 1_300_000
    assert not desk.called


async def test_of_an_error_nothing_is_told(
    client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.post("/rpc/fail", json="now")

    assert answer.status_code == 500
    assert answer.json() == {
        "code": "function_failed",
        "message": "the function failed",
        "hint": None,
        "path": None,
    }
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert (record.getMessage(), vars(record)["function"]) == ("function 'fail' failed", "fail")
    assert "1234" in (record.exc_text or "") + caplog.text


async def test_a_public_error_is_told(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/rpc/fail", json="public")

    assert answer.status_code == 500
    assert answer.json() == {
        "code": "function_failed",
        "message": "out of paper",
        "hint": None,
        "path": None,
        "type": "OutOfPaper",
    }


async def test_an_error_of_a_call_inside_is_the_functions_own(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/rpc/fail", json="input")

    assert (answer.status_code, answer.json()["code"]) == (500, "function_failed")


async def test_a_function_that_asks_to_be_tried_again_is_not_available(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.post("/rpc/fail", json="later")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


async def test_an_exposed_function_may_call_one_that_is_not(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/rpc/outer", json=3)).json() == 3


async def test_a_permission_is_asked_before_the_function() -> None:
    desk = Desk(hook=True)
    async with desk.open() as client:
        refused = await client.post("/rpc/guarded", headers=bearer("ann"))
        allowed = await client.post("/rpc/guarded", headers=bearer("clerk"))

    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "is_clerk" not in refused.text
    assert allowed.json() == "hello clerk"
    assert desk.called == ["seen guarded", "seen guarded", "guarded"]


async def test_no_answer_may_be_kept_or_taken_for_something_else(
    client: httpx2.AsyncClient,
) -> None:
    for answer in (await client.post("/rpc/echo", json="<script>"), await client.get("/x")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        json.loads(answer.text)


async def test_an_app_that_is_not_open_is_not_available(desk: Desk) -> None:
    async with desk.client() as client:
        answer = await client.post("/rpc/echo", json=1)

    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
