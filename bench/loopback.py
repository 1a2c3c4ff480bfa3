"""A real salt-master and real minions on this machine, as the benches want them: many, light, measured.

The configuration is the shipped one (``etc/``), filled in as the installers do; what differs is in
:data:`OVERLAY`. Minions are forked from one process that has loaded Salt, so that thirty of them share its
code as they would share nothing on thirty Pis; each is a salt-minion of its own from there on.

Where a Pi would be changed, stand-ins take over (``tests/integration/standin``): kubeadm and the cluster
are a folder of files, and the roles' states are those that lead to the join.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.integration.conftest import COPIED, REPO, render

STANDIN = REPO / "tests" / "integration" / "standin"
MASTER_ID = "nfs1_master"
OVERLAY = """\
id: {id}
saltberry: {{state_dir: {state}, run_dir: {run}, mirror_dir: {mirror}}}
publish_port: {publish_port}
ret_port: {ret_port}
"""
# What the overlay holds besides, in a bench that has minions without our configuration
LENIENT = "require_minion_sign_messages: false\ndrop_messages_signature_fail: false\n"
# Forks a salt-minion for each folder of configuration that it is given.
MINIONS = """
import os, signal, sys
import salt.cli.daemons, salt.minion, salt.scripts, salt.modules.state, salt.loader, salt.state
for folder in sys.argv[1:]:
    if os.fork() == 0:
        said = os.open(folder + "/said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(said, 1), os.dup2(said, 2)
        sys.argv = ["salt-minion", "-c", folder, "--disable-keepalive"]
        salt.scripts.salt_minion()
        os._exit(0)
signal.pause()
"""


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def pss(pids: Iterable[int]) -> float:
    """Return the memory of some processes in MiB: each page divided by those who share it."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            total += next(
                int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")
            )
    return total / 1024


def family(session: int) -> list[int]:
    """Return the processes of a session: a daemon and all that it started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            words = (path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if int(words[3]) == session:
                found.append(int(path.name))
    return found


def cpu(pids: Iterable[int]) -> float:
    """Return the seconds of processor time of some processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
            ticks += sum(map(int, text.rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Loopback:
    """One master's checkout, configuration and state, with its minions; made in a folder of its own."""

    def __init__(self, rack: dict[str, Any], overlay: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sbb-"))  # short: unix sockets
        self.checkout, self.standin = self.folder / "repo", self.folder / "standin"
        self.publish_port, self.ret_port = free_ports(2)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "run", "mirror/wheels", "m/conf/master.d", "cards"):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        for name in ("nodes", "tokens", "routes"):
            (self.standin / name).mkdir(parents=True)
        (self.standin / "boot").write_text("1")
        (self.folder / "mirror/wheels/salt.lock").write_text(
            "# saltberry wheelhouse: bench\nsalt==3008.3\n"
        )
        self._copy_checkout()
        # The pod network whose routes the master keeps right, so that this is measured, too
        whole = {"kubernetes": {"cni": "routed"}, **rack}
        (self.checkout / "pillar/rack.sls").write_text(json.dumps(whole), encoding="utf-8")
        self._configure_master(overlay)

    def _copy_checkout(self) -> None:
        for name in (*COPIED, "install"):
            source = REPO / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "rack.sls")
                shutil.copytree(source, self.checkout / name, symlinks=True, ignore=ignore)
        for source in STANDIN.rglob("*.*"):
            if source.suffix in (".py", ".sls"):
                target = self.checkout / source.relative_to(STANDIN)
                target.parent.mkdir(parents=True, exist_ok=True)
                text = source.read_text(encoding="utf-8").replace("@STANDIN@", str(self.standin))
                target.write_text(text, encoding="utf-8")
        runner = self.checkout / "_runners/rack.py"
        program, mark = runner.read_text(encoding="utf-8"), '"/run/systemd/private"'
        if mark not in program:
            raise RuntimeError(f"{runner} has no {mark}: the stand-in for a boot has no place")
        runner.write_text(program.replace(mark, f'"{self.standin}/boot"'), encoding="utf-8")

    def _configure_master(self, more: str) -> None:
        conf = self.folder / "m/conf"
        (conf / "master").write_text(f"root_dir: {self.folder}/m\n")
        shipped = render(
            REPO / "etc/master.d/saltberry.conf.in",
            REPO=self.checkout, STATE_DIR=self.folder / "state", INTERFACE="127.0.0.1",
        )  # fmt: skip
        (conf / "master.d/saltberry.conf").write_text(shipped, encoding="utf-8")
        overlay = OVERLAY.format(
            id=MASTER_ID, state=self.folder / "state", run=self.folder / "run",
            mirror=self.folder / "mirror", publish_port=self.publish_port, ret_port=self.ret_port,
        )  # fmt: skip
        (conf / "master.d/zz-bench.conf").write_text(overlay + more, encoding="utf-8")

    @property
    def pki(self) -> Path:
        return self.folder / "m/etc/salt/pki/master"

    # --- processes ---------------------------------------------------------------------------------

    def start(self, name: str, *command: str) -> int:
        """Start a process in a session of its own; its output goes to ``<name>.log``. Returns its id."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.processes[name] = process
        return process.pid

    def kill(self, name: str) -> None:
        """End a process and all that it started, as a power cut does."""
        process = self.processes.pop(name, None)
        if process is not None:
            for pid in family(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            # Its children hold the ports until they are gone, too.
            self.until(lambda: not family(process.pid), 30, f"the end of {name}")

    def program(self, name: str) -> str:
        """Return the path of one of Salt's programs."""
        return str(Path(sys.executable).with_name(name))

    def start_master(self) -> int:
        """Start the salt-master and wait until it listens. Returns its process id."""
        pid = self.start("master", self.program("salt-master"), "-c", f"{self.folder}/m/conf")
        self.until(self._listens, 90, "the salt-master's port")
        return pid

    def _listens(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.ret_port), 1),
        ):
            return (self.pki / "master.pub").exists()
        return False

    def run(self, *words: str, timeout: float = 300) -> Any:
        """`salt-run`; its return."""
        command = [self.program("salt-run"), "-c", f"{self.folder}/m/conf", "--out=json", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise RuntimeError(f"salt-run {' '.join(words)}: {done.stdout}{done.stderr}") from None

    def start_minions(self, name: str, ids: Iterable[str]) -> int:
        """Start minions with the keys and the configuration of their cards. Returns their session."""
        folders = [str(self._configure_minion(node)) for node in ids]
        return self.start(name, sys.executable, "-c", MINIONS, *folders)

    def _configure_minion(self, node: str) -> Path:
        return self.configure_minion(node, self.folder / "n" / node, shipped=True)

    def configure_minion(self, node: str, root: Path, *, shipped: bool) -> Path:
        """Lay out what a minion has on its disk. Returns its folder of configuration.

        Args:
            node: its id; it has a card.
            root: a folder in which all its paths are.
            shipped: with our configuration; else with Salt's defaults.
        """
        conf, pki = root / "conf", root / "etc/salt/pki/minion"
        (conf / "minion.d").mkdir(parents=True)
        pki.mkdir(parents=True, mode=0o700)
        (conf / "minion").write_text(
            f"root_dir: {root}\nmaster_port: {self.ret_port}\npublish_port: {self.publish_port}\n"
        )
        text = f"master: 127.0.0.1\nid: {node}\n"
        if shipped:
            text = render(REPO / "etc/minion.d/saltberry.conf.in", MASTER="127.0.0.1", ID=node)
        (conf / "minion.d/saltberry.conf").write_text(text, encoding="utf-8")
        card = json.loads((self.folder / f"cards/{node}.card").read_text(encoding="utf-8"))["files"]
        for name, file in (
            ("minion.pem", "minion.pem"),
            ("minion.pub", "minion.pub"),
            ("minion_master.pub", "master.pub"),
        ):
            (pki / name).write_text(card[file], encoding="ascii")
            (pki / name).chmod(0o400)
        return conf

    def until(self, true: Callable[[], Any], seconds: float, what: str) -> float:
        """Wait until something is so; returns the seconds it took.

        Raises TimeoutError when it is not within so many seconds.
        """
        began = time.monotonic()
        while not true():
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"{what}: not within {seconds:.0f} seconds; see {self.folder}")
            time.sleep(0.1)
        return time.monotonic() - began

    def close(self) -> None:
        """End everything and remove the folder."""
        for name in list(self.processes):
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)


