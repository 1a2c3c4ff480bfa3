"""bench/converge: a rack that is as it should be, looked over by Salt and by Ansible.

Both prepare the same nodes of a lab rack in the same way: Salt by `salt -L … state.apply`, Ansible by a
playbook made from the very states (`bench/playbook.py`) over ssh. Measured is the run that finds nothing to
do, and check mode (`test=True`, `--check`), for some of the nodes and for all, by turns; what counts is
what a person waits at the prompt.

Ansible has pipelining, connections that stay, as many forks as nodes, and facts from its cache. The nodes are
in no cluster, and the master's timers are off, so that nothing else runs on them.

Nothing is printed unless both sides are right: a run that changes anything fails the bench, and so does a
check mode that does not name exactly what was broken by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import playbook
from lab import lifecycle, podman
from lab.cli import CACHE
from lab.progress import Progress
from lab.rack import REPO, Rack, describe, wait_for

# What of a worker's highstate prepares the node; the rest is about the join, the share and the minion.
SLS = ("base", "containerd", "system", "kubernetes")
PILLAR = """\
users:
  anna: {sudo: true, ssh_keys: ["@KEY@"]}
system: {packages: [jq], journal: memory}
"""
MODES = ("apply", "check")
# What is broken by hand on the first node: the state that has to name it, and how
BROKEN = {
    "kubernetes-crictl": "echo '# by hand' >>/etc/crictl.yaml",
    "base-sysctl": "rm /etc/sysctl.d/99-saltberry.conf",
    "users-sudo": "chmod 0644 /etc/sudoers.d/saltberry",
    "kubernetes-packages": "apt-mark unhold kubectl",
    "containerd-running": "systemctl disable --now containerd",
}
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)


class Wrong(RuntimeError):
    """A side did not do what it is measured for; the text says what."""


# --- what both said ----------------------------------------------------------------------------


def salt_changes(returned: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, set[str]]:
    """Return the ids of the states that changed, or would change, something on each node.

    Args:
        returned: ``{node: {state: result}}``, as ``salt --static`` prints it.
        nodes: those that had to answer.

    Raises Wrong for a node that did not answer with states, or a state that failed.
    """
    changed: dict[str, set[str]] = {}
    for node in nodes:
        states = returned.get(node)
        if not isinstance(states, dict):
            raise Wrong(f"Salt: {node} said {states}")
        for found in states.values():
            if found["result"] is False:
                raise Wrong(f"Salt: {node}: {found['__id__']}: {found['comment']}")
        changed[node] = {
            found["__id__"]
            for found in states.values()
            if found["result"] is None or found["changes"]
        }
    return changed


def ansible_changes(text: str, nodes: Sequence[str]) -> dict[str, set[str]]:
    """Return the ids of the states whose tasks changed, or would change, something on each node.

    Args:
        text: what ``ansible-playbook`` printed.
        nodes: those that had to take part.

    Raises Wrong when a node is missing, could not be reached or had a task that failed.
    """
    recap = {node: tuple(map(int, counts)) for node, *counts in RECAP.findall(text)}
    for node in nodes:
        ok, _, unreachable, failed = recap.get(node, (0, 0, 1, 0))
        if not ok or unreachable or failed:
            raise Wrong(f"Ansible: {node} went wrong:\n{text[-3000:]}")
    changed: dict[str, set[str]] = {node: set() for node in nodes}
    name = ""
    for line in text.splitlines():
        if task := re.match(r"(?:TASK|RUNNING HANDLER) \[(.+?)\]", line):
            name = task[1].partition(" (")[0]
        elif found := re.match(r"changed: \[(.+?)\]", line):
            changed[found[1]].add(name)
    for node in nodes:
        if bool(changed[node]) != bool(recap[node][1]):
            raise Wrong(f"Ansible: {node}: tasks and recap differ:\n{text[-3000:]}")
    return changed


# --- the two sides -----------------------------------------------------------------------------


class Salt:
    """The master's own command line."""

    def __init__(self, rack: Rack) -> None:
        self.rack = rack

    def call(self, nodes: Sequence[str], *words: str) -> dict[str, Any]:
        """Run a function on nodes and return what each said."""
        command = ["salt", "--out=json", "--static", "-t", "120", "-L", ",".join(nodes), *words]
        done = self.rack.master.run(*command, check=False)
        try:
            return dict(json.loads(done.stdout))
        except ValueError:
            raise Wrong(f"{' '.join(command)}: {done.stdout}{done.stderr}") from None

    def run(self, nodes: Sequence[str], *, check: bool) -> dict[str, set[str]]:
        """Apply the preparation, or say what that would change."""
        words = ["state.apply", ",".join(SLS), *(["test=True"] if check else [])]
        return salt_changes(self.call(nodes, *words), nodes)


