"""Who asks is asked first, and runs belong to those who have started them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.http.kit import Desk, bearer

from pikku import Action


@pytest.fixture
def desk() -> Desk:
    return Desk(hook=True)


@pytest.fixture
async def client(desk: Desk) -> AsyncGenerator[httpx2.AsyncClient, None]:
    async with desk.open() as client:
        yield client


ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/rpc/echo", 1),
    ("POST", "/rpc/unknown", 1),
    ("POST", "/workflows/greet/runs", {"input": "ann"}),
    ("GET", "/runs/{}", None),
    ("GET", "/runs/{}/result?wait=0", None),
    ("GET", "/runs/{}/events", None),
    ("POST", "/runs/{}/signals/upgraded", {"name": "x"}),
    ("POST", "/runs/{}/approvals/x", {"decision": "approve"}),
    ("POST", "/runs/{}/cancel", {"reason": "no"}),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("", 401),
        ("expired", 401),
        ("banned", 403),
        ("broken", 500),
        ("confused", 500),
        ("nameless", 500),
    ],
)
async def test_nobody_passes_whom_the_hook_does_not_let_in(
    desk: Desk, client: httpx2.AsyncClient, method: str, path: str, body: Any, token: str, code: int
) -> None:
    headers = bearer(token) if token else {}
    answer = await client.request(method, path.format("any"), json=body, headers=headers)

    assert answer.status_code == code
    assert "secret" not in answer.text
    assert (code == 401) == ("www-authenticate" in answer.headers)
    assert not desk.called
    assert await desk.app.count_runs() == {}


async def test_the_hook_is_told_what_is_asked_for(desk: Desk, client: httpx2.AsyncClient) -> None:
    for method, path, _ in ROUTES:
        await client.request(method, path.format("r1"))

    assert desk.asked == [
        Action("rpc", "echo"),
        Action("rpc", "unknown"),
        Action("start", "greet"),
        *(Action(kind, None, "r1") for kind in ("read", "result", "events")),
        *(Action(kind, None, "r1") for kind in ("signal", "approve", "cancel")),
    ]


async def test_the_hook_is_asked_before_the_body_is_read(client: httpx2.AsyncClient) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    answer = await client.post(
        "/rpc/echo", content=never(), headers={"content-type": "application/json"}
    )

    assert answer.status_code == 401


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
async def everywhere(
    desk: Desk, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[httpx2.AsyncClient, None]:
    """Somebody who asks an app on each store."""
    stores = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/runs.db"}
    named = {"redis": "redis_url", "postgres": "postgres_emptied_url"}
    store = stores.get(request.param) or request.getfixturevalue(named[request.param])
    async with desk.open(store) as client:
        yield client


async def test_a_run_is_for_who_has_started_it(desk: Desk, everywhere: httpx2.AsyncClient) -> None:
    client = everywhere
    ann, bob = bearer("ann"), bearer("bob")
    body = {"run_id": "trial-1"}
    await client.post("/workflows/trial/runs", json=body, headers=ann)
    assert (await client.get("/runs/trial-1", headers=ann)).json()["run"]["started_by"] == "ann"

    nothing = (await client.get("/runs/nowhere", headers=bob)).json()
    for method, path, words in ROUTES[3:]:
        answer = await client.request(method, path.format("trial-1"), json=words, headers=bob)
        assert answer.status_code == 404
        assert answer.json() == nothing
    again = await client.post("/workflows/trial/runs", json=body, headers=bob)
    assert (again.status_code, again.json()["code"]) == (409, "run_conflict")
    info = await desk.app.get_run("trial", "trial-1").info()
    assert (info.status, info.cancel_requested_at, info.started_by) == ("running", None, "ann")

    sent = await client.post("/runs/trial-1/signals/upgraded", json={"name": "x"}, headers=ann)
    assert sent.status_code == 202


async def test_a_run_that_nobody_has_started_is_for_nobody(
    desk: Desk, client: httpx2.AsyncClient
) -> None:
    run = await desk.app.start_workflow("greet", "ann", run_id="greet-1")

    assert (await client.get(f"/runs/{run}", headers=bearer("ann"))).status_code == 404
    assert (await client.get(f"/runs/{run}", headers=bearer("support"))).status_code == 200


async def test_what_no_id_can_be_is_nowhere_on_every_store(everywhere: httpx2.AsyncClient) -> None:
    for run_id in ("%00", "a%20b", "%7B%7D", "x" * 201):
        answer = await everywhere.get(f"/runs/{run_id}", headers=bearer("ann"))
        assert answer.status_code == 404


async def test_a_run_that_a_call_starts_is_for_the_caller(client: httpx2.AsyncClient) -> None:
    run_id = (await client.post("/rpc/begin", headers=bearer("ann"))).json()

    assert (await client.get(f"/runs/{run_id}", headers=bearer("ann"))).status_code == 200
    assert (await client.get(f"/runs/{run_id}", headers=bearer("bob"))).status_code == 404


async def test_a_session_may_open_the_runs_of_others_for_some_actions(
    client: httpx2.AsyncClient,
) -> None:
    ann, support = bearer("ann"), bearer("support")
    await client.post("/workflows/purchase/runs", json={"run_id": "p-1"}, headers=ann)
    while not (asked := (await client.get("/runs/p-1", headers=support)).json()["approvals"]):
        await asyncio.sleep(0.01)
    assert asked == ["Approve it"]
    path = "/runs/p-1/approvals/Approve%20it"

    own = await client.post(path, json={"decision": "approve"}, headers=ann)
    maybe = await client.post(path, json={"decision": "maybe"}, headers=support)
    wrong = await client.post(path, json={"decision": "approve", "input": {}}, headers=support)
    words = {"decision": "approve", "input": {"name": "x"}, "note": "fine"}
    right = await client.post(path, json=words, headers=support)
    again = await client.post(path, json=words, headers=support)
    cancel = await client.post("/runs/p-1/cancel", json={"reason": "no"}, headers=support)

    assert own.status_code == 403
    assert maybe.json()["errors"][0]["path"] == ["decision"]
    assert wrong.json()["errors"] == [{"path": ["input", "name"], "message": "field required"}]
    assert right.status_code == 200
    assert (again.status_code, again.json()["code"]) in (
        (409, "already_decided"),
        (409, "run_state"),
    )
    assert cancel.status_code == 404
    ended = await client.get("/runs/p-1/result", headers=ann)
    assert ended.json()["output"] == "approved by support"


@pytest.mark.parametrize(
    ("near", "base", "code"),
    [
        ("127.0.0.1", "http://localhost:8000", 200),
        ("::1", "http://[::1]:8000", 200),
        ("127.0.0.1", "http://127.0.0.2", 200),
        ("10.0.0.7", "http://localhost", 403),
        ("192.168.1.1", "http://192.168.1.2", 403),
        ("127.0.0.1", "http://evil.example", 403),
        ("127.0.0.1", "http://localhost.evil.example", 403),
        ("127.0.0.1", "http://127.0.0.1.evil.example", 403),
    ],
)
async def test_without_a_hook_only_this_machine_is_answered(
    near: str, base: str, code: int
) -> None:
    desk = Desk()
    async with desk.open(), desk.client(base=base, near=near) as client:
        for method, path in (("POST", "/rpc/ping"), ("GET", "/openapi.json")):
            assert (await client.request(method, path)).status_code == code
    assert bool(desk.called) == (code == 200)
