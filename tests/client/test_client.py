"""What users of a generated client get, against a server over the real runtime."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
from collections.abc import Callable
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tests.client.server import TOKEN, Served, served

from pikku import EngineOptions, RateLimit

Order = Callable[..., Any]


async def test_a_function_is_called_by_attribute_and_by_name(shop: Any, order: Order) -> None:
    assert await shop.rpc.ping() == 42
    assert await shop.rpc.price(order()) == Decimal("19.90")
    assert await shop.invoke("price", order()) == Decimal("19.90")
    assert await shop.rpc.all_lines({"items": []}) is None


async def test_every_value_comes_back_as_it_was_sent(shop: Any, order: Order, types: Any) -> None:
    sent = order()

    back = await shop.rpc.same(sent)

    assert back == sent
    assert type(back) is types.Order
    assert back.lines[0].unit is types.Unit.KILO
    assert back.discount["currency"] is types.Currency.EURO
    assert back.due == dt.date(2026, 2, 3)
    assert back.extras == {"wrapped": True, "greeting": ["a", 1, None]}


async def test_generic_results_and_aliases_are_read(shop: Any, types: Any) -> None:
    page = await shop.rpc.stock(["A1", "B2"])

    assert [line.sku for line in page.items] == ["A1", "B2"]
    assert type(page) is types.Lines


async def test_a_run_is_started_and_its_result_waited_for(
    shop: Any, order: Order, types: Any, client_package: Any
) -> None:
    run = await shop.workflows.order.start(order(), run_id="order-1")
    assert str(run) == run.run_id == "order-1"
    assert await run.status() == "running"

    await run.signal(client_package.signals.paid, types.Payment(amount=Decimal("19.90")))

    shipped = await run.result(timeout="30s")
    assert shipped == types.Shipped(
        at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        took=dt.timedelta(minutes=5),
        total=Decimal("19.90"),
        note="card",
    )
    assert await shop.get_run("order-1").result() == {
        "at": "2026-01-02T00:00:00Z",
        "took": "PT5M",
        "total": "19.90",
        "places": [],
        "note": "card",
        "stamp": None,
    }


async def test_the_same_run_id_and_input_find_the_run_and_another_input_is_a_conflict(
    shop: Any, order: Order, client_package: Any
) -> None:
    first = await shop.start_workflow("order", order(), run_id="one")
    again = await shop.workflows.order.start(order(), run_id="one")

    assert again.run_id == first.run_id
    with pytest.raises(client_package.errors.RunConflictError) as raised:
        await shop.workflows.order.start(order(total="1"), run_id="one")
    assert (raised.value.status, raised.value.code) == (409, "run_conflict")


async def test_a_signal_without_a_payload_ends_a_wait(shop: Any, client_package: Any) -> None:
    run = await shop.start_workflow("count")

    await run.signal(client_package.signals.go_on)

    assert await shop.workflows.count.get_run(run.run_id).result(timeout="30s") == 3


async def test_the_same_signal_id_sends_one_signal(
    shop: Any, depot: Served, client_package: Any, types: Any, order: Order
) -> None:
    run = await shop.workflows.order.start(order(total="2000"))
    payment = types.Payment(amount=1)

    await run.signal(client_package.signals.paid, payment, signal_id="p1")
    await run.signal(client_package.signals.paid, payment, signal_id="p1")

    history = await depot.app.get_run("order", run.run_id).history()
    assert [event.kind for event in history].count("signal") == 1


async def until_asked(run: Any) -> Any:
    """What is known of the run once it waits for an approval."""
    async for event in run.events():
        if event.kind == "approval_asked":
            return await run.info()
    raise AssertionError("nothing was asked")


@pytest.mark.parametrize(("word", "outcome"), [("approve", "approved"), ("reject", "rejected")])
async def test_approvals_are_answered_once(
    word: str, outcome: str, shop: Any, order: Order, types: Any, client_package: Any
) -> None:
    run = await shop.workflows.order.start(order(total="2000"))
    await run.signal(client_package.signals.paid, types.Payment(amount=1))
    info = await until_asked(run)
    (step,) = info.approvals

    await getattr(run, word)(step, {"cost_centre": "7"}, note="fine")

    assert step == "Approve / order"
    assert (info.waits["for"], info.started_by) == ("approval", "ann")
    assert (await run.result(timeout="30s")).note == outcome
    with pytest.raises(client_package.errors.ConflictError) as raised:
        await run.approve(step, {"cost_centre": "7"})
    assert raised.value.code in ("already_decided", "run_state")


async def test_a_run_that_fails_or_is_cancelled_says_so(shop: Any, client_package: Any) -> None:
    errors = client_package.errors
    failed = await shop.workflows.broken.start(True)
    with pytest.raises(errors.RunFailedError, match="ValueError: no such luck") as raised:
        await failed.result(timeout="30s")
    assert raised.value.error_type == "ValueError"

    stopped = await shop.workflows.count.start()
    await stopped.cancel("not needed")
    with pytest.raises(errors.RunCancelledError, match="not needed"):
        await stopped.result(timeout="30s")
    assert (await stopped.info()).cancel_reason == "not needed"


async def test_a_wait_that_is_too_short_says_so_and_the_run_goes_on(
    shop: Any, client_package: Any
) -> None:
    run = await shop.workflows.count.start()

    with pytest.raises(client_package.errors.ResultTimeoutError, match="within 20ms"):
        await run.result(timeout="20ms")

    assert await run.status() == "running"


async def test_events_are_followed_from_the_first_to_the_end(
    shop: Any, client_package: Any
) -> None:
    run = await shop.workflows.count.start(run_id="counted")
    seen: list[tuple[int, str]] = []
    async for event in run.events():
        seen.append((event.number, event.kind))
        if event.kind == "wait_started":
            await run.signal(client_package.signals.go_on)

    kinds = [kind for _, kind in seen]
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert (kinds[0], kinds[-1]) == ("run_started", "run_completed")
    later = [event.kind async for event in run.events(after=len(kinds) - 1)]
    assert later == ["run_completed"]


async def test_events_end_where_a_run_is_suspended(shop: Any) -> None:
    run = await shop.workflows.broken.start(False)

    kinds = [event.kind async for event in run.events()]

    assert kinds[-1] == "suspend"
    assert await run.status() == "suspended"


async def test_events_go_on_where_a_stream_broke_off(
    shop: Any, depot: Served, client_package: Any
) -> None:
    run = await shop.workflows.count.start()
    await run.signal(client_package.signals.go_on)
    await run.result(timeout="30s")
    whole = [event.kind async for event in run.events()]
    broken = iter([True])

    def cut(request: Request) -> Response | None:
        if request.url.path.endswith("/events") and next(broken, False):
            text = (
                'id: 1\nevent: run_started\ndata: {"at": "2026-01-01T00:00:00Z", "kind": "x"}\n\n'
            )
            return Response(text, media_type="text/event-stream")
        return None

    depot.server.before = cut
    kinds = [event.kind async for event in run.events()]

    assert kinds == ["x", *whole[1:]]
    assert depot.server.headers[-1]["last-event-id"] == "1"


# --- what is refused ---------------------------------------------------------------------------


async def test_input_that_does_not_fit_is_refused_before_anything_is_sent(
    shop: Any, depot: Served, order: Order, client_package: Any
) -> None:
    with pytest.raises(client_package.errors.InvalidInputError) as raised:
        await shop.rpc.price({"lines": [{"articleNumber": ""}]})

    assert ("lines", 0, "articleNumber") in [each.path for each in raised.value.problems]
    assert depot.server.asked == []


async def test_what_only_the_server_can_tell_comes_back_with_the_fields_it_is_about(
    shop: Any, order: Order, client_package: Any
) -> None:
    data = order()
    data.lines[0].sku = "lower"

    with pytest.raises(client_package.errors.InvalidInputError) as raised:
        await shop.rpc.price(data)

    (problem,) = raised.value.problems
    assert problem.path == ("lines", 0, "articleNumber")
    assert "is written in capitals" in problem.message


async def test_a_function_that_raises_is_not_called_again(
    shop: Any, depot: Served, client_package: Any
) -> None:
    with pytest.raises(
        client_package.errors.ServerFailedError, match="the function failed"
    ) as raised:
        await shop.rpc.stock(["broken"])

    assert raised.value.code == "function_failed"
    assert len(depot.server.asked) == 1


async def test_unknown_names_and_runs_are_told(shop: Any, client_package: Any) -> None:
    errors = client_package.errors
    with pytest.raises(errors.UnknownNameError, match="did you mean price"):
        await shop.invoke("prise", None)
    with pytest.raises(errors.NotFoundError, match="nothing here by that name"):
        await shop.get_run("nobody").status()
    with pytest.raises(errors.NotFoundError):
        await shop.get_run("nobody").result()
    with pytest.raises(errors.NotFoundError):
        async for _ in shop.get_run("nobody").events():
            pass
    run = await shop.workflows.count.start()
    with pytest.raises(errors.NotFoundError, match="nothing here by that name"):
        await run.approve("Nothing")


async def test_a_wrong_token_is_refused(depot: Served, client_package: Any) -> None:
    async with client_package.DepotClient(depot.url, token="wrong") as shop:
        with pytest.raises(client_package.errors.UnauthenticatedError):
            await shop.rpc.ping()


async def test_another_server_is_not_the_server(depot: Served, client_package: Any) -> None:
    async with client_package.DepotClient(
        depot.url.replace("/pikku", "/elsewhere"), token=TOKEN
    ) as shop:
        with pytest.raises(client_package.errors.AnswerError, match="with its prefix"):
            await shop.rpc.ping()


@pytest.mark.parametrize("wrong", ["5", "", "5 s", "1h30", 5])
async def test_a_duration_has_units(wrong: Any, shop: Any, client_package: Any) -> None:
    with pytest.raises(client_package.errors.DurationError):
        await shop.get_run("any").result(timeout=wrong)


# --- trouble on the way ------------------------------------------------------------------------


@pytest.fixture
def pauses(client_package: Any, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have slept."""
    slept: list[float] = []
    asleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asleep(0)

    module = __import__("depot_client._aio", fromlist=["asyncio"])
    stub = type("Clock", (), {"sleep": staticmethod(sleep)})
    monkeypatch.setattr(module, "asyncio", stub)
    return slept


