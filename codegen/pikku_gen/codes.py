"""The table of diagnostics: it owns every code, its words, its hint, cause, example and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One code. `words` and `hint` are formatted with the diagnostic's subject as `{0}`."""

    code: str
    title: str
    words: str
    hint: str
    cause: str
    example: str
    remedy: str
    severity: Severity = "error"


AREAS: Final = {
    "1": "reading",
    "2": "names and types",
    "3": "determinism",
    "4": "writing",
    "5": "configuration",
    "6": "the standalone client",
}

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        "PKG101",
        "unreadable file",
        "this file cannot be read: {0}",
        "make it readable, or move it out of the source folders",
        "The file exists but the operating system refused to open it: a missing permission, a link"
        " that leads nowhere or to itself.",
        "shop/loop.py -> loop.py",
        "Repair the link or the permission. A file that is not part of the application belongs"
        " outside of the root package.",
    ),
    Entry(
        "PKG102",
        "undecodable file",
        "this file is not text in its declared encoding: {0}",
        "save it as UTF-8, or declare its encoding in the first line",
        "The bytes are not valid in the encoding that the file declares (UTF-8 where it declares"
        " none), or the declared encoding does not exist.",
        "# -*- coding: no-such-encoding -*-",
        "Save the file as UTF-8 and remove the declaration.",
    ),
    Entry(
        "PKG103",
        "syntax error",
        "this file is not valid Python",
        "nothing was written; the package of the last good run is still there",
        "The file does not parse: it is half-saved, or the code is wrong at the place shown.",
        "async def charge(ctx: Context, data: Charge -> Receipt:",
        "Correct the syntax and run pikku-gen again.",
    ),
    Entry(
        "PKG104",
        "file that cannot be imported",
        "`{0}` is no module name, so nothing in this file can be imported",
        "rename the file or folder to an identifier",
        "A file below the root package uses a pikku decorator, but its path holds a name that is"
        " no Python identifier, so the application could never import it.",
        "shop/order-functions.py",
        "Rename it, for example to `order_functions.py`.",
    ),
    Entry(
        "PKG105",
        "declaration inside a function or class",
        "`{0}` must be declared at the top level of its module",
        "move it out of the function or class around it",
        "Functions and workflows are found again by module and qualified name in every process;"
        " what is made inside another function or a class body has no such name.",
        "def make() -> None:\n    @pikku_func\n    async def charge(ctx: Context) -> None: ...",
        "Move the declaration to the top level.",
    ),
    Entry(
        "PKG106",
        "declaration that cannot be read",
        "this use of `{0}` cannot be read without running it",
        "write it as a decorator or call with plain keywords",
        "The generator reads declarations from the source. A decorator called on a value, options"
        " given by position or unpacked from a dictionary hide what is declared.",
        "charge = pikku_func(_charge)\nwire_workflow(**options)",
        "Use `@pikku_func`, `@pikku_func(name=…)`, `wire_workflow(name=…, func=…)`,"
        " `wire_signal(name=…, payload=…)`, `wire_queue_worker(queue=…, func=…)`,"
        " `wire_scheduler(name=…, schedule=…, func=…)`.",
    ),
    Entry(
        "PKG201",
        "missing annotation",
        "{0} has no annotation",
        "annotate it: the generated types are copied from here",
        "The generated package copies the annotations of each function. Where one is missing the"
        " result would be untyped.",
        "@pikku_func\nasync def charge(ctx: Context, data) -> Receipt: ...",
        "Annotate the data parameter and the result (`-> None` where nothing is returned).",
    ),
    Entry(
        "PKG202",
        "unresolvable name in an annotation",
        "`{0}` leads to no type here",
        "import it in this file, or define it",
        "A name in an annotation is neither a builtin nor bound at the top level of the file, or"
        " the module it is imported from does not have it.",
        "@pikku_func\nasync def pay(ctx: Context, data: Chrage) -> Receipt: ...",
        "Import the type by its right name; an import under `if TYPE_CHECKING:` is fine.",
    ),
    Entry(
        "PKG203",
        "signature",
        "`{0}` must take the context and at most one input",
        "write `(ctx: Context)` or `(ctx: Context, data: Input)`, without a default",
        "Functions and workflows have one input: it is validated, stored and replayed as one"
        " value. A default would leave open whether the function takes one.",
        "@pikku_func\nasync def charge(ctx: Context, order_id: str, amount: int) -> Receipt: ...",
        "Put the values into one dataclass, TypedDict or model and take that.",
    ),
    Entry(
        "PKG204",
        "duplicate RPC name",
        "the RPC name `{0}` is taken",
        "rename one of the functions, or give it a `name=`",
        "Two functions answer to one RPC name. By default the name is the function's own.",
        '@pikku_func(name="charge")\nasync def charge_card(ctx: Context) -> None: ...',
        'Rename one, or give one a name of its own: `@pikku_func(name="charge_card")`.',
    ),
    Entry(
        "PKG205",
        "duplicate workflow name",
        "the workflow name `{0}` is taken",
        "give each wired workflow a name of its own",
        "Two calls of wire_workflow use one name, so a run could not tell which function it has.",
        'wire_workflow(name="order", func=order_workflow)\n'
        'wire_workflow(name="order", func=refund_workflow)',
        "Rename one of them.",
    ),
    Entry(
        "PKG206",
        "attribute collision",
        "the attribute `{0}` is taken by another name",
        "rename one of them: names that are no identifiers get `_` for every other character",
        "A name that is no Python identifier gets a sanitised attribute (`user-onboarding` becomes"
        " `user_onboarding`); here two names end up with the same one.",
        'wire_workflow(name="user-onboarding", func=order_workflow)\n'
        'wire_workflow(name="user_onboarding", func=refund_workflow)',
        "Rename one of them.",
    ),
    Entry(
        "PKG207",
        "value that is not literal",
        "`{0}` must be a literal",
        "write the value in place: it becomes part of the generated types",
        "Names, descriptions, tags and `expose` are read from the source and never computed, so a"
        " variable, an f-string or a call cannot be used for them.",
        'wire_workflow(name=PREFIX + "order", func=order_workflow)',
        "Write the string itself.",
    ),
    Entry(
        "PKG208",
        "unknown option",
        "{0}",
        "see the options in the signature of the decorator",
        "A decorator or a call such as wire_workflow was given a keyword that it does not have.",
        "@pikku_func(retrys=3)\nasync def pay(ctx: Context) -> None: ...",
        "Use the name the hint shows.",
    ),
    Entry(
        "PKG209",
        "workflow that is not async",
        "the workflow `{0}` must be an `async def`",
        "write `async def`",
        "A workflow awaits its steps, so it is always a coroutine function. Synchronous functions"
        " are welcome under @pikku_func.",
        "@pikku_workflow_func\ndef order_workflow(ctx: WorkflowContext) -> None: ...",
        "Write `async def`.",
    ),
    Entry(
        "PKG210",
        "unknown name",
        "{0}",
        "declare it with @pikku_func, wire_workflow, wire_signal or wire_queue_worker, or correct"
        " the name",
        "A string or an attribute names an RPC, a workflow, a signal or a queue that the project"
        " does not declare.",
        'await ctx.workflow.do("Send welcome email", "send_mail", data)',
        "Use the name the hint shows.",
    ),
    Entry(
        "PKG211",
        "data that does not fit",
        "{0}",
        "give the target the input that it declares",
        "The data of a step is known to be of another type than its target declares: a variable of"
        " another type, a dictionary with a missing or unknown key, a literal of another"
        " primitive.",
        'await ctx.workflow.do("Send", "send_email", {"to": 1})',
        "Pass what the target declares; `pikku-gen` names the difference.",
    ),
    Entry(
        "PKG212",
        "wire to something that is no workflow",
        "`{0}` is not a workflow",
        "wire a function under @pikku_workflow_func",
        "The `func` of wire_workflow does not lead to a function under @pikku_workflow_func of"
        " this project.",
        'wire_workflow(name="charge", func=charge)  # an RPC function',
        "Name a workflow function; RPC functions need no wiring.",
    ),
    Entry(
        "PKG213",
        "workflow that is not wired",
        "the workflow `{0}` is used here but not wired",
        "add `wire_workflow(name=…, func={0})`",
        "A workflow becomes startable when it is wired under a name; this one never is.",
        'await ctx.workflow.do("Welcome", welcome_workflow, data)',
        "Wire it.",
    ),
    Entry(
        "PKG214",
        "ambiguous union",
        "`{0}` is a union of models that nothing tells apart",
        'add a discriminator: `Annotated[A | B, Field(discriminator="kind")]`, or a `Literal`'
        " field with another value in each",
        "A stored value is decoded by its declared type. Where two models could both accept it,"
        " the result would be a guess.",
        "@pikku_func\nasync def pay(ctx: Context, data: Card | Transfer) -> None: ...",
        'Give each model a field like `kind: Literal["card"]`, or name a discriminator.',
    ),
    Entry(
        "PKG215",
        "typing.TypedDict before Python 3.12",
        "`{0}` is a `typing.TypedDict`, which cannot be validated before Python 3.12",
        "import TypedDict from typing_extensions",
        "pydantic refuses `typing.TypedDict` on Python 3.11, and the project's `requires-python`"
        " admits it.",
        "from typing import TypedDict\n\n"
        "class Options(TypedDict):\n    gift: bool\n\n"
        "@pikku_func\nasync def wrap(ctx: Context, data: Options) -> None: ...",
        '`from typing_extensions import TypedDict`, or `requires-python = ">=3.12"`.',
    ),
    Entry(
        "PKG216",
        "types beside functions",
        "input and output types stand beside imports of the generated package in {0}",
        "move the types to a module that imports nothing generated: type checkers recheck less",
        "The generated stubs import this module for its types, and it imports the generated"
        " package: an import cycle that makes every type check slower.",
        "@dataclass\nclass Parcel:\n    weight: int\n\n"
        "@pikku_func\nasync def send(ctx: Context, data: Parcel) -> None: ...",
        "Move the types to, for example, `types.py`. This is a note: nothing is wrong.",
        severity="note",
    ),
    Entry(
        "PKG217",
        "string names left out",
        "{0}",
        'use the attribute form, or set `string_names = "always"` in [tool.pikku]',
        "Overloads by string make type checkers slower with the square of their number, so above"
        " a limit only the attribute form is generated. A string is then a type error.",
        'await ctx.rpc.invoke("charge", data)   # write: await ctx.rpc.charge(data)',
        'Use attributes or function references. `string_names = "always"` brings them back.',
        severity="note",
    ),
    Entry(
        "PKG218",
        "duplicate signal name",
        "the signal name `{0}` is taken",
        "give each signal a name of its own, and import the one that exists where it is meant",
        "Two calls of wire_signal use one name, so a payload could be of either type.",
        'upgraded = wire_signal(name="upgraded", payload=Upgrade)\n'
        'renewed = wire_signal(name="upgraded", payload=Renewal)',
        "Rename one of them, or import the other.",
    ),
    Entry(
        "PKG219",
        "payload that is no type",
        "the payload `{0}` is not written as a type",
        "name a class or an alias, or leave `payload` out",
        "The payload of a signal becomes part of the generated types, so it is read from the"
        " source: a name, a dotted name, or one with its parameters.",
        'wire_signal(name="upgraded", payload=make_type())',
        "Define the type at the top level of a module and name it.",
    ),
    Entry(
        "PKG220",
        "name of a function and of a workflow",
        "`{0}` is the name of an RPC too",
        "rename the workflow or the function: a step that names it by a string could mean either",
        "Steps may name functions and workflows by a string. Where one name stands for both, the"
        " string does not say whether a function is called or a run is started.",
        "@pikku_func\nasync def order(ctx: Context) -> None: ...\n\n"
        'wire_workflow(name="order", func=order_workflow)',
        "Rename one of them.",
    ),
    Entry(
        "PKG221",
        "queue with two functions",
        "the queue `{0}` has a function already",
        "give each queue one function",
        "Two calls of wire_queue_worker use one queue, so a job could be for either function.",
        'wire_queue_worker(queue="mail", func=send_email)\n'
        'wire_queue_worker(queue="mail", func=charge)',
        "Give one of them a queue of its own.",
    ),
    Entry(
        "PKG222",
        "duplicate schedule name",
        "the schedule name `{0}` is taken",
        "give each schedule a name of its own",
        "Two calls of wire_scheduler use one name. What is due is found, paused and resumed by its"
        " name, so each schedule needs one.",
        'wire_scheduler(name="nightly", schedule="0 3 * * *", func=report)\n'
        'wire_scheduler(name="nightly", schedule="0 4 * * *", func=report)',
        "Rename one of them.",
    ),
    Entry(
        "PKG223",
        "wire to something that is no function",
        "`{0}` is not a function of this project",
        "wire a function under @pikku_func",
        "The `func` of wire_queue_worker does not lead to a function under @pikku_func of this"
        " project, or that of wire_scheduler neither to one nor to a workflow.",
        'wire_queue_worker(queue="orders", func=order_workflow)  # a workflow',
        "Name a function under @pikku_func. One that starts the workflow does for a queue:"
        ' `await ctx.rpc.start_workflow("order")`.',
    ),
    Entry(
        "PKG224",
        "input that no schedule can give",
        "`{0}` takes another input than a datetime",
        "let it take nothing, or the time at which it was due: a datetime",
        "What is due by the clock is called without an input, or with the time for which it was"
        " due. There is nobody to give it anything else.",
        'wire_scheduler(name="nightly", schedule="0 3 * * *", func=charge)',
        "Take `(ctx: Context)` or `(ctx: Context, due: datetime)`, and find out the rest in the"
        " function.",
    ),
    Entry(
        "PKG225",
        "bad schedule",
        "{0}",
        "write minute, hour, day of the month, month and day of the week: `0 3 * * *`",
        "The schedule is no cron expression of five fields, nor one of `@hourly`, `@daily`,"
        " `@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually`; or it is one that is"
        " never due.",
        'wire_scheduler(name="nightly", schedule="0 25 * * *", func=report)',
        'Correct the field that is named: `schedule="0 3 * * *"` is due at three every night.',
    ),
    Entry(
        "PKG226",
        "unknown time zone",
        "there is no time zone `{0}`",
        "name one of the time zone database, such as `Europe/Berlin`",
        "The hours of a schedule are told in its time zone, and the time zone database of this"
        " system has none of that name.",
        'wire_scheduler(name="nightly", schedule="0 3 * * *", timezone="Berlin", func=report)',
        '`timezone="Europe/Berlin"`; without `timezone` the hours are those of UTC.',
    ),
    Entry(
        "PKG227",
        "name that cannot be used",
        "{0}",
        "choose another name, without `schedule:` or `queue:` in front",
        "Workflows whose names begin with `schedule:` or `queue:` are pikku's own, and so are the"
        " queues `orchestrator` and `inline`. The name of a queue is 1 to 64 of the characters"
        " A-Z a-z 0-9 _ . -.",
        'wire_workflow(name="schedule:order", func=order_workflow)\n'
        'wire_queue_worker(queue="outgoing mail", func=send_email)',
        "Choose another name.",
    ),
    Entry(
        "PKG301",
        "work outside of a step",
        "`{0}` in a workflow would run again on every replay",
        'make it a step: `await ctx.workflow.do("Step name", …)`',
        "A workflow is replayed from the start whenever it goes on; only steps are remembered. A"
        " direct call would repeat each time.",
        "await ctx.rpc.send_email(data)",
        '`await ctx.workflow.do("Send email", ctx.rpc.send_email, data)`',
    ),
    Entry(
        "PKG302",
        "step that is not awaited",
        "this step is never awaited, so it never runs",
        "write `await {0}`",
        "A step is a coroutine: without `await` nothing happens.",
        'ctx.workflow.sleep("Wait", "5min")',
        "Await it, or hand it to asyncio.gather or a TaskGroup.",
    ),
    Entry(
        "PKG303",
        "step that is never used",
        "this step is kept in `{0}` and never awaited",
        "await `{0}`, or hand it to `asyncio.gather`",
        "The coroutine of a step was assigned, but nothing awaits it afterwards.",
        'email = ctx.workflow.do("Send", "send_email", data)\nreturn None',
        "Await the variable before the workflow returns.",
    ),
    Entry(
        "PKG304",
        "step without a name",
        "{0}",
        "give the step a descriptive name: it is its key in the run's history",
        "Each step is remembered by its name, so the first argument must be a string that is not"
        " empty.",
        'await ctx.workflow.do("", "send_email", data)',
        '`await ctx.workflow.do("Send welcome email", "send_email", data)`',
    ),
    Entry(
        "PKG305",
        "step name in concurrent branches",
        'the step name "{0}" is used by branches that run at the same time',
        "give each branch its own name",
        "Repeated names are told apart by the order in which they are reached; in concurrent"
        " branches that order says nothing about which is which.",
        'await asyncio.gather(*[ctx.workflow.do("Reserve", reserve, item) for item in items])',
        '`ctx.workflow.do(f"Reserve {item.id}", reserve, item)`',
    ),
    Entry(
        "PKG306",
        "clock in a workflow",
        "`{0}` reads the clock: another time on every replay",
        "write `await ctx.workflow.now()`: it is recorded once",
        "The body is executed again on every replay, and the clock has gone on since. What depends"
        " on it may then take another way than the history says.",
        "started = datetime.now()",
        "`started = await ctx.workflow.now()`, or read the clock inside a step. `pikku-gen --fix`"
        " does it where a workflow's own body reads the clock. The time of `ctx.workflow.now()` is"
        " aware and in UTC.",
        severity="warning",
    ),
    Entry(
        "PKG307",
        "chance in a workflow",
        "`{0}` is another value on every replay",
        'make it a step: `await ctx.workflow.do("Draw", lambda: {0})`',
        "Random numbers, random identifiers and secrets are drawn again on every replay, so that"
        " the body sees others than those that the history was made with.",
        "key = uuid4()",
        "`await ctx.workflow.uuid4()` or `await ctx.workflow.random()`, which are recorded once;"
        " anything else in an inline step, whose result is recorded.",
        severity="warning",
    ),
    Entry(
        "PKG308",
        "environment in a workflow",
        "`{0}` looks at the process it is in: a replay may be in another",
        'make it a step: `await ctx.workflow.do("Read setting", lambda: {0})`',
        "Environment variables, host names and process numbers are those of the process that"
        " executes the body at the moment. Replays happen in other processes, on other machines and"
        " after deploys.",
        'region = os.environ["REGION"]',
        '`await ctx.workflow.do("Read region", lambda: os.environ["REGION"])`, or give it to the'
        " workflow as input.",
        severity="warning",
    ),
    Entry(
        "PKG309",
        "network in a workflow",
        "`{0}` speaks to the network on every replay",
        'make it a step: `await ctx.workflow.do("Ask", function, data)`',
        "The body is executed again on every replay: the request is sent again, and may be answered"
        " otherwise. Clients that need the event loop do not work in a body at all.",
        "rates = requests.get(url).json()",
        "Put it into a function under `@pikku_func`, and call that by"
        ' `await ctx.workflow.do("Fetch rates", fetch_rates, url)`.',
        severity="warning",
    ),
    Entry(
        "PKG310",
        "file in a workflow",
        "`{0}` reads or changes files on every replay",
        'make it a step: `await ctx.workflow.do("Read file", function, data)`',
        "The body is executed again on every replay, perhaps on another machine: a file that is"
        " written is written again, one that is read may have changed or be missing.",
        'text = Path("terms.txt").read_text()',
        'Read it in a step: `await ctx.workflow.do("Read terms", lambda:'
        ' Path("terms.txt").read_text())`.',
        severity="warning",
    ),
    Entry(
        "PKG311",
        "process or thread in a workflow",
        "`{0}` acts on processes or threads outside of the run on every replay",
        'make it a step: `await ctx.workflow.do("Start it", function, data)`',
        "A process or a thread that a body starts is started again on every replay, and what it"
        " does is not part of the history.",
        'subprocess.run(["make", "report"])',
        "Start it in a function under `@pikku_func`; what computes for long has"
        ' `@pikku_func(executor="process")`.',
        severity="warning",
    ),
    Entry(
        "PKG312",
        "event loop in a workflow",
        "`{0}` needs the event loop of the process, which a workflow does not have",
        'make it a step: `await ctx.workflow.do("Step name", function, data)`',
        "A body runs on a loop of its own that has no timers, threads or sockets, since none of"
        " them survives a restart. The call raises WorkflowBodyError.",
        "await asyncio.sleep(300)",
        '`await ctx.workflow.sleep("Wait for payment", "5min")`; `timeout="30s"` on the step;'
        " `ctx.workflow.race` of a step and a sleep; threads and sockets in a step.",
    ),
    Entry(
        "PKG313",
        "order of a set in a workflow",
        "the order of the set `{0}` is another in every process",
        "write `sorted({0})`",
        "Texts have another hash in every process, and so a set of them another order: the steps of"
        " a replay would come in another order than the recorded ones.",
        "for sku in {line.sku for line in order.lines}:\n"
        '    await ctx.workflow.do(f"Pick {sku}", lambda: sku)',
        "`for sku in sorted(…)`, or `dict.fromkeys(…)`, which keeps the order.",
        severity="warning",
    ),
    Entry(
        "PKG314",
        "changing variable of a module in a workflow",
        "`{0}` is a variable of the module that changes: a replay finds another value",
        "give it to the workflow as input, or read and change it in a step",
        "A replay begins with the variables of the process it is in, not with those that the body"
        " saw the first time; and it changes them once more.",
        "SEEN.append(order.order_id)",
        "Keep it in a local variable, which a replay builds up again, or in a store that steps read"
        " and write.",
        severity="warning",
    ),
    Entry(
        "PKG315",
        "cancellation that is swallowed",
        "`{0}` catches the cancellation of the run and goes on",
        "write `except Exception:`, or end the handler with `raise`",
        "A run that is cancelled, or is past its timeout, gets asyncio.CancelledError at its"
        " pending awaits. A body that catches it goes on, and is granted no further step.",
        'try:\n    await ctx.workflow.sleep("Wait", "1d")\nexcept BaseException:\n    pass',
        "Catch `Exception` or `StepFailedError`. To clean up, use `finally`, or `raise` at the end"
        " of the handler.",
        severity="warning",
    ),
    Entry(
        "PKG316",
        "result that cannot be recorded",
        "this returns {0}, which cannot be recorded",
        "return plain data: texts, numbers, lists, dictionaries, dataclasses, models",
        "What a workflow or an inline step returns is recorded as JSON. Functions, generators, open"
        " files and modules have no such form.",
        'await ctx.workflow.do("Read lines", lambda: (line for line in lines))',
        '`lambda: [line for line in lines]`; of a file its text: `lambda: Path("a").read_text()`.',
    ),
    Entry(
        "PKG317",
        "services in a workflow",
        "`{0}` in a workflow is used again on every replay",
        'use it in a step: `await ctx.workflow.do("Step name", lambda: {0}.…)`',
        "What services answer is not recorded unless a step asks them.",
        "user = await ctx.services.db.user(data.user_id)",
        '`await ctx.workflow.do("Load user", lambda: ctx.services.db.user(data.user_id))`, or a'
        " function under `@pikku_func`.",
        severity="warning",
    ),
    Entry(
        "PKG318",
        "blocking call",
        "`{0}` blocks the process: no other run moves meanwhile",
        "put it into a plain `def` under `@pikku_func`, which runs in a thread",
        "The body of a workflow, and the callable of an inline step, are executed on the event loop"
        " that all runs of the process share.",
        'await ctx.workflow.do("Fetch", lambda: requests.get(url).text)',
        "Make it a function under `@pikku_func`: a plain `def` runs in a thread, and has retries"
        " and a timeout. In an inline step an asynchronous client does as well; to wait, write"
        " `ctx.workflow.sleep`.",
        severity="warning",
    ),
    Entry(
        "PKG319",
        "allow comment that says too little",
        "{0}",
        "write `# pikku: allow[PKG306] why it does no harm`",
        "A comment that allows something names codes of the determinism lint, and says why.",
        "started = time.time()  # pikku: allow[PKG306]",
        "Add the reason after the bracket: `# pikku: allow[PKG306] only logged`.",
        severity="note",
    ),
    Entry(
        "PKG320",
        "allow comment without use",
        "nothing here is reported as {0}",
        "remove the comment",
        "The line that the comment is about earns no such diagnostic (any more).",
        "total = 1 + 1  # pikku: allow[PKG306] only logged",
        "Remove the comment, or the code from it.",
        severity="note",
    ),
    Entry(
        "PKG401",
        "output that cannot be written",
        "this file cannot be written: {0}",
        "check the permissions and the free space of the output folder",
        "The operating system refused to write the generated package.",
        'output = "generated"   # where `generated` is a file',
        "Make the folder writable, or choose another `output`.",
    ),
    Entry(
        "PKG402",
        "file of another origin",
        "this file was not written by pikku-gen and is in its way",
        "move it away, or choose another `package` in [tool.pikku]",
        "The output package would overwrite a file that pikku-gen did not write.",
        'package = "billing"   # where `billing/` is a package of yours',
        "Choose a package name of its own for the generated code, or move the file away.",
    ),
    Entry(
        "PKG501",
        "no project",
        "{0}",
        'add a `[tool.pikku]` table with `root = "…"` to pyproject.toml, or pass --project',
        "pikku-gen reads the `[tool.pikku]` table of the pyproject.toml above the current folder.",
        '[tool.piku]\nroot = "shop"',
        'Add the table, with `root = "shop"`, or correct its name.',
    ),
    Entry(
        "PKG502",
        "pyproject.toml that cannot be read",
        "pyproject.toml is not valid: {0}",
        "correct it",
        "The file is not valid TOML or not UTF-8.",
        '[tool.pikku\nroot = "shop"',
        "Correct the file at the place named.",
    ),
    Entry(
        "PKG503",
        "unknown setting",
        "[tool.pikku] has no setting `{0}`",
        "remove it",
        "A key in `[tool.pikku]` is not known; it would silently do nothing.",
        '[tool.pikku]\nrot = "shop"',
        "Use the name the hint shows, or remove the key.",
    ),
    Entry(
        "PKG504",
        "setting of a wrong kind",
        "[tool.pikku] {0}",
        "see docs/configuration.md",
        "A setting has a value of another type or outside of its choices.",
        "[tool.pikku]\nstring_names = true",
        "Give it a value of the kind named.",
    ),
    Entry(
        "PKG505",
        "no root package",
        "{0}",
        "set `root` in [tool.pikku] to the package that holds the application, and `source` to the"
        " folder it is in",
        "The root package does not exist in the source folders, or no package was found there.",
        '[tool.pikku]\nroot = "shpo"',
        'Name the package; `source = ["src"]` says where it lies.',
    ),
    Entry(
        "PKG506",
        "several root packages",
        "more than one package could be the root: {0}",
        "set `root` in [tool.pikku]",
        "Without `root` the one package in the source folders is taken, but there are several.",
        "[tool.pikku]   # with shop/ and billing/ beside it",
        '`root = "shop"`',
    ),
    Entry(
        "PKG507",
        "services factory",
        "{0}",
        'write `services = "module:function"`, a function annotated with what it makes',
        "The services factory named in `[tool.pikku]` cannot be found, has no readable return"
        " annotation, or takes more than one argument.",
        '[tool.pikku]\nroot = "shop"\nservices = "shop.services:create_service"',
        "`async def create_services() -> Services`, or under `@asynccontextmanager`"
        " `-> AsyncGenerator[Services, None]`.",
    ),
    Entry(
        "PKG508",
        "authorize hook",
        "{0}",
        'write `authorize = "module:function"`, an `async def` annotated with the sessions that it'
        " returns",
        "The hook named in `[tool.pikku]`, which says who asks for something over HTTP, cannot be"
        " found, is no `async def`, does not take the request and the action, or has no readable"
        " return annotation.",
        '[tool.pikku]\nroot = "shop"\nauthorize = "shop.auth:authorise"',
        "`async def authorize(request: Request, action: Action) -> Session | None`",
    ),
    Entry(
        "PKG601",
        "class made by a call",
        "`{0}` is made by a call, so it has no statement that could be copied",
        "write it as a class statement, or mark it with `# pikku: opaque`",
        "The client gets copies of class statements. A class that a call makes has its fields only"
        " once it is executed, and pikku-gen executes nothing of the project.",
        'Point = namedtuple("Point", "x y")',
        "`class Point(NamedTuple): …`, with annotated fields.",
    ),
    Entry(
        "PKG602",
        "metaclass",
        "`{0}` has a metaclass, which is code of the server",
        "use a class without one, or mark it with `# pikku: opaque`",
        "A metaclass decides by its code what a class becomes; a copy of the class alone would be"
        " another class.",
        "class Order(BaseModel, metaclass=Registered): …",
        "Put what goes over the wire into a plain class.",
    ),
    Entry(
        "PKG603",
        "star import of a library",
        "a name comes from `{0}`, so nothing says what it is",
        "import the name itself",
        "Names are followed from import to import without executing any. What a library's star"
        " import brings is known only to the running program.",
        "from decimal import *\n\nclass Order(BaseModel):\n    total: Decimal",
        "`from decimal import Decimal`.",
    ),
    Entry(
        "PKG604",
        "type that needs the project's code",
        "`{0}` is a function of the project, which the client does not have",
        "write a plain value, or mark the field with `# pikku: opaque`",
        "A default, a constraint or an alias of a copied type calls or names a function of the"
        " project.",
        "class Order(BaseModel):\n    order_id: str = Field(default_factory=new_order_id)",
        "Have the server fill the value in, or pass it in from outside.",
    ),
    Entry(
        "PKG605",
        "class with a constructor or a JSON form of its own",
        "`{0}` decides how values are made or written, and cannot be copied",
        "have plain fields, or mark the class with `# pikku: opaque`",
        "Methods and validators are left out of copies, which leaves the JSON form of a value as it"
        " is. A constructor, a serializer or a schema of the class's own does not: without it the"
        " client would write or read something else.",
        'class Money(BaseModel):\n    @field_serializer("amount")\n'
        "    def in_cents(self, amount: int) -> str: …",
        "Give the field a type that has this JSON form, such as an `Annotated` of a library's"
        " serializer.",
    ),
    Entry(
        "PKG606",
        "statement that cannot be copied",
        "`{0}` is bound by a statement that cannot be copied",
        "bind it once, by a class statement or one assignment at the top level",
        "A type or constant is defined under a condition, in a loop, by unpacking, or not at all;"
        " or the body of a class holds more than fields, nested classes and methods.",
        "if FAST:\n    class Order(BaseModel): …",
        "Define it at the top level of its module.",
    ),
    Entry(
        "PKG607",
        "type of the server",
        "`{0}` belongs to the server, and the client does not have it",
        "use a type of your own in what is exposed",
        "What is exposed names a type of pikku or of the generated package; or, with"
        ' `client_types = "import"`, a type of a module that imports the generated package.',
        "@pikku_func(expose=True)\n"
        "async def refund(ctx: Context, failure: StepFailure[Charge]) -> None: …",
        "Expose a function that takes a plain type, and have it call the other one.",
    ),
    Entry(
        "PKG608",
        "one name in two modules",
        "{0}",
        "import it from there, or rename one of the types",
        "Two modules define a type of one name. Both are copied, each to a module of its own, and"
        " the package's `types` has neither under the bare name.",
        "shop/orders.py: class Line …\nshop/invoices.py: class Line …",
        "Rename one, or import from `shop_client.types.shop.orders`.",
        severity="warning",
    ),
    Entry(
        "PKG609",
        "copied types that cannot be imported",
        "the copied types cannot be imported: {0}",
        "install what they need beside pikku-gen, or mark the type with `# pikku: opaque`",
        "JSON Schema and OpenAPI are made from the copies, in a process that has only those. It"
        " ended with this exception: a library is not installed, pydantic knows no JSON form for a"
        " type, or a copy needs what was left out.",
        "from no_such_library import Money",
        "Install the library in the environment of pikku-gen.",
    ),
    Entry(
        "PKG610",
        "nothing is exposed",
        "no function and no workflow is exposed",
        "write `@pikku_func(expose=True)` or `wire_workflow(…, expose=True)`",
        "A client reaches only what is marked with `expose=True`, and nothing is.",
        'wire_workflow(name="order", func=order_workflow)',
        '`wire_workflow(name="order", func=order_workflow, expose=True)`',
    ),
    Entry(
        "PKG611",
        "folder of another origin",
        "`{0}` holds something else than a client that pikku-gen wrote",
        "choose an empty folder with `--out`",
        "A client has a folder of its own, in which files that are no longer needed are removed. A"
        " folder that holds something else is left alone.",
        "pikku-gen client --out .",
        "`pikku-gen client --out clients/shop`",
    ),
)

