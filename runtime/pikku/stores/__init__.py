"""`open_store`: from a URL to a store; a driver is imported only when its URL asks for it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from pikku._clock import Clock
from pikku.errors import StoreUrlError
from pikku.stores.base import Store


def make_store(url: str, *, base: Path | None = None, clock: Clock | None = None) -> Store:
    """The store that *url* names, not yet opened.

    `memory://` or `memory://NAME`; `sqlite:///runs.db` relative to *base* (default: the current
    folder), `sqlite:////var/lib/runs.db` absolute, with `?durability=disk|process`.

    Raises:
        StoreUrlError: if it names none, with what was given.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    match parts.scheme:
        case "memory":
            from pikku.stores.memory import MemoryStore

            _refuse_unknown(url, options, ())
            return MemoryStore(clock=clock, name=parts.netloc)
        case "sqlite":
            return _sqlite(url, parts.netloc, unquote(parts.path), options, base, clock)
        case "redis" | "rediss" | "postgresql" | "postgres":
            raise StoreUrlError(url, reason=f"this version has no {parts.scheme} store")
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
            url, reason="a SQLite URL has no host", hint=f"write sqlite:///{host}{path}"
        )
    name = path[1:]
    if not name or name.endswith("/"):
        raise StoreUrlError(url, reason="no file in the store URL", hint="sqlite:///runs.db")
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


def _refuse_unknown(url: str, options: dict[str, str], known: tuple[str, ...]) -> None:
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "it takes none"
            raise StoreUrlError(url, reason=f"unknown option {option!r} in", hint=listed)