class Ansible:
    """`ansible-playbook` of this checkout's Python environment, in a folder of its own.

    It runs in the network of nfs1, as Salt does: the rack's own is closed to this machine.
    """

    def __init__(self, rack: Rack, folder: Path, nodes: Sequence[str]) -> None:
        self.rack, self.folder, self.nodes = rack, folder, nodes
        self.tasks = 0
        pid = podman.podman("inspect", "-f", "{{.State.Pid}}", rack.master.container).strip()
        self.place = ["nsenter", f"--target={pid}", "--net"]
        (folder / "ansible.cfg").write_text(
            "[defaults]\n"
            f"forks = {max(5, len(nodes))}\ngathering = smart\nfact_caching = jsonfile\n"
            f"fact_caching_connection = {folder}/facts\nfact_caching_timeout = 86400\n"
            f"inventory = {folder}/inventory.json\nlocal_tmp = {folder}/tmp\n"
            "interpreter_python = /usr/bin/python3\nretry_files_enabled = False\n"
            "[ssh_connection]\npipelining = True\n"
            f"control_path_dir = {folder}\ncontrol_path = {folder}/%%h\n"
            f"ssh_args = {' '.join(self._ssh())}\n"
        )

    def _ssh(self) -> list[str]:
        options = ("ControlMaster=auto", "ControlPersist=600s", "StrictHostKeyChecking=no",
                   "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", f"IdentityFile={self.folder}/key")  # fmt: skip
        return [word for option in options for word in ("-o", option)]

    def write(
        self, low: Mapping[str, Sequence[Mapping[str, Any]]], sshd: Mapping[str, str]
    ) -> None:
        """Write inventory and playbook for what Salt does on each node."""
        made = {node: playbook.tasks(low[node], sshd[node]) for node in self.nodes}
        tasks, variables = playbook.merged({node: both[0] for node, both in made.items()})
        self.tasks = len(tasks)
        hosts = {
            node: {
                "ansible_host": self.rack.node(node).ip,
                "ansible_user": "root",
                **variables[node],
            }
            for node in self.nodes
        }
        (self.folder / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts}}))
        play = {"hosts": "all", "tasks": tasks, "handlers": made[self.nodes[0]][1]}
        (self.folder / "playbook.json").write_text(json.dumps([play]))

    def run(self, nodes: Sequence[str], *, check: bool) -> dict[str, set[str]]:
        """Run the playbook, or say what that would change."""
        words = [f"{self.folder}/playbook.json", "--limit", ",".join(nodes)]
        environment = {**os.environ, "ANSIBLE_CONFIG": f"{self.folder}/ansible.cfg",
                       "ANSIBLE_HOME": f"{self.folder}/home", "ANSIBLE_NOCOLOR": "1"}  # fmt: skip
        done = subprocess.run(
            [*self.place, program(), *words, *(["--check"] if check else [])],
            capture_output=True, text=True, env=environment, timeout=600,
        )  # fmt: skip
        return ansible_changes(done.stdout + done.stderr, nodes)

    def close(self) -> None:
        """End the connections that stay."""
        for node in self.nodes:
            command = [*self.place, "ssh", "-o", f"ControlPath={self.folder}/%h", "-O", "exit"]
            subprocess.run([*command, self.rack.node(node).ip], capture_output=True)


def program() -> str:
    """Return the path of `ansible-playbook` beside this Python."""
    return str(Path(sys.executable).with_name("ansible-playbook"))


