"""`open_store`: from a URL to a store; a driver is imported only when its URL asks for it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pikku._clock import Clock
from pikku._durations import duration_us
from pikku.errors import DurationError, MissingDependencyError, StoreUrlError
from pikku.stores.base import Store

# What redis-py takes in a URL for a connection with TLS.
_TLS = (
    "ssl_keyfile",
    "ssl_certfile",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_check_hostname",
    "ssl_min_version",
    "ssl_ciphers",
    "ssl_password",
)


def make_store(url: str, *, base: Path | None = None, clock: Clock | None = None) -> Store:
    """The store that *url* names, not yet opened.

    `memory://` or `memory://NAME`; `sqlite:///runs.db` relative to *base* (default: the current
    folder), `sqlite:////var/lib/runs.db` absolute, with `?durability=disk|process`.

    `redis://user:password@host:6379/0`, `rediss://…` with TLS, `redis+unix:///path`,
    `redis+sentinel://host:26379,…/service/0`, `redis+cluster://host:6379,…`, with
    `?partitions=1&retention=30d&strict=1&replicas=0` and redis-py's own `ssl_…` options.

    `postgresql://user:password@host:5432/database`, with
    `?schema=pikku&pooling=session&migrate=1` and libpq's own parameters, such as `sslmode`.

    Raises:
        StoreUrlError: if it names none, with what was given.
    """
    try:
        url.encode()
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError as error:
        raise StoreUrlError(url, reason=f"{error}, in") from error
    match parts.scheme:
        case "memory":
            from pikku.stores.memory import MemoryStore

            _refuse_unknown(url, options, ())
            return MemoryStore(clock=clock, name=parts.netloc)
        case "sqlite":
            return _sqlite(url, parts.netloc, unquote(parts.path), options, base, clock)
        case (
            "redis"
            | "rediss"
            | "redis+unix"
            | "redis+sentinel"
            | "rediss+sentinel"
            | "redis+cluster"
            | "rediss+cluster"
        ):
            return _redis(url, options, clock)
        case "postgresql" | "postgres":
            return _postgres(url, clock)
        case _:
            raise StoreUrlError(url)


def _sqlite(
    url: str,
    host: str,
    path: str,
    options: dict[str, str],
    base: Path | None,
    clock: Clock | None,
) -> Store:
    from pikku.stores.sqlite.store import SqliteStore

    if host:
        raise StoreUrlError(
            url,
            reason="a SQLite URL has no host",
            hint=f"write sqlite:///{host.rpartition('@')[2]}{path}",
        )
    name = path[1:]
    if not name or name.endswith("/"):
        raise StoreUrlError(url, reason="no file in the store URL", hint="sqlite:///runs.db")
    if "\0" in name:
        raise StoreUrlError(url, reason="no file has such a name", hint="sqlite:///runs.db")
    if name == ":memory:":
        raise StoreUrlError(
            url, reason="SQLite's own memory mode keeps nothing", hint="write memory://"
        )
    _refuse_unknown(url, options, ("durability",))
    durability = options.get("durability", "disk")
    if durability not in ("disk", "process"):
        raise StoreUrlError(
            url,
            reason=f"unknown durability {durability!r}",
            hint="durability=disk (the default) or durability=process",
        )
    return SqliteStore((base or Path.cwd()) / name, durability=durability, clock=clock)


def _redis(url: str, options: dict[str, str], clock: Clock | None) -> Store:
    from pikku.stores.redis.store import RedisStore
    from pikku.stores.redis.transport import address_of

    for_driver = {name: value for name, value in options.items() if name.startswith("ssl_")}
    ours = {name: value for name, value in options.items() if name not in for_driver}
    _refuse_unknown(url, ours, ("partitions", "retention", "strict", "replicas"))
    parts = urlsplit(url)
    _refuse_unknown(url, for_driver, _TLS if parts.scheme.startswith("rediss") else ())
    retention = ours.get("retention", "30d")
    try:
        retention_us = 0 if retention == "forever" else duration_us(retention)
    except (ValueError, DurationError) as error:
        raise StoreUrlError(url, reason=f"{error}, in", hint="retention=30d or forever") from error
    database = parts.path.strip("/")
    try:
        if "+" not in parts.scheme:
            parts.port  # noqa: B018  # one that cannot be is reported here
            if database and not re.fullmatch("[0-9]{1,9}", database):
                raise ValueError(f"{database!r} is no number of a database")
        address = address_of(parts._replace(query=urlencode(for_driver)).geturl())
    except ValueError as error:
        raise StoreUrlError(url, reason=f"{error}, in", hint="redis://host:6379/0") from error
    return RedisStore(
        address,
        partitions=_number(url, ours, "partitions", 1, range(1, 257)),
        retention_us=retention_us,
        strict=bool(_number(url, ours, "strict", 0, range(2))),
        replicas=_number(url, ours, "replicas", 0, range(17)),
        clock=clock,
    )


def _postgres(url: str, clock: Clock | None) -> Store:
    try:
        from pikku.stores.postgres.connections import address_of
        from pikku.stores.postgres.store import PostgresStore
    except ImportError as error:
        raise MissingDependencyError("a PostgreSQL store", "postgres") from error
    return PostgresStore(address_of(url), clock=clock)


def _number(url: str, options: dict[str, str], name: str, default: int, allowed: range) -> int:
    given = options.get(name, str(default))
    if not re.fullmatch("[0-9]{1,9}", given) or int(given) not in allowed:
        raise StoreUrlError(
            url,
            reason=f"{name} cannot be {given!r} in",
            hint=f"a whole number from {allowed[0]} to {allowed[-1]}",
        )
    return int(given)


def _refuse_unknown(url: str, options: dict[str, str], known: tuple[str, ...]) -> None:
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "it takes none"
            raise StoreUrlError(url, reason=f"unknown option {option!r} in", hint=listed)
