"""drift.check, drift.diff, drift.fix with a real salt-master and three real minions.

The states compared are those of ``STATES`` below, in files of the tests' own; all else is as shipped.
"""

from __future__ import annotations

import email
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import salt.payload
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from tests.integration.conftest import RACK, start_minion
from tests.integration.test_reconcile import accept, remove_key

NODES = ("cp1", "pi-01", "pi-02")
SECRET = "correct horse battery"
TOP = "base:\n  '*': [drift_probe]\n"
STATES = """\
{%- set here = '@ROOT@/' ~ grains['id'] %}
sysctl file:
  file.managed:
    - name: {{ here }}/sysctl.conf
    - makedirs: True
    - contents: |
        net.ipv4.ip_forward = 1
        net.ipv4.tcp_sack = 1
daemon file:
  file.managed:
    - name: {{ here }}/daemon.json
    - mode: '0644'
    - contents: '{"log": 1}'
whoever follows:
  test.configurable_test_state:
    - changes: True
    - result: True
    - onchanges: [{file: daemon file}]
a secret file:
  file.managed:
    - name: {{ here }}/plain-name
    - mode: '0600'
    - contents: '@SECRET@'
a file that tells:
  file.managed:
    - name: {{ here }}/told.conf
    - contents: |
        user = pi
        password = @SECRET@
"""


class Probe:
    """The files that the states are about, and what the checks have left behind."""

    def __init__(self, root: Path, checkout: Path, state_dir: Path, master: SaltMaster) -> None:
        self.root = root / "nodes"
        self.kept = root / "kept"
        self.metrics = root / "prometheus" / "saltberry-drift.prom"
        self.sls = checkout / "salt" / "drift_probe.sls"
        self.state_dir = state_dir
        self.master = master

    def reset(self) -> None:
        """Every node as it should be, and no check made yet."""
        for folder in (self.root, self.kept):
            shutil.rmtree(folder, ignore_errors=True)
        for path in self.state_dir.glob("drift*"):
            path.unlink()
        text = STATES.replace("@ROOT@", str(self.root)).replace("@SECRET@", SECRET)
        self.sls.write_text(text, encoding="utf-8")
        self.mend()

    def mend(self) -> None:
        """Every node as it should be."""
        done = self.master.salt_cli(timeout=120).run("state.apply", minion_tgt="*")
        assert done.returncode == 0, done

    def file(self, node: str, name: str) -> Path:
        return self.root / node / name

    def add_state(self, text: str) -> None:
        with self.sls.open("a", encoding="utf-8") as file:
            file.write(text)


@pytest.fixture(scope="module")
def pi_02(master: SaltMaster, workspace: Path) -> Iterator[SaltMinion]:
    daemon = start_minion(master, "pi-02", workspace / "d2")
    with daemon.started():
        yield daemon
    remove_key(master, "pi-02")


@pytest.fixture(scope="module")
def replaced(  # noqa: PLR0917
    master: SaltMaster,
    cp1: SaltMinion,
    pi_01: SaltMinion,
    pi_02: SaltMinion,
    checkout: Path,
    state_dir: Path,
    workspace: Path,
) -> Iterator[Probe]:
    """The tests' own states in place of the shipped ones; put back afterwards."""
    probe = Probe(workspace / "drift", checkout, state_dir, master)
    top, rack = checkout / "salt" / "top.sls", checkout / "pillar" / "rack.sls"
    saved = {path: path.read_text(encoding="utf-8") for path in (top, rack)}
    top.write_text(TOP, encoding="utf-8")
    settings = {
        "path": str(probe.kept), "prometheus": str(probe.metrics.parent), "parallel": 2,
        "node_timeout": 60, "keep": 10,
    }  # fmt: skip
    rack.write_text(
        f"{RACK.read_text(encoding='utf-8')}drift: {json.dumps(settings)}\n", encoding="utf-8"
    )
    try:
        yield probe
    finally:
        for path, text in saved.items():
            path.write_text(text, encoding="utf-8")
        probe.sls.unlink(missing_ok=True)


@pytest.fixture
def probe(replaced: Probe) -> Probe:
    replaced.reset()
    return replaced


