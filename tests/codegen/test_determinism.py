"""The determinism lint: what is found in bodies, through which names, and what a project says."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent

import pytest
from click.testing import CliRunner

from pikku_gen.cli import main
from pikku_gen.diagnostics import Diagnostic
from pikku_gen.fixing import fix
from pikku_gen.pipeline import Outcome, run

HEAD = """\
from shop_pikku import Context, WorkflowContext, pikku_func, pikku_workflow_func

@pikku_func
async def ping(ctx: Context) -> str:
    return "pong"
"""
FLOW = """
@pikku_workflow_func
async def flow(ctx: WorkflowContext, names: list[str]) -> None:
"""


class Shop:
    """A small project that may be read again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("pyproject.toml", '[tool.pikku]\nroot = "shop"\n')
        self.write("shop/__init__.py", "")

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")

    def flow(self, body: str, imports: str = "") -> None:
        text = f"{dedent(imports)}\n{HEAD}{FLOW}{indent(dedent(body).strip(), '    ')}\n"
        self.write("shop/flows.py", text)

    def run(self) -> Outcome:
        return run(self.folder)

    def lint(self) -> tuple[Diagnostic, ...]:
        """What is said of the determinism; nothing else may be."""
        found = self.run().diagnostics
        assert all(each.code.startswith("PKG3") for each in found), found
        return found

    def codes(self) -> list[str]:
        return [found.code for found in self.lint()]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imports", "call", "code"),
    [
        ("import datetime", "datetime.datetime.now()", "PKG306"),
        ("import datetime as dt", "dt.date.today()", "PKG306"),
        ("from datetime import datetime", "datetime.utcnow()", "PKG306"),
        ("from datetime import datetime as moment", "moment.now()", "PKG306"),
        ("import time", "time.perf_counter()", "PKG306"),
        ("from time import time as clock", "clock()", "PKG306"),
        ("import time\nclock = time.monotonic", "clock()", "PKG306"),
        ("import random", "random.shuffle(names)", "PKG307"),
        ("import random", "random.Random().random()", "PKG307"),
        ("import numpy as np", "np.random.normal()", "PKG307"),
        ("import secrets", "secrets.token_urlsafe()", "PKG307"),
        ("import uuid", "uuid.uuid1()", "PKG307"),
        ("import os", "os.environ['HOME']", "PKG308"),
        ("from os import environ", "environ.get('HOME')", "PKG308"),
        ("from os import environ as settings", "print(settings)", "PKG308"),
        ("import os", "os.getenv('HOME')", "PKG308"),
        ("from pathlib import Path", "Path.home()", "PKG308"),
        ("import requests", "requests.post('https://a')", "PKG309"),
        (
            "from httpx import AsyncClient",
            "async with AsyncClient() as c: await c.get('a')",
            "PKG309",
        ),
        ("import urllib.request", "urllib.request.urlopen('https://a')", "PKG309"),
        ("import httpx\nclient = httpx.Client()", "client.get('https://a')", "PKG309"),
        ("", "open('a').close()", "PKG310"),
        ("from pathlib import Path", "Path('a').write_text('b')", "PKG310"),
        ("from pathlib import Path", "(Path('a') / 'b').with_suffix('.c').unlink()", "PKG310"),
        ("from pathlib import Path\nhome = Path('a')", "(home / 'b').exists()", "PKG310"),
        ("import os.path", "os.path.getsize('a')", "PKG310"),
        ("import shutil", "shutil.rmtree('a')", "PKG310"),
        ("import os", "os.system('make')", "PKG311"),
        ("from subprocess import check_output as sh", "sh('make')", "PKG311"),
        ("import threading", "threading.Thread(target=print).start()", "PKG311"),
        ("import multiprocessing as mp", "mp.Process(target=print).start()", "PKG311"),
        ("import asyncio", "await asyncio.sleep(1)", "PKG312"),
        ("from asyncio import timeout", "async with timeout(3): pass", "PKG312"),
        ("import asyncio", "await asyncio.to_thread(print)", "PKG312"),
        (
            "import asyncio",
            "await asyncio.get_running_loop().run_in_executor(None, print)",
            "PKG312",
        ),
        ("import time", "time.sleep(1)", "PKG318"),
    ],
)
def test_a_call_is_known_by_whatever_name_it_has(
    shop: Shop, imports: str, call: str, code: str
) -> None:
    shop.flow(call, imports)

    assert shop.codes() == [code]


