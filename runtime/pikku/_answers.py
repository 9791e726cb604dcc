"""What comes into a run from outside, signals and decisions, in the form in which it is kept."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pikku._clock import as_datetime
from pikku._payloads import refuse_sealed
from pikku._signals import Received
from pikku.errors import DeclarationError, PayloadError

if TYPE_CHECKING:
    from pikku._codec import Codec
    from pikku._decisions import Decision


class ReceivedCodec:
    """The payload of a signal, told apart from a wait that timed out."""

    def __init__(self, payload: Codec) -> None:
        self._payload = payload

    def decode(self, text: str, where: str) -> Received:
        return Received(self._payload.decode(text, where))


class Verdict(NamedTuple):
    """A decision as it is kept: `data` is JSON text of the approval's schema, or None."""

    outcome: str
    data: str | None
    decided_by: str | None
    decided_us: int
    note: str

    def to_json(self) -> str:
        """The text that a store keeps."""
        return json.dumps(self._asdict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """The decision that such a text stands for.

        Raises:
            PayloadError: if it is none.
            SealError: if it is sealed.
        """
        refuse_sealed(text, "a decision")
        try:
            said: dict[str, Any] = json.loads(text)
            return cls(**said)
        except (ValueError, TypeError) as fault:
            raise PayloadError(
                "the record of a decision", "", f"cannot be read: {fault}"
            ) from fault

    @property
    def decided_at(self) -> datetime:
        """When it was decided."""
        return as_datetime(self.decided_us)


class DecisionCodec:
    """The decision that an approval gives its workflow."""

    def __init__(self, data: Codec) -> None:
        self._data = data

    def decode(self, text: str, where: str) -> Decision[Any]:
        from pikku._decisions import Decision

        said = Verdict.from_json(text)
        data = None if said.data is None else self._data.decode(said.data, where)
        outcome: Any = said.outcome
        return Decision(outcome, data, said.decided_by, said.decided_at, said.note)


class AnswerTerms(NamedTuple):
    """What an approval asks of its answer: `schema` is where the type of its data is defined."""

    schema: str | None
    reason: str
    approvers: str
    scope: str

    def to_json(self) -> str:
        """The text that a store keeps."""
        return json.dumps(self._asdict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> AnswerTerms:
        """The terms that such a text stands for."""
        refuse_sealed(text, "the terms of an approval")
        said: dict[str, Any] = json.loads(text)
        return cls(**said)


def type_place(kind: type[Any] | None, step: str) -> str | None:
    """`module:qualname`, by which whoever answers finds the type of an approval's data.

    Raises:
        DeclarationError: if it cannot be found so.
    """
    if kind is None:
        return None
    place = f"{getattr(kind, '__module__', '')}:{getattr(kind, '__qualname__', kind)}"
    if not isinstance(kind, type) or type_at(place) is not kind:
        raise DeclarationError(
            f"approval {step!r}: schema is {kind!r}, which whoever answers could not find",
            hint="give a class that is defined at the top level of a module",
        )
    return place


def type_at(place: str) -> type[Any] | None:
    """The class at such a place, among the modules that are imported; None where there is none."""
    module, _, qualname = place.partition(":")
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) else None