class Done:
    """What a command said and ended with."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.text, self.err = done.returncode, done.stdout, done.stderr

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.text)

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.data["nodes"]
        return found

    def drift(self, node: str) -> list[str]:
        return [found["id"] for found in self.nodes[node]["drift"]]


def command(master: SaltMaster, *words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("salt-run")), "-c", master.config_dir, *words]


@pytest.fixture
def run(master: SaltMaster) -> Callable[..., Done]:
    """`salt-run …` as a person has it; with its exit code."""

    def call(*words: str) -> Done:
        return Done(
            subprocess.run(
                command(master, *words), capture_output=True, text=True, timeout=240, check=False
            )
        )

    return call


@pytest.fixture
def check(run: Callable[..., Done]) -> Callable[..., Done]:
    def call(*words: str) -> Done:
        return run("drift.check", "--out=json", *words)

    return call


# --- clean, drifted, mended --------------------------------------------------------------------------


def test_a_clean_rack_is_clean_and_the_command_ends_with_0(
    probe: Probe, check: Callable[..., Done]
) -> None:
    done = check()
    assert {name: row["status"] for name, row in done.nodes.items()} == dict.fromkeys(
        NODES, "clean"
    )
    assert done.code == 0, done.text
    assert all(row["states"] == 5 for row in done.nodes.values())
    assert done.nodes["cp1"]["vitals"]["storage"]["size"] > 0


def test_what_was_broken_by_hand_is_named_exactly_and_mended(
    probe: Probe, run: Callable[..., Done], check: Callable[..., Done]
) -> None:
    path = probe.file("pi-01", "sysctl.conf")
    path.write_text("net.ipv4.ip_forward = 0\nnet.ipv4.tcp_sack = 1\n", encoding="utf-8")
    done = check()
    assert done.code == 1
    assert done.drift("pi-01") == ["sysctl file"]
    assert {done.nodes[name]["status"] for name in ("cp1", "pi-02")} == {"clean"}
    (found,) = done.nodes["pi-01"]["drift"]
    assert (found["function"], found["name"]) == ("file.managed", str(path))
    assert "-net.ipv4.ip_forward = 0\n+net.ipv4.ip_forward = 1" in found["changes"]["diff"]
    assert path.read_text().startswith("net.ipv4.ip_forward = 0"), "a check changed something"
    shown = run("drift.diff", "pi-01")
    assert shown.code == 1
    assert "    -net.ipv4.ip_forward = 0" in shown.text.splitlines()
    mended = run("drift.fix", "pi-01")
    assert mended.code == 0, mended.text
    assert "* sysctl file" in mended.text
    assert "checked again: clean" in mended.text
    assert path.read_text().startswith("net.ipv4.ip_forward = 1")
    assert check().code == 0
    assert run("drift.diff", "pi-01").code == 0


def test_what_only_follows_is_told_from_what_differs(
    probe: Probe, check: Callable[..., Done]
) -> None:
    probe.file("cp1", "daemon.json").write_text("{}", encoding="utf-8")
    rows = {found["id"]: found["follows"] for found in check().nodes["cp1"]["drift"]}
    assert rows == {"daemon file": [], "whoever follows": ["daemon file"]}


def test_a_table_for_people_xml_for_machines(probe: Probe, run: Callable[..., Done]) -> None:
    probe.file("pi-02", "daemon.json").chmod(0o600)
    shown = run("drift.check")
    assert shown.code == 1
    lines = shown.text.splitlines()
    assert lines[0].split() == ["NODE", "STATUS", "STATES", "SECONDS", "WHAT"]
    (line,) = [line for line in lines if line.startswith("pi-02")]
    assert line.split()[1] == "drifted" and line.endswith("daemon file, 1 that follow")
    report = run("drift.check", "format=junit")
    assert report.code == 1
    root = ET.fromstring(report.text)
    assert [case.get("name") for case in root.iterfind(".//testcase[failure]")] == [
        "daemon file", "whoever follows",
    ]  # fmt: skip
    quiet = run("drift.check", "cp1", "quiet=True")
    assert (quiet.code, quiet.text.strip()) == (0, "")


# --- what cannot be checked --------------------------------------------------------------------------


def test_a_stopped_minion_is_unreachable_and_holds_up_nobody(
    probe: Probe, pi_02: SaltMinion, check: Callable[..., Done]
) -> None:
    probe.file("pi-01", "daemon.json").unlink()
    pi_02.terminate()
    try:
        done = check()
    finally:
        pi_02.start()
    assert done.code == 2
    assert done.nodes["pi-02"]["status"] == "unreachable"
    assert done.nodes["pi-02"]["reason"] == "it does not answer"
    assert done.drift("pi-01")[0] == "daemon file"
    assert done.nodes["cp1"]["status"] == "clean"


def test_states_that_do_not_render_are_no_drift(probe: Probe, check: Callable[..., Done]) -> None:
    probe.add_state("{% if grains['id'] == 'pi-01' %}{{ 1 / 0 }}{% endif %}\n")
    done = check()
    assert done.code == 2
    assert done.nodes["pi-01"]["status"] == "render error"
    assert "drift_probe" in done.nodes["pi-01"]["reason"]
    assert done.nodes["cp1"]["status"] == "clean"


def test_a_node_on_which_states_run_is_not_compared(
    probe: Probe, master: SaltMaster, check: Callable[..., Done]
) -> None:
    slow = probe.sls.with_name("drift_slow.sls")
    slow.write_text("wait:\n  module.run:\n    - test.sleep: [{length: 40}]\n", encoding="utf-8")
    program = str(Path(sys.executable).with_name("salt"))
    words = [program, "-c", master.config_dir, "--async", "pi-01", "state.apply", "drift_slow"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    try:
        cli = master.salt_cli(timeout=60)
        deadline = time.monotonic() + 30
        while not cli.run("saltutil.is_running", "state.*", minion_tgt="pi-01").data:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        done = check()
    finally:
        cli.run("saltutil.kill_all_jobs", minion_tgt="pi-01")
        slow.unlink()
    assert done.nodes["pi-01"]["status"] == "apply in progress", done.nodes["pi-01"]
    assert done.nodes["cp1"]["status"] == "clean"
    assert done.code == 2


def test_a_second_check_ends_at_once_and_is_noted(
    probe: Probe, run: Callable[..., Done], check: Callable[..., Done]
) -> None:
    with (probe.state_dir / "drift.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = check()
        assert run("drift.fix", "pi-01").code == 2
    assert done.code == 2
    assert done.data["nodes"] == {}
    assert "another check or fix runs" in done.data["problems"][0]
    entries = run("drift.history", "--out=json").data["history"]
    assert [entry["kind"] for entry in entries] == ["skipped", "skipped"]
    assert check().code == 0


def test_a_check_that_was_killed_is_seen_in_history_and_metrics(
    probe: Probe, master: SaltMaster, run: Callable[..., Done], check: Callable[..., Done]
) -> None:
    process = subprocess.Popen(
        command(master, "drift.check"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    running = probe.state_dir / "drift.running.json"
    deadline = time.monotonic() + 60
    while not running.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert float(metric(probe, "started_timestamp_seconds")) > 0
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    (line,) = run("drift.history", "--out=json").data["history"]
    assert line["kind"] == "cut off"
    assert check().code == 0
    assert [entry["kind"] for entry in run("drift.history", "--out=json").data["history"]] == [
        "cut off", "check",
    ]  # fmt: skip
    assert metric(probe, "started_timestamp_seconds") == "0"
    assert metric(probe, "unfinished") == "1"


def test_a_pillar_that_describes_no_rack_is_a_problem_and_no_drift(
    probe: Probe, checkout: Path, check: Callable[..., Done]
) -> None:
    path = checkout / "pillar" / "rack.sls"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("192.168.1.0/24", "192.168.1.7/24"), encoding="utf-8")
    try:
        done = check()
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.code == 2
    assert any("host bits" in problem for problem in done.data["problems"])
    assert done.data["nodes"] == {}


def test_no_such_node_is_said(probe: Probe, run: Callable[..., Done]) -> None:
    for function in ("check", "diff", "fix"):
        done = run(f"drift.{function}", "pi-77")
        assert done.code == 2
        assert "'pi-77'" in done.text
    assert "table, json, junit" in run("drift.check", "format=xml").text


# --- what is kept ------------------------------------------------------------------------------------


def metric(probe: Probe, name: str) -> str:
    lines = probe.metrics.read_text(encoding="utf-8").splitlines()
    (value,) = [line.split()[-1] for line in lines if line.split()[0] == f"saltberry_drift_{name}"]
    return value


def test_checks_are_kept_and_told_to_prometheus(
    probe: Probe, run: Callable[..., Done], check: Callable[..., Done]
) -> None:
    assert check().code == 0
    good = float(metric(probe, "last_success_timestamp_seconds"))
    assert abs(time.time() - good) < 120
    probe.file("cp1", "daemon.json").unlink()
    assert check().code == 1
    assert metric(probe, 'nodes{status="drifted"}') == "1"
    assert metric(probe, "states") == "2"
    assert metric(probe, "exit_code") == "1"
    assert float(metric(probe, "check_duration_seconds")) > 0
    entries = run("drift.history", "--out=json").data["history"]
    assert [entry["exit"] for entry in entries] == [0, 1]
    assert entries[1]["drift"] == {"cp1": ["daemon file"]}
    assert "1 drifted" in run("drift.history").text.splitlines()[-1]
    # only some: their last known state changes, and the rack has not been checked
    before = metric(probe, "last_check_timestamp_seconds")
    assert check("pi-*").code == 0
    assert metric(probe, "last_check_timestamp_seconds") == before
    assert run("drift.diff", "cp1").code == 1
    modes = {path.stat().st_mode & 0o777 for path in probe.kept.rglob("*") if path.is_file()}
    assert modes == {0o600}


def test_no_secret_leaves_the_node(
    probe: Probe, master: SaltMaster, run: Callable[..., Done], check: Callable[..., Done]
) -> None:
    cache = Path(master.config["cachedir"]) / "jobs"
    known = set(cache.rglob("return.p"))
    for name in ("plain-name", "told.conf"):
        probe.file("pi-01", name).write_text("user = pi\npassword = another horse\n", "utf-8")
    done = check()
    assert done.drift("pi-01") == ["a secret file", "a file that tells"]
    shown = run("drift.diff", "pi-01")
    mended = run("drift.fix", "pi-01", "--out=json")
    assert mended.code == 0
    assert {found["id"] for found in mended.data["applied"]["changed"]} == {
        "a secret file", "a file that tells",
    }  # fmt: skip
    kept = "".join(path.read_text() for path in probe.kept.rglob("*") if path.is_file())
    for text in (done.text, shown.text, mended.text, kept):
        assert "a file that tells" in text
        assert "horse" not in text
        assert "user = pi" not in text or "password = <masked>" in text
    answers = [salt.payload.loads(p.read_bytes()) for p in set(cache.rglob("return.p")) - known]
    looks = [str(said) for said in answers if "vitals" in str(said)]
    assert any("a secret file" in said for said in looks)
    assert not [said for said in looks if "horse" in said]


# --- who is hostile ----------------------------------------------------------------------------------

HOSTILE = ("*", "a\nb", "{{ 1 + 1 }}", "<script>", "-x")


def test_an_id_that_is_no_host_name_is_never_asked_and_does_no_harm(
    probe: Probe, master: SaltMaster, run: Callable[..., Done], check: Callable[..., Done]
) -> None:
    for name in HOSTILE:
        accept(master, name)
    try:
        done = check()
        report = run("drift.check", "format=junit")
        refused = run("drift.fix", "*")
        only = check("*b")
    finally:
        for name in HOSTILE:
            remove_key(master, name)
    assert set(done.nodes) == {*NODES, *map(ascii, HOSTILE)}
    for name in HOSTILE:
        assert done.nodes[ascii(name)]["status"] == "unreachable"
        assert "host name" in done.nodes[ascii(name)]["reason"]
    assert all(done.nodes[name]["status"] == "clean" for name in NODES)
    assert done.code == 2
    assert len(ET.fromstring(report.text).findall("testsuite")) == len(NODES) + len(HOSTILE)
    assert refused.code == 2
    assert set(only.nodes) == {ascii("a\nb")}


def test_values_that_mean_something_elsewhere_do_no_harm(
    probe: Probe, run: Callable[..., Done], check: Callable[..., Done]
) -> None:
    nasty = "]]></failure><x>&\x1b[31m{{ 1 + 1 }}\n+ not a line of mine"
    probe.file("pi-01", "sysctl.conf").write_text(nasty, encoding="utf-8")
    assert check().drift("pi-01") == ["sysctl file"]
    assert "\x1b" not in run("drift.diff", "pi-01").text
    report = ET.fromstring(run("drift.check", "format=junit").text)
    (failure,) = report.iterfind(".//failure")
    assert "]]></failure><x>&" in str(failure.text)


# --- notices -----------------------------------------------------------------------------------------


def test_a_notice_is_sent_when_something_changed_and_only_then(
    probe: Probe, check: Callable[..., Done]
) -> None:
    heard: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=server.serve_forever, daemon=True).start()
    hook = probe.state_dir / "drift-webhook"
    hook.write_text(f"http://127.0.0.1:{server.server_port}/secret-path\n", encoding="utf-8")
    hook.chmod(0o600)
    try:
        check()
        assert heard == [], "a clean rack is no news"
        probe.file("cp1", "daemon.json").unlink()
        check()
        check()
        assert [said["drift"] for said in heard] == [{"cp1": ["daemon file"]}]
        assert "1 drifted" in heard[0]["text"]
        probe.mend()
        check()
        assert [said["exit"] for said in heard] == [1, 0]
    finally:
        server.shutdown()
        server.server_close()
    probe.file("cp1", "daemon.json").unlink()
    done = check()
    assert done.code == 2, "a notice that cannot be sent has to be seen by somebody"
    assert "no notice was posted" in done.data["problems"][0]
    assert "secret-path" not in done.text


@pytest.fixture
def sendmail(checkout: Path, tmp_path: Path) -> Iterator[Path]:
    """Stands in for the system's mail program: keeps what it is given; fails while a file `broken` is there."""
    program = tmp_path / "sendmail"
    program.write_text(
        f"#!/bin/sh\ntest ! -e {tmp_path}/broken || {{ echo no queue >&2; exit 75; }}\n"
        f'echo "$@" >>{tmp_path}/options\ncat >{tmp_path}/mail.$(date +%s%N)\n'
    )
    program.chmod(0o755)
    runner, rack = checkout / "_runners" / "drift.py", checkout / "pillar" / "rack.sls"
    saved = {path: path.read_text(encoding="utf-8") for path in (runner, rack)}
    text = saved[runner].replace('"/usr/sbin/sendmail"', f'"{program}"')
    assert text != saved[runner]
    runner.write_text(text, encoding="utf-8")
    rack.write_text(
        saved[rack].replace('"keep": 10', '"keep": 10, "mail": "anna@example.org"'), "utf-8"
    )
    yield tmp_path
    for path, text in saved.items():
        path.write_text(text, encoding="utf-8")


