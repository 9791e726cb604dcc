"""The one door to redis-py: scripts, plain commands, a blocking pop, and its errors as ours.

Single servers, TLS, Sentinel and Cluster differ here and nowhere else. A call is never repeated by
the driver: whether it may be is for the store to know.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import hiredis
import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from pikku.errors import (
    CorruptStateError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreUrlError,
)
from pikku.stores.redis.scripts import Script

T = TypeVar("T")

CALL_SECONDS = 10.0
CONNECT_SECONDS = 5.0
READS_AT_ONCE = 16


class LostAnswerError(StoreUnavailableError):
    """The connection broke: whether the call was carried out is not known."""


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        kind: `single`, `sentinel` or `cluster`.
        url: for a single server, what redis-py takes.
        nodes: sentinels, or nodes of the cluster.
        options: what every connection is given.
        shown: the address for messages, without a password.
    """

    kind: str
    url: str
    shown: str
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def address_of(url: str) -> Address:
    """The address that a store URL names; its options are already taken off.

    Raises:
        StoreUrlError: if it names none.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    netloc = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{netloc}{parts.path}"
    options: dict[str, Any] = {}
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    if kind == "":
        return Address("single", url, shown)
    if kind == "unix":
        return Address("single", f"unix://{parts.path}", shown, options=options)
    if scheme == "rediss":
        options["ssl"] = True
    port = 26379 if kind == "sentinel" else 6379
    nodes = tuple(_node(url, each, port) for each in netloc.split(","))
    if kind == "cluster":
        return Address("cluster", url, shown, nodes, options=options)
    if kind != "sentinel":
        raise StoreUrlError(url)
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise StoreUrlError(
            url, reason="no service in", hint="redis+sentinel://host:26379,host:26379/service/0"
        )
    options["db"] = int(database or 0)
    return Address("sentinel", url, shown, nodes, service, options)


def _node(url: str, text: str, port: int) -> tuple[str, int]:
    host, _, given = text.partition(":")
    if not host or (given and not given.isdigit()):
        raise StoreUrlError(url, reason=f"{text!r} is no host in", hint="host:port,host:port")
    return host, int(given or port)


# What a script says when the user may not do one of its commands.
_NOT_ALLOWED = ("can't run this command", "can't access at least one of the keys")


def translated(error: BaseException, shown: str) -> StoreError:
    """What the driver raised, as an error of ours."""
    text = str(error)
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError) or any(
        each in text for each in _NOT_ALLOWED
    ):
        return StoreUnavailableError(
            f"{shown} refuses the user: {text}", hint="check user, password and ACL in the URL"
        )
    if isinstance(error, exceptions.ReadOnlyError):
        return StoreReadOnlyError(
            f"{shown} is a read-only replica", hint="point the URL at the primary, or at Sentinel"
        )
    if isinstance(error, exceptions.BusyLoadingError):
        return StoreUnavailableError(f"{shown} is loading its data")
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM " in text:
        return StoreFullError(
            f"{shown} has reached its maxmemory and takes no new work",
            hint="raise maxmemory or let runs end; runs under way go on",
        )
    if isinstance(error, exceptions.TimeoutError | exceptions.ConnectionError | OSError):
        return LostAnswerError(f"{shown} cannot be reached: {text}")
    if text.startswith("WRONGTYPE"):
        return CorruptStateError(f"{shown}: a record is of another type: {text}")
    if text.startswith("OVERTAKEN"):
        return StoreUnavailableError(f"{shown} answered another call first")
    if text.startswith(("CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN", "MISCONF")):
        return StoreUnavailableError(f"{shown} cannot serve now: {text}")
    return StoreError(f"{shown}: {text}")


_packed: Any = vars(hiredis)["pack_command"]


async def _uncancelled(call: Coroutine[Any, Any, T]) -> T:
    """What *call* answers. redis-py loses a cancellation now and then; so it is never cancelled:
    whoever waits goes at once, and the call ends by itself."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_forgotten)
        raise