def test_names_that_a_function_imports_or_binds_itself_are_followed(shop: Shop) -> None:
    shop.flow(
        """
        from time import time as clock
        import random as dice
        later = clock
        draw = dice.choice
        print(later(), draw(names))
        """
    )

    assert shop.codes() == ["PKG306", "PKG307"]


@pytest.mark.parametrize(
    ("imports", "body"),
    [
        ("", "time = ctx\nprint(time.time())"),
        ("from datetime import datetime", "datetime(2030, 1, 1).isoformat()"),
        ("import time\nimport datetime", "print(time.strftime, datetime.timedelta(seconds=1))"),
        ("import random", "random.Random(7).random()"),
        ("import secrets", "secrets.compare_digest('a', 'b')"),
        ("import os", "print(os.path.join('a', 'b'), os.sep)"),
        ("from pathlib import Path", "print(Path('a').name, Path('a') / 'b')"),
        ("import httpx", "print(httpx.Timeout(3), httpx.HTTPError('a'))"),
        ("import asyncio", "await asyncio.sleep(0)\nawait asyncio.gather()"),
        ("import asyncio", "await asyncio.wait_for(ctx.workflow.do('A', ping), None)"),
        ("import time", "def open(name): return name\nopen('a')"),
        ("import uuid", "print(uuid.uuid5(uuid.NAMESPACE_DNS, 'a'), uuid.UUID(int=1))"),
        ("from shop.settings import LIMIT", "print(LIMIT)"),
    ],
)
def test_what_is_alike_on_every_replay_is_not_reported(shop: Shop, imports: str, body: str) -> None:
    shop.write("shop/settings.py", "LIMIT = 3\n")
    shop.flow(body, imports)

    assert shop.codes() == []


# --- where ----------------------------------------------------------------------------------------


def test_a_function_of_the_project_is_followed_one_call_deep(shop: Shop) -> None:
    shop.write(
        "shop/times.py",
        "import time\n\ndef stamp() -> float:\n    return time.time()\n\n"
        "def outer() -> float:\n    return stamp()\n",
    )
    shop.write("shop/api.py", "from shop.times import outer, stamp as mark\n")
    shop.flow("print(api.mark())", "from shop import api")

    (found,) = shop.lint()

    assert str(found.place) == "shop/times.py:4:12"
    assert found.message.endswith("`stamp` is called by the workflow `flow`")
    assert [place.path for place in found.related] == ["shop/flows.py"]
    shop.flow("print(api.outer())", "from shop import api")
    assert shop.codes() == []


HELPERS = """
import asyncio
from shop_pikku import Context, WorkflowContext, rpc, pikku_func

@pikku_func
async def ping(ctx: Context) -> str:
    return "pong"

"""


