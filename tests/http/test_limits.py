"""How many streams may be open, and how many requests come in a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest
from tests.http.kit import Desk, bearer, serving

from pikku import EngineOptions, RateLimit
from pikku._http.answers import Refusal
from pikku._http.limits import Asker, Limits
from pikku._http.openapi import openapi

ANN, BOB = Asker(True, "ann"), Asker(True, "bob")


@asynccontextmanager
async def asked(desk: Desk, **options: Any) -> AsyncGenerator[httpx2.AsyncClient, None]:
    """Somebody who asks a server with these options, over a socket."""
    opened = desk.app.open(store="memory://", options=EngineOptions(**options))
    async with opened, serving(desk.app) as url, httpx2.AsyncClient(base_url=url) as client:
        try:
            yield client
        finally:
            desk.gate.set()


def told(answer: httpx2.Response) -> tuple[int, str, int]:
    """Status, code, and in how many seconds to ask again."""
    document = json.loads(answer.content)
    assert {"code", "message", "hint", "path"} == set(document)
    return answer.status_code, document["code"], int(answer.headers["retry-after"])


async def hold(client: httpx2.AsyncClient, run_id: str, *names: str) -> None:
    """Start a run that goes on, for each of these people."""
    for name in names:
        body = {"run_id": f"{run_id}-{name}"}
        await client.post("/workflows/hold/runs", json=body, headers=bearer(name))


async def status_of_stream(client: httpx2.AsyncClient, name: str) -> int:
    async with client.stream("GET", f"/runs/r-{name}/events", headers=bearer(name)) as answer:
        return answer.status_code


async def test_a_person_has_so_many_streams_and_no_more() -> None:
    desk = Desk(hook=True)
    async with asked(desk, max_streams_per_session=2) as client, AsyncExitStack() as open_ones:
        await hold(client, "r", "ann", "bob")
        path, ann = "/runs/r-ann/events", bearer("ann")
        first = await open_ones.enter_async_context(client.stream("GET", path, headers=ann))
        async with client.stream("GET", path, headers=ann) as second:
            refused = await client.get(path, headers=ann)
            other = await status_of_stream(client, "bob")

        assert (first.status_code, second.status_code, other) == (200, 200, 200)
        assert told(refused) == (429, "too_many_requests", 5)
        while await status_of_stream(client, "ann") == 429:  # the server hears of it in a moment
            await asyncio.sleep(0.01)


async def test_a_process_has_so_many_streams_and_no_more() -> None:
    desk = Desk(hook=True)
    async with asked(desk, max_streams=1) as client:
        await hold(client, "r", "ann", "bob")
        async with client.stream("GET", "/runs/r-ann/events", headers=bearer("ann")):
            refused = await client.get("/runs/r-bob/events", headers=bearer("bob"))

        assert told(refused) == (503, "unavailable", 5)
        while await status_of_stream(client, "bob") == 503:
            await asyncio.sleep(0.01)


async def test_a_stream_that_ends_or_never_begins_leaves_its_place() -> None:
    desk = Desk(hook=True)
    async with asked(desk, max_streams=1) as client:
        ann = bearer("ann")
        await client.post("/workflows/greet/runs", json={"input": "x", "run_id": "g"}, headers=ann)
        for path in ("/runs/nowhere/events", "/runs/g/events", "/runs/g/events"):
            answer = await client.get(path, headers=ann)
            while answer.status_code == 503:  # the body has ended, the response in a moment
                await asyncio.sleep(0.01)
                answer = await client.get(path, headers=ann)
            assert answer.status_code == (404 if "nowhere" in path else 200)


async def test_streams_of_those_whom_nobody_knows_are_counted_by_address() -> None:
    desk = Desk()
    async with asked(desk, max_streams_per_session=1) as client:
        await client.post("/workflows/hold/runs", json={"run_id": "r"})
        async with client.stream("GET", "/runs/r/events"):
            refused = await client.get("/runs/r/events")

    assert told(refused)[:2] == (429, "too_many_requests")


async def test_a_person_may_make_so_many_requests_in_a_time() -> None:
    desk = Desk(hook=True)
    async with asked(desk, request_rate=RateLimit(2, "1h")) as client:
        ann = [await client.post("/rpc/echo", json=1, headers=bearer("ann")) for _ in range(3)]
        bob = await client.post("/rpc/echo", json=1, headers=bearer("bob"))
        described = [await client.get("/openapi.json") for _ in range(3)]

    assert [each.status_code for each in ann] == [200, 200, 429]
    status, code, seconds = told(ann[-1])
    assert (status, code) == (429, "too_many_requests")
    assert 3590 <= seconds <= 3600
    assert (len(desk.called), bob.status_code) == (3, 200)
    assert [each.status_code for each in described] == [200, 200, 200]


async def test_whoever_is_not_let_in_is_counted_by_address() -> None:
    desk = Desk(hook=True)
    async with asked(desk, request_rate=RateLimit(2, "1h")) as client:
        nobody = [await client.post("/rpc/echo", json=1) for _ in range(3)]
        ann = await client.post("/rpc/echo", json=1, headers=bearer("ann"))

    assert [each.status_code for each in nobody] == [401, 401, 429]
    assert ann.status_code == 200


async def test_without_a_hook_requests_are_counted_by_address() -> None:
    async with asked(Desk(), request_rate=RateLimit(1, "1h")) as client:
        answers = [await client.post("/rpc/ping") for _ in range(2)]

    assert [each.status_code for each in answers] == [200, 429]


async def test_requests_are_not_counted_unless_somebody_says_so() -> None:
    desk = Desk()
    async with asked(desk) as client:
        answers = [await client.post("/rpc/ping") for _ in range(200)]

    assert {each.status_code for each in answers} == {200}


def test_a_window_opens_with_the_first_request_and_is_forgotten() -> None:
    now = 100.0
    limits = Limits(lambda: now)
    options = EngineOptions(request_rate=RateLimit(1, "10s"))
    limits.count(ANN, options)
    now = 104.5
    limits.count(BOB, options)
    with pytest.raises(Refusal) as refused:
        limits.count(ANN, options)
    now = 110.0
    limits.count(ANN, options)

    assert refused.value.headers == {"retry-after": "6"}
    now = 1000.0
    limits.count(BOB, options)
    assert list(limits._windows) == [BOB]


def test_a_place_is_given_back_once() -> None:
    limits, options = Limits(), EngineOptions(max_streams=2)
    slot, _ = limits.stream(ANN, options), limits.stream(BOB, options)
    slot.release()
    slot.release()

    assert limits.streams == 1
    limits.stream(ANN, options)
    with pytest.raises(Refusal):
        limits.stream(ANN, options)


def test_the_document_says_so_of_every_route() -> None:
    document = openapi(Desk(hook=True).app)

    for path in document["paths"].values():
        for method in {"get", "post"} & set(path):
            for status in ("429", "503"):
                assert "Retry-After" in path[method]["responses"][status]["headers"]
