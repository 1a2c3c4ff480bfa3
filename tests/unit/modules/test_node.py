"""Facts and edits of one node, on folders that look like real systems' roots."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from salt.exceptions import CommandExecutionError
from saltberry_ext.modules import node
from saltberry_ext.utils import conffiles, rackspec

CGROUPS = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t{}\nmemory\t0\t1\t{}\n"
CMDLINE = "console=tty1 root=PARTUUID=4e639091-02 rootwait\n"
PILLAR: dict[str, Any] = {
    "rack": {"network": "192.168.1.0/24", "domain": "rack.lan"},
    "nodes": {
        "nfs1": {"ip": "192.168.1.10", "roles": ["storage"]},
        "cp1": {"ip": "192.168.1.11"},
        "pi-02": None,
        "pi-03": {"roles": ["worker"]},
    },
    "node": {"id": "pi-01", "roles": ["worker"], "ip": "192.168.1.21", "named": True},
    "cluster": {},
    "kubernetes": {
        "version": "1.34.2",
        "package_revision": "1.1",
        "image_repository": "registry.k8s.io",
        "cni": "routed",
        "repo": {
            "url": "https://pkgs.k8s.io/v{minor}/deb/",
            "suite": "/",
            "key_url": "https://pkgs.k8s.io/v{minor}/deb/Release.key",
            "key_sha256": None,
        },
    },
    "containerd": {"registries": {}, "pause_image": None},
}
CACHED: list[str] = []


def run_all(argv: list[str], **_: Any) -> dict[str, Any]:
    """Run a program as ``cmd.run_all`` does."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return {
        "retcode": done.returncode,
        "stdout": done.stdout.strip(),
        "stderr": done.stderr.strip(),
    }


