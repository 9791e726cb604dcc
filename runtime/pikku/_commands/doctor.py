"""`pikku doctor`: what is in effect and what is wrong. It executes nothing, and writes only what it
is told to repair."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from pikku._commands.output import columns, printable, put, put_json
from pikku._commands.target import Target, find_project, stored_file
from pikku._durations import format_us
from pikku.errors import PikkuError, masked

if TYPE_CHECKING:
    from pikku._commands.ward import Case
    from pikku._records import Examination, RunRecord
    from pikku.stores.base import Store

Level = Literal["ok", "note", "problem"]
NAMED_AT_MOST = 20
_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and the way out where it is a problem."""

    level: Level
    area: Literal["app", "store", "runs", "generated"]
    text: str
    hint: str = ""
    run_id: str | None = None


@dataclass(slots=True)
class Report:
    """Everything that was found."""

    settings: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    schema_version: int | None = None
    counts: dict[str, int] = field(default_factory=dict[str, int])
    findings: list[Finding] = field(default_factory=list[Finding])
    repaired: list[Case] = field(default_factory=list["Case"])

    @property
    def problems(self) -> int:
        return sum(finding.level == "problem" for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "ok": not self.problems,
            "settings": {
                name: {"value": value, "origin": origin}
                for name, (value, origin) in self.settings.items()
            },
            "schema_version": self.schema_version,
            "runs": self.counts,
            "findings": [
                {
                    "level": each.level,
                    "area": each.area,
                    "text": each.text,
                    "help": each.hint,
                    "run_id": each.run_id,
                }
                for each in self.findings
            ],
            "repaired": [
                {
                    "run_id": each.run_id,
                    "workflow": each.workflow,
                    "found": [symptom.text for symptom in each.symptoms],
                }
                for each in self.repaired
            ],
        }


