"""A real salt-master and two real minions on this machine, with the configuration that is shipped.

The master and the minions read ``etc/*/saltberry.conf.in`` with the placeholders filled in, from a copy
of this checkout's Salt folders with a rack of the tests' own: so tests may write into that copy, and a
``pillar/rack.sls`` of the developer's is not looked at. What differs from a rack is in ``OVERLAY`` below
and in ``files/probe``, which is laid over the copy: above all another ``salt/top.sls``, because here a
highstate must not turn the developer's machine into a Kubernetes node.

Fixtures (one master and its minions for the whole package; about 15 s to start):

* ``checkout``: the copy's path; ``state_dir``: what stands for /var/lib/saltberry
* ``master``, ``cp1``, ``pi_01``: the daemons, accepted and with synced modules
* ``bus``: the master's events, as any listener hears them; ``runners``: which of them start a runner
* ``channel``: a pi-01 that keeps to no rules, for attacks
* ``salt_cli``, ``salt_run_cli``: the programs on the master; ``salt_call_cli``: on pi-01
* ``rack_file``: write a ``pillar/rack.sls`` for one test; put back afterwards
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import salt.channel.client
import salt.minion
import salt.payload
import salt.utils.event
import salt.wheel
from saltfactories.cli.call import SaltCall
from saltfactories.cli.run import SaltRun
from saltfactories.cli.salt import Salt
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion
from saltfactories.manager import FactoriesManager

REPO = Path(__file__).resolve().parents[2]
# What a salt-master on nfs1 reads of a checkout, and what lies beside it
COPIED = (
    "_cache",
    "_modules",
    "_output",
    "_pillar",
    "_runners",
    "_states",
    "_utils",
    "etc",
    "pillar",
    "reactor",
    "salt",
    "Saltfile",
)
PROBE = Path(__file__).resolve().parent / "files" / "probe"
RACK = REPO / "tests" / "fixtures" / "racks" / "valid" / "example.yaml"
# Salt's own name for the master on the machine of minion nfs1
MASTER_ID = "nfs1_master"
OVERLAY = """\
# Notes to the reconcile service stay in the test's folder
saltberry: {{state_dir: {state_dir}, run_dir: {run_dir}}}
# New files are seen at once, where a rack waits for its cache of file lists
fileserver_list_cache_time: 0
# What goes to the journal in a rack
log_level_logfile: warning
"""


# What a naive reactor SLS would turn into a second runner call, or into Jinja run on the master.
INJECTED = "x\npwned:\n  runner.test.arg:\n    - args: [owned]\n"
JINJA = "{{ salt['cmd.run']('touch @PROOF@') }}"


def render(template: Path, **values: object) -> str:
    """Fill the ``@PLACEHOLDERS@`` of a shipped configuration, as the installers do.

    Raises AssertionError when one is left over or a value has no placeholder.
    """
    text = template.read_text(encoding="utf-8")
    for name, value in values.items():
        assert f"@{name}@" in text, f"{template} has no @{name}@"
        text = text.replace(f"@{name}@", str(value))
    left = re.findall(r"@[A-Z_]+@", text)
    assert not left, f"{template}: not filled in: {left}"
    return text


@pytest.fixture(scope="package")
def workspace() -> Iterator[Path]:
    """A short path (unix sockets), gone after the tests."""
    path = Path(tempfile.mkdtemp(prefix="sbi-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="package")
def checkout(workspace: Path) -> Path:
    """A copy of what the salt-master reads of this checkout, with the tests' rack."""
    copy = workspace / "repo"
    copy.mkdir()
    for name in COPIED:
        source = REPO / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "rack.sls")
            shutil.copytree(source, copy / name, symlinks=True, ignore=ignore)
        elif source.exists():
            shutil.copy(source, copy / name)
    for source in PROBE.rglob("*.*"):
        target = copy / source.relative_to(PROBE)
        target.parent.mkdir(exist_ok=True)
        if source.suffix in (".py", ".sls"):
            shutil.copy(source, target)
    shutil.copy(RACK, copy / "pillar" / "rack.sls")
    return copy


@pytest.fixture(scope="package")
def state_dir(workspace: Path) -> Path:
    """What stands for /var/lib/saltberry."""
    path = workspace / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(scope="package")