def lacking() -> str:
    """Return what this machine lacks for the bench, and the fix; empty if nothing."""
    if os.geteuid() != 0:
        return "the nodes are privileged containers: run it as root"
    if not Path(program()).exists():
        return "Ansible is not here: run tools/venv bench"
    missing = [name for name in ("ssh", "ssh-keygen") if not shutil.which(name)]
    return f"no {' and no '.join(missing)} here: apt-get install openssh-client" if missing else ""


# --- the rack ----------------------------------------------------------------------------------


@contextlib.contextmanager
def sides(rack: Rack, nodes: Sequence[str], progress: Progress) -> Iterator[tuple[Salt, Ansible]]:
    """Prepare the nodes with Salt, and make the playbook that does the same.

    Yields:
        Both sides, of which each has found once that there is nothing to do.
    """
    salt = Salt(rack)
    # Short: ssh's sockets are in it
    with tempfile.TemporaryDirectory(prefix="sbc-") as name:
        folder = Path(name)
        ansible = Ansible(rack, folder, nodes)
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", f"{folder}/key"]
        subprocess.run(key, check=True)
        public = (folder / "key.pub").read_text().strip()
        rack.master.write(
            f"{REPO}/pillar/rack.sls", describe(rack) + PILLAR.replace("@KEY@", public)
        )
        rack.master.run(
            "systemctl", "stop", "saltberry-reconcile.timer", "saltberry-reconcile.path"
        )
        rack.master.run("systemctl", "stop", "saltberry-drift.timer")
        for node in nodes:
            allow_login(rack, node, public)
        with progress.step("Salt prepares the nodes"):
            salt.call(nodes, "saltutil.sync_all")
            salt.run(nodes, check=False)
            quiet("Salt", salt.run(nodes, check=False))
        with progress.step("Ansible finds nothing to do"):
            sshd = salt.call(nodes, "sshd.wanted", "False")
            ansible.write(salt.call(nodes, "state.show_low_sls", ",".join(SLS)), sshd)
            quiet("Ansible", ansible.run(nodes, check=False))
        try:
            yield salt, ansible
        finally:
            ansible.close()


def allow_login(rack: Rack, node: str, public: str) -> None:
    """Let Ansible in as root, and give it what Raspberry Pi OS has and the lab's node lacks."""
    pi = rack.node(node)
    pi.run("install", "-d", "-m", "0700", "/root/.ssh")
    pi.run("tee", "/root/.ssh/authorized_keys", stdin=f"{public}\n".encode())
    if pi.run("dpkg-query", "-W", "python3-apt", check=False).returncode:
        pi.run("apt-get", "update", "-q")
        pi.run("apt-get", "install", "-q", "-y", "--no-install-recommends", "python3-apt")


def plug(rack: Rack, nodes: Sequence[str], progress: Progress) -> None:
    """Have the nodes in the rack, their minions connected; they can't join: there is no cluster."""
    for node in nodes:
        lifecycle.plug(rack, node, progress)
    with progress.step("the minions answer"):

        def ask() -> tuple[bool, str]:
            words = ["salt", "--out=json", "--static", "-L", ",".join(nodes), "test.ping"]
            said = rack.master.run(*words, check=False).stdout
            late = [node for node in nodes if f'"{node}": true' not in said]
            return not late, f"no answer of {', '.join(late)}"

        wait_for("an answer of all minions", ask, progress, 600)


# --- the measurement ---------------------------------------------------------------------------


def quiet(side: str, changed: Mapping[str, set[str]]) -> None:
    """Raise Wrong when a run that had nothing to do did something."""
    found = {node: sorted(ids) for node, ids in changed.items() if ids}
    if found:
        raise Wrong(f"{side} is no no-op: {found}")


def timed(side: Salt | Ansible, nodes: Sequence[str], *, check: bool) -> float:
    """Return the seconds of a run that must find nothing to do."""
    began = time.monotonic()
    changed = side.run(nodes, check=check)
    seconds = time.monotonic() - began
    quiet(type(side).__name__, changed)
    return seconds


