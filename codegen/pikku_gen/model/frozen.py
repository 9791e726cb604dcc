"""Records to JSON and back: a frozen dataclass is the list of its fields' values."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Thaw = Callable[[Any], Any]

_NAMES: Final[dict[type[Any], tuple[str, ...]]] = {}
_THAWS: Final[dict[Any, Thaw]] = {}


def freeze(value: object) -> object:
    """The value as JSON can hold it."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (tuple, list)):
        return [freeze(item) for item in cast("tuple[object, ...]", value)]
    if isinstance(value, dict):
        return {key: freeze(item) for key, item in cast("dict[str, object]", value).items()}
    return [freeze(getattr(value, field)) for field in _names(type(value))]


def thaw(kind: type[T], data: object) -> T:
    """The record that `freeze` made `data` of."""
    return cast(T, _thaw_for(kind)(data))


def _names(kind: type[Any]) -> tuple[str, ...]:
    if kind not in _NAMES:
        _NAMES[kind] = tuple(field.name for field in fields(kind))
    return _NAMES[kind]


def _thaw_for(kind: Any) -> Thaw:  # any annotation of a record, class or not
    if kind not in _THAWS:
        _THAWS[kind] = _made(kind)
    return _THAWS[kind]


def _made(kind: Any) -> Thaw:
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _thaw_record(cast("type[Any]", kind))
    if origin is tuple:
        arguments = get_args(kind)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _each(_thaw_for(arguments[0]))
        return tuple
    if origin is dict:
        inner = _thaw_for(get_args(kind)[1])
        return lambda data: {key: inner(item) for key, item in data.items()}
    if origin in (Union, types.UnionType):
        inner = next(_thaw_for(option) for option in get_args(kind) if option is not type(None))
        return lambda data: None if data is None else inner(data)
    if origin is Literal or isinstance(kind, type):
        return _as_is
    raise TypeError(f"a record cannot hold {kind!r}")


def _thaw_record(kind: type[Any]) -> Thaw:
    hints = get_type_hints(kind)
    converters: list[Thaw | None] = []
    flat: dict[tuple[Any, ...], object] = {}

    def build(data: Any) -> object:
        if not converters:
            made = [_thaw_for(hints[name]) for name in _names(kind)]
            converters.extend(None if thaw is _as_is else thaw for thaw in made)
        if not any(converters):  # nothing but words and numbers, which repeat
            key = tuple(data)
            if key not in flat:
                flat[key] = kind(*data)
            return flat[key]
        return kind(
            *[
                item if convert is None else convert(item)
                for convert, item in zip(converters, data, strict=True)
            ]
        )

    return build


def _each(inner: Thaw) -> Thaw:
    if inner is _as_is:
        return tuple
    return lambda data: tuple([inner(item) for item in data])


def _as_is(data: Any) -> Any:
    return data
