"""Virtual machines on a switch of their own, for what needs a kernel of its own: NFS, mounts, boots.

A machine is the image of lab/vmimage.py with a layer of its own over it (qcow2), so that a run leaves
nothing. Under emulation a boot takes a minute or more, so one machine is booted once, and what it had in
memory and on disk is kept: each new machine goes on from there in seconds, under a name and an address of
its own. From then on its reboots and power cuts are real ones. Commands run through qemu-guest-agent on a
virtio port: no keys, and no network that could be the one under test.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import builder, doctor, host, vmimage, wheels
from lab.rootfs import Debian
from lab.store import Progress, Store

MEMORY_MIB = 1024
# One: a second would fight the other machines for this one's cores, and wait for locks that they hold.
PROCESSORS = 1
BOOT_SECONDS = 600.0
"""How long a boot may take under emulation, beside other machines that boot."""
PROBE_SECONDS = 8.0
# Seconds for an answer of the agent's; a machine that starves for a minute is not a dead one.
_PATIENCE = 240
SPARE_DISK = "/dev/disk/by-id/virtio-spare"
"""A blank disk that every machine has beside its own (/dev/vdb)."""
SPARE_SIZE = "1G"
# What every run reads first is in memory already; nothing is left to be written.
_WARM = (
    f"salt-call --local test.ping >/dev/null; rm -rf /var/cache/salt; umount {vmimage.REPO}; sync"
)
_SCRATCH = Path("/var/tmp")
_KERNEL_SPEAKS = "Linux version"
_MACHINES = {"amd64": ("qemu-system-x86_64", "q35"), "arm64": ("qemu-system-aarch64", "virt")}
_CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}
_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
)
# The machine's own name, address and random numbers, in place of those of the one that was booted.
_INTRODUCE = """
cat >/dev/urandom
echo {name} >/etc/hostname
hostname {name}
sed -i 's/^id: .*/id: "{name}"/' /etc/salt/minion.d/saltberry.conf
echo {name} >/etc/salt/minion_id
cat >/etc/systemd/network/10-lab.network <<END
[Match]
Name=eth0
[Link]
MACAddress={mac}
[Network]
Address={ip}/24
LinkLocalAddressing=no
END
ip link set eth0 address {mac}
networkctl reload
networkctl reconfigure eth0
for _ in {{1..100}}; do ip -4 address show dev eth0 | grep -q ' {ip}/' && break; sleep 0.1; done
ip -4 address show dev eth0 | grep -q ' {ip}/'
sync
"""
_MOUNT_CHECKOUT = f"""
mountpoint -q {vmimage.REPO} && exit
blockdev --flushbufs /dev/disk/by-id/virtio-checkout
mount /dev/disk/by-id/virtio-checkout {vmimage.REPO}
"""


class VMError(RuntimeError):
    """A machine or a command in it failed; the text says which, with its last words."""


# -- what a machine is made from --------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """What `prepare` made.

    ``directory`` holds disk.raw, vmlinuz and initrd; ``booted`` a machine that was booted from them:
    root.qcow2 and its memory (None only while that is made). ``accelerator`` is QEMU's that runs here.
    """

    directory: Path
    accelerator: str
    booted: Path | None = None


def prepare(cache: Path, progress: Progress) -> Image:
    """Install QEMU if it is missing, and build the image if it is not cached.

    Args:
        cache: where built things are kept, shared with the racks.

    Raises:
        VMError: this machine lacks something that apt-get did not give; with the command to type.
        StepFailed: a build failed; with its log.
    """
    if os.geteuid() != 0:
        raise VMError("the virtual machines' disks are made as root: run `sudo make vm`")
    _install_packages(progress)
    cache.mkdir(parents=True, exist_ok=True)
    store, debian = Store(cache.resolve(), progress), Debian()
    box = builder.ensure(store, debian)
    directory = vmimage.ensure(store, debian, wheels.ensure(store, box))
    fresh = Image(directory, accelerator(directory))
    return dataclasses.replace(fresh, booted=_booted(store, fresh))


def _booted(store: Store, image: Image) -> Path:
    """A machine that was booted once: its layer over the image, and its memory."""
    program = _MACHINES[host.architecture()][0]
    inputs = {
        "image": image.directory.name,
        # Memory only goes back into the machine that it is from.
        "qemu": host.run([program, "--version"], step="asking for QEMU's version"),
        "machine": VM.hardware(image.accelerator),
        "warm": _WARM,
    }

    def build(partial: Path) -> None:
        with net(image) as alone:
            machine = alone.add("raspberrypi", 254)
            machine.start()
            machine.wait_ready()
            machine.sh(_WARM, timeout=600)
            machine.save(partial)

    return store.ensure("booted", inputs, build, "booting a virtual machine (a minute or two)")


def _install_packages(progress: Progress) -> None:
    wanted = {**doctor.PACKAGES, **doctor.RUNTIME, **doctor.vm_packages()}
    missing = doctor.missing_packages(wanted)
    if not missing:
        return
    remedy = f"apt-get install --no-install-recommends {' '.join(missing)}"
    try:
        with progress.step(f"installing {', '.join(missing)}"):
            doctor.install_packages(wanted)
    except (subprocess.CalledProcessError, OSError) as error:
        words = "\n".join((getattr(error, "output", "") or str(error)).strip().splitlines()[-5:])
        raise VMError(
            f"virtual machines need QEMU; install it by hand: {remedy}\n{words}"
        ) from error
    if missing := doctor.missing_packages(wanted):
        raise VMError(f"still missing after apt-get: {', '.join(missing)}; try: {remedy}")


def accelerator(image: Path, seconds: float = PROBE_SECONDS) -> str:
    """ "kvm" if a kernel says a word under it within ``seconds``, else "tcg" (emulation).

    /dev/kvm alone says little: inside some virtual machines it is there and every guest hangs.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    program, machine = _MACHINES[host.architecture()]
    with tempfile.TemporaryDirectory(prefix="saltberry-kvm-") as scratch:
        console = Path(scratch) / "console"
        process = subprocess.Popen(
            [
                program, "-machine", machine, "-accel", "kvm", "-cpu", "host", "-m", "256", "-no-reboot",
                "-display", "none", "-nodefaults", "-serial", f"file:{console}",
                "-kernel", str(image / "vmlinuz"),
                "-append", f"console={_CONSOLES[host.architecture()]} panic=-1",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and process.poll() is None:
                if console.exists() and _KERNEL_SPEAKS in console.read_text(errors="replace"):
                    return "kvm"
                time.sleep(0.1)
            spoke = console.exists() and _KERNEL_SPEAKS in console.read_text(errors="replace")
            return "kvm" if spoke else "tcg"
        finally:
            process.kill()
            process.wait()


# -- talking to a machine ---------------------------------------------------------------------


class _Channel:
    """One JSON conversation with a unix socket of QEMU's: its monitor, or the guest's agent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._buffer = b""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def _connect(self, timeout: float) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(timeout)
            self._socket.connect(str(self.path))
            self._greet(timeout)
        self._socket.settimeout(timeout)
        return self._socket

    def _greet(self, timeout: float) -> None:
        """What must be said before the first command."""

    def ask(self, command: str, timeout: float, arguments: Mapping[str, Any] | None = None) -> Any:
        """One command and its answer.

        Raises:
            OSError: no answer within ``timeout`` seconds, or nobody there; the next call starts anew.
            VMError: the other side refused.
        """
        with self._lock:
            try:
                self._connect(timeout)
                return self._ask(command, arguments)
            except (OSError, ValueError) as error:
                self.close()
                raise OSError(f"{command}: {error}") from error

    def _ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        assert self._socket is not None
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = json.loads(self._line())
            if "error" in answer:
                raise VMError(f"{command}: {answer['error'].get('desc', answer['error'])}")
            if "return" in answer:
                return answer["return"]

    def _line(self) -> bytes:
        assert self._socket is not None
        while b"\n" not in self._buffer:
            part = self._socket.recv(65536)
            if not part:
                raise OSError("the connection was closed")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


class _Monitor(_Channel):
    """QEMU itself (QMP)."""

    def _greet(self, timeout: float) -> None:
        self._line()
        self._ask("qmp_capabilities")


class _Agent(_Channel):
    """qemu-guest-agent in the machine."""

    def _greet(self, timeout: float) -> None:
        # Answers to questions of before a reboot may still be on the way: read on to our own mark.
        assert self._socket is not None
        mark = random.randrange(1 << 30)
        question = {"execute": "guest-sync-delimited", "arguments": {"id": mark}}
        self._socket.sendall(b"\xff" + json.dumps(question).encode() + b"\n")
        while True:
            with contextlib.suppress(ValueError):
                if json.loads(self._line().rpartition(b"\xff")[2]).get("return") == mark:
                    return


# -- a machine --------------------------------------------------------------------------------


@dataclass
class VM:
    """One virtual machine: its own disk is /dev/vda, a blank one /dev/vdb (SPARE_DISK)."""

    name: str
    ip: str
    net: Net
    _process: subprocess.Popen[bytes] | None = None
    _met: bool = False

    def __post_init__(self) -> None:
        self.directory = self.net.directory / self.name
        self.directory.mkdir()
        self._agent = _Agent(self.directory / "agent")
        self._monitor = _Monitor(self.directory / "monitor")
        image = self.net.image
        below = image.booted / "root.qcow2" if image.booted else image.directory / "disk.raw"
        form = "qcow2" if image.booted else "raw"
        host.run(
            [
                "qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", str(below),
                str(self.directory / "root.qcow2"),
            ],
            step=f"making the disk of {self.name}",
        )  # fmt: skip
        host.run(
            ["truncate", "-s", SPARE_SIZE, str(self.directory / "spare.raw")],
            step=f"making the spare disk of {self.name}",
        )
        shutil.copy(self.net.checkout, self.directory / "checkout.raw")

    @property
    def console(self) -> Path:
        """What the machine said on its serial line, over all its boots."""
        return self.directory / "console.log"

    @staticmethod
    def hardware(accelerator: str) -> list[str]:
        """The part of QEMU's command line that is the same for every machine."""
        program, machine = _MACHINES[host.architecture()]
        options = ",thread=multi,tb-size=256" if accelerator == "tcg" else ""
        return [
            program,
            "-machine", machine, "-accel", f"{accelerator}{options}",
            "-cpu", "max" if accelerator == "tcg" else "host",
            "-smp", str(PROCESSORS), "-m", str(MEMORY_MIB),
            "-nodefaults", "-display", "none",
            "-append", (
                f"root=/dev/vda rw console={_CONSOLES[host.architecture()]} quiet loglevel=4 "
                "net.ifnames=0 systemd.show_status=0 mitigations=off apparmor=0"
            ),
            "-serial", "chardev:console",
            "-device", "virtio-rng-pci",
            "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            "-device", "virtio-net-pci,netdev=net,id=cable,mac=52:54:00:78:00:fe",
            "-device", "virtio-blk-pci,drive=root",
            "-device", "virtio-blk-pci,drive=spare,serial=spare",
            "-device", "virtio-blk-pci,drive=checkout,serial=checkout",
        ]  # fmt: skip

    def command(self) -> list[str]:
        """QEMU's whole command line for the next start."""
        image = self.net.image
        going_on = image.booted is not None and not self._met
        return [
            *self.hardware(image.accelerator),
            "-kernel", str(image.directory / "vmlinuz"), "-initrd", str(image.directory / "initrd"),
            "-chardev", f"file,id=console,append=on,path={self.console}",
            "-qmp", f"unix:{self.directory / 'monitor'},server=on,wait=off",
            "-chardev", f"socket,id=agent,path={self.directory / 'agent'},server=on,wait=off",
            "-netdev", f"socket,id=net,mcast={self.net.group},localaddr=127.0.0.1",
            *self._drive("root", "root.qcow2", "qcow2"),
            *self._drive("spare", "spare.raw", "raw"),
            *self._drive("checkout", "checkout.raw", "raw"),
            *(["-incoming", f"exec:cat '{image.booted}/memory'"] if going_on else []),
        ]  # fmt: skip

    def _drive(self, name: str, file: str, form: str) -> list[str]:
        # "unsafe" leaves out only the host's own fsync: what the guest flushed is in the host's page
        # cache, and a killed QEMU loses what the guest had not flushed, as a Pi without power does.
        path = self.directory / file
        return ["-drive", f"if=none,id={name},file={path},format={form},cache=unsafe,discard=unmap"]

    # -- power ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Give it power; `wait_ready` waits for the boot, so that several boot at once."""
        if self.running():
            return
        for left in ("monitor", "agent"):
            (self.directory / left).unlink(missing_ok=True)
        self._process = subprocess.Popen(
            # Gone with the process that made it, whatever ends that.
            ["setpriv", "--pdeathsig", "KILL", *self.command()],
            stdin=subprocess.DEVNULL,
            stdout=(self.directory / "qemu.log").open("ab"),
            stderr=subprocess.STDOUT,
        )

    def save(self, target: Path) -> None:
        """Put its memory (memory) and its disk (root.qcow2) into a directory, and end it."""
        ask = self._monitor.ask
        ask("stop", 60)
        ask("migrate-set-parameters", 60, {"max-bandwidth": 10**10})
        ask("migrate", 60, {"uri": f"exec:cat >'{target}/memory'"})
        while (status := ask("query-migrate", 60).get("status")) != "completed":
            if status in ("failed", "cancelled"):
                raise VMError(self._last_words(f"its memory could not be saved: {status}"))
            time.sleep(0.1)
        with contextlib.suppress(OSError):
            ask("quit", 60)
        assert self._process is not None
        self._process.wait(60)
        shutil.copy(self.directory / "root.qcow2", target / "root.qcow2")

    def _go_on(self, deadline: float) -> None:
        """Let a machine with a memory run, once it has all of it."""
        status = "inmigrate"
        while status == "inmigrate" and time.monotonic() < deadline and self.running():
            with contextlib.suppress(OSError):
                status = self._monitor.ask("query-status", 10)["status"]
            time.sleep(0.1)
        if status == "paused":
            self._monitor.ask("cont", 10)

    def _introduce(self) -> None:
        """Give it its own name and address for good, the time, and the checkout."""
        if not self._met:
            number = int(self.ip.rpartition(".")[2])
            self._agent.ask("guest-set-time", 60, {"time": time.time_ns()})
            script = _INTRODUCE.format(
                name=self.name, ip=self.ip, mac=f"52:54:00:78:00:{number:02x}"
            )
            self.run("bash", "-ec", script, stdin=os.urandom(512))
            self._met = True
        self.sh(_MOUNT_CHECKOUT)

    def running(self) -> bool:
        """Whether it has power."""
        return self._process is not None and self._process.poll() is None

    def wait_ready(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until the boot is over (`degraded` counts: it is up).

        Raises:
            VMError: not within ``seconds``; with the last lines of its console.
        """
        deadline = time.monotonic() + seconds
        self._go_on(deadline)
        said = "no answer of its agent"
        while time.monotonic() < deadline:
            if not self.running():
                raise VMError(self._last_words("QEMU ended"))
            try:
                self._agent.ask("guest-ping", 3)
                left = max(deadline - time.monotonic(), 5)
                done = self.run(
                    "systemctl", "is-system-running", "--wait", check=False, timeout=left
                )
                said = done.stdout.strip()
                if said in ("running", "degraded"):
                    self._introduce()
                    return
            except OSError:
                time.sleep(0.3)
        raise VMError(self._last_words(f"not up within {seconds:.0f} s ({said})"))

    def power_cut(self) -> None:
        """Pull the plug: what was not flushed to its disks is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._agent.close()
        self._monitor.close()

    def reboot(self, wait: bool = True) -> None:
        """`systemctl reboot`, as a person does, and wait for the next boot."""
        before = self.boot_id()
        self._begin(("systemctl", "reboot"), None, 60)
        if wait:
            self.wait_reboot(before)

    def wait_reboot(self, before: str, seconds: float = BOOT_SECONDS) -> None:
        """Wait until it is up with another boot id than ``before``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, VMError):
                if self.boot_id(timeout=10) not in ("", before):
                    self.wait_ready(max(deadline - time.monotonic(), 5))
                    return
            time.sleep(0.5)
        raise VMError(self._last_words(f"did not reboot within {seconds:.0f} s"))

    def boot_id(self, timeout: float = 60) -> str:
        """The kernel's id of this boot."""
        return self.read("/proc/sys/kernel/random/boot_id", timeout=timeout).strip()

    def stop(self, seconds: float = 120) -> None:
        """Shut it down in order, and take the power away when that takes too long."""
        if self.running():
            with contextlib.suppress(OSError, VMError):
                self._monitor.ask("system_powerdown", 10)
            assert self._process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self.power_cut()

    def cable(self, plugged: bool) -> None:
        """Pull its network cable, or plug it in again."""
        self._monitor.ask("set_link", 10, {"name": "cable", "up": plugged})

    # -- commands ---------------------------------------------------------------------------------

    def run(
        self,
        *argv: str,
        check: bool = True,
        stdin: bytes | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the machine and return what it said.

        Args:
            argv: the command and its arguments.
            check: raise when it ends with another code than 0.
            timeout: seconds; what takes longer is killed in the machine.

        Raises:
            VMError: it failed and ``check`` is set, or it took too long.
        """
        pid = self._begin(argv, stdin, timeout)
        done = self._result(argv, pid, timeout)
        if check and done.returncode:
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
            raise VMError(f"{self.name}: `{' '.join(argv)}` ended with {done.returncode}:\n{tail}")
        return done

    def sh(
        self, script: str, *, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run lines of bash (`set -e`) in the machine."""
        return self.run("bash", "-ec", script, check=check, timeout=timeout)

    def _begin(self, argv: Sequence[str], stdin: bytes | None, timeout: float) -> int:
        arguments: dict[str, Any] = {
            "path": "/usr/bin/timeout",
            "arg": ["--kill-after=5", str(int(timeout) + 1), *argv],
            "env": list(_ENVIRONMENT),
            "capture-output": True,
        }
        if stdin is not None:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        return int(self._agent.ask("guest-exec", _PATIENCE, arguments)["pid"])

    def _result(
        self, argv: Sequence[str], pid: int, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        deadline = time.monotonic() + timeout + 15
        pause = 0.02
        while time.monotonic() < deadline:
            status = self._agent.ask("guest-exec-status", _PATIENCE, {"pid": pid})
            if status["exited"]:
                code = status.get("exitcode", 128 + status.get("signal", 0))
                out, err = (_text(status.get(key, "")) for key in ("out-data", "err-data"))
                return subprocess.CompletedProcess(list(argv), code, out, err)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        raise VMError(self._last_words(f"`{' '.join(argv)}` did not end within {timeout:.0f} s"))

    def read(self, path: str, timeout: float = 60) -> str:
        """A file of the machine's."""
        return self.run("cat", path, timeout=timeout).stdout

    def write(self, path: str, content: str, mode: str = "0644") -> None:
        """Put a file into the running machine, with the folders above it."""
        script = 'mkdir -p "$(dirname "$1")"; cat >"$1"; chmod "$2" "$1"'
        self.run("bash", "-ec", script, "write", path, mode, stdin=content.encode())

    def _last_words(self, what: str) -> str:
        texts = []
        for path in (self.directory / "qemu.log", self.console):
            if path.exists():
                texts += path.read_text(errors="replace").splitlines()[-30:]
        return "\n".join([f"{self.name}: {what}", *(f"    {line}" for line in texts)])


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="replace")


# -- several of them --------------------------------------------------------------------------


@dataclass
class Net:
    """A switch with machines on it, in a directory of its own that goes with it."""

    image: Image
    directory: Path
    checkout: Path
    subnet: str = "192.168.78"
    vms: dict[str, VM] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A group and port of its own, and on the loopback only: nets side by side do not meet.
        number, port = random.randrange(1, 255), random.randrange(20000, 60000)
        self.group = f"239.78.{number}.{random.randrange(1, 255)}:{port}"

    def add(self, name: str, number: int) -> VM:
        """A machine (without power) with the address ``subnet``.``number``."""
        self.vms[name] = VM(name, self.address(number), self)
        return self.vms[name]

    def address(self, number: int) -> str:
        """An address of the net."""
        return f"{self.subnet}.{number}"

    def start(self) -> None:
        """Power to all, then wait for all."""
        for machine in self.vms.values():
            machine.start()
        for machine in self.vms.values():
            machine.wait_ready()

    def keep_consoles(self, target: Path) -> None:
        """Copy what the machines said on their serial lines to ``target``."""
        target.mkdir(parents=True, exist_ok=True)
        for machine in self.vms.values():
            if machine.console.exists():
                shutil.copy(machine.console, target / f"{machine.name}.console.log")


@contextlib.contextmanager
def net(image: Image) -> Iterator[Net]:
    """A net whose machines and disks are gone at its end, whatever happens."""
    _remove_left()
    # /var/tmp: a disk, where /tmp may be memory; and short, for the sockets' names.
    directory = Path(tempfile.mkdtemp(prefix=f"saltberry-vm-{os.getpid()}-", dir=_SCRATCH))
    made = Net(image, directory, vmimage.checkout_disk(directory))
    try:
        yield made
    finally:
        for machine in made.vms.values():
            machine.power_cut()
        shutil.rmtree(directory, ignore_errors=True)


def _remove_left() -> None:
    """Remove what a run that was killed left; its machines are gone with it."""
    for directory in _SCRATCH.glob("saltberry-vm-*-*"):
        owner = directory.name.split("-")[2]
        if not Path("/proc", owner).exists():
            shutil.rmtree(directory, ignore_errors=True)