def failing(times: int, answer: Callable[[], Response]) -> Callable[[Request], Response | None]:
    left = iter(range(times))
    return lambda request: answer() if next(left, None) is not None else None


def busy(status: int, **headers: str) -> Response:
    return JSONResponse({"code": "unavailable", "message": "not now"}, status, headers)


async def test_what_the_server_cannot_do_now_is_asked_again_later_each_time(
    shop: Any, depot: Served, pauses: list[float]
) -> None:
    depot.server.before = failing(3, lambda: busy(503))

    assert await shop.rpc.ping() == 42

    assert len(depot.server.asked) == 4
    assert 0.125 <= pauses[0] <= 0.25 <= pauses[1] <= 0.5 <= pauses[2] <= 1


async def test_the_server_says_how_long_to_wait(
    shop: Any, depot: Served, pauses: list[float]
) -> None:
    depot.server.before = failing(1, lambda: busy(429, **{"Retry-After": "7"}))

    await shop.rpc.ping()

    assert pauses == [7.0]


async def test_a_client_over_the_rate_of_the_server_waits_as_long_as_it_says(
    project: Path, client_package: Any, pauses: list[float]
) -> None:
    app = importlib.import_module("depot_pikku").app
    options = EngineOptions(request_rate=RateLimit(2, "1s"))
    async with (
        app.open(store="memory://", options=options),
        served(app) as there,
        client_package.DepotClient(there.url, token=TOKEN, retries=10_000) as shop,
    ):
        assert [await shop.rpc.ping() for _ in range(3)] == [42, 42, 42]

    assert pauses
    assert set(pauses) == {1.0}