@pytest.fixture
def configure_loader_modules() -> dict[Any, dict[str, Any]]:
    utils = {
        f"conffiles.{name}": getattr(conffiles, name) for name in dir(conffiles) if name[0] != "_"
    } | {"rackspec.system": rackspec.system}
    dunders = {
        "__salt__": {
            "cmd.run_all": run_all,
            "clock.judge": lambda: {"problem": "", "warning": ""},
            "pull_through.hosts": lambda: CACHED,
            "pull_through.url": lambda: "http://192.168.1.10:5002",
        },
        "__utils__": utils,
        "__context__": {},
        "__pillar__": PILLAR,
        "__opts__": {"id": "pi-01"},
    }
    return {node: dunders}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root folder that the module takes for the system's."""
    monkeypatch.setattr(node, "_ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def put(root: Path) -> Callable[[str, str], Path]:
    def write(path: str, text: str = "") -> Path:
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


@pytest.fixture
def on_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is no container, whatever runs the tests."""
    monkeypatch.setattr(node, "_detect_virt", lambda: False)


# --- facts ---


@pytest.mark.parametrize(
    ("mark", "expected"),
    [("run/.containerenv", True), (".dockerenv", True), ("run/systemd/container", True),
     ("etc/hosts", False)],
)  # fmt: skip
def test_a_container_is_known_by_what_its_manager_leaves(
    put: Any, on_machine: None, mark: str, expected: bool
) -> None:
    put(mark)
    assert node.container() is expected


@pytest.mark.parametrize(
    ("mask", "expected"), [("000001ffffffffff", True), ("000001fffeffffff", False)]
)
def test_oom_scores_need_cap_sys_resource(put: Any, mask: str, expected: bool) -> None:
    put("proc/1/status", f"Name:\tsystemd\nCapEff:\t{mask}\nCapBnd:\t{mask}\n")
    assert node.can_adjust_oom() is expected


def test_the_hosts_of_the_rack() -> None:
    assert node.hosts_entries() == {
        "192.168.1.10": ["nfs1", "nfs1.rack.lan"],
        "192.168.1.11": ["cp1", "cp1.rack.lan"],
        "192.168.1.21": ["pi-01", "pi-01.rack.lan"],
    }


def test_an_unnamed_node_is_where_its_interface_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PILLAR, "node", {"id": "pi-01", "roles": ["worker"], "ip": None})
    seen = ["10.244.1.1", "192.168.1.77"]
    monkeypatch.setattr(node.salt.utils.network, "ip_addrs", lambda: seen)
    assert node.rack_ip() == "192.168.1.77"
    assert "192.168.1.77" in node.hosts_entries()
    seen.append("192.168.1.78")
    assert node.rack_ip() is None
    assert node._check_address() == [
        "this node must have one address on 192.168.1.0/24, but it has 192.168.1.77, 192.168.1.78 "
        "there; name its ip in the rack"
    ]


def test_a_named_node_at_another_address_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.salt.utils.network, "ip_addrs", lambda: ["192.168.1.77"])
    (problem,) = node._check_address()
    assert "192.168.1.21" in problem
    assert "192.168.1.77" in problem
    assert "pillar/rack.sls" in problem


def test_a_missing_pillar_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PILLAR["kubernetes"], "version")
    with pytest.raises(CommandExecutionError, match=r"kubernetes\.version"):
        node.repository()


# --- values ---


def test_the_repository_of_a_minor() -> None:
    repo = node.repository()
    assert repo["url"] == "https://pkgs.k8s.io/v1.34/deb/"
    assert repo["key_url"] == "https://pkgs.k8s.io/v1.34/deb/Release.key"
    assert repo["keyring"].endswith(".asc")
    assert set(node.kubernetes_packages().values()) == {"1.34.2-1.1"}


@pytest.mark.parametrize(
    ("version", "tag"),
    [("1.20.2", "3.2"), ("v1.29.4", "3.9"), ("1.31.0", "3.10"), ("1.35.0", "3.10.1"),
     ("1.99.0", "3.10.1")],
)  # fmt: skip
def test_the_pause_image_of_a_version(version: str, tag: str) -> None:
    assert node.pause_tag(version) == tag


def test_a_registry_that_is_its_own_host(put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put("proc/1/status", "CapBnd:\t000001fffeffffff\n")
    there = "http://10.0.0.1:5000"
    registries = {"10.0.0.1:5000": {"endpoint": there}, "docker.io": {"endpoint": there}}
    monkeypatch.setitem(PILLAR["containerd"], "registries", registries)
    found = node.containerd_settings()
    assert found["registries"]["10.0.0.1:5000"] == {"server": there, "endpoints": [there]}
    assert found["registries"]["docker.io"] == {"server": None, "endpoints": [there]}
    assert found["pause_image"] == "registry.k8s.io/pause:3.10.1"
    assert found["restrict_oom_score_adj"] is True


@pytest.mark.usefixtures("root")
def test_the_cache_is_asked_after_a_mirror_and_before_the_registry_itself(
    put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("proc/1/status", "CapBnd:\t000001fffeffffff\n")
    mirror, cache, own = "http://10.0.0.1:5000", "http://192.168.1.10:5002", "http://registry.lan"
    registries = {"docker.io": {"endpoint": mirror}, "registry.lan": {"endpoint": own}}
    monkeypatch.setitem(PILLAR["containerd"], "registries", registries)
    monkeypatch.setattr(
        "tests.unit.modules.test_node.CACHED", ["quay.io", "docker.io", "registry.lan"]
    )
    assert node.containerd_settings()["registries"] == {
        "docker.io": {"server": None, "endpoints": [mirror, cache]},
        "registry.lan": {"server": own, "endpoints": [cache, own]},
        "quay.io": {"server": None, "endpoints": [cache]},
    }


def test_what_is_not_ours_is_not_among_the_registries_that_left(
    put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("proc/1/status", "CapBnd:\t000001fffeffffff\n")
    put("etc/containerd/certs.d/quay.io/hosts.toml", f"{node.REGISTRY_HEAD}, or so).\n")
    put("etc/containerd/certs.d/docker.io/hosts.toml", f"{node.REGISTRY_HEAD}).\n")
    put("etc/containerd/certs.d/mine:5000/hosts.toml", 'server = "http://mine:5000"\n')
    registries = {"docker.io": {"endpoint": "http://10.0.0.1:5000"}}
    monkeypatch.setitem(PILLAR["containerd"], "registries", registries)
    assert node.containerd_settings()["left"] == ["quay.io"]


# --- boot flags ---


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(["boot/firmware/cmdline.txt"], "/boot/firmware/cmdline.txt", id="trixie"),
        pytest.param(
            ["boot/firmware/cmdline.txt", "boot/cmdline.txt"],
            "/boot/firmware/cmdline.txt",
            id="bookworm, with the note at the old place",
        ),
        pytest.param(["boot/cmdline.txt"], "/boot/cmdline.txt", id="bullseye"),
        pytest.param([], None, id="no Pi"),
    ],
)
def test_the_cmdline_file(put: Any, root: Path, files: list[str], expected: str | None) -> None:
    for file in files:
        put(file, CMDLINE)
    assert node.cmdline_path() == expected


@pytest.mark.parametrize(
    ("unified", "legacy", "expected"),
    [
        ("cpuset cpu io memory pids\n", "", ["cpuset", "memory"]),
        ("cpuset cpu io pids\n", CGROUPS.format(1, 0), ["cpuset"]),
        ("", CGROUPS.format(1, 1), ["cpuset", "memory"]),
        ("", CGROUPS.format(0, 0), []),
    ],
)
def test_controllers_of_both_cgroup_versions(
    put: Any, unified: str, legacy: str, expected: list[str]
) -> None:
    put("sys/fs/cgroup/cgroup.controllers", unified)
    put("proc/cgroups", legacy)
    assert [name for name in node.controllers() if name in ("cpuset", "memory")] == expected
    assert ("cgroup_enable=cpuset" in node.boot_flags()) is ("cpuset" not in expected)


def test_from_missing_flags_to_a_reboot_to_nothing(put: Any) -> None:
    put("proc/cgroups", CGROUPS.format(1, 0))
    put("proc/cmdline", f"cgroup_disable=memory {CMDLINE}")
    card = put("boot/firmware/cmdline.txt", CMDLINE)
    flags = node.boot_flags()
    assert node.boot_flags_missing() == flags
    assert node.reboot_required() == []

    node.set_boot_flags(flags)
    assert card.read_text() == f"{CMDLINE.strip()} {' '.join(flags)}\n"
    assert node.boot_flags_missing() == []
    (reason,) = node.reboot_required()
    assert "memory" in reason
    assert "next boot" in reason

    put("proc/cmdline", f"cgroup_disable=memory {card.read_text()}")
    put("proc/cgroups", CGROUPS.format(1, 1))
    assert node.reboot_required() == []


def test_flags_that_did_not_help_ask_for_no_second_reboot(put: Any) -> None:
    put("proc/cgroups", CGROUPS.format(1, 0))
    flags = " ".join(node.boot_flags())
    put("proc/cmdline", f"root=x {flags}\n")
    put("boot/cmdline.txt", f"root=x {flags}\n")
    assert node.reboot_required() == []
    assert any("no memory cgroup" in problem for problem in node._check_kernel())


def test_an_empty_cmdline_file_is_refused(put: Any) -> None:
    file = put("boot/cmdline.txt", "\n")
    with pytest.raises(CommandExecutionError, match=r"/boot/cmdline\.txt"):
        node.set_boot_flags(["cgroup_memory=1"])
    assert file.read_text() == "\n"


# --- swap ---


def test_a_blank_node_has_no_swap(root: Path) -> None:
    assert not any(node.swap().values())


def test_swap_in_its_places(put: Any) -> None:
    put(
        "proc/swaps",
        "Filename\tType\tSize\tUsed\tPriority\n"
        "/dev/zram0  partition 2097148 0 100\n/my\\040swap file 1 0 -2\n",
    )
    put("etc/fstab", "/var/swap none swap sw 0 0\n")
    found = node.swap()
    assert found["active"] == ["/dev/zram0", "/my swap"]
    assert found["fstab"] == ["/var/swap none swap sw 0 0"]


@pytest.mark.parametrize(
    ("there", "written"),
    [
        pytest.param(
            ["usr/lib/systemd/system-generators/rpi-swap-generator",
             "usr/lib/systemd/zram-generator.conf"],
            ["/etc/rpi/swap.conf.d/90-saltberry.conf", "/etc/systemd/zram-generator.conf"],
            id="trixie",
        ),
        pytest.param(["etc/rpi/swap.conf"], ["/etc/rpi/swap.conf.d/90-saltberry.conf"], id="rpi"),
        pytest.param(
            ["etc/systemd/zram-generator.conf"], ["/etc/systemd/zram-generator.conf"], id="zram"
        ),
        pytest.param([], [], id="neither"),
    ],
)  # fmt: skip
def test_swap_generators_are_told_once(
    put: Any, root: Path, there: list[str], written: list[str]
) -> None:
    for file in there:
        put(file, "[zram0]\n")
    assert node.swap()["generators"] == written
    for path, text in node._generator_files().items():
        conffiles.write(root / path.lstrip("/"), text)
    assert node.swap()["generators"] == []
    dropin = root / "etc/rpi/swap.conf.d/90-saltberry.conf"
    assert not dropin.exists() or "Mechanism=none" in dropin.read_text()


# --- modules and sysctl ---


def test_modules_loaded_or_built_in(put: Any, root: Path) -> None:
    (root / "sys/module/br_netfilter").mkdir(parents=True)
    put(
        f"lib/modules/{node.platform.release()}/modules.builtin",
        "kernel/fs/overlayfs/overlay.ko\n",
    )
    assert node.modules_missing(["overlay", "br_netfilter", "br-netfilter", "vxlan"]) == ["vxlan"]


def test_on_a_machine_all_settings_are_its_own(put: Any, on_machine: None) -> None:
    put("proc/sys/vm/overcommit_memory", "0\n")
    file = put("proc/sys/net/ipv4/ip_forward", "0\n")
    assert node.sysctl_scope("vm.overcommit_memory") == "own"
    assert node.sysctl_scope("net.bridge.bridge-nf-call-iptables") == "absent"
    assert node.sysctl("net.ipv4.ip_forward") == "0"
    node.set_sysctl("net.ipv4.ip_forward", 1)
    assert file.read_text() == "1\n"
    with pytest.raises(CommandExecutionError, match="no such setting"):
        node.set_sysctl("net.bridge.bridge-nf-call-iptables", 1)


def test_in_a_container_only_its_network_is_its_own(put: Any) -> None:
    put("run/.containerenv")
    host = put("proc/sys/vm/overcommit_memory", "0\n")
    put("proc/sys/net/ipv4/ip_forward", "0\n")
    assert node.sysctl_scope("net.ipv4.ip_forward") == "own"
    assert node.sysctl_scope("vm.overcommit_memory") == "host"
    with pytest.raises(CommandExecutionError, match="the host's"):
        node.set_sysctl("vm.overcommit_memory", 1)
    assert host.read_text() == "0\n"


def test_a_value_of_several_words_is_compared_by_words(put: Any) -> None:
    put("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
    assert node.sysctl("net.ipv4.ip_local_port_range") == "32768 60999"


# --- Salt's own configuration ---

TEMPLATE = "# fills in the @PLACEHOLDERS@\nmaster: @MASTER@\nid: @ID@  # host name\nnew: setting\n"


def test_salt_configuration_keeps_what_was_filled_in(put: Any) -> None:
    put("etc/salt/minion.d/saltberry.conf", "id: pi-01\nmaster: 192.168.1.10\nold: x\n")
    text = node.salt_config("/etc/salt/minion.d/saltberry.conf", TEMPLATE)
    assert text == (
        "# fills in the @PLACEHOLDERS@\nmaster: 192.168.1.10\nid: pi-01  # host name\nnew: setting\n"
    )


def test_salt_configuration_of_others_is_left_alone(root: Path) -> None:
    assert node.salt_config("/etc/salt/minion.d/saltberry.conf", TEMPLATE) is None


@pytest.mark.parametrize("installed", ["id: pi-01\n", "- a list\n", "id: [\n"])
def test_salt_configuration_that_does_not_tell_is_refused(put: Any, installed: str) -> None:
    put("etc/salt/minion.d/saltberry.conf", installed)
    with pytest.raises(CommandExecutionError, match="run the installer again"):
        node.salt_config("/etc/salt/minion.d/saltberry.conf", TEMPLATE)


def test_the_shipped_configurations_can_be_filled_in_again(put: Any) -> None:
    repo = Path(__file__).resolve().parents[3]
    values = {"@MASTER@": "192.168.1.10", "@ID@": "pi-01", "@INTERFACE@": "0.0.0.0",
              "@REPO@": "/srv/saltberry/repo", "@STATE_DIR@": "/var/lib/saltberry"}  # fmt: skip
    for which in ("minion", "master"):
        shipped = (repo / f"etc/{which}.d/saltberry.conf.in").read_text()
        installed = shipped
        for placeholder, value in values.items():
            installed = installed.replace(placeholder, value)
        path = f"/etc/salt/{which}.d/saltberry.conf"
        put(path, installed)
        assert node.salt_config(path, shipped) == installed


# --- its name ---

CLOUD = """cloud_init_modules:
  - seed_random
  - [bootcmd, always]
  - set_hostname
  - [update-hostname, always]
  - update_etc_hosts
  - users_groups
"""


def test_cloud_init_names_the_node_no_more_and_does_the_rest(put: Any, root: Path) -> None:
    put("etc/cloud/cloud.cfg", CLOUD)
    assert node.keep_name() == ["/etc/cloud/cloud.cfg.d/99-saltberry.cfg"]
    written = (root / "etc/cloud/cloud.cfg.d/99-saltberry.cfg").read_text()
    assert yaml.safe_load(written) == {
        "cloud_init_modules": ["seed_random", ["bootcmd", "always"], "users_groups"]
    }
    assert node.keep_name() == []


def test_the_name_of_a_dhcp_server_is_not_taken(put: Any, root: Path) -> None:
    put("etc/NetworkManager/conf.d/10-other.conf", "[main]\n")
    (path,) = node.keep_name()
    assert "hostname-mode=none" in (root / path.lstrip("/")).read_text()


@pytest.mark.parametrize("text", ["", "users: []\n", "cloud_init_modules: [bootcmd]\n"])
def test_nothing_is_written_for_what_is_not_there(put: Any, text: str) -> None:
    assert node.keep_name() == []
    put("etc/cloud/cloud.cfg", text)
    assert node.keep_name() == []


def test_a_cloud_init_that_cannot_be_read_is_said(put: Any) -> None:
    put("etc/cloud/cloud.cfg", "a: [")
    with pytest.raises(CommandExecutionError, match=r"cloud\.cfg is no YAML"):
        node.keep_name()


# --- its system ---


def test_what_the_pillar_says_of_one_node_is_laid_over_what_it_says_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PILLAR, "system", {"journal": "memory", "journal_size": "64M"})
    assert node.system() == {"journal": "memory", "journal_size": "64M"}
    own = {**PILLAR["nodes"], "pi-01": {"system": {"journal": "disk"}}}
    monkeypatch.setitem(PILLAR, "nodes", own)
    assert node.system() == {"journal": "disk", "journal_size": "64M"}


def test_wifi_is_known_by_its_radio(put: Any) -> None:
    put("sys/class/net/eth0/mtu", "1500")
    assert node.wifi() == []
    put("sys/class/net/wlan0/phy80211/name", "phy0")
    assert node.wifi() == ["wlan0"]


def test_a_watchdog_is_not_a_containers(put: Any, on_machine: None) -> None:
    assert not node.watchdog()
    put("dev/watchdog0")
    assert node.watchdog()
    node.__context__.clear()
    put("run/.containerenv")
    assert not node.watchdog()


def test_wishes_for_a_reboot_are_told_with_their_reasons(put: Any, on_machine: None) -> None:
    put("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    assert node.reboot_wanted() == []
    node.want_reboot("firmware", "config.txt was changed\nand more")
    node.want_reboot("firmware", "config.txt was changed")
    put("run/reboot-required")
    put("run/reboot-required.pkgs", "linux-image-rpi\nlibc6\nlibc6\n")
    assert node.reboot_wanted() == [
        "config.txt was changed", "packages ask for it: libc6, linux-image-rpi"
    ]  # fmt: skip
    node.__context__.clear()
    put("run/.containerenv")
    assert node.reboot_wanted() == []


@pytest.mark.parametrize("what", ["", "../x", "A", "x y"])
def test_a_wish_for_a_reboot_has_a_plain_name(root: Path, what: str) -> None:
    with pytest.raises(CommandExecutionError, match="is no word"):
        node.want_reboot(what, "because")
    assert not (root / "run").exists()


# --- preflight ---


@pytest.fixture
def good_node(put: Any, on_machine: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with nothing against it but that nothing answers on the network."""
    put("proc/meminfo", "MemTotal:        3884000 kB\n")
    put("proc/cgroups", "")
    put("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    put("proc/swaps")
    put("var/lib/x")
    monkeypatch.setattr(node, "disk_free_mib", lambda path: 20000)
    monkeypatch.setattr(node.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(node.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(node.salt.utils.network, "ip_addrs", lambda: ["192.168.1.21"])
    monkeypatch.setattr(node, "_connect_problem", lambda host_port: "")
    return node._ROOT


def test_a_good_node_is_fit(good_node: Path) -> None:
    assert node.preflight() == {"ok": True, "problems": [], "warnings": []}
    assert "retcode" not in node.__context__


def test_all_problems_are_told_at_once(
    good_node: Path, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("proc/meminfo", "MemTotal:         905000 kB\n")
    put("sys/fs/cgroup/cgroup.controllers", "cpu io pids cpuset\n")
    monkeypatch.setattr(node, "disk_free_mib", lambda path: 200)
    monkeypatch.setattr(node.platform, "machine", lambda: "armv7l")
    monkeypatch.setattr(node.os, "cpu_count", lambda: 1)
    found = node.preflight("control_plane")
    assert not found["ok"]
    assert node.__context__["retcode"] == 1
    for word in (
        "32-bit",
        "MiB of memory",
        "two processor cores",
        "free in /var/lib",
        "memory cgroup",
    ):
        assert any(word in problem for problem in found["problems"]), word
    # the same board will do as a worker
    assert not any("of memory" in problem for problem in node.fitness("worker")["problems"])


@pytest.mark.parametrize("what", ["problem", "warning"])
def test_what_the_clock_says_is_passed_on(
    good_node: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"problem": "", "warning": "", what: "the clock is wrong"}
    monkeypatch.setitem(node.__salt__, "clock.judge", lambda: said)
    found = node.fitness("worker")
    assert found[f"{what}s"] == ["the clock is wrong"]
    assert found["ok"] is (what == "warning")


def test_missing_boot_flags_warn_and_a_waiting_reboot_is_a_problem(
    good_node: Path, put: Any
) -> None:
    put("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
    put("proc/cmdline", CMDLINE)
    put("boot/firmware/cmdline.txt", CMDLINE)
    found = node.fitness("worker")
    assert found["ok"]
    assert any("has to be rebooted" in warning for warning in found["warnings"])
    node.set_boot_flags(node.boot_flags())
    assert any(text.startswith("reboot needed: ") for text in node.fitness("worker")["problems"])


def test_cgroup_v1_is_refused_by_new_kubelets(
    good_node: Path, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (good_node / "sys/fs/cgroup/cgroup.controllers").unlink()
    put("proc/cgroups", CGROUPS.format(1, 1))
    assert node.fitness("worker")["ok"]
    monkeypatch.setitem(PILLAR["kubernetes"], "version", "1.35.1")
    assert any("cgroup v1" in problem for problem in node.fitness("worker")["problems"])


def test_an_api_server_that_does_not_answer(
    good_node: Path, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(node, "_ROOT", good_node)
    monkeypatch.setitem(PILLAR, "cluster", {"endpoint": "127.0.0.1:1"})
    (problem,) = node._check_reach("worker")
    assert problem == "the API server 127.0.0.1:1 does not answer (Connection refused)"
    assert node._check_reach("control_plane") == []
    put("etc/kubernetes/kubelet.conf")
    assert node._check_reach("worker") == []