@click.command()
@click.option("--repair", is_flag=True, help="Queue runs again that have lost their next action.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(context: click.Context, repair: bool, as_json: bool) -> None:
    """Say what is in effect and what is wrong: settings, app, store, runs, generated package.

    Every unfinished run is proven to have a next action. Without --repair nothing is written;
    nothing is ever executed. Exits 1 if something is wrong.
    """
    target: Target = context.obj
    report = Report()
    look_at_app(target, report)
    look_at_store(target, report, repair=repair)
    look_at_generated(report)
    if as_json:
        put_json(report.document())
    else:
        _print(report)
    context.exit(1 if report.problems else 0)


def look_at_app(target: Target, report: Report) -> None:
    """Whether the generated package is there; the app's own modules are not imported."""
    try:
        app = target.load_app()
    except PikkuError as error:
        report.findings.append(_problem("app", error))
        return
    file = getattr(sys.modules.get(app.package), "__file__", None) or "?"
    report.findings.append(Finding("ok", "app", f"{app.package} in {Path(file).parent}"))


def look_at_store(target: Target, report: Report, *, repair: bool) -> None:
    """Whether the store can be read, and which runs in it need somebody; with *repair*, those that
    lost their next action get one."""
    try:
        config, origins = target.settings()
        report.settings["store"] = (masked(config.store), origins["store"])
        report.settings["queue_service"] = (config.queue_service, origins["queue_service"])
        kept = ", ".join(f"{status} {format_us(us)}" for status, us in config.retention.items())
        report.settings["retention"] = (kept or "for ever", origins["retention"])
        report.settings["log_format"] = (config.log_format, origins["log_format"])
        report.settings["redact"] = (
            ", ".join(config.redact) or "the usual keys",
            origins["redact"],
        )
        if config.store.startswith("memory:"):
            text = f"{config.store} is seen by the process that executes the runs, and by no other"
            report.findings.append(Finding("note", "store", text))
            return
        store = target.make_store()
        file = stored_file(store)
        if file is not None and not file.exists():
            report.findings.append(
                Finding("ok", "store", f"{store.address} is made with the first run")
            )
            return
        import asyncio

        asyncio.run(_read(store, file, report, repair))
    except PikkuError as error:
        report.findings.append(_problem("store", error))


async def _read(store: Store, file: Path | None, report: Report, repair: bool) -> None:
    from pikku._commands.sqlite_file import schema_version
    from pikku._commands.ward import cases_of, mend, unfinished_runs

    if file is not None:
        report.schema_version = schema_version(file)
    await store.open()
    try:
        runs = await unfinished_runs(store)
        cases = await cases_of(store, runs)
        if repair and cases:
            report.repaired = await mend(store, cases)
            runs = await unfinished_runs(store)
            cases = await cases_of(store, runs)
        report.counts = await store.count_runs()
        found = await store.examine()
    finally:
        await store.close()
    version = "" if report.schema_version is None else f", schema version {report.schema_version}"
    counts = ", ".join(f"{count} {status}" for status, count in sorted(report.counts.items()))
    report.findings.append(
        Finding("ok", "store", f"{store.address}{version}: {counts or 'no runs'}")
    )
    report.findings += [
        Finding(
            "ok", "runs", f"{case.run_id} of {case.workflow} was queued again", run_id=case.run_id
        )
        for case in report.repaired
    ]
    report.findings += [_suspended(run) for run in runs.values() if run.status == "suspended"]
    report.findings += [finding for case in cases for finding in _sick(case)]
    sick = {case.run_id for case in cases}
    report.findings += _waiting([run for run in runs.values() if run.run_id not in sick], found)


def _suspended(run: RunRecord) -> Finding:
    from pikku._waits import suspension_of

    try:
        suspension = suspension_of(run)
    except (ValueError, KeyError, TypeError):
        suspension = None
    if suspension is None:
        text = f"{run.run_id} of {run.workflow} is suspended, and its error cannot be read"
        end_it = f"pikku runs cancel {run.run_id} --force --reason …"
        return Finding("problem", "runs", text, end_it, run.run_id)
    wanted = suspension.reason in ("requested", "imported")
    return Finding(
        "note" if wanted else "problem",
        "runs",
        f"{run.run_id} of {run.workflow} is suspended ({suspension.reason}): "
        f"{suspension.explanation}",
        suspension.remedy,
        run.run_id,
    )


def _sick(case: Case) -> list[Finding]:
    named = f"{case.run_id} of {case.workflow}"
    findings: list[Finding] = []
    for symptom in case.symptoms:
        level: Level = "problem"
        hint = "give it a next action: pikku doctor --repair"
        if symptom.kind == "corrupt":
            hint = f"it is kept as it is; see pikku runs show {case.run_id}"
        elif symptom.kind == "gone":
            hint = f"import that run, or give this one up: pikku runs cancel {case.run_id}"
        elif symptom.heals:
            level = "note"
            hint = (
                f"the next host goes on with it: pikku worker, or: pikku runs resume {case.run_id}"
            )
        about_itself = symptom.step is None and symptom.kind != "corrupt"
        text = f"{named}{' ' if about_itself else ': '}{symptom.text}"
        findings.append(Finding(level, "runs", text, hint, case.run_id))
    return findings


def _waiting(runs: list[RunRecord], found: Examination) -> list[Finding]:
    """What waits in queues."""
    queued = [run for run in runs if run.queued and run.owner is None]
    findings = [
        Finding(
            "note",
            "runs",
            f"{run.run_id} of {run.workflow} waits for a process that executes it",
            f"pikku worker, or: pikku runs resume {run.run_id}",
            run.run_id,
        )
        for run in queued[:NAMED_AT_MOST]
    ]
    if len(queued) > NAMED_AT_MOST:
        text = f"{len(queued) - NAMED_AT_MOST} more wait for a process that executes them"
        findings.append(Finding("note", "runs", text, "pikku worker"))
    if found.jobs:
        jobs = "1 job waits" if len(found.jobs) == 1 else f"{len(found.jobs)} jobs wait"
        findings.append(Finding("note", "runs", f"{jobs} for a worker", "pikku worker"))
    return findings


def look_at_generated(report: Report) -> None:
    """Whether the generated package is what `pikku-gen` would write now."""
    try:
        project = find_project(Path.cwd())
    except PikkuError as error:
        report.findings.append(_problem("generated", error))
        return
    if project is None or find_spec("pikku_gen") is None:
        why = "there is no project here" if project is None else "pikku-gen is not installed"
        report.findings.append(Finding("note", "generated", f"not checked: {why}"))
        return
    done = subprocess.run(
        [sys.executable, "-m", "pikku_gen", "--check"],
        cwd=project.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    said = done.stderr.strip().splitlines() or ["pikku-gen said nothing"]
    text = said[-1].removeprefix("pikku-gen: ")
    if done.returncode == 0:
        report.findings.append(Finding("ok", "generated", text))
    else:
        hint = "write it again, or see what hinders it: pikku-gen"
        report.findings.append(Finding("problem", "generated", text, hint))


def _problem(area: Literal["app", "store", "generated"], error: PikkuError) -> Finding:
    return Finding("problem", area, f"{error.code} {error.message}", error.hint)


def _print(report: Report) -> None:
    rows = [
        (f"  {name}", value, f"({origin})") for name, (value, origin) in report.settings.items()
    ]
    if rows:
        put("settings")
        for line in columns(rows):
            put(line)
    for area in ("app", "store", "runs", "generated"):
        found = [each for each in report.findings if each.area == area]
        if found:
            put({"generated": "generated package"}.get(area, area))
        for each in found:
            level = click.style(each.level.ljust(7), fg=_COLORS[each.level])
            put(f"  {level}  {printable(' '.join(each.text.split()))}")
            if each.hint:
                put(f"           help: {printable(each.hint)}")
    count = report.problems
    put("everything is fine" if not count else f"{count} problem{'' if count == 1 else 's'}")