def test_a_mail_is_sent_when_something_changed_and_only_then(
    probe: Probe, sendmail: Path, check: Callable[..., Done]
) -> None:
    def mails() -> list[Any]:
        return [
            email.message_from_bytes(path.read_bytes()) for path in sorted(sendmail.glob("mail.*"))
        ]

    check()
    assert mails() == [], "a clean rack is no news"
    probe.file("cp1", "daemon.json").unlink()
    probe.file("pi-01", "told.conf").write_text("user = pi\npassword = another horse\n", "utf-8")
    check()
    check()
    (sent,) = mails()
    assert (sent["To"], (sendmail / "options").read_text()) == ("anna@example.org", "-i -t\n")
    assert "2 drifted" in sent["Subject"]
    text = sent.get_payload(decode=True).decode()
    assert "daemon file" in text and "a file that tells" in text
    assert "horse" not in text
    probe.mend()
    check()
    assert len(mails()) == 2 and "3 clean" in mails()[1]["Subject"]
    (sendmail / "broken").touch()
    probe.file("cp1", "daemon.json").unlink()
    done = check()
    assert done.code == 2, "a notice that cannot be sent has to be seen by somebody"
    assert "no mail was sent to anna@example.org" in done.data["problems"][0]
    (sendmail / "broken").unlink()
    check()
    assert len(mails()) == 3, "what could not be said is said later"


def test_nothing_runs_on_after_the_tests(master: SaltMaster, replaced: Probe) -> None:
    found = subprocess.run(
        ["pgrep", "-f", f"{master.config_dir}.*drift.check"], capture_output=True, text=True
    )
    assert found.stdout == ""