@pytest.mark.parametrize(
    "options", [EngineOptions(max_streams=1), EngineOptions(max_streams_per_session=1)]
)
async def test_a_client_without_a_place_for_its_stream_asks_again(
    project: Path, client_package: Any, pauses: list[float], options: EngineOptions
) -> None:
    app = importlib.import_module("depot_pikku").app
    async with (
        app.open(store="memory://", options=options),
        served(app) as there,
        client_package.DepotClient(there.url, token=TOKEN, retries=10_000) as shop,
    ):
        run = await shop.workflows.count.start()
        async with aclosing(run.events()) as second:
            async with aclosing(run.events()) as first:
                assert (await anext(first)).kind == "run_started"
                told = asyncio.ensure_future(anext(second))
                while not pauses:
                    await asyncio.sleep(0.01)

            assert (await told).kind == "run_started"

    assert set(pauses) == {5.0}


async def test_after_the_last_attempt_it_is_unavailable(
    depot: Served, client_package: Any, pauses: list[float]
) -> None:
    depot.server.before = failing(99, lambda: busy(503))
    async with client_package.DepotClient(depot.url, token=TOKEN, retries=2) as shop:
        with pytest.raises(client_package.errors.UnavailableError, match="not now"):
            await shop.workflows.count.start()

    assert len(depot.server.asked) == 3


