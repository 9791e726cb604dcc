"""What `pikku-gen explain` shows is so: each example earns its code, and what is written instead of
it does not."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pikku_gen.codes import TABLE
from pikku_gen.pipeline import run

SETTINGS = """\
[project]
requires-python = ">=3.11"

[tool.pikku]
root = "shop"
"""
TYPES = """\
from dataclasses import dataclass


@dataclass
class Charge:
    order_id: str


@dataclass
class Receipt:
    charge_id: str


@dataclass
class Card:
    number: str


@dataclass
class Transfer:
    number: str


@dataclass
class Upgrade:
    plan: str


@dataclass
class Renewal:
    plan: str


@dataclass
class Email:
    to: str


@dataclass
class Item:
    id: str
    sku: str


@dataclass
class Order:
    order_id: str
    lines: list[Item]
"""
NAMES = """\
import asyncio
import os
import random
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

import requests
from pydantic import Field

from shop_pikku import Context, WorkflowContext, pikku_func, pikku_workflow_func
from shop_pikku import queues, signals, wire_signal, wire_workflow
from shop_pikku import wire_queue_worker, wire_scheduler
from shop.types import Card, Charge, Email, Item, Order, Receipt, Renewal, Transfer, Upgrade
"""
FUNCTIONS = f"""\
{NAMES}

@pikku_func
async def charge(ctx: Context, data: Charge) -> Receipt: ...


@pikku_func
async def send_email(ctx: Context, data: Email) -> None: ...


@pikku_func
async def reserve(ctx: Context, data: Item) -> None: ...


@pikku_func
async def report(ctx: Context) -> None: ...


@pikku_workflow_func
async def order_workflow(ctx: WorkflowContext) -> None: ...


@pikku_workflow_func
async def refund_workflow(ctx: WorkflowContext) -> None: ...


@pikku_workflow_func
async def welcome_workflow(ctx: WorkflowContext, data: Email) -> None: ...
"""
MODULE = f"""\
{NAMES}
from shop.functions import charge, order_workflow, refund_workflow, send_email, welcome_workflow
from shop.functions import report

PREFIX = "shop-"
options = {{"name": PREFIX}}


async def _charge(ctx: Context) -> None: ...

"""
BODY = f"""\
{NAMES}
from shop.functions import charge, reserve, send_email, welcome_workflow

SEEN: list[str] = []


@pikku_func
async def fetch_rates(ctx: Context, url: str) -> str: ...


@pikku_workflow_func
async def flow(ctx: WorkflowContext, data: Email) -> None:
    items: list[Item] = []
    order = Order("1", items)
    url = "https://rates.example.com"
{{body}}


wire_workflow(name="flow", func=flow)
"""

SERVICES = """\
class Services: ...


