"""A request whose path and asker are known."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from pikku._access import Action, Session, may_access
from pikku._history import RunInfo
from pikku._http.answers import not_found
from pikku._http.bodies import read_body
from pikku._http.limits import Asker, Limits, Slot
from pikku._ids import check_run_id
from pikku._records import RunRecord
from pikku.errors import PermissionDeniedError, RunIdError

if TYPE_CHECKING:
    from pikku._app import App, OpenApp

T = TypeVar("T")


def asker_of(request: Request, session: Session | None) -> Asker:
    """Whom *request* is counted for."""
    if session is not None:
        return Asker(True, session.user_id)
    return Asker(False, "" if request.client is None else request.client.host)


@dataclass(frozen=True, slots=True)
class Incoming:
    """What is asked, of which app, by whom.

    Attributes:
        part: the signal, or the step of the approval.
        closing: set when the server is about to stop.
        limits: what the server counts.
    """

    app: App[Any]
    opened: OpenApp
    request: Request
    action: Action
    session: Session | None
    part: str
    closing: asyncio.Event
    limits: Limits

    @property
    def who(self) -> str | None:
        """The identity of whoever asks."""
        return None if self.session is None else self.session.user_id

    @property
    def asker(self) -> Asker:
        """Whom this is counted for."""
        return asker_of(self.request, self.session)

    def stream(self) -> Slot:
        """A place for a stream.

        Raises:
            Refusal: too many are open.
        """
        return self.limits.stream(self.asker, self.opened.engine.options)

    async def body(self) -> bytes:
        """The body; see `read_body`."""
        return await read_body(self.request, self.opened.engine.options.max_payload_bytes)

    async def run(self) -> RunRecord:
        """The run that is asked about.

        Raises:
            Refusal: there is none, it is of a workflow that is not exposed, or it is not for
                whoever asks; the three are not told apart.
        """
        try:
            run_id = check_run_id(self.action.run_id)
        except RunIdError:  # no run has it, and not every store can be asked
            raise not_found() from None
        run = await self.opened.engine.store.load_run(run_id)
        wired = None if run is None else self.opened.registry.workflows.get(run.workflow)
        if run is None or wired is None or not wired.expose:
            raise not_found()
        if self.app.authorize is not None and not self._may_access(run):
            raise not_found()
        return run

    def _may_access(self, run: RunRecord) -> bool:
        try:
            return may_access(self.session, RunInfo.of(run), self.action)
        except PermissionDeniedError:  # a 403 would say that there is such a run
            return False

    async def while_there(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What *work* returns; None if the server stops before.

        Raises:
            ClientDisconnect: if nobody waits for the answer any more.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._gone())
        closing = asyncio.ensure_future(self.closing.wait())
        waiting: set[asyncio.Future[Any]] = {task, gone, closing}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientDisconnect
            return None
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
