"""Values as JSON text and back: the one way in and out of a store, in every mode.

A value is stored only if reading it back gives an equal value of the same classes. What a function
is handed is always the decoded form of the stored text, the first time too, so the first
execution, a replay and a remote worker see the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from pikku._ids import is_unicode
from pikku._payloads import refuse_sealed
from pikku.errors import DeclarationError, InvalidInputError, PayloadError

# `type` itself, for values of which the checker knows nothing.
_type_of: Callable[[Any], type[Any]] = type

ANNOTATE = "declare its type: annotate the function's return, or pass returns=T to `do`"


class Codec(Protocol):
    """Encodes and decodes the values of one declared type."""

    def encode(self, value: Any, where: str) -> tuple[str, Any]:
        """The JSON text of *value*, and the value that the text stands for.

        Raises:
            PayloadError: if the two values differ, with *where* and the path inside the value.
        """
        ...

    def decode(self, text: str, where: str) -> Any:
        """The value that *text* stands for.

        Raises:
            PayloadError: if it does not fit the type (any more).
            SealError: if it is sealed.
        """
        ...

    def admit(self, data: Any, where: str) -> str:
        """The JSON text of what a caller handed in, validated and in canonical form.

        Raises:
            InvalidInputError: if it does not fit the declared type.
            PayloadError: if it cannot be stored and read back unchanged.
        """
        ...

    def admit_json(self, text: str, where: str) -> str:
        """`admit` for JSON text that somebody typed."""
        ...

    def receive(self, body: bytes, where: str) -> Any:
        """The value that JSON from outside stands for, which is stored nowhere.

        Raises:
            InvalidInputError: if it does not fit the declared type.
        """
        ...

    def tell(self, value: Any, where: str) -> bytes:
        """The JSON of *value*, for somebody outside: nobody reads it back here.

        Raises:
            PayloadError: if it does not have its declared type, or cannot be written.
        """
        ...


class PlainCodec:
    """For values without a declared type: None, bool, int, finite float, str, lists and str-keyed
    dicts of these, and nothing that merely behaves like them."""

    def encode(self, value: Any, where: str) -> tuple[str, Any]:
        kind = _type_of(value)
        if kind is str or kind is bool or value is None:
            return _to_text(value, where), value
        _check_plain(value, where, "value", 0)
        text = _to_text(value, where)
        try:
            return text, from_json(text)
        except ValueError as error:
            raise _unwritten(value, where, error) from error

    def decode(self, text: str, where: str) -> Any:
        try:
            return from_json(text, allow_inf_nan=False)
        except (ValueError, TypeError) as error:  # a TypeError: no valid Unicode
            refuse_sealed(text, where)
            raise PayloadError(where, "value", f"the stored text is no JSON: {error}") from None

    def admit(self, data: Any, where: str) -> str:
        return self.encode(data, where)[0]

    def admit_json(self, text: str, where: str) -> str:
        return self.encode(_parsed(text, where), where)[0]

    def receive(self, body: bytes, where: str) -> Any:
        return _parsed(body, where)

    def tell(self, value: Any, where: str) -> bytes:
        return self.encode(value, where)[0].encode()


class TypedCodec:
    """For a declared type, by its pydantic `TypeAdapter`."""

    def __init__(self, annotation: Any, owner: str) -> None:
        from pydantic import PydanticUserError, TypeAdapter
        from pydantic.errors import PydanticUndefinedAnnotation

        try:
            self.adapter: TypeAdapter[Any] = TypeAdapter(annotation)
            if not self.adapter.pydantic_complete:
                self.adapter.rebuild(raise_errors=True)
        except (PydanticUserError, PydanticUndefinedAnnotation, NameError) as error:
            hint = None
            if getattr(error, "code", None) == "typed-dict-version":
                hint = "import TypedDict from typing_extensions"
            raise DeclarationError(
                f"{owner}: its type {_shown(annotation)} cannot be stored: "
                f"{str(error).splitlines()[0]}",
                hint=hint or "use types that pydantic can validate",
            ) from error

    def encode(self, value: Any, where: str) -> tuple[str, Any]:
        from pydantic import ValidationError

        try:
            text = self.adapter.dump_json(
                value, by_alias=True, round_trip=True, warnings="error"
            ).decode()
        except (PydanticSerializationError, UnicodeEncodeError, ValueError) as error:
            raise self._refusal(value, where, error) from error
        except RecursionError as error:
            raise PayloadError(where, "value", "refers to itself") from error
        try:
            decoded = self.adapter.validate_json(text)
        except ValidationError as error:
            path, problem = _problems(error, "value")[0]
            raise PayloadError(
                where, path, f"cannot be read back from its JSON form: {problem}"
            ) from error
        _check_same(decoded, value, where, "value", 0)
        return text, decoded

    def _refusal(self, value: Any, where: str, error: Exception) -> PayloadError:
        """What in *value* does not have its declared type: pydantic warns of it without its path,
        and what reading it back says has one."""
        from pydantic import ValidationError

        if _unwritable(value, "value", 0) is not None:
            return _unwritten(value, where, error)
        try:
            text = self.adapter.dump_json(value, by_alias=True, round_trip=True, warnings=False)
            _check_same(self.adapter.validate_json(text), value, where, "value", 0)
        except ValidationError as found:
            path, problem = _problems(found, "value")[0]
            return PayloadError(where, path, f"does not have its declared type: {problem}")
        except PayloadError as found:
            return found
        except (PydanticSerializationError, UnicodeEncodeError, ValueError):
            pass
        problem = _first_line(error)
        return PayloadError(where, "value", f"does not have its declared type: {problem}")

    def decode(self, text: str, where: str) -> Any:
        from pydantic import ValidationError

        try:
            return self.adapter.validate_json(text)
        except ValidationError as error:
            refuse_sealed(text, where)
            path, problem = _problems(error)[0]
            raise PayloadError(
                where, path, f"the stored value no longer fits its declared type: {problem}"
            ) from error

    def admit(self, data: Any, where: str) -> str:
        from pydantic import ValidationError

        try:
            value = self.adapter.validate_python(data)
        except ValidationError as error:
            raise _invalid(where, error) from error
        return self.encode(value, where)[0]

    def admit_json(self, text: str, where: str) -> str:
        from pydantic import ValidationError

        _parsed(text, where)
        try:
            value = self.adapter.validate_json(text)
        except ValidationError as error:
            raise _invalid(where, error) from error
        return self.encode(value, where)[0]

    def receive(self, body: bytes, where: str) -> Any:
        from pydantic import ValidationError

        if b"NaN" in body or b"Infinity" in body:
            _parsed(body, where)
        try:
            return self.adapter.validate_json(body)
        except ValidationError as error:
            _parsed(body, where)
            raise _invalid(where, error) from error

    def tell(self, value: Any, where: str) -> bytes:
        try:
            return self.adapter.dump_json(value, by_alias=True, round_trip=True, warnings="error")
        except (PydanticSerializationError, UnicodeEncodeError, ValueError) as error:
            raise self._refusal(value, where, error) from error
        except RecursionError as error:
            raise PayloadError(where, "value", "refers to itself") from error


PLAIN = PlainCodec()


_CODECS: dict[Any, Codec] = {}


def codec_for(annotation: Any, owner: str) -> Codec:
    """The codec of a declared type; *owner* names the declaration in errors.

    Raises:
        DeclarationError: if values of the type cannot be stored.
    """
    if annotation is Any:
        return PLAIN
    try:
        known = _CODECS.get(annotation)
    except TypeError:  # an annotation that cannot be hashed
        return TypedCodec(annotation, owner)
    if known is None:
        known = _CODECS[annotation] = TypedCodec(annotation, owner)
    return known


def digest(text: str) -> str:
    """A short fingerprint of canonical JSON text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def first_difference(left: str, right: str) -> str | None:
    """The path of the first value in which two JSON texts differ; the order of keys is none.

    Raises:
        SealError: if one of them is sealed.
    """
    for text in (left, right):
        refuse_sealed(text, "the input")

    def walk(a: Any, b: Any, path: str) -> str | None:
        if _type_of(a) is dict and _type_of(b) is dict:
            keys: list[str] = [*a, *(key for key in b if key not in a)]
            for key in keys:
                if key not in a or key not in b:
                    return f"{path}.{key}"
                if found := walk(a[key], b[key], f"{path}.{key}"):
                    return found
            return None
        if _type_of(a) is list and _type_of(b) is list:
            for index, (x, y) in enumerate(zip(a, b, strict=False)):
                if found := walk(x, y, f"{path}[{index}]"):
                    return found
            return None if len(a) == len(b) else f"{path}[{min(len(a), len(b))}]"
        return None if _type_of(a) is _type_of(b) and a == b else path

    return walk(from_json(left), from_json(right), "input")


