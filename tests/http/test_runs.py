"""Runs of exposed workflows are started, asked after and spoken to over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest
from tests.http.kit import Desk, events_in

JSON = {"content-type": "application/json"}


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def client(
    desk: Desk, request: pytest.FixtureRequest, tmp_path: Any
) -> AsyncGenerator[httpx2.AsyncClient, None]:
    store = "memory://"
    if request.param == "sqlite":
        store = f"sqlite:///{tmp_path}/runs.db"
    elif request.param == "redis":
        store = request.getfixturevalue("redis_url")
    async with desk.open(store) as client:
        yield client


async def started(client: httpx2.AsyncClient, name: str, **body: Any) -> str:
    answer = await client.post(f"/workflows/{name}/runs", json=body)
    assert answer.status_code == 201, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


async def result(client: httpx2.AsyncClient, run_id: str, wait: float = 10) -> tuple[int, Any]:
    answer = await client.get(f"/runs/{run_id}/result", params={"wait": wait})
    return answer.status_code, answer.json()


async def test_a_run_is_started_and_its_result_waited_for(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/workflows/greet/runs", json={"input": "ann", "run_id": "greet-1"})

    assert answer.status_code == 201
    assert answer.json() == {"run_id": "greet-1", "workflow": "greet", "status": "running"}
    assert await result(client, "greet-1") == (
        200,
        {"run_id": "greet-1", "status": "completed", "output": "hello ann"},
    )


async def test_a_start_that_is_repeated_finds_the_run(client: httpx2.AsyncClient) -> None:
    body = {"input": "ann", "run_id": "greet-1"}
    await client.post("/workflows/greet/runs", json=body)
    await result(client, "greet-1")

    again = await client.post("/workflows/greet/runs", json=body)
    other = await client.post("/workflows/greet/runs", json={**body, "input": "bob"})
    elsewhere = await client.post("/workflows/hold/runs", json={"run_id": "greet-1"})

    assert (again.status_code, again.json()["status"]) == (200, "completed")
    assert (other.status_code, other.json()["code"]) == (409, "run_conflict")
    assert elsewhere.status_code == 409


async def test_the_idempotency_key_is_the_runs_id_where_the_body_names_none(
    client: httpx2.AsyncClient,
) -> None:
    headers = {"idempotency-key": "key-1"}
    first = await client.post("/workflows/greet/runs", json={"input": "ann"}, headers=headers)
    again = await client.post("/workflows/greet/runs", json={"input": "ann"}, headers=headers)
    named = await client.post(
        "/workflows/greet/runs", json={"input": "ann", "run_id": "own"}, headers=headers
    )

    assert [first.status_code, again.status_code, named.status_code] == [201, 200, 201]
    assert [each.json()["run_id"] for each in (first, again, named)] == ["key-1", "key-1", "own"]


@pytest.mark.parametrize(
    ("name", "body", "place"),
    [
        ("greet", {}, ["input"]),
        ("greet", {"input": 1}, ["input"]),
        ("order", {"input": {"order_id": "1", "lines": [{}], "total": 1}}, ["input", "lines", 0]),
        ("hold", {"input": 1}, ["input"]),
        ("greet", {"input": "a", "runid": "x"}, ["runid"]),
        ("greet", {"input": "a", "run_id": 7}, ["run_id"]),
        ("greet", {"input": "a", "run_id": "a b"}, ["run_id"]),
        ("greet", {"input": "a", "run_id": "x" * 201}, ["run_id"]),
        ("greet", {"input": "a", "run_id": "parent~0a1b"}, ["run_id"]),
        ("greet", ["a"], []),
    ],
)
async def test_a_start_that_does_not_fit_starts_nothing(
    desk: Desk, client: httpx2.AsyncClient, name: str, body: Any, place: list[Any]
) -> None:
    answer = await client.post(f"/workflows/{name}/runs", json=body)

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["path"][: len(place)] == place
    assert await desk.app.count_runs() == {}


@pytest.mark.parametrize("name", ["internal", "unknown", "_internal", "greet%20"])
async def test_a_workflow_that_is_not_exposed_is_not_there(
    desk: Desk, client: httpx2.AsyncClient, name: str
) -> None:
    answer = await client.post(f"/workflows/{name}/runs", content=b"{", headers=JSON)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert await desk.app.count_runs() == {}


async def test_nothing_is_known_of_the_runs_of_other_workflows(
    desk: Desk, client: httpx2.AsyncClient
) -> None:
    run = await desk.app.start_workflow("internal", wait=False)
    for run_id in (run.run_id, "nowhere", "%00", "%F0%9F%92%A9", "a" * 3000):
        answers = [
            await client.get(f"/runs/{run_id}"),
            await client.get(f"/runs/{run_id}/result"),
            await client.get(f"/runs/{run_id}/events"),
            await client.post(f"/runs/{run_id}/cancel", json={"reason": "no"}),
            await client.post(f"/runs/{run_id}/signals/upgraded", json={"name": "x"}),
            await client.post(f"/runs/{run_id}/approvals/x", json={"decision": "approve"}),
        ]
        assert {each.status_code for each in answers} == {404}
        assert {each.json()["message"] for each in answers} == {
            "there is nothing here by that name"
        }
    assert (await run.info()).cancel_requested_at is None


async def test_a_run_is_described(client: httpx2.AsyncClient) -> None:
    await started(client, "greet", input="ann", run_id="greet-1")
    await result(client, "greet-1")

    document = (await client.get("/runs/greet-1")).json()

    run = document["run"]
    for moment in ("created_at", "updated_at", "finished_at"):
        assert run.pop(moment).endswith("Z")
    assert run == {
        "run_id": "greet-1",
        "workflow": "greet",
        "status": "completed",
        "tags": [],
        "input": "ann",
        "output": "hello ann",
        "error": None,
        "started_by": None,
        "parent": None,
        "forked_from": None,
        "run_attempt": 1,
        "cancel_requested_at": None,
        "cancel_reason": None,
        "suspend_reason": None,
    }
    assert (document["waits"], document["approvals"]) == (None, [])
    assert {"result", "input", "target"}.isdisjoint(*document["steps"])


async def test_a_failure_is_told_without_its_traceback(client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "break%20down")

    code, document = await result(client, run_id)
    shown = await client.get(f"/runs/{run_id}")
    events = await client.get(f"/runs/{run_id}/events")

    assert (code, document["status"]) == (200, "failed")
    assert document["error"]["type"] == "StepFailedError"
    for text in (str(document), shown.text, events.text):
        assert "Traceback" not in text
        assert "traceback" not in text
        assert "tests.http" not in text


async def test_a_wait_for_a_result_ends_in_time(desk: Desk, client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "hold")
    begun = time.monotonic()

    assert await result(client, run_id, 0) == (202, {"run_id": run_id, "status": "running"})
    assert (await result(client, run_id, 0.2))[0] == 202
    assert time.monotonic() - begun < 5

    waiting = asyncio.ensure_future(result(client, run_id))
    await asyncio.sleep(0)
    desk.gate.set()
    assert (await waiting)[1]["output"] == "held"


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "soon", "inf", ""])
async def test_a_wait_has_bounds(client: httpx2.AsyncClient, wait: str) -> None:
    answer = await client.get("/runs/any/result", params={"wait": wait})

    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, ["wait"])


async def test_a_run_is_cancelled(client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "trial")

    answer = await client.post(f"/runs/{run_id}/cancel", json={"reason": "changed my mind"})

    assert (answer.status_code, answer.json()) == (202, {"run_id": run_id})
    _, document = await result(client, run_id)
    assert document["status"] == "cancelled"
    assert document["error"]["message"] == "changed my mind"


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": 1}, {"reason": " \n"}, {"reason": "a\0"}, []]
)
async def test_a_cancel_has_a_reason(client: httpx2.AsyncClient, body: Any) -> None:
    run_id = await started(client, "trial")

    assert (await client.post(f"/runs/{run_id}/cancel", json=body)).status_code == 422


async def test_a_signal_is_sent_once(client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "trial")
    headers = {"idempotency-key": "upgrade-1"}

    wrong = await client.post(f"/runs/{run_id}/signals/upgraded", json={"name": 1})
    unknown = await client.post(f"/runs/{run_id}/signals/other", json={})
    for _ in range(2):
        sent = await client.post(
            f"/runs/{run_id}/signals/upgraded", json={"name": "gold"}, headers=headers
        )
        assert sent.status_code in (202, 409)

    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, ["name"])
    assert unknown.status_code == 404
    assert (await result(client, run_id))[1]["output"] == "gold"


async def test_what_has_ended_takes_no_word_any_more(client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "greet", input="ann")
    await result(client, run_id)

    signal = await client.post(f"/runs/{run_id}/signals/upgraded", json={"name": "gold"})
    approval = await client.post(f"/runs/{run_id}/approvals/x", json={"decision": "approve"})
    cancel = await client.post(f"/runs/{run_id}/cancel", json={"reason": "late"})

    assert (signal.status_code, signal.json()["code"]) == (409, "run_state")
    assert approval.status_code == 404
    assert cancel.status_code == 202
    assert (await result(client, run_id))[1]["status"] == "completed"


async def test_the_history_is_streamed_to_its_end(desk: Desk, client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "greet", input="ann")
    await result(client, run_id)

    answer = await client.get(f"/runs/{run_id}/events")

    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, end = events_in(answer.text)
    history = await desk.app.get_run("greet", run_id).history()
    assert [(number, kind) for number, kind, _ in events] == [
        (str(number), event.kind) for number, event in enumerate(history, start=1)
    ]
    assert {(kind, data["step"]) for _, kind, data in events} == {
        ("run_started", None),
        ("step_started", "Say it"),
        ("step_succeeded", "Say it"),
        ("run_completed", None),
    }
    assert end == ("", "end", {"status": "completed"})


async def test_a_stream_is_gone_on_with_after_the_last_event(client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "greet", input="ann")
    await result(client, run_id)
    whole = events_in((await client.get(f"/runs/{run_id}/events")).text)

    for last, left in (("2", whole[2:]), ("4", whole[4:]), ("99", whole[4:]), ("x", whole)):
        answer = await client.get(f"/runs/{run_id}/events", headers={"last-event-id": last})
        assert events_in(answer.text) == left


async def test_a_running_run_is_followed(desk: Desk, client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "hold")
    following = asyncio.ensure_future(client.get(f"/runs/{run_id}/events"))
    while (await client.get(f"/runs/{run_id}/result?wait=0")).status_code != 202:
        await asyncio.sleep(0.01)
    desk.gate.set()

    events = events_in((await following).text)

    history = await desk.app.get_run("hold", run_id).history()
    assert [kind for _, kind, _ in events] == [*(each.kind for each in history), "end"]
    assert [number for number, _, _ in events[:-1]] == [str(n) for n in range(1, 7)]


async def test_a_stream_ends_when_the_run_is_suspended(client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "nap")

    events = events_in((await client.get(f"/runs/{run_id}/events")).text)

    assert events[-1][1:] == ("end", {"status": "suspended"})


async def test_a_stream_leaves_nothing_behind(desk: Desk, client: httpx2.AsyncClient) -> None:
    run_id = await started(client, "trial")
    following = asyncio.ensure_future(client.get(f"/runs/{run_id}/events"))
    waiting = asyncio.ensure_future(client.get(f"/runs/{run_id}/result"))
    await asyncio.sleep(0.1)
    following.cancel()
    waiting.cancel()
    await asyncio.gather(following, waiting, return_exceptions=True)

    async with asyncio.timeout(5):
        while any("_http" in repr(task) for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
    assert desk.app.opened.engine.results.nobody_waits


async def test_a_run_that_goes_on_after_its_end_is_followed_again(
    desk: Desk, client: httpx2.AsyncClient
) -> None:
    run_id = await started(client, "break%20down")
    await result(client, run_id)
    first = events_in((await client.get(f"/runs/{run_id}/events")).text)
    desk.replace_broken()

    await desk.app.get_run("break down", run_id).retry()
    again = events_in((await client.get(f"/runs/{run_id}/events")).text)

    assert first[-1][2] == {"status": "failed"}
    assert again[-1][2] == {"status": "completed"}
    assert "retry" in [kind for _, kind, _ in again]
