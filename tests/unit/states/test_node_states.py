"""The states of a node over the real execution module, on folders that look like a system's root.

Each is run in test mode first (says None, touches nothing), then for real, then again (no changes).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.modules import node
from saltberry_ext.states import node as state
from saltberry_ext.utils import conffiles

Apply = Callable[..., dict[str, Any]]


class System:
    """systemctl and its kin, with units and what was asked of them."""

    def __init__(self) -> None:
        self.units: dict[str, str] = {}
        self.calls: list[str] = []

    def run_all(self, argv: list[str], **_: Any) -> dict[str, Any]:
        self.calls.append(" ".join(argv))
        ret = {"retcode": 0, "stdout": "", "stderr": ""}
        if argv[:2] == ["systemctl", "is-enabled"]:
            ret["stdout"] = self.units.get(argv[-1], "not-found")
            ret["retcode"] = int(ret["stdout"] != "enabled")
        elif argv[:2] == ["systemctl", "enable"]:
            if argv[-1] not in self.units:
                return {"retcode": 1, "stdout": "", "stderr": f"Unit {argv[-1]} not found"}
            self.units[argv[-1]] = "enabled"
        elif argv[:2] == ["systemctl", "disable"]:
            self.units[argv[-1]] = "disabled"
        return ret


@pytest.fixture
def system() -> System:
    return System()


@pytest.fixture
def opts() -> dict[str, Any]:
    return {"id": "pi-01", "test": False}


@pytest.fixture
def configure_loader_modules(system: System, opts: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    functions: dict[str, Any] = {
        f"node.{name}": function
        for name, function in vars(node).items()
        if name[0] != "_" and callable(function)
    }
    functions["cmd.run_all"] = system.run_all
    utils = {
        f"conffiles.{name}": function
        for name, function in vars(conffiles).items()
        if name[0] != "_" and callable(function)
    }
    dunders: dict[str, Any] = {
        "__salt__": functions, "__utils__": utils, "__opts__": opts, "__context__": {},
        "__pillar__": {"kubernetes": {"version": "1.34.2"}},
    }  # fmt: skip
    return {node: dunders, state: dunders}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(node, "_ROOT", tmp_path)
    monkeypatch.setattr(node, "_detect_virt", lambda: False)
    return tmp_path


def tree(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def apply(root: Path, opts: dict[str, Any]) -> Apply:
    """Run a state in test mode, for real, and once more; return what the real run returned."""

    def run(function: Apply, *args: Any, **kwargs: Any) -> dict[str, Any]:
        before = tree(root)
        opts["test"] = True
        tested = function(*args, **kwargs)
        assert tree(root) == before, "a test run has touched something"
        opts["test"] = False
        done = function(*args, **kwargs)
        assert tested["result"] is (None if done["changes"] else done["result"])
        assert set(tested["changes"]) == set(done["changes"])
        again = function(*args, **kwargs)
        assert (again["result"], again["changes"]) == (True, {}), again
        return done

    return run


def test_hosts(root: Path, apply: Apply) -> None:
    file = root / "hosts"
    file.write_text("127.0.0.1 localhost\n127.0.1.1 pi-01\n")
    ret = apply(state.hosts, str(file), {"192.168.1.21": ["pi-01", "pi-01.rack.lan"]})
    assert "-127.0.1.1 pi-01" in ret["changes"]["diff"]
    assert "192.168.1.21\tpi-01 pi-01.rack.lan\n" in file.read_text()


def test_hostname(root: Path, apply: Apply, monkeypatch: pytest.MonkeyPatch) -> None:
    live = ["raspberrypi"]
    monkeypatch.setattr(node.socket, "gethostname", lambda: live[0])
    monkeypatch.setattr(node.socket, "sethostname", lambda name: live.__setitem__(0, name))
    ret = apply(state.hostname, "pi-01")
    assert ret["changes"]["live"] == {"old": "raspberrypi", "new": "pi-01"}
    assert (live, (root / "etc/hostname").read_text()) == (["pi-01"], "pi-01\n")


def test_name_kept(root: Path, apply: Apply) -> None:
    conffiles.write(root / "etc/cloud/cloud.cfg", "cloud_init_modules: [bootcmd, set_hostname]\n")
    ret = apply(state.name_kept, "name")
    assert list(ret["changes"]) == ["/etc/cloud/cloud.cfg.d/99-saltberry.cfg"]
    (root / "etc/cloud/cloud.cfg").write_text("a: [")
    broken = state.name_kept("name")
    assert (broken["result"], "cloud.cfg" in broken["comment"]) == (False, True)


def test_swap_of_every_kind(root: Path, apply: Apply, system: System) -> None:
    swaps = root / "proc/swaps"
    conffiles.write(swaps, "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n")
    conffiles.write(root / "etc/fstab", "/var/swap none swap sw 0 0\n")
    conffiles.write(root / "usr/lib/systemd/system/dphys-swapfile.service", "")
    conffiles.write(root / "etc/rpi/swap.conf", "[Main]\nMechanism=zram\n")
    system.units["dphys-swapfile.service"] = "enabled"
    run = system.run_all

    def run_all(argv: list[str], **kwargs: Any) -> dict[str, Any]:
        if argv[0] == "swapoff":
            swaps.write_text("Filename Type Size Used Priority\n")
        return run(argv, **kwargs)

    node.__salt__["cmd.run_all"] = run_all
    ret = apply(state.swap_off, "swap")
    assert set(ret["changes"]) == {"active", "fstab", "services", "generators"}
    assert "systemctl disable --now dphys-swapfile.service" in system.calls
    assert "systemctl daemon-reload" in system.calls


def test_swap_that_stays_on_is_no_success(root: Path, system: System) -> None:
    conffiles.write(root / "proc/swaps", "Filename Type\n/dev/sda5 partition\n")
    ret = state.swap_off("swap")
    assert ret["result"] is False
    assert "/dev/sda5" in ret["comment"]


def test_kernel_modules_and_settings_on_a_machine(root: Path, apply: Apply, system: System) -> None:
    run = system.run_all

    def run_all(argv: list[str], **kwargs: Any) -> dict[str, Any]:
        if argv[0] == "modprobe":
            (root / "sys/module" / argv[-1]).mkdir(parents=True)
            for key in ("iptables", "ip6tables"):
                conffiles.write(root / f"proc/sys/net/bridge/bridge-nf-call-{key}", "0\n")
        return run(argv, **kwargs)

    node.__salt__["cmd.run_all"] = run_all
    conffiles.write(root / "proc/sys/net/ipv4/ip_forward", "0\n")
    values = {"net.ipv4.ip_forward": 1, "net.bridge.bridge-nf-call-iptables": 1}
    file = str(root / "etc/sysctl.d/99-saltberry.conf")

    # without its module a setting is missing: an error for real, a "would" in test mode
    missing = state.sysctl(file, values)
    assert missing["result"] is False
    assert "br_netfilter" in missing["comment"]
    node.__opts__["test"] = True
    assert state.sysctl(file, values)["result"] is None
    node.__opts__["test"] = False

    modules = str(root / "etc/modules-load.d/saltberry.conf")
    assert apply(state.kernel_modules, modules, ["br_netfilter"])["changes"]["loaded"]
    assert Path(modules).read_text() == "br_netfilter\n"
    ret = apply(state.sysctl, file, values)
    assert ret["changes"]["net.ipv4.ip_forward"] == {"old": "0", "new": "1"}
    assert "net.bridge.bridge-nf-call-iptables = 1\n" in Path(file).read_text()


def test_in_a_container_the_host_is_left_alone(root: Path, apply: Apply, system: System) -> None:
    conffiles.write(root / "run/.containerenv", "")
    conffiles.write(root / "proc/swaps", "Filename Type\n/dev/sda5 partition\n")
    conffiles.write(root / "proc/sys/net/ipv4/ip_forward", "0\n")
    conffiles.write(root / "proc/sys/vm/overcommit_memory", "0\n")
    for done in (
        apply(state.swap_off, "swap"),
        apply(state.kernel_modules, str(root / "modules.conf"), ["overlay"]),
    ):
        assert done["changes"] == {}
        assert "the host's" in done["comment"]
    values = {"net.ipv4.ip_forward": 1, "vm.overcommit_memory": 1, "net.bridge.x": 1}
    ret = apply(state.sysctl, str(root / "sysctl.conf"), values)
    assert set(ret["changes"]) == {"net.ipv4.ip_forward", "file"}
    assert "vm.overcommit_memory, net.bridge.x" in ret["comment"]
    assert (root / "sysctl.conf").read_text() == "net.ipv4.ip_forward = 1\n"
    assert (root / "proc/sys/vm/overcommit_memory").read_text() == "0\n"
    assert system.calls == []


def test_boot_flags(root: Path, apply: Apply) -> None:
    flags = ["cgroup_enable=memory", "cgroup_memory=1"]
    assert "no Raspberry Pi" in apply(state.boot_flags, "flags", flags)["comment"]
    conffiles.write(root / "proc/cgroups", "cpuset 0 1 1\nmemory 0 1 0\n")
    conffiles.write(root / "boot/firmware/cmdline.txt", "root=x rootwait")
    ret = apply(state.boot_flags, "flags", flags)
    assert ret["changes"] == {"/boot/firmware/cmdline.txt": {"added": flags}}
    assert state.boot_flags("flags", flags)["comment"].startswith("reboot needed: ")


def test_a_unit_that_starts_at_boot(apply: Apply, system: System, opts: dict[str, Any]) -> None:
    system.units["kubelet.service"] = "disabled"
    assert apply(state.enabled, "kubelet.service")["changes"]
    # a blank node: an honest "would" in test mode, an error only for real
    opts["test"] = True
    assert state.enabled("absent.service")["result"] is None
    opts["test"] = False
    ret = state.enabled("absent.service")
    assert (ret["result"], ret["changes"]) == (False, {})


def test_a_restart_waits_for_the_end_of_the_run(system: System, opts: dict[str, Any]) -> None:
    opts["test"] = True
    assert state.restarted_later("salt-minion.service")["result"] is None
    assert system.calls == []
    opts["test"] = False
    assert state.restarted_later("salt-minion.service")["result"] is True
    assert "--on-active=5s systemctl restart --no-block -- salt-minion.service" in system.calls[-1]


def test_salt_config(root: Path, apply: Apply) -> None:
    file = root / "saltberry.conf"
    node.__salt__["cp.get_file_str"] = {"salt://x.in": "id: @ID@\nnew: 1\n"}.get
    assert apply(state.salt_config, str(file), "salt://x.in")["changes"] == {}
    file.write_text("id: pi-01\n")
    # node.salt_config looks below the test's root
    conffiles.write(root / str(file).lstrip("/"), "id: pi-01\n")
    assert state.salt_config(str(file), "salt://x.in")["result"] is True
    assert file.read_text() == "id: pi-01\nnew: 1\n"
    assert state.salt_config(str(file), "salt://absent")["result"] is False


@pytest.mark.parametrize("member", [True, False])
def test_leaving_the_cluster(opts: dict[str, Any], member: bool) -> None:
    reset: list[bool] = []
    found = {"role": "worker" if member else None, "half_joined": False}
    state.__salt__["kubeadm.facts"] = lambda: found

    def do_reset(force: bool) -> None:
        reset.append(force)

    state.__salt__["kubeadm.reset"] = do_reset
    opts["test"] = True
    assert state.left_cluster("berry")["result"] is (None if member else True)
    assert reset == []
    opts["test"] = False
    assert bool(state.left_cluster("berry")["changes"]) is member
    assert reset == ([True] if member else [])


def test_fit_says_what_stands_in_the_way(root: Path, opts: dict[str, Any]) -> None:
    found = {"ok": False, "problems": ["no memory"], "warnings": ["no clock"]}
    state.__salt__["node.fitness"] = lambda role: found
    ret = state.fit("worker")
    assert (ret["result"], ret["comment"]) == (False, "no memory\n(warning) no clock")
    opts["test"] = True
    assert state.fit("worker")["result"] is None
    conffiles.write(root / "etc/kubernetes/kubelet.conf", "")
    assert state.fit("worker")["result"] is True


@pytest.mark.skipif(not shutil.which("systemd-detect-virt"), reason="no systemd here")
def test_detection_agrees_with_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    code = subprocess.run(["systemd-detect-virt", "-cq"], check=False).returncode
    run = {"retcode": code, "stdout": "", "stderr": ""}
    node.__salt__["cmd.run_all"] = lambda argv, **_: run
    assert node._detect_virt() is (code == 0)