def _to_text(value: Any, where: str) -> str:
    try:
        return to_json(value).decode()
    except (UnicodeEncodeError, ValueError, TypeError) as error:
        raise _unwritten(value, where, error) from error


def _unwritten(value: Any, where: str, error: Exception) -> PayloadError:
    """What in *value* cannot be written as JSON and read again."""
    path, problem = _unwritable(value, "value", 0) or ("value", _first_line(error))
    return PayloadError(
        where,
        path,
        f"cannot be written as JSON: {problem}",
        hint="text must be valid Unicode",
    )


def _unwritable(value: Any, path: str, depth: int) -> tuple[str, str] | None:
    """The path of the first text or number that JSON cannot hold, and what it is."""
    inner: list[tuple[str, Any]] = []
    if isinstance(value, str):
        if not is_unicode(value):
            return path, f"{_shown(value)} is no valid Unicode"
    elif isinstance(value, int):
        if value.bit_length() > MAX_INT_BITS:
            return path, "the number has more than 4,300 digits"
    elif depth > MAX_DEPTH:
        return None
    elif isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        inner = [(f"{path}[{index}]", item) for index, item in enumerate(items)]
    elif isinstance(value, dict):
        entries = _as_dict(value)
        for key in entries:
            if isinstance(key, str) and not is_unicode(key):
                return path, f"the key {_shown(key)} is no valid Unicode"
        inner = [(f"{path}.{_name(key)}", item) for key, item in entries.items()]
    elif (fields := _fields_of(_type_of(value))) is not None:
        inner = [(f"{path}.{name}", getattr(value, name, None)) for name in fields(value)]
    for where, item in inner:
        if found := _unwritable(item, where, depth + 1):
            return found
    return None