@pytest.mark.parametrize(
    ("helper", "found"),
    [
        (
            "async def part(ctx: WorkflowContext) -> None:\n    ctx.workflow.do('A', ping)",
            "PKG302:10:5",
        ),
        ("async def part(c: 'WorkflowContext') -> None:\n    c.workflow.do('A', ping)", "PKG302"),
        (
            "async def part(flow: WorkflowSteps) -> None:\n    step = flow.do('A', ping)",
            "PKG303:10:12",
        ),
        ("async def part(n: int, *, ctx) -> None:\n    ctx.workflow.sleep('A', '1s')", "PKG302"),
        ("async def part(ctx) -> None:\n    await ctx.workflow.do('', ping)", "PKG304"),
        (
            "async def part(ctx, names):\n"
            "    await asyncio.gather(*(ctx.workflow.do('A', ping) for name in names))",
            "PKG305",
        ),
        ("async def part(ctx):\n    await ctx.workflow.do('A', 'pign')", "PKG210"),
        ("async def part(ctx):\n    await ctx.workflow.do('A', 'ping', 3)", "PKG211"),
        ("async def part(ctx: WorkflowContext):\n    await ctx.rpc.ping()", "PKG301"),
        ("async def part(ctx: WorkflowContext):\n    await ping(ctx)", "PKG301"),
        (
            "class Part:\n    async def run(self, ctx: WorkflowContext) -> None:\n"
            "        ctx.workflow.do('A', ping)",
            "PKG302:11:9",
        ),
        ("def part(ctx):\n    return ctx.workflow.do('A', ping)", ""),
        ("async def part(ctx):\n    return await ctx.workflow.do('A', ping)", ""),
        ("async def part(ctx):\n    await ctx.rpc.ping()\n    await rpc.ping()", ""),
        ("async def part(ctx: Context):\n    await ctx.rpc.ping()", ""),
        ("async def part(ctx):\n    step = ctx.workflow.do('A', ping)\n    return step", ""),
        ("async def part(c):\n    c.workflow.do('A', ping)", ""),
        (
            "async def part(ctx):\n"
            "    ctx.workflow.do('A', ping)  # pikku: allow[PKG302] never reached",
            "",
        ),
    ],
)
def test_the_steps_of_a_function_that_is_handed_the_context_are_judged(
    shop: Shop, helper: str, found: str
) -> None:
    shop.write("shop/parts.py", f"{HELPERS}{helper}\n")

    for _ in ("read", "remembered"):
        said = [f"{each.code}:{each.place}" for each in shop.run().diagnostics]
        assert [where.replace(":shop/parts.py:", ":")[: len(found)] for where in said] == (
            [found] if found else []
        )


CLERKS = """
import time

class Desk:
    def opened(self) -> float:
        return time.time()

class Clerk(Desk):
    def __init__(self, name: str = "") -> None:
        self.name = name

    def stamp(self) -> float:
        return self.stamped()

    def stamped(self) -> float:
        return time.monotonic()

    def late(self) -> bool:
        return self.opened() > 9

    @staticmethod
    def now(clerk: object = None) -> float:
        return time.perf_counter()

    @classmethod
    def first(cls) -> float:
        return cls.now()

    @property
    def since(self) -> float:
        return time.time()

class Timed:
    def __init__(self) -> None:
        self.at = time.time()

def clerk() -> Clerk:
    return Clerk()
"""


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("print(Clerk().stamped())", ["`Clerk.stamped` is called by the workflow `flow`"]),
        (
            "clerk = Clerk('a')\nprint(clerk.stamp())",
            ["`Clerk.stamped` is called by the workflow `flow` through `Clerk.stamp`"],
        ),
        ("clerk: Clerk = made()\nprint(clerk.stamped())", ["`Clerk.stamped` is called by"]),
        ("print(Clerk().opened())", ["`Desk.opened` is called by the workflow `flow`"]),
        (
            "print(Clerk().late())",
            ["`Desk.opened` is called by the workflow `flow` through `Clerk.late`"],
        ),
        ("print(Clerk.now())", ["`Clerk.now` is called by the workflow `flow`"]),
        ("print(Clerk.first())", ["`Clerk.now` is called by the workflow `flow` through"]),
        ("print(desk.opened())", ["`Desk.opened` is called by the workflow `flow`"]),
        ("print(shifts.Clerk().stamped())", ["`Clerk.stamped` is called by"]),
        ("print(Timed())", ["`Timed.__init__` is called by the workflow `flow`"]),
        ("await ctx.workflow.do('A', lambda: Clerk().stamp())", []),
        ("print(Clerk())", []),
        ("print(Clerk().since)", []),
        ("print(clerk().stamped())", []),
        ("def Clerk() -> None: ...\nprint(Clerk().stamped())", []),
        ("clerk = Clerk()\nclerk = made()\nprint(clerk.stamped())", []),
    ],
)
def test_a_method_is_followed_where_the_class_is_plain_to_see(
    shop: Shop, body: str, found: list[str]
) -> None:
    shop.write("shop/clerks.py", CLERKS)
    shop.write("shop/shifts.py", "from shop.clerks import Clerk\n")
    imports = """
        from shop import shifts
        from shop.clerks import Clerk, Desk, Timed, clerk
        from shop.makers import made
        desk = Desk()
    """
    shop.write("shop/makers.py", "def made() -> object: ...\n")
    shop.flow(body, imports)

    said = shop.lint()

    assert [each.code for each in said] == ["PKG306"] * len(found)
    assert all(words in each.message for words, each in zip(found, said, strict=True))


