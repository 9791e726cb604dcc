"""What must not be read in logs and traces: masked by the name of a key, by type, and in URLs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

MASK: Final = "***"
# Words of a key: `userPassword`, `X-Api-Key` and `access_tokens` hold one each.
KEYS: Final = (
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "api_key",
    "apikey",
    "access_key",
    "private_key",
    "credential",
    "cookie",
    "jwt",
)
# How much of a payload a log line has.
PAYLOAD_CHARACTERS: Final = 200
_DEEPEST: Final = 20
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL: Final = re.compile(r"\b([a-z][a-z0-9+.-]*://[^\s/?#:@'\"]*):[^\s/?#'\"]*@", re.IGNORECASE)
_SCHEME: Final = re.compile(r"\b(bearer|basic)\s+[\w.~+/-]{4,}=*", re.IGNORECASE)
# What holds none of these holds nothing that the patterns find.
_SIGNS: Final = ("=", ":", "bearer", "basic")


class Redaction:
    """Masks secrets. *keys* are names besides the usual ones, such as `iban`."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        words = [_snake(key) for key in (*KEYS, *keys) if key.strip()]
        either = "|".join(re.escape(word) for word in dict.fromkeys(words))
        self._key = re.compile(rf"(?:^|_)(?:{either})s?(?:_|$)")
        loose = either.replace("_", "[_-]?")
        self._pair = re.compile(
            rf"""(?P<key>(?<![\w-])["']?[\w-]{{0,64}}(?:{loose})[\w-]{{0,64}}["']?\s*[:=]\s*)"""
            r"""(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?:bearer|basic)\s+[^\s,;&)}\]"']+"""
            r"""|[^\s,;&)}\]"']+)""",
            re.IGNORECASE,
        )

    def is_secret(self, key: str) -> bool:
        """Whether what stands under this key is not for everybody."""
        return self._key.search(_snake(key)) is not None

    def value(self, value: Any, depth: int = 0) -> Any:
        """*value* with what is secret in it masked: under a secret's key, of a secret type, in a
        text."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if hasattr(value, "get_secret_value"):  # pydantic's, without an import of pydantic
            return MASK
        if depth >= _DEEPEST:
            return "…"
        if isinstance(value, Mapping):
            return {
                str(key): MASK if self.is_secret(str(key)) else self.value(each, depth + 1)
                for key, each in cast("Mapping[object, object]", value).items()
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.value(each, depth + 1) for each in cast("Iterable[Any]", value)]
        return value

    def text(self, text: str) -> str:
        """*text* without the passwords of URLs, and without what looks like `password=…`."""
        lowered = text.lower()
        if not any(sign in lowered for sign in _SIGNS):
            return text
        text = _URL.sub(rf"\1:{MASK}@", text)
        text = self._pair.sub(self._masked_pair, text)
        return _SCHEME.sub(rf"\1 {MASK}", text)

    def _masked_pair(self, found: re.Match[str]) -> str:
        key, value = found["key"], found["value"]
        name = key.rstrip().rstrip(":=").strip().strip("\"'")
        if not self.is_secret(name):
            return found[0]
        quote = value[0] if value[0] in "\"'" else ""
        return f"{key}{quote}{MASK}{quote}"

    def payload(self, text: str | None) -> str:
        """A value that is JSON as one line for a log: masked, and not all of it."""
        if text is None:
            return ""
        try:
            masked = json.dumps(self.value(json.loads(text)), ensure_ascii=False)
        except (ValueError, RecursionError):
            masked = self.text(text)
        if len(masked) <= PAYLOAD_CHARACTERS:
            return masked
        return f"{masked[:PAYLOAD_CHARACTERS]}… ({len(text)} characters)"


def _snake(key: str) -> str:
    return _HUMP.sub("_", key.strip()).replace("-", "_").replace(" ", "_").lower()


_current = Redaction()


def redaction() -> Redaction:
    """What is masked in this process."""
    return _current


def redact(keys: Iterable[str]) -> None:
    """Have *keys* masked, too, from now on, in this process."""
    global _current
    _current = Redaction(keys)
