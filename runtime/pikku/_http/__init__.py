"""The way in over HTTP: what is exposed, and nothing else. docs/http.md has the routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pikku.errors import MissingDependencyError

if TYPE_CHECKING:
    from pikku._app import App
    from pikku._http.door import Door


def make_asgi(app: App[Any]) -> Door:
    """The ASGI app of *app*.

    Raises:
        MissingDependencyError: without the extra `server`.
    """
    try:
        from pikku._http.door import Door
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "sse_starlette", "anyio"):
            raise
        raise MissingDependencyError("the way in over HTTP", "server") from error
    return Door(app)
