"""The contract of a store: batched, fenced transitions on one side, plain reads on the other.

A store keeps runs, their steps, timers, queues, sessions and inboxes, and moves them only by the
operations of `pikku._records`. One `apply` call is one transaction. Every promise here is a check
in `pikku.testing.store_contract`, run against each store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from pikku._clock import Clock
from pikku._records import (
    CreateRun,
    Examination,
    HistoryEntry,
    Holdings,
    LoadedRun,
    Op,
    OpResult,
    Reply,
    RunFilter,
    RunRecord,
)
from pikku.stores.lanes import QueueLimits

# The queues of runs. A queue of jobs has the name that its steps say, after `JOBS`.
INLINE_QUEUE = "inline"
ORCHESTRATOR_QUEUE = "orchestrator"
JOBS = "jobs:"
DEFAULT_QUEUE = "default"
# The queue of a job that nobody wants any more: it is on none.
CALLED_OFF = ""
# Not a queue: among what is wanted, it stands for the session's inbox.
MAIL = "mail"


@runtime_checkable
class Enlists(Protocol):
    """A store whose database takes the start of a run into a transaction of somebody else's."""

    async def start_in_transaction(self, connection: object, op: CreateRun, /) -> OpResult:
        """Create a run, queued, once the transaction that is open in *connection* commits, or find
        the one that has its id (`exists`).

        Raises:
            TransactionError: *connection* is none that the store can use, or has no transaction.
        """
        ...


@runtime_checkable
class Migrates(Protocol):
    """A store with a schema that a person may want to bring up to date."""

    async def migrate(self) -> list[int]:
        """Bring the schema up to date; the versions that were new. The store need not be open.

        Raises:
            StoreError: and its kinds.
        """
        ...

    async def pending_migrations(self) -> str:
        """What `migrate` would do, as SQL to be reviewed and run by hand; empty where there is
        nothing to do."""
        ...


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

    @property
    def pushes(self) -> bool:
        """Whether `wait` tells of what other processes do; without it, they are asked in turn."""
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
        """Carry out *ops* in their order as one transaction, then claim up to *want* a queue.

        An operation that cannot be carried out changes nothing and says so in its result; the
        others stand. Claimed runs come with all their steps; from a queue named `jobs:…` come
        jobs. Where `MAIL` is wanted, and by a call without operations, the inbox of *session* is
        emptied into the reply. A batch whose transaction fails as a whole raises; after one whose
        outcome nobody knows, the same batch may be sent again.

        A session exists from its first `beat`, and expires when its lease does. Where the store had
        no reason to look, the reply takes it to be alive.
        """
        ...

    def limit_queue(self, queue: str, limits: QueueLimits, /) -> None:
        """Have what this process claims from a queue of jobs keep to *limits* from now on.

        They hold across all processes that say the same, and only those are sure to be given jobs
        that have a priority or a group. A queue that they hold back is not among `more`, and
        `next_due_us` says when to ask again.
        """
        ...

    def beat(self, session: str, lease_us: int) -> bool:
        """Extend the lease of *session* to that far from the store's now; thread-safe, blocking.

        False if others have taken its runs away: whoever holds it must drop everything.
        """
        ...

    async def wait(self, session: str, queues: Sequence[str], seconds: float, /) -> str | None:
        """The name of one of *queues*, or `MAIL`, once that may hold something; None after
        *seconds*. Only for a store that `pushes`.

        Whoever is told of a queue asks it with its next `apply`, if only for nothing: others who
        wait are told then, where something is left.
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

    async def count_runs(self, workflow: str | None = None) -> dict[str, int]:
        """How many runs have each status: all but jobs, or those of one *workflow*.

        Statuses without runs are left out.
        """
        ...

    async def count_jobs(self) -> dict[str, int]:
        """How many jobs wait in each queue; queues without are left out."""
        ...

    async def examine(self) -> Examination:
        """Everything that could make a run move, in one consistent read: for the doctor."""
        ...

    async def holdings(self, session: str) -> Holdings:
        """What *session* holds: for the process itself, which may not have heard of some of it."""
        ...
