"""Runs a program that does not outlive whoever asked for it: `python tether.py SECONDS PROGRAM …`.

Standard input is the tether. `t` on it asks the program to end, and kills it after so many seconds;
the end of input, which comes however the process at the other end goes, does the same; `k` kills at
once. This process ends as the program did, and leaves nothing of the program's group behind.

Imports nothing of pikku's: it is executed as a file, so that it starts fast.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn

ASK: Final = b"t"
KILL: Final = b"k"
CANNOT_START: Final = 127


def main(seconds: float, command: list[str]) -> NoReturn:
    """Run *command* to its end."""
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        for program in started:
            program.send_signal(number)

    # Handlers, as opposed to SIG_IGN, are not inherited by the program.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        sys.exit(CANNOT_START)
    started.append(program)
    threading.Thread(target=_obey, args=(program, seconds), daemon=True).start()
    code = program.wait()
    _kill_group(program)
    _end_like(code)


def _obey(program: subprocess.Popen[bytes], seconds: float) -> None:
    asked = False
    while True:
        word = os.read(0, 1)
        if word == KILL:
            _kill_group(program)
        elif not asked:
            asked = True
            program.terminate()
            deadline = threading.Timer(seconds, _kill_group, [program])
            deadline.daemon = True
            deadline.start()
        if not word:
            return


def _kill_group(program: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(program.pid, signal.SIGKILL)


def _end_like(code: int) -> NoReturn:
    if code < 0:
        with suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
