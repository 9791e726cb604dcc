"""`pikku db`: the schema of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pikku._commands.output import put_json, tell
from pikku._commands.target import Target

if TYPE_CHECKING:
    from pikku.stores.base import Store


@click.group()
def db() -> None:
    """The database schema of the store."""


@db.command()
@click.option(
    "--print", "only_print", is_flag=True, help="Print the SQL that is missing, and change nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as a JSON document.")
@click.pass_obj
def migrate(target: Target, only_print: bool, as_json: bool) -> None:
    """Bring the store's schema up to date.

    A store does so by itself when it is opened, unless its URL says migrate=0: then a role that may
    change the schema does it here, or runs what --print prints.
    """
    import asyncio

    asyncio.run(_migrate(target.make_store(), only_print, as_json))


async def _migrate(store: Store, only_print: bool, as_json: bool) -> None:
    from pikku.stores.base import Migrates

    if not isinstance(store, Migrates):
        tell(f"{store.address} is brought up to date by whoever opens it")
        return
    if only_print:
        click.echo(await store.pending_migrations(), nl=False)
        return
    new = await store.migrate()
    if as_json:
        put_json({"store": store.address, "migrated": new})
    elif new:
        tell(f"{store.address} is at version {new[-1]} of its schema now")
    else:
        tell(f"{store.address} is up to date")
