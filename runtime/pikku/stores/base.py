"""The contract of a store: batched, fenced transitions on one side, plain reads on the other.

A store keeps runs, their steps, timers, queues, sessions and inboxes, and moves them only by the
operations of `pikku._records`. One `apply` call is one transaction. Every promise here is a check
in `pikku.testing.store_contract`, run against each store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pikku._clock import Clock
from pikku._records import (
    HistoryEntry,
    LoadedRun,
    Op,
    Reply,
    RunFilter,
    RunRecord,
)

INLINE_QUEUE = "inline"
ORCHESTRATOR_QUEUE = "orchestrator"


class Store(Protocol):
    """Where runs live. Every method may be called again after a lost answer without harm."""

    @property
    def clock(self) -> Clock:
        """The clock that leases and timers go by."""
        ...

    @property
    def address(self) -> str:
        """What a person would call this store in a message; no password in it."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes can see the same runs."""
        ...

    async def open(self) -> None:
        """Make it ready for work, bringing its schema up to date.

        Raises:
            StoreError: and its kinds, with the driver's error as cause.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection. What was applied stays."""
        ...

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        """Carry out *ops* in their order as one transaction, then claim up to *want* runs a queue.

        An operation that cannot be carried out changes nothing and says so in its result; the
        others stand. Claimed runs come with all their steps. The inbox of *session* is emptied
        into the reply. A batch whose transaction fails as a whole raises and changed nothing.

        A session exists from its first `apply` or `beat`, and expires when its lease does.
        """
        ...

    def beat(self, session: str, lease_us: int) -> bool:
        """Extend the lease of *session* to that far from the store's now; thread-safe, blocking.

        False if others have taken its runs away: whoever holds it must drop everything.
        """
        ...

    async def load_run(self, run_id: str) -> RunRecord | None:
        """The run, or None."""
        ...

    async def load_steps(self, run_id: str) -> LoadedRun | None:
        """The run with all its steps, in one consistent read, or None."""
        ...

    async def load_history(self, run_id: str) -> list[HistoryEntry]:
        """What is not in the step records, in the order in which it was recorded."""
        ...

    async def list_runs(self, wanted: RunFilter) -> list[RunRecord]:
        """The runs that fit, newest first."""
        ...

    async def count_runs(self) -> dict[str, int]:
        """How many runs have each status; statuses without runs are left out."""
        ...
