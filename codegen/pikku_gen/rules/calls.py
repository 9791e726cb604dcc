"""Which calls of the standard library, and of libraries that many use, are of which kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NOW: Final = {
    "datetime.datetime.now": "{0}",
    "datetime.datetime.utcnow": "{0}",
    "datetime.datetime.today": "{0}",
    "datetime.date.today": "({0}).date()",
    "time.time": "({0}).timestamp()",
}
"""What each becomes, with the time of the workflow as `{0}`."""
SLEEPS: Final = frozenset({"asyncio.sleep", "anyio.sleep", "trio.sleep"})
LOOP_HINTS: Final = {
    "asyncio.wait_for": 'give the step a timeout: `await ctx.workflow.do(…, timeout="30s")`',
    "asyncio.timeout": 'give the step a timeout: `await ctx.workflow.do(…, timeout="30s")`',
    "asyncio.timeout_at": 'give the step a timeout: `await ctx.workflow.do(…, timeout="30s")`',
    "asyncio.to_thread": "put it into a plain `def` under `@pikku_func`, which runs in a thread",
    "asyncio.wait": "leave the timeout away, or race a sleep: `await ctx.workflow.race(…)`",
    "asyncio.as_completed": "leave the timeout away, or race a sleep: `await ctx.workflow.race(…)`",
}

_CLOCK: Final = frozenset(
    {
        *NOW,
        "time.time_ns",
        "time.monotonic",
        "time.monotonic_ns",
        "time.perf_counter",
        "time.perf_counter_ns",
        "time.process_time",
        "time.process_time_ns",
        "time.thread_time",
        "arrow.now",
        "arrow.utcnow",
        "pendulum.now",
        "pendulum.today",
        "django.utils.timezone.now",
    }
)
_CLOCK_WITHOUT_ARGUMENT: Final = frozenset({"time.localtime", "time.gmtime", "time.ctime"})
_RANDOM: Final = frozenset(
    {"os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7"}
)
_RANDOM_MODULES: Final = ("secrets", "numpy.random")
_NOT_RANDOM: Final = frozenset(
    {"secrets.compare_digest", "numpy.random.Generator", "numpy.random.SeedSequence"}
)
_ENVIRONMENT: Final = frozenset(
    {
        "os.getenv",
        "pathlib.Path.cwd",
        "pathlib.Path.expanduser",
        "pathlib.Path.home",
        "os.path.expanduser",
        "os.getenvb",
        "os.getcwd",
        "os.getpid",
        "os.cpu_count",
        "os.getlogin",
        "os.uname",
        "getpass.getuser",
        "platform.node",
        "platform.uname",
        "socket.gethostname",
        "socket.getfqdn",
    }
)
_VERBS: Final = frozenset(
    {"get", "post", "put", "patch", "delete", "head", "options", "request", "stream", "send"}
)
_HTTP: Final = {
    "requests": frozenset({"Session", "session"}),
    "httpx": frozenset({"Client", "AsyncClient"}),
    "httpx2": frozenset({"Client", "AsyncClient"}),
    "aiohttp": frozenset({"ClientSession"}),
}
"""HTTP libraries, and their clients."""
_NETWORK: Final = frozenset(
    {
        "aiohttp.ClientSession.ws_connect",
        "aiohttp.request",
        "asyncpg.connect",
        "asyncpg.create_pool",
        "boto3.client",
        "boto3.resource",
        "boto3.session.Session",
        "ftplib.FTP",
        "grpc.insecure_channel",
        "grpc.secure_channel",
        "http.client.HTTPConnection",
        "http.client.HTTPSConnection",
        "imaplib.IMAP4",
        "imaplib.IMAP4_SSL",
        "poplib.POP3",
        "psycopg.AsyncConnection.connect",
        "psycopg.connect",
        "psycopg2.connect",
        "pymongo.MongoClient",
        "smtplib.SMTP",
        "smtplib.SMTP_SSL",
        "socket.create_connection",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.socket",
        "urllib.request.urlopen",
        "urllib.request.urlretrieve",
        "urllib3.PoolManager.request",
        "urllib3.request",
        "websockets.connect",
    }
)
_FILES: Final = frozenset(
    {
        "open",
        "io.open",
        "aiofiles.open",
        "anyio.open_file",
        "codecs.open",
        "glob.glob",
        "glob.iglob",
        "gzip.open",
        "sqlite3.connect",
        "zipfile.ZipFile",
        "tarfile.open",
        *(
            f"os.{name}"
            for name in (
                "access chmod chown link listdir lstat makedirs mkdir open remove removedirs rename"
                " replace rmdir scandir stat symlink truncate unlink walk"
            ).split()
        ),
        *(
            f"os.path.{name}"
            for name in (
                "exists getatime getctime getmtime getsize isdir isfile islink ismount lexists"
            ).split()
        ),
        *(
            f"shutil.{name}"
            for name in (
                "copy copy2 copyfile copymode copystat copytree disk_usage make_archive move rmtree"
                " unpack_archive"
            ).split()
        ),
        *(
            f"tempfile.{name}"
            for name in (
                "NamedTemporaryFile SpooledTemporaryFile TemporaryDirectory TemporaryFile mkdtemp"
                " mkstemp"
            ).split()
        ),
    }
)
_PATHS: Final = frozenset({"pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath"})
_PATH_METHODS: Final = frozenset(
    (
        "chmod exists glob hardlink_to is_dir is_file is_mount is_symlink"
        " iterdir lstat mkdir open read_bytes read_text rename replace rglob rmdir samefile stat"
        " symlink_to touch unlink walk write_bytes write_text"
    ).split()
)
_PROCESSES: Final = frozenset(
    {
        *(
            f"subprocess.{name}"
            for name in ("Popen call check_call check_output getoutput getstatusoutput run").split()
        ),
        *(
            f"os.{name}"
            for name in (
                "_exit abort execl execle execlp execv execve execvp fork kill killpg popen"
                " posix_spawn spawnl spawnlp spawnv spawnvp startfile system wait waitpid"
            ).split()
        ),
        "_thread.start_new_thread",
        "asyncio.run",
        "asyncio.run_coroutine_threadsafe",
        "concurrent.futures.ProcessPoolExecutor",
        "concurrent.futures.ThreadPoolExecutor",
        "concurrent.futures.process.ProcessPoolExecutor",
        "concurrent.futures.thread.ThreadPoolExecutor",
        "multiprocessing.Pool",
        "multiprocessing.Process",
        "multiprocessing.pool.ThreadPool",
        "threading.Thread",
        "threading.Timer",
    }
)
_WAITS: Final = frozenset({"time.sleep", "input"})
_LOOP: Final = frozenset(
    {
        *SLEEPS,
        "anyio.fail_after",
        "anyio.move_on_after",
        "anyio.run_process",
        "anyio.to_thread.run_sync",
        "asyncio.create_subprocess_exec",
        "asyncio.create_subprocess_shell",
        "asyncio.open_connection",
        "asyncio.open_unix_connection",
        "asyncio.start_server",
        "asyncio.start_unix_server",
        "asyncio.timeout",
        "asyncio.timeout_at",
        "asyncio.to_thread",
        "asyncio.wait_for",
    }
)
_WITH_TIMEOUT: Final = frozenset({"asyncio.wait", "asyncio.as_completed"})
_LOOPS: Final = ("asyncio.get_running_loop", "asyncio.get_event_loop")
_LOOP_METHODS: Final = frozenset(
    (
        "add_reader add_signal_handler add_writer call_at call_later call_soon_threadsafe"
        " connect_accepted_socket connect_read_pipe create_connection create_datagram_endpoint"
        " create_server getaddrinfo run_in_executor set_default_executor sendfile sock_accept"
        " sock_connect sock_recv sock_sendall start_tls subprocess_exec subprocess_shell"
    ).split()
)


def code_of(name: str, arguments: Sequence[str]) -> str | None:
    """The code that a call earns in a workflow; None where it does no harm."""
    owner, _, method = name.rpartition(".")
    if name in _CLOCK or (name in _CLOCK_WITHOUT_ARGUMENT and not arguments):
        return "PKG306"
    if name in _WAITS:
        return None if [*arguments] == ["0"] else "PKG318"
    if _is_random(name, owner, method, arguments):
        return "PKG307"
    if name in _ENVIRONMENT or name.startswith(("os.environ.", "os.environb.")):
        return "PKG308"
    if _needs_loop(name, owner, method, arguments):
        return "PKG312"
    if _is_network(name, owner, method):
        return "PKG309"
    if name in _FILES or (owner in _PATHS and method in _PATH_METHODS):
        return "PKG310"
    return "PKG311" if name in _PROCESSES else None


def opens(name: str) -> bool:
    """True for a call that makes something open, which is no result of a step."""
    method = name.rpartition(".")[2]
    return method in ("open", "open_file", "connect", "ZipFile") or name.startswith("tempfile.")


def blocks(name: str) -> bool:
    """True for a call that returns only when something outside has answered."""
    owner, _, method = name.rpartition(".")
    if name in _WAITS or name in _PROCESSES:
        return name not in _NOT_WAITED_FOR
    if name.startswith(("asyncpg.", "aiohttp.", "websockets.", "grpc.")) or "Async" in name:
        return False
    return _is_network(name, owner, method)


_NOT_WAITED_FOR: Final = frozenset(
    {
        "asyncio.run_coroutine_threadsafe",
        "concurrent.futures.ProcessPoolExecutor",
        "concurrent.futures.ThreadPoolExecutor",
        "multiprocessing.Process",
        "os.kill",
        "os.killpg",
        "subprocess.Popen",
        "threading.Thread",
        "threading.Timer",
    }
)


def _is_random(name: str, owner: str, method: str, arguments: Sequence[str]) -> bool:
    if name in _NOT_RANDOM:
        return False
    if owner == "random":  # of a seeded Random nothing is to be said
        is_seeded = method == "Random" and bool(arguments)
        return not is_seeded and (method[:1].islower() or method in ("Random", "SystemRandom"))
    if name in ("numpy.random.default_rng", "numpy.random.RandomState") and arguments:
        return False
    return name in _RANDOM or owner in _RANDOM_MODULES


def _is_network(name: str, owner: str, method: str) -> bool:
    if name in _NETWORK:
        return True
    library, _, client = owner.partition(".")
    clients = _HTTP.get(library)
    if clients is None:
        return False
    if not client:
        return method in clients or (method in _VERBS and library != "aiohttp")
    return client in clients and method in _VERBS


def _needs_loop(name: str, owner: str, method: str, arguments: Sequence[str]) -> bool:
    if owner in _LOOPS:
        return method in _LOOP_METHODS
    if name in SLEEPS:
        return [*arguments] not in (["0"], ["0.0"])
    if name in _WITH_TIMEOUT:
        return any(text.startswith("timeout=") and text != "timeout=None" for text in arguments)
    if name in ("asyncio.timeout", "asyncio.timeout_at"):
        return not (arguments and arguments[0] in ("None", "delay=None", "when=None"))
    if name == "asyncio.wait_for":
        return not ("None" in arguments[1:2] or "timeout=None" in arguments)
    return name in _LOOP