def master(
    salt_factories: FactoriesManager, workspace: Path, checkout: Path, state_dir: Path
) -> Iterator[SaltMaster]:
    """A salt-master as install/master.sh leaves it, but on 127.0.0.1 and free ports."""
    overlay = OVERLAY.format(state_dir=state_dir, run_dir=workspace / "run")
    root = workspace / "m"
    daemon = configured_master(
        salt_factories, MASTER_ID, root, checkout=checkout, state_dir=state_dir, overlay=overlay
    )
    with daemon.started():
        yield daemon


def configured_master(
    factories: FactoriesManager, master_id: str, root: Path, *, checkout: Path, state_dir: Path, overlay: str
) -> SaltMaster:  # fmt: skip
    """Configure a master as install/master.sh does, and with what differs; not started."""
    include = root / "conf" / "master.d"
    include.mkdir(parents=True)
    conf = render(
        REPO / "etc" / "master.d" / "saltberry.conf.in",
        REPO=checkout,
        STATE_DIR=state_dir,
        INTERFACE="127.0.0.1",
    )
    (include / "saltberry.conf").write_text(conf, encoding="utf-8")
    (include / "zz-test.conf").write_text(overlay, encoding="utf-8")
    return factories.salt_master_daemon(master_id, defaults={"root_dir": str(root)})


def configured_minion(master: SaltMaster, minion_id: str, root: Path) -> SaltMinion:
    """Configure a minion as install/minion.sh does, without keys but with their folder; not started."""
    include = root / "conf" / "minion.d"
    include.mkdir(parents=True)
    conf = render(REPO / "etc" / "minion.d" / "saltberry.conf.in", MASTER="127.0.0.1", ID=minion_id)
    (include / "saltberry.conf").write_text(conf, encoding="utf-8")
    daemon = master.salt_minion_daemon(minion_id, defaults={"root_dir": str(root)})
    Path(daemon.config["pki_dir"]).mkdir(parents=True, exist_ok=True)
    return daemon


@contextmanager
def running(daemon: SaltMinion) -> Iterator[None]:
    """A minion that may never get in: `.started()` would wait for the start event, which it never fires."""
    program = Path(sys.executable).with_name("salt-minion")
    command = [program, "--config-dir", daemon.config_dir, "--disable-keepalive"]
    words = Path(daemon.config["root_dir"]) / "said"
    with words.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(words.read_text())


def answers(master: SaltMaster, node: str) -> bool:
    """Whether a minion does what the master says, now."""
    done = master.salt_cli(timeout=120).run("-t", "5", "test.ping", minion_tgt=node)
    return done.data is True


def start_minion(master: SaltMaster, minion_id: str, root: Path) -> SaltMinion:
    """Configure a minion as install/minion.sh does, with a key that the master made for its card.

    Returns the daemon, not started.
    """
    daemon = configured_minion(master, minion_id, root)
    with salt.wheel.WheelClient(dict(master.config)) as wheel:
        pair = wheel.cmd("key.gen_accept", [minion_id], print_event=False)
    pki = Path(daemon.config["pki_dir"])
    for name, text, mode in (
        ("minion.pem", pair["priv"], 0o400),
        ("minion.pub", pair["pub"], 0o644),
    ):
        (pki / name).write_text(text, encoding="utf-8")
        (pki / name).chmod(mode)
    return daemon


@pytest.fixture(scope="package")
def cp1(master: SaltMaster, workspace: Path) -> Iterator[SaltMinion]:
    """The minion of the control plane."""
    yield from _running(master, "cp1", workspace / "c")


@pytest.fixture(scope="package")
def pi_01(master: SaltMaster, workspace: Path) -> Iterator[SaltMinion]:
    """The minion of a worker."""
    yield from _running(master, "pi-01", workspace / "p")


def _running(master: SaltMaster, minion_id: str, root: Path) -> Iterator[SaltMinion]:
    daemon = start_minion(master, minion_id, root)
    with daemon.started():
        ret = master.salt_cli(timeout=120).run("saltutil.sync_all", minion_tgt=minion_id)
        assert ret.returncode == 0, ret
        yield daemon


@pytest.fixture
def salt_cli(master: SaltMaster, cp1: SaltMinion, pi_01: SaltMinion) -> Salt:
    """`salt` on the master, with both minions up."""
    return master.salt_cli(timeout=120)