class Peak:
    """The most memory that some processes had while it ran."""

    def __init__(self, pids: Callable[[], Iterable[int]], every: float = 1.0) -> None:
        self._pids, self._every, self.most = pids, every, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self.most = max(self.most, pss(self._pids()))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()


class Starts:
    """When the start event of each node reached the master: it is accepted and connected then."""

    def __init__(self, loopback: Loopback) -> None:
        command = [
            loopback.program("salt-run"), "-c", f"{loopback.folder}/m/conf", "state.event",
            "salt/minion/pi-*/start", "count=-1", "--out=txt",
        ]  # fmt: skip
        self.seen: dict[str, float] = {}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        time.sleep(4)  # it has to listen before the clock starts

    def _read(self) -> None:
        for line in self._process.stdout or ():
            tag = line.split("\t")[0]
            if tag.startswith("salt/minion/"):
                self.seen.setdefault(tag.split("/")[2], time.monotonic())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()


@contextlib.contextmanager
def rack(
    nodes: Iterable[str], overlay: str = "", settings: dict[str, Any] | None = None
) -> Iterator[Loopback]:
    """A master with its keys, and a card for each node of a rack; gone afterwards.

    Args:
        nodes: the workers' ids.
        overlay: more configuration of the master.
        settings: the pillar's ``reconcile``, where it differs from the defaults.
    """
    described = {
        "rack": {"name": "bench", "network": "10.78.0.0/16"},
        "nodes": {
            "nfs1": {"ip": "10.78.0.10", "roles": ["storage", "master"]},
            "cp1": {"ip": "10.78.0.11", "roles": ["control_plane"]},
            **{node: {} for node in nodes},
        },
        "reconcile": settings or {},
    }
    made = Loopback(described, overlay)
    try:
        made.start_master()
        cards = made.run("enrol.cards", f"target={made.folder}/cards")
        if not cards.get("ok"):
            raise RuntimeError(f"enrol.cards: {cards}")
        yield made
    finally:
        made.close()