def test_a_parameter_of_a_class_of_the_project_is_followed(shop: Shop) -> None:
    shop.write("shop/clerks.py", CLERKS)
    flow = FLOW.replace("list[str]", "Clerk").replace("names", "clerk")
    text = f"from shop.clerks import Clerk\n{HEAD}{flow}    print(clerk.stamped())\n"
    shop.write("shop/flows.py", text)

    (found,) = [each for each in shop.run().diagnostics if each.code.startswith("PKG3")]

    assert str(found.place) == "shop/clerks.py:16:16"
    assert [place.path for place in found.related] == ["shop/flows.py"]


def test_the_standard_library_is_found_behind_names_of_the_project(shop: Shop) -> None:
    shop.write("shop/times.py", "from datetime import datetime\nnow = datetime.now\n")
    shop.flow("print(now())", "from shop.times import now")

    assert shop.codes() == ["PKG306"]


def test_a_change_of_a_function_is_seen_although_the_workflow_stays(shop: Shop) -> None:
    shop.write("shop/times.py", "def stamp() -> float:\n    return 1.0\n")
    shop.flow("print(stamp())", "from shop.times import stamp")
    assert shop.codes() == []

    shop.write("shop/times.py", "import time\n\ndef stamp() -> float:\n    return time.time()\n")

    assert shop.codes() == ["PKG306"]
    assert shop.codes() == ["PKG306"]


def test_functions_and_inline_steps_may_do_what_they_like(shop: Shop) -> None:
    shop.flow(
        """
        def draw() -> float:
            return random.random()

        await ctx.workflow.do("Time", lambda: time.time())
        await ctx.workflow.do("Draw", draw)
        await ctx.workflow.do("Half", partial(half, 1.0))
        await ctx.workflow.do("Ask", lambda: ctx.services.ask())
        await ctx.workflow.do("Work", work)
        """,
        """
        import random, time
        from functools import partial
        from shop.works import half, work
        """,
    )
    shop.write(
        "shop/works.py",
        "import time\nfrom shop_pikku import Context, pikku_func\n\n"
        "def half(n: float) -> float:\n    return n / time.time()\n\n"
        "@pikku_func\nasync def work(ctx: Context) -> float:\n    return time.time()\n",
    )

    assert shop.codes() == []


def test_an_inline_callable_must_not_block_nor_must_what_it_calls(shop: Shop) -> None:
    shop.flow(
        """
        await ctx.workflow.do("Wait", lambda: time.sleep(1))
        await ctx.workflow.do("Fetch", fetch)
        await ctx.workflow.do("Fetch more", lambda: fetch())
        """,
        "import time\nfrom shop.web import fetch",
    )
    shop.write(
        "shop/web.py",
        "import requests\n\ndef fetch() -> str:\n    return requests.get('https://a').text\n",
    )

    assert shop.codes() == ["PKG318", "PKG318"]