async def test_a_start_whose_answer_was_lost_starts_one_run(
    shop: Any, depot: Served, pauses: list[float]
) -> None:
    lost = iter([True])
    depot.server.after = lambda request: busy(502) if next(lost, False) else None

    run = await shop.workflows.count.start()

    assert len(depot.server.asked) == 2
    assert [each.run_id for each in await depot.app.list_runs()] == [run.run_id]


async def test_a_call_that_may_have_been_made_is_not_made_again(
    shop: Any, depot: Served, client_package: Any, pauses: list[float]
) -> None:
    depot.server.after = lambda request: busy(502)

    with pytest.raises(client_package.errors.UnavailableError):
        await shop.rpc.ping()

    assert len(depot.server.asked) == 1


async def test_a_server_that_is_not_there_is_asked_again_even_for_calls(
    client_package: Any, pauses: list[float]
) -> None:
    tried: list[str] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        tried.append(request.url.path)
        raise httpx2.ConnectError("refused", request=request)

    transport = httpx2.MockTransport(refuse)
    async with client_package.DepotClient("http://x/pikku", transport=transport) as shop:
        with pytest.raises(client_package.errors.UnavailableError, match="refused"):
            await shop.rpc.ping()

    assert tried == ["/pikku/rpc/ping"] * 6


async def test_a_server_that_does_not_wait_is_not_asked_in_a_hurry(
    client_package: Any, pauses: list[float]
) -> None:
    answers = iter([(202, "running")] * 3 + [(200, "completed")])

    def answer(request: httpx2.Request) -> httpx2.Response:
        code, status = next(answers)
        return httpx2.Response(code, json={"run_id": "r", "status": status, "output": 3})

    transport = httpx2.MockTransport(answer)
    async with client_package.DepotClient("http://x/pikku", transport=transport) as shop:
        assert await shop.workflows.count.get_run("r").result(timeout="1h") == 3

    assert pauses == [0.25] * 3


async def test_the_client_works_inside_the_server_s_process(
    depot: Served, client_package: Any
) -> None:
    transport = httpx2.ASGITransport(depot.server)
    async with client_package.DepotClient(
        "http://here/pikku", token=TOKEN, transport=transport
    ) as shop:
        assert await shop.rpc.ping() == 42


async def test_code_without_an_event_loop_does_the_same(
    depot: Served, order: Order, types: Any, client_package: Any
) -> None:
    def session() -> tuple[Any, ...]:
        with client_package.SyncDepotClient(depot.url, token=TOKEN) as shop:
            priced = shop.rpc.price(order())
            run = shop.start_workflow("order", order(), run_id="sync")
            run.signal(client_package.signals.paid, types.Payment(amount=Decimal(3)))
            shipped = run.result(timeout="30s")
            kinds = [event.kind for event in run.events()]
            return priced, run.status(), shipped.total, kinds[-1]

    found = await asyncio.to_thread(session)

    assert found == (Decimal("19.90"), "completed", Decimal(3), "run_completed")
