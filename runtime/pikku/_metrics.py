"""Prometheus metrics of what the engine tells. Needs the extra `metrics`; docs/observability.md
lists every name, and a test holds the list."""

from __future__ import annotations

import os
import shutil
import tempfile
from asyncio import AbstractEventLoop, run_coroutine_threadsafe, to_thread
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from concurrent.futures import TimeoutError as NotInTime
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from pikku._telemetry import Doing, Observer, Scope
from pikku.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from pikku._error_info import ErrorInfo
    from pikku._records import RunRecord
    from pikku.stores.base import Store

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
# A scrape waits for the store no longer than that; it goes without the gauges then.
COUNT_AT_MOST_SECONDS = 3.0

_STEP_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
_RUN_BUCKETS = (
    *(0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0),
    *(21_600.0, 86_400.0, 259_200.0, 604_800.0, 2_592_000.0),
)
_STORE_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)


class _OfFunction(NamedTuple):
    """What is counted of one function; looked up once."""

    executed: Counter
    failed: Counter
    seconds: Histogram


class _Timed(Scope):
    """An attempt whose duration and outcome are counted at its end."""

    __slots__ = ("_began", "_counted")

    def __init__(self, counted: _OfFunction) -> None:
        self._counted = counted
        self._began = perf_counter()

    def end(self, error: ErrorInfo | None = None, outcome: str = "") -> None:
        counted = self._counted
        counted.executed.inc()
        counted.seconds.observe(perf_counter() - self._began)
        if error is not None:
            counted.failed.inc()


class Metrics(Observer):
    """Counts what the engine tells, in a registry. `metrics_of` makes one for each registry."""

    active = True

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"pikku_{name}", help, labels, registry=registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"pikku_{name}", help, labels, registry=registry, buckets=buckets)

        self._started = counter("runs_started_total", "Runs created here.", "workflow")
        self._ended = counter(
            "runs_ended_total",
            "Runs that ended here, by outcome: completed, failed, cancelled.",
            *("workflow", "outcome"),
        )
        self._suspended = counter(
            "runs_suspended_total",
            "Runs suspended here until somebody resumes them, by reason.",
            *("workflow", "reason"),
        )
        self._run_seconds = histogram(
            "run_duration_seconds",
            "From the creation of a run to its end.",
            _RUN_BUCKETS,
            *("workflow", "outcome"),
        )
        self._replays = counter(
            "run_replays_total",
            "Runs taken up here whose function was called again over their history.",
            "workflow",
        )
        self._recovered = counter(
            "runs_recovered_total",
            "Runs taken up here whose process was lost while a step was under way.",
            "workflow",
        )
        self._functions: dict[str, _OfFunction] = {}
        self._attempts = counter(
            "steps_executed_total", "Attempts of steps that ended here.", "function"
        )
        self._failures = counter(
            "steps_failed_total", "Attempts of steps that failed here.", "function"
        )
        self._retries = counter(
            "steps_retried_total",
            "Failed attempts of steps that another attempt follows.",
            "function",
        )
        self._step_seconds = histogram(
            "step_duration_seconds",
            "How long the attempts of steps took.",
            _STEP_BUCKETS,
            "function",
        )
        self._lost_leases = counter(
            "lease_losses_total", "Times that the lease of a process ran out."
        )
        self._refused = counter(
            "late_outcomes_refused_total",
            "Outcomes that the store refused, as the run or job had gone to somebody else.",
        )
        self._calls = counter(
            "store_calls_total",
            "Batches of operations sent to the store, by outcome: ok, failed.",
            "outcome",
        )
        self._call_seconds = histogram(
            "store_call_duration_seconds",
            "How long the store took to answer a batch of operations.",
            _STORE_BUCKETS,
        )
        self._good_calls = self._calls.labels("ok")
        self._failed_calls = self._calls.labels("failed")

    def started(self, workflow: str) -> None:
        self._started.labels(workflow).inc()

    def moving(self, run: RunRecord, *, replayed: bool) -> Scope:
        if replayed:
            self._replays.labels(run.workflow).inc()
        return super().moving(run, replayed=replayed)

    def recovered(self, workflow: str) -> None:
        self._recovered.labels(workflow).inc()

    def ended(self, workflow: str, outcome: str, seconds: float) -> None:
        self._ended.labels(workflow, outcome).inc()
        self._run_seconds.labels(workflow, outcome).observe(seconds)

    def suspended(self, workflow: str, reason: str) -> None:
        self._suspended.labels(workflow, reason).inc()

    def attempting(self, doing: Doing, within: Scope, traceparent: str | None = None) -> Scope:
        function = doing.function
        counted = self._functions.get(function)
        if counted is None:
            counted = self._functions[function] = _OfFunction(
                self._attempts.labels(function),
                self._failures.labels(function),
                self._step_seconds.labels(function),
            )
        return _Timed(counted)

    def retrying(self, function: str) -> None:
        self._retries.labels(function).inc()

    def called_store(self, seconds: float, *, failed: bool) -> None:
        (self._failed_calls if failed else self._good_calls).inc()
        self._call_seconds.observe(seconds)

    def lost_lease(self) -> None:
        self._lost_leases.inc()

    def refused(self) -> None:
        self._refused.inc()


