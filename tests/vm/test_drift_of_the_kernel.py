"""What needs a kernel of its own is broken by hand, named exactly, mended, and clean again.

Swap, modules and exports are shared with the machine in the lab's containers, where tests/lab/test_drift.py
breaks all the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.vmsalt import Pi
from tests.vm.conftest import Served

SLS = ("base", "nfs.server")
PI_02 = "192.168.78.22:/srv/nfs/nodes/pi-02"


class Break(NamedTuple):
    """Something that a person might do to a node by hand."""

    state: str
    """Id of the state that drift must name."""
    command: str
    mended: str
    """Succeeds when it is as it was."""


BREAKS = [
    Break(
        "base-swap",
        "fallocate -l 64M /swapfile && chmod 600 /swapfile && mkswap -q /swapfile && swapon /swapfile"
        " && echo '/swapfile none swap sw 0 0' >>/etc/fstab",
        "test -z \"$(swapon --show --noheadings)\" && ! grep -q '^/swapfile' /etc/fstab",
    ),
    Break(
        "base-kernel-modules",
        "modprobe -r br_netfilter && : >/etc/modules-load.d/saltberry.conf",
        "lsmod | grep -q ^br_netfilter && grep -q br_netfilter /etc/modules-load.d/saltberry.conf",
    ),
    Break(
        "base-sysctl",
        "sysctl -qw net.ipv4.ip_forward=0",
        "test $(sysctl -n net.ipv4.ip_forward) = 1",
    ),
    Break(
        "nfs-exports",
        f"exportfs -u {PI_02}",
        "exportfs -s | grep -q '^/srv/nfs/nodes/pi-02 .*192.168.78.22('",
    ),
    Break(
        "nfs-server-config",
        "sed -i s/vers3=n/vers3=y/ /etc/nfs.conf.d/saltberry.conf",
        "grep -q vers3=n /etc/nfs.conf.d/saltberry.conf && grep -q -- -3 /proc/fs/nfsd/versions",
    ),
]
# Its restart follows from its settings.
FOLLOWS = {"nfs-server-running"}


@pytest.fixture(scope="module")
def clean(nfs1: Pi, served: Served) -> Iterator[Pi]:
    served.applied.good()
    nfs1.apply(*SLS).good()
    assert nfs1.apply(*SLS, test=True).changed == {}
    yield nfs1
    nfs1.sh("swapoff -a; rm -f /swapfile", check=False)


def test_each_break_is_named_and_nothing_else_and_mended(clean: Pi) -> None:
    for made in BREAKS:
        clean.sh(made.command)
    named = clean.apply(*SLS, test=True)
    assert named.failed == []
    assert set(named.changed) - FOLLOWS == {made.state for made in BREAKS}
    for made in BREAKS:
        assert clean.sh(made.mended, check=False).returncode != 0, f"looking mended {made.state}"
    clean.apply(*SLS).good()
    for made in BREAKS:
        assert clean.sh(made.mended, check=False).returncode == 0, made.state
    assert clean.apply(*SLS, test=True).changed == {}


def test_a_line_taken_out_of_the_exports_is_named_and_mended(clean: Pi) -> None:
    clean.sh("sed -i '\\,nodes/pi-02,d' /etc/exports.d/saltberry.exports && exportfs -ra")
    named = clean.apply("nfs.server", test=True)
    assert set(named.changed) == {"nfs-exports"}
    assert "pi-02" in str(named.changed)
    clean.apply("nfs.server").good()
    assert PI_02.partition(":")[2] in clean.said("exportfs -s")
    assert clean.apply("nfs.server").changed == {}
