"""Virtual machines on a switch of their own, for what needs a kernel of its own: NFS, mounts, boots.

A machine starts from the image of lab/vmimage.py with a layer of its own over it (qcow2), so that a run
leaves nothing. It gets its name and its address on the kernel's command line, and runs commands
through qemu-guest-agent on a virtio port: no keys, and no network that could be the one under test.
"""

from __future__ import annotations

import base64
import contextlib
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
PROCESSORS = 2
BOOT_SECONDS = 300.0
"""How long a boot may take under emulation, beside other machines that boot."""
PROBE_SECONDS = 8.0
_KERNEL_SPEAKS = "Linux version"
_MACHINES = {"amd64": ("qemu-system-x86_64", "q35"), "arm64": ("qemu-system-aarch64", "virt")}
_CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}
_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
)


class VMError(RuntimeError):
    """A machine or a command in it failed; the text says which, with its last words."""


# -- what a machine is made from --------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """What `prepare` made: disk.raw, vmlinuz and initrd in ``directory``; ``accelerator`` runs here."""

    directory: Path
    accelerator: str


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
    return Image(directory, accelerator(directory))


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
    """One virtual machine. Its root disk is /dev/vda, the extra ones follow as /dev/vdb and so on."""

    name: str
    ip: str
    net: Net
    memory: int = MEMORY_MIB
    # Sizes (as 512M) of blank disks by their serial, which is in /dev/disk/by-id/virtio-SERIAL.
    blank_disks: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.directory = self.net.directory / self.name
        self.directory.mkdir()
        self._agent = _Agent(self.directory / "agent")
        self._monitor = _Monitor(self.directory / "monitor")
        host.run(
            [
                "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw",
                "-b", str(self.net.image.directory / "disk.raw"), str(self.directory / "root.qcow2"),
            ],
            step=f"making the disk of {self.name}",
        )  # fmt: skip
        shutil.copy(self.net.checkout, self.directory / "checkout.raw")
        for serial, size in self.blank_disks.items():
            host.run(
                ["truncate", "-s", size, str(self.directory / f"{serial}.raw")],
                step=f"making the disk {serial} of {self.name}",
            )

    @property
    def console(self) -> Path:
        """What the machine said on its serial line, over all its boots."""
        return self.directory / "console.log"

    def command(self) -> list[str]:
        """QEMU's command line."""
        image, accelerator = self.net.image.directory, self.net.image.accelerator
        program, machine = _MACHINES[host.architecture()]
        options = ",thread=multi,tb-size=256" if accelerator == "tcg" else ""
        number = self.ip.rpartition(".")[2]
        return [
            program,
            "-machine", machine, "-accel", f"{accelerator}{options}", "-cpu", "max" if accelerator == "tcg" else "host",
            "-smp", str(PROCESSORS), "-m", str(self.memory),
            "-nodefaults", "-display", "none",
            "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd"),
            "-append", self._kernel_command_line(),
            "-chardev", f"file,id=console,append=on,path={self.console}", "-serial", "chardev:console",
            "-qmp", f"unix:{self.directory / 'monitor'},server=on,wait=off",
            "-device", "virtio-rng-pci",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={self.directory / 'agent'},server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            "-netdev", f"socket,id=net,mcast={self.net.group},localaddr=127.0.0.1",
            "-device", f"virtio-net-pci,netdev=net,id=cable,mac=52:54:00:78:00:{int(number):02x}",
            *self._drive("root.qcow2", "qcow2", ""),
            *(part for serial in self.blank_disks for part in self._drive(f"{serial}.raw", "raw", serial)),
            *self._drive("checkout.raw", "raw", "checkout"),
        ]  # fmt: skip

    def _drive(self, file: str, form: str, serial: str) -> list[str]:
        # "unsafe" leaves out only the host's own fsync: what the guest flushed is in the host's page
        # cache, and a killed QEMU loses what the guest had not flushed, as a Pi without power does.
        drive = f"if=none,id={file},file={self.directory / file},format={form},cache=unsafe,discard=unmap"
        device = f"virtio-blk-pci,drive={file}" + (f",serial={serial}" if serial else "")
        return ["-drive", drive, "-device", device]

    def _kernel_command_line(self) -> str:
        return " ".join(
            (
                "root=/dev/vda rw",
                f"console={_CONSOLES[host.architecture()]}",
                "net.ifnames=0 quiet loglevel=4 systemd.show_status=0 mitigations=off",
                f"systemd.hostname={self.name}",
                f"ip={self.ip}::{self.net.gateway}:255.255.255.0::eth0:off",
            )
        )

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

    def running(self) -> bool:
        """Whether it has power."""
        return self._process is not None and self._process.poll() is None

    def wait_ready(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until the boot is over (`degraded` counts: it is up).

        Raises:
            VMError: not within ``seconds``; with the last lines of its console.
        """
        deadline = time.monotonic() + seconds
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
        return int(self._agent.ask("guest-exec", 60, arguments)["pid"])

    def _result(
        self, argv: Sequence[str], pid: int, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        deadline = time.monotonic() + timeout + 15
        pause = 0.02
        while time.monotonic() < deadline:
            status = self._agent.ask("guest-exec-status", 60, {"pid": pid})
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

    @property
    def gateway(self) -> str:
        """An address that nobody has: the net leads nowhere."""
        return f"{self.subnet}.1"

    def add(self, name: str, number: int, **options: Any) -> VM:
        """A machine (without power) with the address ``subnet``.``number``."""
        self.vms[name] = VM(name, f"{self.subnet}.{number}", self, **options)
        return self.vms[name]

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
    # /var/tmp: a disk, where /tmp may be memory; and short, for the sockets' names.
    directory = Path(tempfile.mkdtemp(prefix="saltberry-vm-", dir="/var/tmp"))
    made = Net(image, directory, vmimage.checkout_disk(directory))
    try:
        yield made
    finally:
        for machine in made.vms.values():
            machine.power_cut()
        shutil.rmtree(directory, ignore_errors=True)
