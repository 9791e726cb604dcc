import asyncio
import contextlib
import os
import random
import secrets
import subprocess
import threading
import time
import uuid as ids
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import httpx
import requests as http

from shop.clocks import deadline, now, region, remembered, stamp
from shop.functions import ping
from shop_pikku import WorkflowContext, pikku_workflow_func

SEEN: list[str] = []
COUNT = 0
client = httpx.AsyncClient()


@pikku_workflow_func
async def clock(ctx: WorkflowContext) -> str:
    started = datetime.now()
    aware = datetime.now(tz=UTC)
    today = date.today()
    passed = time.monotonic() - time.time()
    elsewhere = now()
    read = datetime.now
    await deadline(ctx)
    return f"{started}{aware}{today}{passed}{elsewhere}{read()}{datetime.utcnow()}" + stamp("a")


@pikku_workflow_func
async def chance(ctx: WorkflowContext) -> str:
    from random import choice as pick

    if random.random() < 0.5:
        return pick(["a", "b"])
    seeded = random.Random(7)
    return f"{seeded.random()}" + str(ids.uuid4()) + secrets.token_hex() + remembered("key")


@pikku_workflow_func
async def environment(ctx: WorkflowContext) -> str:
    home = os.environ["HOME"]
    debug = os.environ.get("DEBUG", "")
    region()
    return home + debug + (os.getenv("REGION") or "")


@pikku_workflow_func
async def network(ctx: WorkflowContext, url: str) -> str:
    text = http.get(url).text
    async with httpx.AsyncClient() as own:
        await own.get(url)
    await client.post(url, json={"a long argument": "that is not repeated"})
    return text


@pikku_workflow_func
async def files(ctx: WorkflowContext, name: str) -> str:
    folder = Path("data")
    with open(name) as file:
        first = file.readline()
    if os.path.exists(name):
        (folder / name).write_text("")
    return first + folder.joinpath(name).read_text()


@pikku_workflow_func
async def processes(ctx: WorkflowContext) -> None:
    subprocess.run(["make", "report"])
    threading.Thread(target=print).start()
    with ThreadPoolExecutor() as pool:
        pool.submit(print)


@pikku_workflow_func
async def loop(ctx: WorkflowContext, seconds: float) -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(300)
    await asyncio.sleep(seconds)
    time.sleep(2)
    await asyncio.wait_for(ctx.workflow.do("Ping", ping), timeout=3)
    async with asyncio.timeout(5):
        await ctx.workflow.do("Ping again", ping)
    await asyncio.to_thread(print)
    await asyncio.get_running_loop().run_in_executor(None, print)


@pikku_workflow_func
async def sets(ctx: WorkflowContext, names: list[str]) -> list[str]:
    wanted = set(names)
    others: set[str] = {"a", "b"} | wanted
    for name in wanted:
        await ctx.workflow.do(f"Ping {name}", ping)
    for name in sorted(others):
        await ctx.workflow.do(f"Ping {name} too", ping)
    numbers = [number for number in {1, 2, 3}]
    count = sum(1 for name in others)
    first = next(iter(others))
    return [first, str(numbers), str(count), *others, ", ".join(wanted)]


@pikku_workflow_func
async def variables(ctx: WorkflowContext, name: str) -> int:
    global COUNT
    COUNT += 1
    if name not in SEEN:
        SEEN.append(name)
    return len(SEEN)


@pikku_workflow_func
async def control_flow(ctx: WorkflowContext) -> str:
    try:
        await ctx.workflow.do("Ping", ping)
    except BaseException:
        return "failed"
    try:
        await ctx.workflow.do("Ping", ping)
    except (asyncio.CancelledError, ValueError):
        pass
    try:
        await ctx.workflow.do("Ping", ping)
    except:
        await ctx.workflow.do("Clean up", ping)
        raise
    with contextlib.suppress(asyncio.CancelledError):
        await ctx.workflow.do("Ping", ping)
    task = asyncio.ensure_future(ctx.workflow.do("Ping beside", ping))
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    return "done"


@pikku_workflow_func
async def results(ctx: WorkflowContext, name: str) -> object:
    await ctx.workflow.do("Lines", lambda: (line for line in name))
    await ctx.workflow.do("Open", lambda: open(name))
    return lambda: name


@pikku_workflow_func
async def services(ctx: WorkflowContext) -> None:
    db = ctx.services.db
    await ctx.services.mailer.send("hello")
    await ctx.workflow.do("Load", lambda: ctx.services.mailer.send("hello"))


@pikku_workflow_func
async def inline(ctx: WorkflowContext, url: str) -> None:
    def fetch() -> str:
        time.sleep(1)
        return http.get(url).text + str(datetime.now())

    await ctx.workflow.do("Now", lambda: datetime.now().isoformat())
    await ctx.workflow.do("Fetch", fetch)
    await ctx.workflow.do("Run", lambda: subprocess.run(["make"]).returncode)
    await ctx.workflow.do("Print", partial(print, stamp("a")))


@pikku_workflow_func
async def allowed(ctx: WorkflowContext) -> None:
    print(time.time())  # pikku: allow[PKG306] only printed
    # pikku: allow[PKG306, PKG307] only printed
    print(time.time(), random.random())
    print(time.time())  # pikku: allow[PKG306]
    print(1 + 1)  # pikku: allow[PKG306] nothing to allow
    print(time.time())  # pikku: allow only printed
    print(time.time())  # pikku: allow[PKG999] no such code