@pytest.fixture
def salt_run_cli(master: SaltMaster) -> SaltRun:
    """`salt-run` on the master."""
    return master.salt_run_cli(timeout=120)


@pytest.fixture
def salt_call_cli(pi_01: SaltMinion) -> SaltCall:
    """`salt-call` on pi-01."""
    return pi_01.salt_call_cli(timeout=120)


@pytest.fixture
def rack_file(checkout: Path) -> Iterator[Callable[[str | None], Path]]:
    """A function that replaces the user's pillar/rack.sls by a text, or removes it for None."""
    path = checkout / "pillar" / "rack.sls"
    before = path.read_text(encoding="utf-8")

    def write(text: str | None) -> Path:
        if text is None:
            path.unlink()
        else:
            path.write_text(text, encoding="utf-8")
        return path

    yield write
    path.write_text(before, encoding="utf-8")


@pytest.fixture
def nobody_accepts(master: SaltMaster) -> Iterator[None]:
    """The test library accepts every key that it hears of, by itself; here it does not."""
    handlers = master.event_listener.auth_event_handlers
    handler = handlers.pop(master.id, None)
    yield
    if handler is not None:
        handlers[master.id] = handler


class Channel:
    """A minion that asks the master in its own words, past all politeness of Salt's file client."""

    def __init__(self, minion: SaltMinion) -> None:
        opts = dict(minion.config)
        opts.update(salt.minion.prep_ip_port(opts))
        opts.update(salt.minion.resolve_dns(opts))
        self._channel = salt.channel.client.ReqChannel.factory(opts)

    def ask(self, cmd: str, **load: Any) -> Any:
        """Send one request, signed and encrypted as pi-01; return the master's answer."""
        return self._channel.send({"cmd": cmd, **load})

    def forge(self, cmd: str, *, said: str, outside: str, **load: Any) -> Any:
        """Send one request in another's name, encrypted with what pi-01 has.

        said: the id in the encrypted part; outside: the one on the envelope.
        """
        sender = self._channel.obj
        package = sender._package_load

        def forged(load: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
            wrapped: dict[str, Any] = package(load, *args, **kwargs)
            crypticle = kwargs.get("session_crypticle") or sender.auth.session_crypticle
            return {**wrapped, "id": outside, "load": crypticle.dumps({**load, "id": said})}

        sender._package_load = forged
        try:
            return self._channel.send({"cmd": cmd, **load}, tries=1, timeout=20)
        finally:
            sender._package_load = package

    def record(self, cmd: str, **load: Any) -> bytes:
        """Send one request; return the bytes that went over the wire. The answer is of no interest."""
        transport = self._channel.obj.transport
        send, seen = transport.send, []

        def heard(message: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(salt.payload.dumps(message))
            return send(message, *args, **kwargs)

        transport.send = heard
        try:
            self._channel.send({"cmd": cmd, **load}, tries=1)
        except Exception:
            assert seen, "nothing was sent"
        finally:
            transport.send = send
        return seen[-1]

    def pillar(self, load: dict[str, Any]) -> Any:
        """Ask for a pillar, which comes in an envelope of its own."""
        return self._channel.crypted_transfer_decode_dictentry(load, dictkey="pillar")

    def close(self) -> None:
        """Let go of the sockets."""
        self._channel.close()


@pytest.fixture
def channel(pi_01: SaltMinion) -> Iterator[Channel]:
    """A hostile pi-01."""
    made = Channel(pi_01)
    yield made
    made.close()


def event_bus(master: SaltMaster) -> Any:
    """A listener on the master's event bus; to be destroyed."""
    event = salt.utils.event.get_master_event(
        dict(master.config), master.config["sock_dir"], listen=True
    )
    event.connect_pub()
    return event


@pytest.fixture
def bus(master: SaltMaster) -> Iterator[Any]:
    event = event_bus(master)
    yield event
    event.destroy()


def runners(bus: Any, seconds: float) -> list[str]:
    """The runners that start until nothing is heard for so long."""
    names = []
    while (event := bus.get_event(wait=seconds, full=True)) is not None:
        if event["tag"].startswith("salt/run/") and event["tag"].endswith("/new"):
            names.append(event["data"]["fun"])
    return names
