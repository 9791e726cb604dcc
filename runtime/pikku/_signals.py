"""Signals: typed names of words that come into a run from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from pikku._codec import Codec

P = TypeVar("P")


class Signal(Generic[P]):
    """A typed name of a signal. `wire_signal` declares what comes with it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Signal {self.name}>"


class WiredSignal(Signal[P]):
    """A signal under the name by which it is sent and waited for.

    Attributes:
        declared: the type of its payload; None where nothing comes with it.
    """

    def __init__(self, name: str, declared: Any, description: str) -> None:
        super().__init__(name)
        self.declared = declared
        self.description = description

    @property
    def payload(self) -> Codec:
        """The codec of its payload."""
        from pikku._codec import codec_for

        return codec_for(self.declared, f"the payload of signal {self.name!r}")


class Received(NamedTuple):
    """The payload of a signal that has come."""

    value: Any


class SignalAttributes:
    """`signals`: an attribute for each signal. `names` maps the attributes whose signal has another
    name."""

    names: ClassVar[dict[str, str]] = {}

    def __getattr__(self, attribute: str) -> Signal[Any]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return Signal(self.names.get(attribute, attribute))
