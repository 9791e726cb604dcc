"""Durations: what is one, and what is refused."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pikku._durations import duration_us, format_us
from pikku.errors import DurationError

UNITS = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "min": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
}
CENTURY_US = 100 * 365 * 86_400_000_000


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("500ms", 500_000),
        ("5s", 5_000_000),
        ("5min", 300_000_000),
        ("2h", 7_200_000_000),
        ("1d", 86_400_000_000),
        ("1w", 604_800_000_000),
        ("1h30min", 5_400_000_000),
        ("1d12h", 129_600_000_000),
        ("1s500ms", 1_500_000),
        ("PT5M", 300_000_000),
        ("P1D", 86_400_000_000),
        ("P1DT2H", 93_600_000_000),
        ("PT0.5S", 500_000),
        ("0s", 0),
        (timedelta(minutes=5), 300_000_000),
        (timedelta(0), 0),
        (timedelta(microseconds=1), 1),
    ],
)
def test_the_accepted_forms(text: str | timedelta, us: int) -> None:
    assert duration_us(text) == us


@pytest.mark.parametrize(
    "value",
    [
        5000,
        5,
        0,
        5.0,
        True,
        None,
        "",
        " ",
        "5",
        "5000",
        "5m",
        "5 min",
        " 5min",
        "5min ",
        "5min\n",
        "-5s",
        "+5s",
        "1.5h",
        "5S",
        "5MIN",
        "min",
        "30min1h",
        "1h1h",
        "five minutes",
        "\uff15s",
        "P",
        "PT",
        "-PT5M",
        "PT-5M",
        "5sec",
        "1y",
        "1mo",
        "9" * 400 + "s",
        "1000000w",
        timedelta(seconds=-1),
        timedelta.max,
        float("nan"),
        float("inf"),
        b"5s",
        ["5s"],
        datetime(2030, 1, 1, tzinfo=UTC),
    ],
)
def test_everything_else_is_refused_with_the_accepted_forms(value: object) -> None:
    with pytest.raises(DurationError) as caught:
        duration_us(value)
    for form in ("5s", "5min", "PT5M", "timedelta"):
        assert form in str(caught.value)


@given(
    st.lists(st.sampled_from(list(UNITS)), min_size=1, max_size=6, unique=True),
    st.data(),
)
def test_a_compound_is_the_sum_of_its_parts(units: list[str], data: st.DataObject) -> None:
    parts = [
        (data.draw(st.integers(0, 1000)), unit) for unit in UNITS if unit in units
    ]  # from the largest to the smallest
    text = "".join(f"{amount}{unit}" for amount, unit in parts)
    assert duration_us(text) == sum(amount * UNITS[unit] for amount, unit in parts)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36_500)))
def test_a_timedelta_is_taken_to_the_microsecond(value: timedelta) -> None:
    assert duration_us(value) == value // timedelta(microseconds=1)


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused_with_a_typed_error(text: str) -> None:
    try:
        us = duration_us(text)
    except DurationError:
        return
    assert 0 <= us <= 2 * CENTURY_US


@given(st.text(alphabet="0123456789hdwmins PT.-", max_size=10))
def test_text_that_is_nearly_a_duration_is_one_or_refused(text: str) -> None:
    try:
        us = duration_us(text)
    except DurationError:
        return
    assert us >= 0
    assert not text.isdigit()


@given(
    st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.none(),
        st.binary(),
        st.lists(st.integers()),
        st.decimals(),
    )
)
def test_what_is_neither_text_nor_timedelta_is_refused(value: object) -> None:
    with pytest.raises(DurationError):
        duration_us(value)


@given(st.integers(0, 10**15))
def test_what_is_shown_of_a_duration_reads_as_one(us: int) -> None:
    shown = duration_us(format_us(us))
    assert shown <= us