def test_services_are_for_steps(shop: Shop) -> None:
    shop.flow("db = ctx.services.db\nprint(db, ctx.logger, ctx.run_id)")

    (found,) = shop.lint()

    assert (found.code, found.message.split("`")[1]) == ("PKG317", "ctx.services")


# --- sets, variables, handlers, results -----------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "for n in {*names}:\n    await ctx.workflow.do(f'A {n}', ping)",
        "for n in set(names):\n    names.append(n)",
        "chosen = set(names)\nprint([n for n in chosen])",
        "chosen: set[str] = set()\nprint(list(chosen))",
        "a, b = frozenset(names), names\nc = set(a) | set(b)\nprint(', '.join(c))",
        "print(*{n.upper() for n in names})",
        "chosen = {n for n in names}\nprint(next(iter(chosen)))",
        "chosen = {n for n in names}\nprint(chosen.pop())",
    ],
)
def test_the_order_of_a_set_is_reported_where_it_shows(shop: Shop, body: str) -> None:
    shop.flow(body)

    assert shop.codes() == ["PKG313"]


@pytest.mark.parametrize(
    "body",
    [
        "print(sorted(set(names)), len(set(names)), max({*names}))",
        "print(sum(1 for n in set(names)), any(n for n in {*names}))",
        "print({n.upper() for n in set(names)})",
        "print([n for n in {1, 2, 3}], [n for n in dict.fromkeys(names)])",
        "seen: set[int] = set()\nprint(list(seen))",
        "total = 0\nfor n in set(names):\n    total += len(n)",
        "tasks = set()\nfor n in names:\n    tasks.add(asyncio.create_task(f(n)))\n"
        "await asyncio.gather(*tasks)",
        "chosen = set(names)\nchosen = list(names)\nprint(list(chosen))",
        "print('a' in {'a', 'b'})",
    ],
)
def test_a_set_is_not_reported_where_its_order_does_not_matter(shop: Shop, body: str) -> None:
    shop.flow(body, "import asyncio\nasync def f(n): ...")

    assert shop.codes() == []


def test_variables_of_the_module_are_reported_where_anything_changes_them(shop: Shop) -> None:
    shop.flow(
        """
        print(RATES["a"], SEEN)
        COUNTS[names[0]] = 1
        """,
        """
        RATES = {"a": 1}
        SEEN: list[str] = []
        COUNTS = {}

        def note(name: str) -> None:
            SEEN.append(name)
        """,
    )

    assert [found.message.split("`")[1] for found in shop.lint()] == ["SEEN", "COUNTS"]


@pytest.mark.parametrize(
    ("handler", "reported"),
    [
        ("except BaseException:\n    pass", True),
        ("except:\n    return None", True),
        ("except asyncio.CancelledError:\n    pass", True),
        ("except (ValueError, asyncio.CancelledError) as error:\n    print(error)", True),
        ("except BaseException:\n    print(1)\n    raise", False),
        ("except asyncio.CancelledError:\n    raise\nexcept BaseException:\n    pass", False),
        ("except Exception:\n    pass", False),
        ("except ValueError:\n    pass\nfinally:\n    print(1)", False),
    ],
)
def test_a_handler_that_swallows_the_cancellation_is_reported(
    shop: Shop, handler: str, reported: bool
) -> None:
    shop.flow(f"try:\n    await ctx.workflow.do('A', ping)\n{handler}", "import asyncio")

    assert shop.codes() == (["PKG315"] if reported else [])


def test_to_wait_for_a_task_that_the_body_cancelled_swallows_nothing(shop: Shop) -> None:
    shop.flow(
        """
        task = asyncio.create_task(ctx.workflow.do("A", ping))
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        """,
        "import asyncio",
    )

    assert shop.codes() == []


def test_a_cancellation_that_is_kept_and_raised_below_is_not_swallowed(shop: Shop) -> None:
    shop.flow(
        """
        problem = None
        try:
            await ctx.workflow.do("A", ping)
        except BaseException as error:
            problem = error
        if problem:
            await ctx.workflow.do("Tell", ping)
            raise problem
        """
    )

    assert shop.codes() == []