def _as_dict(value: Any) -> dict[Any, Any]:
    """*value*, which is a dict: of what, its class does not say."""
    found: dict[Any, Any] = value
    return found


def _name(key: object) -> str:
    return key if isinstance(key, str) else _shown(key)


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError) as error:  # a TypeError: no valid Unicode
        raise InvalidInputError(where, [("input", f"no JSON: {error}")]) from None


MAX_DEPTH = 200
MAX_INT_BITS = 14_284  # of 4,300 digits: longer numbers are not read
_SCALARS = frozenset({str, int, bool, type(None)})


def _check_plain(value: Any, where: str, path: str, depth: int) -> None:
    kind = _type_of(value)
    if kind is str or kind is int or kind is bool or value is None:
        return
    if kind is float:
        if not math.isfinite(value):
            raise PayloadError(where, path, f"{value!r} is no JSON number")
        return
    if depth > MAX_DEPTH:
        raise PayloadError(where, path, f"is nested deeper than {MAX_DEPTH} levels")
    if kind is list:
        for index, item in enumerate(value):
            if type(item) not in _SCALARS:
                _check_plain(item, where, f"{path}[{index}]", depth + 1)
        return
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise PayloadError(where, path, f"has the key {_shown(key)}, which is no string")
            if type(item) not in _SCALARS:
                _check_plain(item, where, f"{path}.{key}", depth + 1)
        return
    raise PayloadError(
        where, path, f"is a {kind.__qualname__}, and its type is not declared", hint=ANNOTATE
    )


