"""What becomes of values on their way into a store: how large they may be, and how they are sealed.

Sealed text begins with `SEALED`. No JSON does, so both kinds may stand side by side in a store.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pikku.errors import PayloadTooLargeError, SealError

MAX_PAYLOAD_BYTES = 1_048_576
SEALED = "sealed:"


@runtime_checkable
class PayloadCodec(Protocol):
    """Seals what a store keeps of an app's values, as the attribute `payload_codec` of the
    services; such as encryption with a key of the app's.

    Both methods are called on the event loop, one at a time, and must not wait for anything. Every
    process that opens the app must be able to open what the others have sealed.
    """

    def seal(self, text: str) -> str:
        """*text* in a form that says nothing to those who only see the store."""
        ...

    def open(self, text: str) -> str:
        """The text that *text* was made of by `seal`; raises if it was not."""
        ...


class Unopened(str):
    """Sealed text that the codec did not open.

    Attributes:
        problem: of which run it is, where it stands there, and why it stays closed.
    """

    problem: str


def check_size(text: str, limit: int, whose: str) -> None:
    """Let JSON *text* pass if it has at most *limit* bytes.

    Raises:
        PayloadTooLargeError: if it has more; *whose* it is, is said.
    """
    if len(text) <= limit // 4:
        return
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise PayloadTooLargeError(whose, size, limit)


def is_sealed(text: str) -> bool:
    """Whether *text* is in the form that a codec gave it."""
    return text.startswith(SEALED)


def refuse_sealed(text: str, where: str) -> None:
    """Let text pass that can be read.

    Raises:
        SealError: if it is sealed still.
    """
    if isinstance(text, Unopened):
        raise SealError(text.problem)
    if is_sealed(text):
        raise SealError(f"{where}: the value is sealed, and the services have no payload_codec")
