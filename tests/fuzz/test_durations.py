"""Any text is a duration or a `DurationError`, and a duration is read the same however often it is
written."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fuzz.kit import ANY_TEXT, JSON, fuzz

from pikku._durations import MAX_US, duration_us, format_us
from pikku._settings import parsed_retention
from pikku.errors import DurationError, SettingError

DIGITS = st.text("0123456789\u0660\uff11²", min_size=0, max_size=22) | st.sampled_from(
    ["0", "00", "1", "90"]
)
UNITS = st.sampled_from(["ms", "s", "min", "h", "d", "w", "m", "H", "D", "us", "", " ", "µs", "y"])
NEARLY = st.lists(
    st.tuples(st.sampled_from(["", "", "", "-", "+", ".", " "]), DIGITS, UNITS).map("".join),
    max_size=4,
).map("".join)
ISO_PART = st.tuples(
    st.sampled_from(["", "", "", "-", "+", "T"]),
    st.text("0123456789.,", max_size=8) | DIGITS,
    st.sampled_from("YMWDTHS"),
).map("".join)
NEARLY_ISO = st.tuples(
    st.sampled_from(["P", "P", "PT", "-P", "+P", "p", "P ", ""]),
    st.lists(ISO_PART, max_size=4).map("".join),
).map("".join)


def read(value: object) -> int | None:
    """The microseconds, or None where the value is refused as it should be."""
    try:
        us = duration_us(value)
    except DurationError as error:
        assert str(error).startswith(error.code)
        return None
    assert type(us) is int
    assert 0 <= us <= MAX_US
    return us


@fuzz(600)
@given(ANY_TEXT | NEARLY | NEARLY_ISO)
@example("P" + "9" * 400 + "D")
@example("PT" + "9" * 5000 + "S")
@example("9" * 5000 + "s")
@example("P1Y")
@example("PT1e3S")
@example("P\ud800")
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    us = read(text)

    assert read(text) == us
    if us is not None:
        assert text[:1] not in ("-", "+")
        assert text == text.strip()
        assert any(char.isdigit() for char in text)


@fuzz(150)
@given(JSON | st.binary(max_size=5) | st.timedeltas())
@example(timedelta.max)
@example(timedelta.min)
@example(timedelta(microseconds=-1))
def test_any_value_is_a_duration_or_refused(value: Any) -> None:
    us = read(value)

    if isinstance(value, timedelta):
        assert us in (None, value // timedelta(microseconds=1))


@fuzz(200)
@given(st.integers(0, MAX_US // 1000).map(lambda ms: ms * 1000) | st.integers(0, MAX_US))
def test_what_is_written_for_a_reader_can_be_read_again(us: int) -> None:
    shown = format_us(us)

    again = duration_us(shown)

    assert format_us(again) == shown
    assert again <= us
    assert us - again < max(1000, us // 20, 1_000_000 if us >= 1_000_000 else 1000)


@fuzz(200)
@given(st.timedeltas(timedelta(0), timedelta(days=36_000)))
def test_an_iso_duration_is_the_timedelta_that_it_stands_for(given: timedelta) -> None:
    days, seconds, micros = given.days, given.seconds, given.microseconds

    assert duration_us(f"P{days}DT{seconds}.{micros:06d}S") == duration_us(given)


@fuzz(200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "completed=", "failed=", "x=", "=", " completed ="]),
            NEARLY | ANY_TEXT,
        ).map("".join),
        max_size=4,
    ).map(",".join)
)
def test_any_retention_is_read_or_refused(text: str) -> None:
    try:
        kept = parsed_retention(text)
    except SettingError:
        return
    assert set(kept) <= {"completed", "failed", "cancelled"}
    assert all(0 <= us <= MAX_US for us in kept.values())


@pytest.mark.parametrize("text", ["P" + "9" * 400 + "D", "PT" + "9" * 5000 + "S"])
def test_an_iso_duration_of_many_digits_is_refused(text: str) -> None:
    with pytest.raises(DurationError):
        duration_us(text)