def prove(salt: Salt, ansible: Ansible, node: str) -> list[str]:
    """Break things by hand: check mode of both sides must name them, and nothing else.

    Returns:
        The ids of the states that both named. Raises Wrong when a side named others.
    """
    pi = salt.rack.node(node)
    for command in BROKEN.values():
        pi.run("sh", "-c", command)
    try:
        for side, run in (("Salt", salt.run), ("Ansible", ansible.run)):
            named = run([node], check=True)[node]
            if named != set(BROKEN):
                raise Wrong(f"{side} names {sorted(named)}, broken are {sorted(BROKEN)}")
    finally:
        salt.run([node], check=False)
    quiet("Salt, after it mended what was broken,", salt.run([node], check=True))
    quiet("Ansible, after Salt mended what was broken,", ansible.run([node], check=True))
    return sorted(BROKEN)


def measure(
    salt: Salt, ansible: Ansible, counts: Sequence[int], rounds: int, progress: Progress
) -> dict[str, Any]:
    """All rounds of both sides, by turns."""
    nodes = ansible.nodes
    with progress.step("both name what was broken by hand"):
        named = prove(salt, ansible, nodes[0])
    states = salt.call(nodes[:1], "state.apply", ",".join(SLS), "test=True")[nodes[0]]
    rows: list[dict[str, Any]] = []
    for count in counts:
        some = nodes[:count]
        found: list[dict[str, Any]] = [
            {"nodes": count, "mode": mode, "salt": [], "ansible": []} for mode in MODES
        ]
        with progress.step(f"{count} nodes, {rounds} rounds"):
            for _ in range(rounds):
                for row in found:
                    check = row["mode"] == "check"
                    row["salt"].append(timed(salt, some, check=check))
                    row["ansible"].append(timed(ansible, some, check=check))
        rows += found
    for row in rows:
        row["ratio"] = statistics.median(row["ansible"]) / statistics.median(row["salt"])
    return {"states": len(states), "tasks": ansible.tasks, "proof": named, "rows": rows}


def main(argv: list[str] | None = None) -> int:
    """Run the bench and print its table.

    Returns:
        0; 1 when a side did not do what is measured.
    """
    parser = argparse.ArgumentParser(prog="bench.converge", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", default="1,3,5", help="how many nodes, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rack", default="conv", help="the rack to use (made if it is not there)")
    parser.add_argument("--keep", action="store_true", help="leave the rack for the next run")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if lacks := lacking():
        parser.error(lacks)
    counts = [int(word) for word in arguments.nodes.split(",")]
    nodes = [f"pi-{number:02}" for number in range(1, max(counts) + 1)]
    progress = Progress()
    try:
        rack = lifecycle.up(arguments.rack, CACHE, progress, only=[])
        plug(rack, nodes, progress)
        with sides(rack, nodes, progress) as (salt, ansible):
            result = measure(salt, ansible, counts, arguments.rounds, progress)
    except Wrong as wrong:
        print(f"bench.converge: {wrong}", file=sys.stderr)
        return 1
    finally:
        made = Rack.load(arguments.rack)
        if made is not None and not arguments.keep:
            made.remove()
    print(json.dumps(result, indent=1)) if arguments.json else show(result)
    return 0


def show(result: Mapping[str, Any]) -> None:
    """Print the table a person reads."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    table = Table(title="nothing to do: Salt against Ansible", title_justify="left")
    for column in ("nodes", "mode", "Salt s", "Ansible s", "ratio"):
        table.add_column(column, justify="left" if column == "mode" else "right")
    for row in result["rows"]:
        middle = {side: statistics.median(row[side]) for side in ("salt", "ansible")}
        table.add_row(
            str(row["nodes"]), row["mode"], f"{middle['salt']:.1f}", f"{middle['ansible']:.1f}",
            f"{row['ratio']:.1f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"{result['states']} states, {result['tasks']} tasks; changed nothing on either side; "
        f"broken by hand and named by both: {', '.join(result['proof'])}"
    )


if __name__ == "__main__":
    sys.exit(main())
