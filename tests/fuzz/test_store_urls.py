"""Any text is the URL of a store, or a `StoreUrlError` that shows no password."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.kit import ANY_TEXT, ODD_TEXTS, fuzz

from pikku.errors import StoreUrlError
from pikku.stores import make_store
from pikku.stores.base import Store

SCHEMES = (
    "memory",
    "sqlite",
    "redis",
    "rediss",
    "redis+unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
    "postgresql",
    "SQLITE",
    "http",
    "",
)
OPTIONS = (
    "durability",
    "partitions",
    "retention",
    "strict",
    "replicas",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_check_hostname",
    "ssl_",
    "x",
)
VALUES = ("disk", "process", "1", "0", "-1", "257", "²", "٣", "30d", "forever", "none", "9" * 5000)
PIECE = ANY_TEXT | st.sampled_from(ODD_TEXTS) | st.sampled_from(VALUES)
HOST = st.sampled_from(
    [
        "",
        "h",
        "h:1",
        "h:99999",
        "h:x",
        "h:-1",
        "[::1]",
        "[::1",
        "[x]:1",
        "h:1,h2:2",
        ",",
        "h:",
        "%00",
    ]
)
WHO = st.sampled_from(["", "", "user:pass@", ":secret@", "a@b@", "%@", "\udc80:x@"])
PATHS = st.sampled_from(
    ["", "/", "//", "/0", "/x", "/-1", "/runs.db", "/svc/0", "/svc/x", "/a/b/c"]
)
QUERY = st.lists(
    st.tuples(st.sampled_from(OPTIONS), st.sampled_from(["=", "=", ""]), PIECE).map("".join),
    max_size=3,
).map("&".join)
URLS = st.builds(
    lambda scheme, colon, who, host, path, query, more: (
        f"{scheme}{colon}{who}{host}{path}{f'?{query}' if query else ''}{more}"
    ),
    st.sampled_from(SCHEMES),
    st.sampled_from(["://", "://", "://", "://", ":/", ":"]),
    WHO,
    HOST,
    PATHS | PIECE.map(lambda piece: f"/{piece}"),
    QUERY,
    st.just("") | st.sampled_from(["#x", "\n", "?"]),
)


def made(url: str, base: Path) -> Store | None:
    """The store, or None where the URL is refused as it should be."""
    try:
        store = make_store(url, base=base)
    except StoreUrlError as error:
        str(error).encode("utf-8", "backslashreplace")
        return None
    assert store.address is not None
    return store


@fuzz(900)
@given(URLS | PIECE)
def test_any_text_names_a_store_or_is_refused(url: str) -> None:
    made(url, Path("/nowhere"))


@fuzz(200)
@given(st.sampled_from(SCHEMES), HOST, PATHS, QUERY)
def test_a_refusal_does_not_show_the_password(
    scheme: str, host: str, path: str, query: str
) -> None:
    url = f"{scheme}://user:hunter2@{host}{path}?{query}"

    try:
        make_store(url, base=Path("/nowhere"))
    except StoreUrlError as error:
        assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "memory://[::1",
        "sqlite:///a%00b",
        "sqlite:///\ud800",
        "redis://127.0.0.1:x/0",
        "redis://127.0.0.1:99999/0",
        "redis://127.0.0.1/first",
        "redis://127.0.0.1/0?ssl_ca_certs=/ca.crt",
        "rediss://127.0.0.1/0?ssl_no_such_option=1",
        "redis+sentinel://127.0.0.1/service/first",
        "redis+sentinel://127.0.0.1:²/service/0",
    ],
)
def test_what_the_driver_could_not_open_is_refused_at_once(url: str) -> None:
    with pytest.raises(StoreUrlError):
        make_store(url)


def test_the_way_out_of_a_host_in_a_sqlite_url_names_no_user() -> None:
    with pytest.raises(StoreUrlError) as refused:
        make_store("sqlite://user:hunter2@host/runs.db")

    assert "sqlite:///host/runs.db" in str(refused.value)