def test_what_no_codec_can_carry_is_an_error(shop: Shop) -> None:
    shop.flow(
        """
        await ctx.workflow.do("A", lambda: (n for n in names))
        await ctx.workflow.do("B", lambda: open("a"))
        await ctx.workflow.do("C", lambda: [n for n in names])
        return json
        """,
        "import json",
    )

    outcome = shop.run()

    assert [found.code for found in outcome.diagnostics] == ["PKG316"] * 3
    assert outcome.failed


# --- what a project says --------------------------------------------------------------------------


def test_warnings_are_printed_and_the_package_is_written(shop: Shop) -> None:
    shop.flow("print(time.time())", "import time")

    result = CliRunner().invoke(main, ["--project", str(shop.folder)])

    assert result.exit_code == 0
    assert "PKG306 warning: `time.time()` reads the clock" in result.stderr
    assert result.stderr.endswith("20 written, 0 unchanged; 1 warning\n")
    again = CliRunner().invoke(main, ["--project", str(shop.folder)])
    assert again.stderr.endswith("is up to date; 1 warning\n")


@pytest.mark.parametrize(
    ("level", "severities", "failed"),
    [("error", ["error"], True), ("note", ["note"], False), ("off", [], False)],
)
def test_a_project_chooses_severities(
    shop: Shop, level: str, severities: list[str], failed: bool
) -> None:
    shop.flow("print(time.time())", "import time")
    settings = f'[tool.pikku]\nroot = "shop"\n\n[tool.pikku.lint]\nPKG306 = "{level}"\n'
    shop.write("pyproject.toml", settings)

    outcome = shop.run()

    assert [found.severity for found in outcome.diagnostics] == severities
    assert outcome.failed is failed


def test_an_error_may_become_a_warning(shop: Shop) -> None:
    shop.flow("await asyncio.sleep(3)", "import asyncio")
    settings = '[tool.pikku]\nroot = "shop"\nlint = { PKG312 = "warning" }\n'
    assert shop.run().failed

    shop.write("pyproject.toml", settings)

    assert not shop.run().failed


def test_a_severity_that_does_not_exist_is_a_diagnostic_at_its_line(shop: Shop) -> None:
    shop.flow("pass")
    shop.write(
        "pyproject.toml",
        '[tool.pikku]\nroot = "shop"\n\n[tool.pikku.lint]\nPKG306 = "loud"\nPKG3006 = "off"\n',
    )

    found = shop.run().diagnostics

    assert [(each.code, each.place.span.line) for each in found] == [("PKG504", 5), ("PKG504", 6)]
    assert "`PKG306` must be one of error, warning, note, off, not `loud`" in found[0].message
    assert found[1].hint == "did you mean `PKG306`?"


def test_a_comment_allows_what_its_line_does(shop: Shop) -> None:
    shop.flow(
        """
        print(time.time())  # pikku: allow[PKG306] only printed
        # pikku: allow[PKG306,PKG307] only printed
        print(
            time.time(), random.random()
        )
        # pikku: allow[PKG306, PKG307] only printed
        print(time.time(), random.random())
        print("# pikku: allow[PKG306] a text", time.time())
        """,
        "import random, time",
    )

    found = shop.lint()

    assert [each.code for each in found] == ["PKG320", "PKG320", "PKG306", "PKG307", "PKG306"]