def _check_same(decoded: Any, value: Any, where: str, path: str, depth: int) -> None:
    """Whether the decoded value is the original again: equal, and of the same classes."""
    kind = _type_of(value)
    back = _type_of(decoded)
    if back is not kind:
        if kind is int and back is float and decoded == value:
            return  # an int where a float is declared, which every type checker allows (PEP 484)
        raise PayloadError(
            where,
            path,
            f"has the class {kind.__qualname__} and would come back with {back.__qualname__}",
            hint="return exactly the declared class, or declare a union with a discriminator",
        )
    if kind is str or kind is int or kind is bool or value is None:
        same = decoded == value
    elif kind is float:
        if not math.isfinite(value):
            raise PayloadError(where, path, f"{value!r} is no JSON number")
        same = decoded == value
    elif depth > MAX_DEPTH:
        raise PayloadError(where, path, f"is nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, (list, tuple, deque)):
        items = cast("list[Any]", value)
        same = len(decoded) == len(items)
        if same:
            for index, (one, other) in enumerate(zip(decoded, items, strict=True)):
                _check_same(one, other, where, f"{path}[{index}]", depth + 1)
        if isinstance(value, deque):
            same = same and decoded.maxlen == value.maxlen
    elif isinstance(value, dict):
        entries = _as_dict(value)
        same = decoded.keys() == entries.keys()
        if same:
            own = {key: key for key in entries}
            for key, item in decoded.items():
                inside = f"{path}.{_name(key)}"
                if type(key) is not str or type(own[key]) is not str:
                    _check_same(key, own[key], where, inside, depth + 1)
                _check_same(item, entries[key], where, inside, depth + 1)
        if isinstance(value, OrderedDict):
            same = same and list(decoded) == list(entries)
        if isinstance(value, defaultdict):
            same = same and decoded.default_factory is value.default_factory
    elif isinstance(value, (set, frozenset)):
        members = cast("set[Any]", value)
        same = decoded == members
        if same:
            known = {each: each for each in decoded}
            for each in members:
                _check_same(known[each], each, where, f"{path}[{_shown(each)}]", depth + 1)
    elif (fields := _fields_of(kind)) is not None:
        for name in fields(value):
            _check_same(
                getattr(decoded, name, _MISSING),
                getattr(value, name, _MISSING),
                where,
                f"{path}.{name}",
                depth + 1,
            )
        same = not _has_equality(kind) or bool(decoded == value)
    else:
        same = bool(decoded == value)
    if not same:
        raise PayloadError(
            where,
            path,
            f"would come back as {_shown(decoded)} instead of {_shown(value)}",
            hint="the declared type must keep every part of the value",
        )


_MISSING = object()


_FIELDS: dict[type[Any], Callable[[Any], list[str]] | None] = {}


def _fields_of(kind: type[Any]) -> Callable[[Any], list[str]] | None:
    """Lists the fields of a dataclass or model; None for other classes."""
    if kind not in _FIELDS:
        _FIELDS[kind] = _find_fields(kind)
    return _FIELDS[kind]


def _has_equality(kind: type[Any]) -> bool:
    equality: object = kind.__eq__
    return equality is not object.__eq__


def _find_fields(kind: type[Any]) -> Callable[[Any], list[str]] | None:
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return lambda value: names
    if hasattr(kind, "__pydantic_fields__"):
        own = list(kind.__pydantic_fields__)
        return lambda value: [*own, *(getattr(value, "__pydantic_extra__", None) or ())]
    return None


def _invalid(where: str, error: Any) -> InvalidInputError:
    """What a pydantic `ValidationError` says of an input."""
    places = [each["loc"] for each in error.errors(include_url=False, include_context=False)]
    return InvalidInputError(where, _problems(error), places=places)


def _problems(error: Any, root: str = "input") -> list[tuple[str, str]]:
    """(path, message) of each problem of a pydantic `ValidationError`."""
    found: list[tuple[str, str]] = []
    for each in error.errors(include_url=False, include_context=False, include_input=True):
        path = root + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in each["loc"]
        )
        given = "" if each["type"] == "missing" else f", not {_shown(each['input'])}"
        message = each["msg"]
        found.append((path, f"{message[:1].lower()}{message[1:]}{given}"))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return value.__qualname__
    try:
        text = repr(value)
    except Exception:
        return f"a {_type_of(value).__qualname__} that cannot be shown"
    return text if len(text) <= 80 else text[:77] + "…"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
