"""The import probe: what `import x` costs in a fresh interpreter, ours and a peer's alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .samples import last_words

REPEATS = 5
PROBE = """
import json, resource, sys, time
{before}
def memory():
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
modules, rss, cpu = len(sys.modules), memory(), time.process_time()
{statement}
cpu = time.process_time() - cpu
print(json.dumps([cpu * 1e3, memory() - rss, len(sys.modules) - modules]))
"""


def probe(
    statement: str,
    *,
    python: str | Path = sys.executable,
    before: str = "",
    path: Sequence[Path] = (),
) -> dict[str, float]:
    """CPU (ms), memory (MB) and modules of an import, the best of a few interpreters.

    `before` is executed first and not counted; `path` is put before the module path.
    """
    env = dict(os.environ)
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # the second import must find byte code
    if path:
        env["PYTHONPATH"] = os.pathsep.join(map(str, path))
    program = PROBE.format(statement=statement, before=before)
    seen: list[list[float]] = []
    for _ in range(REPEATS):
        done = subprocess.run(
            [python, "-c", program],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise ImportError(last_words(done.stderr))
        seen.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "cpu_ms": min(one[0] for one in seen),
        "rss_mb": min(one[1] for one in seen),
        "modules": seen[0][2],
    }
