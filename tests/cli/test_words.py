"""`pikku runs signal|approvals|approve|reject`: words for runs that wait."""

from __future__ import annotations

import json

from tests.cli.desk import Desk
from tests.cli.test_doctor import problems

PLAN = '{"name": "gold"}'


def test_a_signal_is_written_and_a_host_carries_it_out(desk: Desk) -> None:
    started = desk.pikku("runs", "start", "trial", "--id", "t1")

    sent = desk.pikku("runs", "signal", "t1", "upgraded", "--input", PLAN)
    before = desk.effects
    resumed = desk.pikku("runs", "resume", "t1", "--wait")

    assert (started.returncode, started.stdout) == (0, "t1 running\n")
    assert "waiting for signal 'upgraded' (Wait for upgrade)\n" in started.stderr
    assert (sent.returncode, sent.stdout) == (0, "t1 running, signal upgraded sent\n"), sent.stderr
    assert "carried out by the next host: pikku worker, or:" in sent.stderr
    assert before == []
    assert (resumed.returncode, resumed.stdout) == (0, '"gold"\n')


def test_a_signal_with_wait_executes_what_follows(desk: Desk) -> None:
    desk.pikku("runs", "start", "trial", "--id", "t1")

    sent = desk.pikku("runs", "signal", "t1", "upgraded", "--input", PLAN, "--wait")

    assert (sent.returncode, sent.stdout) == (0, '"gold"\n')


def test_a_signal_that_no_step_has_taken_is_shown(desk: Desk) -> None:
    desk.pikku("runs", "start", "trial", "--id", "t1")
    for _ in range(2):
        desk.pikku("runs", "signal", "t1", "nudge", "--id", "once")
    desk.pikku("runs", "signal", "t1", "nudge", "--id", "twice")

    shown = desk.pikku("runs", "show", "t1").stdout
    document = desk.document("runs", "show", "t1")

    assert "\nsignal nudge has come, 2 times, and no step has taken it\n" in shown
    assert "\nsent by: pikku runs signal t1 upgraded\n" in shown
    assert document["unread_signals"] == {"nudge": 2}
    assert document["waits"] == {
        "for": "signal",
        "step": "Wait for upgrade",
        "until": None,
        "signal": "upgraded",
    }


def test_a_payload_that_does_not_fit_and_an_unknown_signal_are_refused(desk: Desk) -> None:
    desk.pikku("runs", "start", "trial", "--id", "t1")

    wrong = desk.pikku("runs", "signal", "t1", "upgraded", "--input", '{"nome": 1}')
    unknown = desk.pikku("runs", "signal", "t1", "upgrade")
    nowhere = desk.pikku("runs", "signal", "t2", "nudge")

    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: PKR308 ")
    assert unknown.returncode == 3
    assert "help: did you mean 'upgraded'?" in unknown.stderr
    assert nowhere.returncode == 3
    assert desk.document("runs", "show", "t1")["unread_signals"] == {}


def test_approvals_are_listed_with_what_they_ask(desk: Desk) -> None:
    started = desk.pikku("runs", "start", "purchase", "--id", "p1", "--by", "ada")

    listed = desk.document("runs", "approvals", "p1")
    rows = desk.pikku("runs", "approvals", "p1").stdout.splitlines()
    shown = desk.pikku("runs", "show", "p1").stdout

    assert "waiting for somebody to decide (Approve it)\n" in started.stderr
    assert listed.pop("asked_at")
    assert listed == {
        "step": "Approve it",
        "reason": "it is dear",
        "approvers": "not_initiator",
        "scope": "money",
        "schema": "desk.work:Plan",
        "expires_at": None,
    }
    assert rows[1].split() == [
        *("Approve", "it", "not_initiator", "money", "desk.work:Plan", "it", "is", "dear")
    ]
    assert "answered by: pikku runs approve p1 'Approve it'\n" in shown


def test_an_approval_is_answered_once_and_by_who_may(desk: Desk) -> None:
    desk.pikku("runs", "start", "purchase", "--id", "p1", "--by", "ada")
    approve = ("runs", "approve", "p1", "Approve it", "--input", PLAN, "--scope", "money")

    forbidden = desk.pikku(*approve, "--by", "ada")
    approved = desk.pikku(*approve, "--by", "grace", "--note", "fine", "--wait")
    again = desk.pikku("runs", "reject", "p1", "Approve it", "--by", "grace")
    shown = desk.pikku("runs", "show", "p1").stdout
    lines = desk.pikku("runs", "history", "p1", "--json").stdout.splitlines()

    assert forbidden.returncode == 2
    assert "PKR324" in forbidden.stderr
    assert (approved.returncode, approved.stdout) == (0, '"gold"\n'), approved.stderr
    assert again.returncode == 2
    assert "was approved by grace at" in again.stderr
    assert "Approve it  approval, approved by grace, " in shown
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds.count("decision") == 1
    assert desk.pikku("runs", "approvals", "p1").stderr == "no approval waits\n"


def test_an_approval_is_rejected_without_data(desk: Desk) -> None:
    desk.pikku("runs", "start", "purchase", "--id", "p1", "--by", "ada")
    reject = ("runs", "reject", "p1", "Approve it", "--by", "grace", "--scope", "money")

    rejected = desk.pikku(*reject)
    mistaken = desk.pikku("runs", "approve", "p1", "Approve", "--by", "grace")
    resumed = desk.pikku("runs", "resume", "p1", "--wait")

    assert (rejected.returncode, rejected.stdout) == (0, "p1 running, 'Approve it' rejected\n")
    assert mistaken.returncode == 3
    assert "did you mean 'Approve it'?" in mistaken.stderr
    assert resumed.stdout == '"rejected"\n'


def test_a_run_that_waits_for_a_child_names_it(desk: Desk) -> None:
    started = desk.pikku("runs", "start", "outer", "--id", "o1")

    document = desk.document("runs", "show", "o1")
    child = document["steps"][0]["child"]
    shown = desk.pikku("runs", "show", "o1").stdout
    below = desk.pikku("runs", "show", child).stdout
    report = desk.document("doctor")

    assert (started.returncode, started.stdout) == (0, "o1 running\n")
    assert document["waits"] == {"for": "child", "step": "Inner", "until": None, "run_id": child}
    assert f"Inner  trial, run {child}\n" in shown
    assert f"more: pikku runs show {child}\n" in shown
    assert "  parent   o1  Inner\n" in below
    assert problems(report) == []