TABLE: Final = {entry.code: entry for entry in ENTRIES}
LINT: Final = tuple(code for code in TABLE if code.startswith("PKG3"))
"""The codes whose severity a project may choose, and which a comment may allow."""


def explain(code: str) -> str | None:
    """Cause, example and remedy of a code as text for a terminal; None for an unknown code."""
    entry = TABLE.get(code.upper())
    if entry is None:
        return None
    example = "\n".join(f"    {line}" for line in entry.example.splitlines())
    return (
        f"{entry.code} ({entry.severity}): {entry.title}\n\n"
        f"{entry.cause}\n\nExample:\n\n{example}\n\nRemedy: {entry.remedy}\n"
    )


def markdown() -> str:
    """The table as a section of docs/errors.md."""
    lines = ["## Diagnostics of `pikku-gen`", ""]
    area = ""
    for entry in ENTRIES:
        if entry.code[3] != area:
            area = entry.code[3]
            lines += [f"### PKG{area}xx: {AREAS[area]}", ""]
        kind = "" if entry.severity == "error" else f" ({entry.severity})"
        lines += [
            f"#### {entry.code}: {entry.title}{kind}",
            "",
            entry.cause,
            "",
            "```",
            entry.example,
            "```",
            "",
            f"**Remedy.** {entry.remedy}",
            "",
        ]
    return "\n".join(lines)