async def create_services() -> Services: ...
"""

# Where an example stands: as a module, in the body of a workflow, or in the settings.
MODULES = {
    *("PKG103", "PKG105", "PKG106", "PKG201", "PKG202", "PKG203", "PKG204", "PKG205", "PKG206"),
    *("PKG207", "PKG208", "PKG209", "PKG212", "PKG214", "PKG215", "PKG216", "PKG218", "PKG219"),
    *("PKG220", "PKG221", "PKG222", "PKG223", "PKG224", "PKG225", "PKG226", "PKG227"),
}
BODIES = {"PKG210", "PKG211", "PKG213", *(code for code in TABLE if code.startswith("PKG3"))}
OF_SETTINGS = {code for code in TABLE if code.startswith("PKG5")}
# What no text alone brings about; tests/golden has a project for each.
OF_FILES = {"PKG101", "PKG102", "PKG104", "PKG217", "PKG401", "PKG402", "PKG506"} | {
    code for code in TABLE if code.startswith("PKG6")
}

# What the remedy says, written out in the place of the example.
INSTEAD = {
    "PKG103": "async def charge_all(ctx: Context, data: Charge) -> Receipt: ...",
    "PKG105": "@pikku_func\nasync def pay(ctx: Context) -> None: ...",
    "PKG106": '@pikku_func(name="pay")\nasync def _pay(ctx: Context) -> None: ...\n'
    'wire_workflow(name="order", func=order_workflow)\n'
    'upgraded = wire_signal(name="upgraded", payload=Upgrade)\n'
    'wire_queue_worker(queue="mail", func=send_email)\n'
    'wire_scheduler(name="nightly", schedule="0 3 * * *", func=report)',
    "PKG201": "@pikku_func\nasync def pay(ctx: Context, data: Charge) -> Receipt: ...",
    "PKG202": "@pikku_func\nasync def pay(ctx: Context, data: Charge) -> Receipt: ...",
    "PKG203": "@pikku_func\nasync def pay(ctx: Context, data: Charge) -> Receipt: ...",
    "PKG204": '@pikku_func(name="charge_card")\nasync def pay(ctx: Context) -> None: ...',
    "PKG205": 'wire_workflow(name="order", func=order_workflow)\n'
    'wire_workflow(name="refund", func=refund_workflow)',
    "PKG206": 'wire_workflow(name="user-onboarding", func=order_workflow)\n'
    'wire_workflow(name="user_welcome", func=refund_workflow)',
    "PKG207": 'wire_workflow(name="shop-order", func=order_workflow)',
    "PKG208": "@pikku_func(retries=3)\nasync def pay(ctx: Context) -> None: ...",
    "PKG209": "@pikku_workflow_func\nasync def pay(ctx: WorkflowContext) -> None: ...",
    "PKG210": 'await ctx.workflow.do("Send welcome email", "send_email", data)',
    "PKG211": 'await ctx.workflow.do("Send", "send_email", Email("ada@example.com"))',
    "PKG212": 'wire_workflow(name="order", func=order_workflow)',
    "PKG214": "@dataclass\nclass ByCard:\n    kind: Literal['card']\n\n"
    "@dataclass\nclass ByHand:\n    kind: Literal['hand']\n\n"
    "@pikku_func\n"
    'async def pay(ctx: Context, data: Annotated[ByCard | ByHand, Field(discriminator="kind")])'
    " -> None: ...",
    "PKG215": "from typing_extensions import TypedDict\n\n"
    "class Options(TypedDict):\n    gift: bool\n\n"
    "@pikku_func\nasync def wrap(ctx: Context, data: Options) -> None: ...",
    "PKG216": "@pikku_func\nasync def pay(ctx: Context, data: Charge) -> None: ...",
    "PKG218": 'upgraded = wire_signal(name="upgraded", payload=Upgrade)\n'
    'renewed = wire_signal(name="renewed", payload=Renewal)',
    "PKG219": 'upgraded = wire_signal(name="upgraded", payload=Upgrade)',
    "PKG220": 'wire_workflow(name="order", func=order_workflow)',
    "PKG221": 'wire_queue_worker(queue="mail", func=send_email)\n'
    'wire_queue_worker(queue="charges", func=charge)',
    "PKG222": 'wire_scheduler(name="nightly", schedule="0 3 * * *", func=report)\n'
    'wire_scheduler(name="early", schedule="0 4 * * *", func=report)',
    "PKG223": "@pikku_func\nasync def begin(ctx: Context, data: Charge) -> None:\n"
    '    await ctx.rpc.start_workflow("order")\n\n'
    'wire_workflow(name="order", func=order_workflow)\n'
    'wire_queue_worker(queue="orders", func=begin)',
    "PKG224": "@pikku_func\nasync def bill(ctx: Context, due: datetime) -> None: ...\n\n"
    'wire_scheduler(name="nightly", schedule="0 3 * * *", func=bill)',
    "PKG225": 'wire_scheduler(name="nightly", schedule="0 3 * * *", func=report)',
    "PKG226": "wire_scheduler(\n"
    '    name="nightly", schedule="0 3 * * *", timezone="Europe/Berlin", func=report\n)',
    "PKG227": 'wire_workflow(name="order", func=order_workflow)\n'
    'wire_queue_worker(queue="outgoing-mail", func=send_email)',
    "PKG301": 'await ctx.workflow.do("Send email", ctx.rpc.send_email, data)',
    "PKG302": 'await ctx.workflow.sleep("Wait", "5min")',
    "PKG303": 'email = ctx.workflow.do("Send", "send_email", data)\nawait email',
    "PKG304": 'await ctx.workflow.do("Send welcome email", "send_email", data)',
    "PKG305": "await asyncio.gather(\n    *[ctx.workflow.do("
    'f"Reserve {item.id}", reserve, item) for item in items]\n)',
    "PKG306": "started = await ctx.workflow.now()",
    "PKG307": "key = await ctx.workflow.uuid4()\nchance = await ctx.workflow.random()",
    "PKG308": 'await ctx.workflow.do("Read region", lambda: os.environ["REGION"])',
    "PKG309": 'await ctx.workflow.do("Fetch rates", fetch_rates, url)',
    "PKG310": 'await ctx.workflow.do("Read terms", lambda: Path("terms.txt").read_text())',
    "PKG311": 'await ctx.workflow.do("Charge", charge, Charge("1"))',
    "PKG312": 'await ctx.workflow.sleep("Wait for payment", "5min")',
    "PKG313": "for sku in sorted({line.sku for line in order.lines}):\n"
    '    await ctx.workflow.do(f"Pick {sku}", lambda: 1)\n'
    "for sku in dict.fromkeys(line.sku for line in order.lines):\n"
    '    await ctx.workflow.do(f"Pack {sku}", lambda: 1)',
    "PKG314": "seen = []\nseen.append(order.order_id)",
    "PKG315": 'try:\n    await ctx.workflow.sleep("Wait", "5min")\nexcept Exception:\n    pass',
    "PKG316": 'await ctx.workflow.do("Read", lambda: [line for line in order.lines])\n'
    'await ctx.workflow.do("Read it", lambda: Path("a").read_text())',
    "PKG317": 'await ctx.workflow.do("Load user", lambda: ctx.services.db.user(data.to))',
    "PKG318": 'await ctx.workflow.do("Fetch", fetch_rates, url)',
    "PKG319": "started = time.time()  # pikku: allow[PKG306] only logged",
    "PKG320": "total = 1 + 1",
    "PKG501": '[tool.pikku]\nroot = "shop"',
    "PKG502": '[tool.pikku]\nroot = "shop"',
    "PKG503": '[tool.pikku]\nroot = "shop"',
    "PKG504": '[tool.pikku]\nroot = "shop"\nstring_names = "always"',
    "PKG505": '[tool.pikku]\nroot = "shop"',
    "PKG507": '[tool.pikku]\nroot = "shop"\nservices = "shop.services:create_services"',
}


def said_of(code: str, text: str, folder: Path) -> set[str]:
    """The codes that are said of a small project with *text* where it belongs."""
    files = {
        "pyproject.toml": SETTINGS,
        "shop/__init__.py": "",
        "shop/types.py": TYPES,
        "shop/functions.py": FUNCTIONS,
        "shop/services.py": SERVICES,
    }
    if code in OF_SETTINGS:
        files["pyproject.toml"] = f"{text}\n"
    elif code in BODIES:
        files["shop/example.py"] = BODY.format(body=textwrap.indent(text, "    "))
    else:
        files["shop/example.py"] = f"{MODULE}\n{text}\n"
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(content, "utf-8")
    return {found.code for found in run(folder).diagnostics}


def test_every_code_stands_somewhere() -> None:
    assert set(TABLE) == MODULES | BODIES | OF_SETTINGS | OF_FILES


@pytest.mark.parametrize("code", sorted(set(TABLE) - OF_FILES))
def test_the_example_earns_its_code(code: str, tmp_path: Path) -> None:
    assert code in said_of(code, TABLE[code].example, tmp_path)


@pytest.mark.parametrize("code", sorted(INSTEAD))
def test_what_the_remedy_says_does_not(code: str, tmp_path: Path) -> None:
    said = said_of(code, INSTEAD[code], tmp_path)

    assert code not in said
    assert not {other for other in said if TABLE[other].severity == "error"}