def _forgotten(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


class Transport:
    """Connections to one server, or to what stands for one."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._client: Any = None
        self._blocking: Any = None
        self._threaded: Any = None
        self._sentinels: list[Any] = []
        self._threaded_sentinels: list[Any] = []
        self._threaded_lock = threading.Lock()
        self._calling = asyncio.Lock()
        self._connection: Any = None
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    async def open(self) -> None:
        """Connect.

        Raises:
            StoreError: if that fails.
        """
        try:
            self._client = self._made(CALL_SECONDS)
            self._blocking = self._made(None)
            await self._client.ping()
        except (exceptions.RedisError, OSError) as error:
            await self.close()
            raise translated(error, self._address.shown) from error

    def _made(self, timeout: float | None) -> Any:
        address = self._address
        options: dict[str, Any] = {
            **address.options,
            "socket_timeout": timeout,
            "socket_connect_timeout": CONNECT_SECONDS,
        }
        if address.kind == "cluster":
            from redis.asyncio.cluster import ClusterNode, RedisCluster

            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            return RedisCluster(startup_nodes=nodes, **options)
        options["retry"] = AsyncRetry(NoBackoff(), 0)
        if address.kind == "sentinel":
            from redis.asyncio.sentinel import Sentinel

            made: Any = Sentinel
            sentinel = made(list(address.nodes), socket_timeout=CONNECT_SECONDS)
            self._sentinels += sentinel.sentinels
            return sentinel.master_for(address.service, **options)
        made_from: Any = redis.asyncio.Redis
        return made_from.from_url(address.url, **options)

    async def close(self) -> None:
        """Let go of every connection."""
        for client in (self._client, self._blocking, *self._sentinels):
            if client is not None:
                await client.aclose()
        self._sentinels = []
        self._client = self._blocking = self._connection = None
        with self._threaded_lock:
            if self._threaded is not None:
                for client in (self._threaded, *self._threaded_sentinels):
                    client.close()
                self._threaded = None

    @property
    def shown(self) -> str:
        return self._address.shown

    async def call(self, script: Script, tag: str, arguments: Sequence[Any]) -> Any:
        """What *script* answers.

        Raises:
            LostAnswerError: if it may or may not have been carried out.
            StoreError: if it was not.
        """
        client = self._client
        if client is None:
            raise StoreUnavailableError(f"{self.shown} is not open")
        evaluate = self._evaluate if self._address.kind != "cluster" else client.execute_command
        try:
            try:
                return await _uncancelled(evaluate("EVALSHA", script.sha, 1, tag, *arguments))
            except exceptions.NoScriptError:
                await _uncancelled(client.script_load(script.text))
                return await _uncancelled(evaluate("EVALSHA", script.sha, 1, tag, *arguments))
        except (exceptions.RedisError, OSError) as error:
            raise translated(error, self.shown) from error

    async def _evaluate(self, *command: Any) -> Any:
        """One command on the connection for calls. Packed in C: a call has many arguments, and
        packing them in Python would cost more than all else."""
        async with self._calling:
            connection = self._connection
            if connection is None:
                connection = await self._client.connection_pool.get_connection()
                self._connection = connection
            elif not connection.is_connected:
                await connection.connect()
            await connection.send_packed_command(_packed(command))
            return await connection.read_response()

    async def confirmed(self, replicas: int, milliseconds: int) -> int:
        """How many replicas have what the calls so far have written, once there are *replicas*
        or the time is over.

        Raises:
            StoreError: if the server cannot be asked.
        """
        try:
            count: int = await _uncancelled(self._evaluate("WAIT", replicas, milliseconds))
            return count
        except (exceptions.RedisError, OSError) as error:
            raise translated(error, self.shown) from error

    async def commands(self, *commands: tuple[Any, ...]) -> list[Any]:
        """What plain commands answer.

        Raises:
            StoreError: if one fails.
        """
        answers = await self.each(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise translated(answer, self.shown) from answer
        return answers

    async def each(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What plain commands answer; in place of the answer of one that failed, its exception.

        Raises:
            StoreError: if the server cannot be asked.
        """
        client = self._client
        if client is None:
            raise StoreUnavailableError(f"{self.shown} is not open")
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            async with self._reads:
                answers: list[Any] = await _uncancelled(pipeline.execute(raise_on_error=False))
                return answers
        except (exceptions.RedisError, OSError) as error:
            raise translated(error, self.shown) from error

    async def info(self) -> dict[str, Any]:
        """What the server says of itself; of a cluster, what one node says.

        Raises:
            StoreError: if it says nothing.
        """
        try:
            answer: Any = await self._client.info()
        except (exceptions.RedisError, OSError) as error:
            raise translated(error, self.shown) from error
        told: dict[str, Any] = answer
        if "redis_version" not in told:
            told = next(iter(told.values()))
        return told

    async def snapshots(self) -> bool:
        """Whether the server writes snapshots of its data; True where it does not say."""
        try:
            answer: Any = await self._client.config_get("save")
        except (exceptions.RedisError, OSError):
            return True
        return any(answer.values())

    async def pop_marker(self, keys: Sequence[str], seconds: float) -> bytes | None:
        """The key whose marker was taken, or None when none came in time.

        Raises:
            StoreError: if the connection breaks.
        """
        client = self._blocking
        if client is None:
            raise StoreUnavailableError(f"{self.shown} is not open")
        try:
            async with asyncio.timeout(seconds + CALL_SECONDS):
                taken = await _uncancelled(client.bzpopmin(keys, timeout=seconds))
        except asyncio.CancelledError:
            # Nobody listens any more: a marker must not go to this connection.
            await client.aclose()
            raise
        except TimeoutError:
            raise LostAnswerError(f"{self.shown} does not answer") from None
        except (exceptions.RedisError, OSError) as error:
            raise translated(error, self.shown) from error
        if not taken:
            return None
        key: bytes = taken[0]
        return key

    def call_blocking(self, script: Script, tag: str, arguments: Sequence[Any]) -> Any:
        """`call` for any thread, on a connection of its own.

        Raises:
            StoreError: if it fails.
        """
        with self._threaded_lock:
            try:
                if self._threaded is None:
                    self._threaded = self._made_threaded()
                try:
                    return self._threaded.evalsha(script.sha, 1, tag, *arguments)
                except exceptions.NoScriptError:
                    self._threaded.script_load(script.text)
                    return self._threaded.evalsha(script.sha, 1, tag, *arguments)
            except (exceptions.RedisError, OSError) as error:
                raise translated(error, self.shown) from error

    def _made_threaded(self) -> Any:
        address = self._address
        options: dict[str, Any] = {
            **address.options,
            "socket_timeout": CONNECT_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
        }
        if address.kind == "cluster":
            from redis.cluster import ClusterNode, RedisCluster

            node: Any = ClusterNode
            nodes = [node(host, port) for host, port in address.nodes]
            return RedisCluster(startup_nodes=nodes, **options)
        options["retry"] = Retry(NoBackoff(), 1)
        if address.kind == "sentinel":
            from redis.sentinel import Sentinel

            made: Any = Sentinel
            sentinel = made(list(address.nodes), socket_timeout=CONNECT_SECONDS)
            self._threaded_sentinels = sentinel.sentinels
            return sentinel.master_for(address.service, **options)
        made_from: Any = redis.Redis
        return made_from.from_url(address.url, **options)
