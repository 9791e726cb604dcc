"""Real processes: one trace from `runs start` to a child process, scrapes, logs as JSON."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.cli.desk import Desk, until

REMOTE = {"PIKKU_QUEUE_SERVICE": "store"}

TRACED = """\
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
file = open(f"spans-{os.getpid()}.jsonl", "a", buffering=1)
provider.add_span_processor(
    SimpleSpanProcessor(
        ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\\n")
    )
)
trace.set_tracer_provider(provider)


@registry.pikku_func(executor="process")
def compute(ctx: FunctionContext) -> int:
    with trace.get_tracer("desk").start_as_current_span("own"):
        return os.getpid()


@registry.pikku_func(queue="far")
async def far(ctx: FunctionContext) -> int:
    return os.getpid()


@registry.pikku_workflow_func
async def traced(ctx: WorkflowFunctionContext) -> int:
    await ctx.workflow.do("Far", far)
    return await ctx.workflow.do("Compute", compute)


registry.wire_workflow(name="traced", func=traced)
"""

LOGGED = """\
@registry.pikku_func
async def secretive(ctx: FunctionContext, data: dict[str, str]) -> None:
    ctx.logger.info("seen postgresql://me:hunter2@db/x", extra={"iban": "DE1", "rows": 3})


@registry.pikku_workflow_func
async def logged(ctx: WorkflowFunctionContext, data: dict[str, str]) -> None:
    ctx.logger.info("in the body")
    await ctx.workflow.do("Say", secretive, data)


registry.wire_workflow(name="logged", func=logged)
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk.made(tmp_path)


def stop(worker: subprocess.Popen[str]) -> str:
    worker.send_signal(signal.SIGTERM)
    said = worker.communicate(timeout=60)[1]
    assert worker.returncode == 0, said
    return said


def append(desk: Desk, text: str) -> None:
    with (desk.folder / "desk" / "work.py").open("a", encoding="utf-8") as file:
        file.write("\n\n" + text)


def spans_in(folder: Path) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """By name: the process that each span is from, and the span."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for file in folder.glob("spans-*.jsonl"):
        for line in file.read_text().splitlines():
            span = json.loads(line)
            found.setdefault(span["name"], []).append((file.stem, span))
    return found


def test_a_trace_goes_through_the_processes_of_a_run(desk: Desk) -> None:
    append(desk, TRACED)
    started = desk.pikku("runs", "start", "traced", "--id", "t1", **REMOTE)
    assert started.returncode == 0, started.stderr

    with desk.spawn("worker", **REMOTE) as worker:
        result = desk.pikku("runs", "start", "traced", "--id", "t1", "--wait", **REMOTE)
        stop(worker)

    assert result.returncode == 0, result.stderr
    spans = spans_in(desk.folder)
    starter, start = min(spans["pikku.start traced"], key=lambda each: each[1]["start_time"])
    everything = {
        each["context"]["span_id"]: (place, each) for of in spans.values() for place, each in of
    }

    def parent_of(span: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return everything[span["parent_id"]]

    [(there, far)] = spans["pikku.step Far"]
    [(_, compute)] = spans["pikku.step Compute"]
    [(child, own)] = spans["own"]
    assert len({starter, there, child}) == 3
    assert there == f"spans-{worker.pid}"
    assert child == f"spans-{result.stdout.strip()}"
    for step in (far, compute):
        place, run = parent_of(step)
        assert (place, run["name"]) == (there, "pikku.run traced")
        assert parent_of(run) == (starter, start)
        assert step["context"]["trace_id"] == start["context"]["trace_id"]
    assert parent_of(own)[1] == compute


def scraped(url: str) -> dict[tuple[str, ...], float]:
    """The samples of pikku's, by name and labels."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("pikku_")
    }


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_is_scraped(desk: Desk, processes: str) -> None:
    desk.pikku("runs", "start", "failing", "--id", "f1", **REMOTE)
    desk.pikku("runs", "start", "nap", "--input", '"1h"', "--id", "n1", **REMOTE)

    with desk.spawn("worker", "--metrics-port", "0", "--processes", processes, **REMOTE) as worker:
        line = until(worker.stderr, lambda line: line.startswith("metrics on "))
        desk.pikku("runs", "start", "failing", "--id", "f1", "--wait", **REMOTE)
        desk.pikku("runs", "start", "nap", "--input", '"1ms"', "--id", "n2", "--wait", **REMOTE)
        found = scraped(line.split()[-1])
        said = stop(worker)

    assert re.fullmatch(r"metrics on http://127\.0\.0\.1:\d+/metrics\n", line)
    assert found["pikku_steps_executed_total", "refuse"] == 2, said
    assert found["pikku_steps_failed_total", "refuse"] == 2
    assert found["pikku_steps_retried_total", "refuse"] == 1
    assert found["pikku_step_duration_seconds_count", "refuse"] == 2
    assert found["pikku_runs_ended_total", "failed", "failing"] == 1
    assert found["pikku_runs_ended_total", "completed", "nap"] == 1
    assert found["pikku_run_duration_seconds_count", "completed", "nap"] == 1
    assert found["pikku_store_calls_total", "ok"] > 3
    assert found["pikku_runs", "running"] == 1
    assert found["pikku_runs", "failed"] == 1


