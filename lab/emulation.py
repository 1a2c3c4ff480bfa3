"""Programs of another processor on this machine, by QEMU, so that an arm64 node can be had anywhere.

The kernel hands them to QEMU (binfmt_misc); after that they run in containers like any others, only
slower, ten times or so. It knows no netlink sockets of netfilter: neither nft nor dockerd work in it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab import doctor, host

_PROGRAMS = {"amd64": "x86_64", "arm64": "aarch64"}
_BINFMT = Path("/proc/sys/fs/binfmt_misc")


def packages(architecture: str) -> dict[str, str]:
    """What this machine needs for it; values as in doctor.PACKAGES."""
    qemu = f"/usr/bin/qemu-{_PROGRAMS[architecture]}-static"
    return {"qemu-user-static": qemu, "arch-test": "arch-test"}


def ensure(architecture: str) -> None:
    """Have this machine run programs for ``architecture`` (arm64, amd64).

    Where systemd runs, QEMU's package says so to the kernel; elsewhere it is done here, until this
    machine restarts.

    Raises:
        StepFailed: it cannot be had.
        subprocess.CalledProcessError: apt-get failed.
    """
    if architecture == host.architecture():
        return
    doctor.install_packages(packages(architecture))
    if _runs(architecture):
        return
    name = f"qemu-{_PROGRAMS[architecture]}"
    if not (_BINFMT / "register").exists():
        step = "mounting binfmt_misc"
        host.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)], step=step)
    if not (_BINFMT / name).exists():
        (_BINFMT / "register").write_text(Path(f"/usr/lib/binfmt.d/{name}.conf").read_text())
    if not _runs(architecture):
        raise host.StepFailed(f"this machine's kernel does not run programs for {architecture}")


def _runs(architecture: str) -> bool:
    done = subprocess.run(["arch-test", architecture], capture_output=True, check=False)
    return done.returncode == 0