@cache
def metrics_of(registry: CollectorRegistry = REGISTRY) -> Metrics:
    """The metrics of *registry*, which takes each name once."""
    return Metrics(registry)


class _Counts(NamedTuple):
    """What the store says at one moment."""

    runs: Mapping[str, int]
    jobs: Mapping[str, int]


async def _counted(store: Store) -> _Counts:
    return _Counts(await store.count_runs(), await store.count_jobs())


class StoreCounts(Collector):
    """Gauges that are asked of the store when somebody scrapes, and at no other time.

    Args:
        loop: that of the store. Scrapes come in other threads.
    """

    def __init__(self, store: Store, loop: AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def describe(self) -> list[Metric]:
        return list(_gauges(_Counts({}, {})))

    def collect(self) -> Iterator[Metric]:
        future = run_coroutine_threadsafe(_counted(self._store), self._loop)
        counts = _Counts({}, {})
        try:
            counts = future.result(COUNT_AT_MOST_SECONDS)
        except NotInTime:
            future.cancel()
        except StoreError:
            pass  # what has been counted is worth a scrape all the same
        yield from _gauges(counts)


def _gauges(counts: _Counts) -> Iterator[Metric]:
    runs = GaugeMetricFamily(
        "pikku_runs", "Runs in the store, by status, as of the scrape.", labels=["status"]
    )
    for status, count in sorted(counts.runs.items()):
        runs.add_metric([status], count)
    yield runs
    waiting = GaugeMetricFamily(
        "pikku_queue_waiting", "Jobs that wait in a queue, as of the scrape.", labels=["queue"]
    )
    for queue, count in sorted(counts.jobs.items()):
        waiting.add_metric([queue], count)
    yield waiting


class Exposition:
    """What a scrape is told.

    With *folder*, it is the sum of the processes that write there; else what this process counts.
    """

    def __init__(
        self,
        store: Store,
        loop: AbstractEventLoop,
        *,
        folder: str | None = None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.registry = CollectorRegistry()
        if folder is None:
            self.registry.register(_Through(registry))
        else:
            MultiProcessCollector(self.registry, path=folder)  # type: ignore[no-untyped-call]
        self.registry.register(StoreCounts(store, loop))

    @property
    def content_type(self) -> str:
        """What `text` is."""
        return CONTENT_TYPE_LATEST

    def text(self) -> bytes:
        """The exposition; waits for the store, and so must not be called on its loop."""
        return generate_latest(self.registry)


class _Through(Collector):
    """All that another registry has: this program's own metrics, and Python's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()


@asynccontextmanager
async def exposed(exposition: Exposition, host: str, port: int) -> AsyncGenerator[int, None]:
    """Answer scrapes on a port of its own, in threads of its own; the port.

    Raises:
        ConfigurationError: if nobody can listen there.
    """
    try:
        server, thread = start_http_server(port, host, registry=exposition.registry)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port} for metrics: {error.strerror or error}",
            hint="choose another one: --metrics-port 0 takes a free one",
        ) from error
    try:
        yield server.server_port
    finally:
        # In a thread: a scrape that is under way may wait for this loop.
        await to_thread(server.shutdown)
        server.server_close()
        thread.join()


@contextmanager
def shared_folder() -> Generator[str, None, None]:
    """The folder in which several processes count together, named in the environment meanwhile."""
    given = os.environ.get(MULTIPROCESS)
    if given:
        os.makedirs(given, exist_ok=True)
        yield given
        return
    folder = tempfile.mkdtemp(prefix="pikku-metrics-")
    os.environ[MULTIPROCESS] = folder
    try:
        yield folder
    finally:
        del os.environ[MULTIPROCESS]
        with suppress(OSError):
            shutil.rmtree(folder)
