"""Log records: what they carry, how they are shown, and what is masked in them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from pydantic import SecretBytes, SecretStr
from tests.runtime.kit import Ctx, Toy, Wf

from pikku._logging import JsonFormatter, TextFormatter
from pikku._narration import Narration
from pikku._redaction import PAYLOAD_CHARACTERS, Redaction, redact
from pikku._telemetry import observer_of
from pikku.testing import WorkflowLab


@pytest.fixture(autouse=True)
def usual() -> Generator[None, None, None]:
    """What an app of a test has masked besides the usual is forgotten after it."""
    yield
    redact(())


def record(message: str, *arguments: Any, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("pikku.run", logging.INFO, __file__, 1, message, arguments, None)
    vars(made).update(fields)
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(JsonFormatter().format(made))
    return document


# --- what is masked -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:hunter2@host:6379/0", "redis://user:***@host:6379/0"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("postgresql://u:hun/ter@host", "postgresql://u:hun/ter@host"),
        ("https://host:80/a@b", "https://host:80/a@b"),
        ("password=hunter2&x=1", "password=***&x=1"),
        ("{'userPassword': 'hun\\'ter2', 'a': 1}", "{'userPassword': '***', 'a': 1}"),
        ('{"X-Api-Key": "hunter2"}', '{"X-Api-Key": "***"}'),
        ("Authorization: Bearer hunter2", "Authorization: ***"),
        ("sent Bearer hunter2.abc", "sent Bearer ***"),
        ("tokenizer=3 secretary: Ann", "tokenizer=3 secretary: Ann"),
        ("nothing at all", "nothing at all"),
    ],
)
def test_secrets_are_masked_in_text(text: str, shown: str) -> None:
    assert Redaction().text(text) == shown


@pytest.mark.parametrize(
    "key",
    ["password", "userPassword", "PASSWORD", "access_tokens", "x-api-key", "clientSecret", "jwt"],
)
def test_keys_that_name_a_secret_are_known_in_any_spelling(key: str) -> None:
    assert Redaction().value({key: "hunter2", "other": 1}) == {key: "***", "other": 1}


def test_keys_of_ones_own_are_masked_besides() -> None:
    mask = Redaction(["iban", "taxId"])

    assert mask.value({"customer_iban": "DE1", "tax-id": 5, "token": "t"}) == {
        "customer_iban": "***",
        "tax-id": "***",
        "token": "***",
    }
    assert mask.text("iban=DE1") == "iban=***"


def test_secret_types_are_masked_wherever_they_are() -> None:
    given = {"a": [SecretStr("hunter2")], "b": {"c": SecretBytes(b"hunter2")}}

    assert Redaction().value(given) == {"a": ["***"], "b": {"c": "***"}}


def test_a_payload_is_one_short_line() -> None:
    mask = Redaction()

    assert mask.payload('{"password": "hunter2", "n": 1}') == '{"password": "***", "n": 1}'
    assert mask.payload(None) == ""
    long = mask.payload(json.dumps("x" * 1000))
    assert long.endswith("… (1002 characters)")
    assert len(long) < PAYLOAD_CHARACTERS + 30


@given(st.text())
def test_any_text_can_be_masked_and_stays_masked(text: str) -> None:
    mask = Redaction()

    once = mask.text(text)

    assert mask.text(once) == once


@given(st.text(min_size=1).filter(lambda text: "*" not in text), st.text())
def test_what_stands_under_a_secrets_key_is_nowhere_in_the_log(secret: str, other: str) -> None:
    shown = json.loads(
        JsonFormatter().format(record("m", password={"deep": [secret]}, other=other))
    )

    assert shown["password"] == "***"


# --- how records are shown ----------------------------------------------------------------------


def test_as_json_a_record_is_one_line_with_its_fields() -> None:
    document = as_json(record("paid %d", 3, run_id="r1", step="Pay", odd={1, 2}, api_key="k"))

    assert {key: document[key] for key in ("level", "logger", "message", "run_id", "step")} == {
        "level": "info",
        "logger": "pikku.run",
        "message": "paid 3",
        "run_id": "r1",
        "step": "Pay",
    }
    assert sorted(document["odd"]) == [1, 2]
    assert document["api_key"] == "***"
    assert document["time"].endswith("+00:00")
    assert "trace_id" not in document


def test_fields_do_not_hide_what_a_record_has_itself() -> None:
    assert as_json(record("said", level="mine", time="mine"))["level"] == "info"


def test_an_error_is_shown_with_its_traceback_masked() -> None:
    try:
        raise ValueError("redis://u:hunter2@host")
    except ValueError:
        made = record("it went wrong")
        made.exc_info = sys.exc_info()

    document = as_json(made)

    assert document["error"]["type"] == "ValueError"
    assert document["error"]["message"] == "redis://u:***@host"
    assert "test_an_error_is_shown" in document["error"]["traceback"]
    assert "hunter2" not in json.dumps(document)
    assert "hunter2" not in TextFormatter().format(made)


def test_as_text_the_fields_are_behind_the_message() -> None:
    line = TextFormatter().format(record("paid", run_id="r1", token="t"))

    assert line.endswith("INFO pikku.run: paid  [run_id=r1 token=***]")


def test_a_record_of_a_span_has_the_ids_of_its_trace() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("here") as span:
        document = as_json(record("said"))

    context = span.get_span_context()
    assert document["trace_id"] == f"{context.trace_id:032x}"
    assert document["span_id"] == f"{context.span_id:016x}"


# --- `ctx.logger` -------------------------------------------------------------------------------


async def test_the_logger_of_a_run_says_where_it_is_and_nothing_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy = Toy()
    toy.app._settings["redact"] = "iban"

    @toy.func
    async def pay(ctx: Ctx) -> None:
        ctx.logger.info("paying", extra={"iban": "DE1"})

    @toy.workflow(name="order")
    async def order(ctx: Wf) -> None:
        ctx.logger.info("begun")
        await ctx.workflow.do("Pay", pay)
        ctx.logger.info("paid")

    with caplog.at_level(logging.INFO, "pikku.run"):
        async with WorkflowLab[Any](toy.app) as lab:
            lab.crash_after("Pay")
            run = await toy.start("order", wait=False)
            await lab.recover()

    said = [each for each in caplog.records if each.name == "pikku.run"]
    assert [each.message for each in said] == ["begun", "paying", "paid"]
    for each in said:
        assert (vars(each)["run_id"], vars(each)["workflow"]) == (run.run_id, "order")
    assert "step" not in vars(said[0])
    assert (vars(said[1])["step"], vars(said[1])["attempt"]) == ("Pay", 1)
    assert vars(said[1])["iban"] == "***"


# --- at debug -----------------------------------------------------------------------------------


async def test_at_debug_runs_and_steps_are_told_with_their_inputs_masked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy = Toy()

    @toy.func
    async def log_in(ctx: Ctx, data: dict[str, str]) -> None:
        raise ValueError("password=hunter2")

    @toy.workflow(name="visit")
    async def visit(ctx: Wf, data: dict[str, str]) -> None:
        await ctx.workflow.do("Log in", log_in, data)

    with caplog.at_level(logging.DEBUG, "pikku"):
        async with WorkflowLab[Any](toy.app):
            await toy.start("visit", {"password": "hunter2", "name": "ann"})

    said = [each.message for each in caplog.records if each.name == "pikku"]
    assert 'run of \'visit\' begins: {"password": "***", "name": "ann"}' in said
    assert 'step \'Log in\' begins: {"password": "***", "name": "ann"}' in said
    assert any("failed with ValueError: password=***" in each for each in said)
    assert "hunter2" not in caplog.text


def test_above_debug_nobody_narrates(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pikku"):
        assert not observer_of([]).active
    with caplog.at_level(logging.DEBUG, "pikku"):
        assert isinstance(observer_of([]), Narration)