def test_a_comment_allows_what_other_rules_say_of_a_body(shop: Shop) -> None:
    shop.flow("ctx.workflow.do('A', ping)  # pikku: allow[PKG302] never meant to run")

    assert shop.codes() == []


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("# pikku: allow[PKG306]", "gives no reason"),
        ("# pikku: allow", "names no code"),
        ("# pikku: allow[PKG202] because", "`PKG202` is no code of the determinism lint"),
        ("# pikku: allow[PKG307] because", "nothing here is reported as PKG307"),
    ],
)
def test_a_comment_that_allows_nothing_is_a_note(shop: Shop, comment: str, words: str) -> None:
    shop.flow(f"print(time.time())  {comment}", "import time")

    found = shop.lint()

    assert [each.severity for each in found] == ["warning", "note"]
    assert words in found[1].message


# --- fixes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("datetime.now()", "await ctx.workflow.now()"),
        ("datetime.now().isoformat()", "(await ctx.workflow.now()).isoformat()"),
        ("(datetime.utcnow()).hour", "(await ctx.workflow.now()).hour"),
        ("datetime.now(UTC)", "await ctx.workflow.now()"),
        ("datetime.now(tz=ZONE)", "(await ctx.workflow.now()).astimezone(ZONE)"),
        ("date.today().year", "(await ctx.workflow.now()).date().year"),
        ("-time.time()", "-(await ctx.workflow.now()).timestamp()"),
        ("str(uuid.uuid4())[:8]", "str(await ctx.workflow.uuid4())[:8]"),
        ("[random.random()  for n in names]", "[await ctx.workflow.random()  for n in names]"),
        ("await asyncio.sleep(90)", 'await ctx.workflow.sleep("Wait 90s", "90s")'),
        ("await asyncio.sleep(0.5)", 'await ctx.workflow.sleep("Wait 500ms", "500ms")'),
        ("lambda: datetime.now()", "lambda: datetime.now()"),
        ("f'{datetime.now()}'", "f'{datetime.now()}'"),
        ("await asyncio.sleep(names[0])", "await asyncio.sleep(names[0])"),
        ("print(random.choice( names ))", "print(random.choice( names ))"),
    ],
)
def test_what_is_mechanical_is_mended_and_the_rest_stays(
    shop: Shop, before: str, after: str
) -> None:
    imports = """
    import asyncio, random, time, uuid
    from datetime import UTC, date, datetime
    ZONE = UTC
    """
    shop.flow(f"x = 1 # é\ny =   {before} # kept", imports)
    old = shop.read("shop/flows.py")

    fix(shop.folder)

    assert shop.read("shop/flows.py") == old.replace(before, after)


def test_a_fixed_file_keeps_its_line_ends_its_mode_and_its_mark(shop: Shop) -> None:
    shop.flow("print(datetime.now())", "from datetime import datetime")
    file = shop.folder / "shop" / "flows.py"
    data = b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n")
    file.write_bytes(data)
    file.chmod(0o750)

    result = CliRunner().invoke(main, ["--fix", "--project", str(shop.folder)])

    assert result.exit_code == 0
    assert result.stderr.startswith("pikku-gen: mended 1 place\n")
    assert file.read_bytes() == data.replace(b"datetime.now()", b"await ctx.workflow.now()")
    assert file.stat().st_mode & 0o777 == 0o750


def test_what_is_allowed_is_not_mended(shop: Shop) -> None:
    shop.flow("print(time.time())  # pikku: allow[PKG306] only printed", "import time")

    assert fix(shop.folder) == 0


def test_a_helper_is_mended_only_where_it_has_the_context(shop: Shop) -> None:
    shop.flow("await one(ctx)\nprint(two())", "from shop.times import one, two")
    shop.write(
        "shop/times.py",
        "import time\nfrom shop_pikku import WorkflowContext\n\n"
        "async def one(c: WorkflowContext) -> float:\n    return time.time()\n\n"
        "def two() -> float:\n    return time.time()\n",
    )

    assert fix(shop.folder) == 1
    assert "return (await c.workflow.now()).timestamp()" in shop.read("shop/times.py")


def test_fix_and_check_exclude_one_another(shop: Shop) -> None:
    result = CliRunner().invoke(main, ["--fix", "--check", "--project", str(shop.folder)])

    assert result.exit_code == 2
