"""Who asks for something from outside, and what is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from pikku._history import RunInfo

ActionKind: TypeAlias = Literal[
    "rpc", "start", "read", "result", "events", "signal", "approve", "cancel"
]


@dataclass(frozen=True, slots=True)
class Action:
    """What a request asks for; the `authorize` hook is given one.

    Attributes:
        kind: `rpc` (call a function), `start` (start a workflow); of a run: `read`, `result`,
            `events`, `signal`, `approve`, `cancel`.
        name: the function or the workflow, as the request spells it: it may be none that exists.
            None for what is asked of a run.
        run_id: the run; None where there is none yet.
    """

    kind: ActionKind
    name: str | None = None
    run_id: str | None = None


class Session(Protocol):
    """Somebody known: what the `authorize` hook returns, and what `ctx.session` is.

    Any object with a `user_id` is one. Two attributes are used where they are there: `scopes`, a
    collection of texts, is what approvals with a `scope` ask for; `may_access`, see `RunAccess`,
    opens the runs of others.
    """

    @property
    def user_id(self) -> str:
        """Who it is, alike in every session of theirs: recorded as `started_by` of runs, and
        compared by ownership and approvals."""
        ...


@runtime_checkable
class RunAccess(Protocol):
    """A session that decides itself which runs it may see and control over HTTP; without it, they
    are those that it has started."""

    def may_access(self, run: RunInfo, action: Action, /) -> bool:
        """Whether *action* may be done to *run*."""
        ...


def may_access(session: Session | None, run: RunInfo, action: Action) -> bool:
    """Whether *session* may do *action* to *run*: it decides itself, or has started the run."""
    if isinstance(session, RunAccess):
        return session.may_access(run, action)
    return session is not None and run.started_by == session.user_id


def scopes_of(session: Session | None) -> frozenset[str]:
    """What the session is entitled to."""
    scopes: Any = getattr(session, "scopes", ())
    return frozenset(scopes)
