"""The join token is on the control plane and, sealed but for a moment, on the joining node. Nowhere else."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.conftest import Lab

TOKENS = (
    "-n", "kube-system", "get", "secrets", "--field-selector", "type=bootstrap.kubernetes.io/token", "-o", "json",
)  # fmt: skip


def _live_tokens(lab: Lab) -> dict[str, str]:
    """Token id → secret part, as the API server holds them now."""
    import base64

    items = json.loads(lab.kubectl(*TOKENS, check=False) or '{"items": []}')["items"]
    return {
        base64.b64decode(item["data"]["token-id"]).decode(): base64.b64decode(
            item["data"]["token-secret"]
        ).decode()
        for item in items
    }


class Recorder:
    """Collects every token that ever lives, every command line, and every event, during a join."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.tokens: dict[str, str] = {}
        self.command_lines: set[str] = set()
        self._stop = threading.Event()

    def _watch_tokens(self) -> None:
        while not self._stop.is_set():
            self.tokens.update(_live_tokens(self.lab))
            time.sleep(0.2)

    def _watch_processes(self) -> None:
        # The host sees the processes of all nodes.
        while not self._stop.is_set():
            out = subprocess.run(
                ["ps", "-eo", "args", "-ww"], capture_output=True, text=True
            ).stdout
            self.command_lines.update(out.splitlines())
            time.sleep(0.05)

    @contextmanager
    def running(self) -> Iterator[None]:
        bus = "/root/bus.log"
        master = self.lab.master
        listener = subprocess.Popen(
            master.command(["sh", "-c", f"exec salt-run state.event pretty=False >{bus}"]),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(4)
        watchers = [
            threading.Thread(target=run) for run in (self._watch_tokens, self._watch_processes)
        ]
        for watcher in watchers:
            watcher.start()
        try:
            yield
        finally:
            self._stop.set()
            for watcher in watchers:
                watcher.join()
            master.run("pkill", "-f", "state.event", check=False)
            listener.wait(30)


def _holds(lab: Lab, name: str, secret: str) -> list[str]:
    """Files of a node that hold the secret: caches, logs, run files, the recorded bus, journal."""
    found = lab.node(name).run(
        "grep", "-rlFs", secret, "/var/cache/salt", "/var/log", "/var/lib/saltberry", "/run/saltberry", "/run/salt",
        "/root", "/etc", "/tmp", "/opt/saltberry", "/var/tmp", check=False,
    ).stdout.split()  # fmt: skip
    journal = lab.node(name).run(
        "sh", "-c", f"journalctl --no-pager -o cat | grep -cF {secret}", check=False
    )
    return found + (["journal"] if journal.stdout.strip() not in ("0", "") else [])


def test_the_join_token_leaks_nowhere_and_is_gone_afterwards(lab: Lab, pi: str) -> None:
    recorder = Recorder(lab)
    with recorder.running():
        lab.plug(pi)
        lab.wait_ready(pi)
    assert recorder.tokens, "no token was ever seen: the recorder is blind"
    bus = lab.master.run("cat", "/root/bus.log").stdout
    assert pi in bus, "the recorder heard nothing of this join"
    lines = "\n".join(recorder.command_lines)
    assert "kubeadm join" in lines, "the recorder missed kubeadm's command line"
    for secret in recorder.tokens.values():
        assert secret not in lines
        assert secret not in bus
        for name in ("nfs1", "cp1", "pi-01", pi):
            assert _holds(lab, name, secret) == [], name
    lab.wait("no join token on the API server", lambda: not _live_tokens(lab), 60)
    assert not lab.node(pi).run(
        "sh", "-c", "ls /run/saltberry/*.yaml /etc/kubernetes/bootstrap-kubelet.conf", check=False
    ).stdout  # fmt: skip


def test_the_join_file_is_for_root_alone_while_it_lives(lab: Lab, pi: str) -> None:
    lab.plug(pi)
    seen = lab.wait(
        "the join file",
        lambda: lab.node(pi).run(
            "sh", "-c", "stat -c '%a %U %n' /run/saltberry /run/saltberry/*.yaml 2>/dev/null", check=False
        ).stdout.strip().count(".yaml") and lab.node(pi).run(
            "sh", "-c", "stat -c '%a %U %n' /run/saltberry /run/saltberry/*.yaml 2>/dev/null", check=False
        ).stdout, 300, every=0.05,
    )  # fmt: skip
    modes = re.findall(r"^(\d+) (\w+) (\S+)$", seen, re.M)
    assert ("700", "root", "/run/saltberry") in modes
    assert all(
        mode == "600" and owner == "root" for mode, owner, path in modes if path.endswith(".yaml")
    ), seen
    lab.wait_ready(pi)


def test_the_token_is_gone_when_the_join_failed(lab: Lab, pi: str) -> None:
    # A stray manifest: nothing of ours looks there, kubeadm's own checks refuse to join over it.
    with lab.reconcile_by_hand():
        node = lab.plug(pi)
        lab.wait(f"{pi} answering", lambda: lab.answers(pi), 300)
        node.run(
            "sh",
            "-c",
            "mkdir -p /etc/kubernetes/manifests && touch /etc/kubernetes/manifests/stray.yaml",
        )
        lab.run("rack.reconcile", "wait=True")
        entry = lab.status(pi)
        assert not entry["joined"], entry
        assert "manifests is not empty" in entry["reason"], entry
        assert not _live_tokens(lab)