def test_a_worker_that_is_not_asked_to_answers_no_scrape(desk: Desk) -> None:
    with desk.spawn("worker", **REMOTE) as worker:
        until(worker.stderr, lambda line: line.startswith("worker of"))
        said = stop(worker)

    assert "metrics" not in said


@pytest.mark.parametrize("processes", ["1", "2"])
def test_as_json_every_line_of_a_worker_is_a_document(desk: Desk, processes: str) -> None:
    append(desk, LOGGED)
    given = '{"password": "hunter2", "note": "hello"}'
    start = ("runs", "start", "logged", "--input", given, "--id", "l1")
    desk.pikku(*start, **REMOTE)

    with desk.spawn(
        *("worker", "--log-level", "debug", "--processes", processes),
        **REMOTE,
        PIKKU_LOG_FORMAT="json",
        PIKKU_REDACT="iban",
    ) as worker:
        result = desk.pikku(*start, "--wait", **REMOTE)
        said = stop(worker)

    assert result.returncode == 0, result.stderr
    assert "hunter2" not in said
    documents = [json.loads(line) for line in said.splitlines()]
    by_message = {document["message"]: document for document in documents}
    seen = by_message["seen postgresql://me:***@db/x"]
    assert (seen["logger"], seen["level"]) == ("pikku.run", "info")
    assert {
        key: seen[key] for key in ("run_id", "workflow", "step", "attempt", "iban", "rows")
    } == {
        "run_id": "l1",
        "workflow": "logged",
        "step": "Say",
        "attempt": 1,
        "iban": "***",
        "rows": 3,
    }
    body = by_message["in the body"]
    assert (body["run_id"], body["workflow"], "step" in body) == ("l1", "logged", False)
    begins = by_message['step \'Say\' begins: {"password": "***", "note": "hello"}']
    assert begins["run_id"] == "l1"
    assert any(message.startswith("worker of desk_pikku") for message in by_message)


def test_a_flag_goes_before_the_environment(desk: Desk) -> None:
    with desk.spawn("worker", "--log-format", "text", **REMOTE, PIKKU_LOG_FORMAT="json") as worker:
        line = until(worker.stderr, lambda line: "worker of" in line)
        stop(worker)

    assert line.startswith("worker of desk_pikku")


def test_an_unknown_log_format_is_refused(desk: Desk) -> None:
    done = desk.pikku("worker", **REMOTE, PIKKU_LOG_FORMAT="jsn")

    assert done.returncode == 2
    assert "log_format is 'jsn'" in done.stderr
    assert "did you mean 'json'?" in done.stderr


def test_a_server_answers_scrapes_only_where_it_is_told_to(desk: Desk) -> None:
    for options, status in (([], 404), (["--metrics"], 200)):
        with desk.spawn("serve", "--port", "0", *options) as server:
            line = until(server.stderr, lambda line: line.startswith("serving"))
            url = line.split(" on ")[1].split(";")[0] + "/metrics"
            try:
                with urllib.request.urlopen(url, timeout=20) as answer:
                    found = answer.status, "pikku_store_calls_total" in answer.read().decode()
            except urllib.error.HTTPError as error:
                found = error.code, False
            stop(server)
        assert found == (status, status == 200)
