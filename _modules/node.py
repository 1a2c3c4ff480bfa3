"""What one node is and how to change it: facts, system files, swap, kernel settings, preflight.

The states in ``_states/node.py`` decide, the functions here find out and do. Facts come from the
node itself (``/proc``, ``/sys``, files), values from the pillar.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import salt.utils.network
import yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "node"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__context__: dict[str, Any]
__pillar__: dict[str, Any]
__opts__: dict[str, Any]

# Tests point this at a folder of their own.
_ROOT = Path("/")

# Bit of CAP_SYS_RESOURCE in a capability mask (capabilities(7)).
_CAP_SYS_RESOURCE = 24

# What the Raspberry Pi's kernel needs so that containers have memory limits: its firmware boots
# with cgroup_disable=memory. The first does it, the second is what kernels before 5.x listen to.
_MEMORY_FLAGS = ("cgroup_enable=memory", "cgroup_memory=1")

# Services that turn swap on at every boot: Raspberry Pi OS up to Bookworm, and zram-tools.
_SWAP_UNITS = ("dphys-swapfile.service", "zramswap.service")

# Raspberry Pi OS Trixie: a generator that makes swap units at boot, told by drop-ins.
_RPI_SWAP_GENERATOR = "usr/lib/systemd/system-generators/rpi-swap-generator"
_RPI_SWAP_DROPIN = "etc/rpi/swap.conf.d/90-saltberry.conf"
_RPI_SWAP_TEXT = (
    "# Written by Salt: kubelet refuses to start beside swap.\n[Main]\nMechanism=none\n"
)

# systemd's zram-generator takes the first of these that exists.
_ZRAM_CONFIGS = (
    "etc/systemd/zram-generator.conf",
    "usr/local/lib/systemd/zram-generator.conf",
    "usr/lib/systemd/zram-generator.conf",
)
_ZRAM_TEXT = "# Written by Salt: no zram device, kubelet refuses to start beside swap.\n"

# The pause image that kubeadm of each minor release names (PauseVersion in its constants).
_PAUSE_TAGS = {
    20: "3.2", 21: "3.4.1", 22: "3.5", 23: "3.6", 24: "3.7", 25: "3.8", 26: "3.9", 27: "3.9",
    28: "3.9", 29: "3.9", 30: "3.9", 31: "3.10", 32: "3.10", 33: "3.10", 34: "3.10.1", 35: "3.10.1",
}  # fmt: skip

# How the files begin that say where containerd pulls from
REGISTRY_HEAD = "# Written by Salt (pillar containerd.registries"

# What preflight asks for, in MiB. kubeadm itself refuses a control plane below 1700 MB.
_MEMORY_MIB = {"control_plane": 1620, "worker": 700}
_DISK_MIB = {"control_plane": 3000, "worker": 1500}

_CONNECT_SECONDS = 3

# Gone after a boot, which is what they ask for
_REBOOT_MARKS = "run/saltberry-reboot"


def _at(path: str) -> Path:
    return _ROOT / path.lstrip("/")


def _run(argv: Sequence[str]) -> dict[str, Any]:
    """Run one program without a shell; a failure is the caller's to judge."""
    return __salt__["cmd.run_all"](
        list(argv), python_shell=False, ignore_retcode=True, output_loglevel="debug"
    )


def _must(argv: Sequence[str]) -> str:
    """Run one program; raise CommandExecutionError with its own words when it fails."""
    ret = _run(argv)
    if ret["retcode"]:
        said = ret["stderr"] or ret["stdout"] or "no output"
        raise CommandExecutionError(f"{' '.join(argv)} failed ({ret['retcode']}): {said}")
    return ret["stdout"]


def _pillar(path: str) -> Any:
    """Return one pillar value by ``a:b:c``, unmasked (``pillar.get`` hands modules asterisks)."""
    value: Any = __pillar__
    for key in path.split(":"):
        if not isinstance(value, Mapping) or key not in value:
            raise CommandExecutionError(
                f"the pillar has no {path.replace(':', '.')}: pillar/defaults.sls should set it; "
                "look at the pillar's errors with 'salt-call pillar.items'"
            )
        value = value[key]
    return value


# --- facts --------------------------------------------------------------------------------------


def container() -> bool:
    """Say whether this node is a container, so that the kernel under it is shared with others.

    Found out from what the container managers leave (podman, docker, nspawn, LXC), then by
    ``systemd-detect-virt --container``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.container
    """
    if "saltberry.container" not in __context__:
        marks = ("run/.containerenv", ".dockerenv", "run/systemd/container",
                 "run/host/container-manager")  # fmt: skip
        __context__["saltberry.container"] = (
            any(_at(mark).exists() for mark in marks) or _detect_virt()
        )
    return __context__["saltberry.container"]


def _detect_virt() -> bool:
    if not shutil.which("systemd-detect-virt"):
        return False
    return _run(["systemd-detect-virt", "--container", "--quiet"])["retcode"] == 0


def can_adjust_oom() -> bool:
    """Say whether services here may lower a process's OOM score below their own.

    That needs CAP_SYS_RESOURCE in the bounding set of PID 1, which every service inherits. A
    machine has it, a container may not; containerd then has to be told to live without.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.can_adjust_oom
    """
    status = _at("proc/1/status").read_text()
    mask = re.search(r"^CapBnd:\s*([0-9a-f]+)", status, re.MULTILINE)
    return mask is not None and bool(int(mask.group(1), 16) >> _CAP_SYS_RESOURCE & 1)


def is_member() -> bool:
    """Say whether this node has been made part of a cluster, working or not.

    kubeadm writes ``kubelet.conf`` when a node has its own certificate, ``reset`` removes it.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.is_member
    """
    return _at("etc/kubernetes/kubelet.conf").exists()


def rack_ip() -> str | None:
    """Return this node's address on the rack's network: the pillar's, or the one it has.

    Returns None for a node that the pillar gives no address and that has none, or several, in
    ``rack.network``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.rack_ip
    """
    named = __pillar__.get("node", {}).get("ip")
    if named:
        return named
    found = _rack_addresses()
    return found[0] if len(found) == 1 else None


def _rack_addresses() -> list[str]:
    network = IPv4Network(_pillar("rack:network"))
    return sorted(ip for ip in salt.utils.network.ip_addrs() if IPv4Address(ip) in network)


def system() -> dict[str, Any]:
    """Return the pillar's ``system`` as it is for this node (``nodes.<id>.system`` laid over it).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.system
    """
    return __utils__["rackspec.system"](__pillar__, __opts__["id"])


def wifi() -> list[str]:
    """Return the node's wifi interfaces.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.wifi
    """
    found = _at("sys/class/net").glob("*")
    return sorted(path.name for path in found if (path / "phy80211").exists())


def watchdog() -> bool:
    """Say whether this node has a watchdog that is its own: none in a container.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.watchdog
    """
    return not container() and _at("dev/watchdog0").exists()


# --- values for the states, computed from the pillar -------------------------------------------


def hosts_entries() -> dict[str, list[str]]:
    """Return ``{address: [name, full name]}`` of the rack's nodes with an address, and this one.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.hosts_entries
    """
    domain = _pillar("rack:domain")
    addresses = {
        node: facts["ip"]
        for node, facts in (_pillar("nodes") or {}).items()
        if facts and facts.get("ip")
    }
    own = rack_ip()
    if own:
        addresses[__opts__["id"]] = own
    return {ip: [node, f"{node}.{domain}"] for node, ip in sorted(addresses.items())}


def repository() -> dict[str, Any]:
    """Return pillar ``kubernetes.repo`` with ``{minor}`` filled in, and where its key is kept.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.repository
    """
    minor = ".".join(str(_pillar("kubernetes:version")).split(".")[:2])
    repo = {
        key: value.replace("{minor}", minor) if isinstance(value, str) else value
        for key, value in _pillar("kubernetes:repo").items()
    }
    # apt tells an armoured key from a binary one by the name of its file.
    kind = "gpg" if repo["key_url"].endswith(".gpg") else "asc"
    return {**repo, "keyring": f"/etc/apt/keyrings/saltberry-kubernetes.{kind}"}


def kubernetes_packages() -> dict[str, str]:
    """Return ``{package: exact version}`` of kubelet, kubeadm and kubectl.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.kubernetes_packages
    """
    exact = f"{_pillar('kubernetes:version')}-{_pillar('kubernetes:package_revision')}"
    return dict.fromkeys(("kubelet", "kubeadm", "kubectl"), exact)


def containerd_settings() -> dict[str, Any]:
    """Return what containerd's configuration takes from pillar and facts.

    ``pause_image``, ``restrict_oom_score_adj``, and ``registries`` as
    ``{host: {"server": URL or None, "endpoints": [URL, ...]}}``, the endpoints in the order in which they
    are tried: a mirror may fall back to the registry that it mirrors; one that is the host itself has to
    be named as the server, or containerd would try https. ``left`` are hosts that were in the pillar.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.containerd_settings
    """
    version = str(_pillar("kubernetes:version"))
    default = f"{_pillar('kubernetes:image_repository')}/pause:{pause_tag(version)}"
    mirrors, cached = _pillar("containerd:registries") or {}, __salt__["pull_through.hosts"]()
    registries = {}
    for host in [*mirrors, *(host for host in cached if host not in mirrors)]:
        endpoint = mirrors.get(host, {}).get("endpoint")
        is_host = bool(endpoint) and urlsplit(endpoint).netloc == host
        endpoints = [endpoint] if endpoint else []
        if host in cached:
            # Before the registry itself, after a mirror, which was filled on purpose
            endpoints.insert(0 if is_host else len(endpoints), __salt__["pull_through.url"]())
        registries[host] = {"server": endpoint if is_host else None, "endpoints": endpoints}
    return {
        "pause_image": _pillar("containerd:pause_image") or default,
        "restrict_oom_score_adj": not can_adjust_oom(),
        "registries": registries,
        "left": [host for host in _registries_written() if host not in registries],
    }


def _registries_written() -> list[str]:
    """Return the registries for which a state has written where to pull from."""
    return sorted(
        path.parent.name
        for path in _at("etc/containerd/certs.d").glob("*/hosts.toml")
        if __utils__["conffiles.read"](path).startswith(REGISTRY_HEAD)
    )


def pause_tag(version: str) -> str:
    """Return the tag of the pause image that kubeadm of a version expects.

    version
        Kubernetes version, for instance ``1.34.2``. A minor newer than this code knows gets the
        newest known tag: containerd pulls whatever it is told, kubeadm only warns.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.pause_tag 1.34.2
    """
    minor = int(version.lstrip("v").split(".")[1])
    return _PAUSE_TAGS.get(minor, _PAUSE_TAGS[max(_PAUSE_TAGS)])


# --- name and addresses -------------------------------------------------------------------------


def hostname() -> dict[str, str]:
    """Return the node's host name: what the kernel says now, and what it will be after a boot.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.hostname
    """
    return {
        "live": socket.gethostname(),
        "boot": __utils__["conffiles.read"](_at("etc/hostname")).strip(),
    }


def set_hostname(name: str) -> dict[str, str]:
    """Set the host name now and for every boot; return it as :func:`hostname` does.

    name
        One label, for instance ``pi-01``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.set_hostname pi-01
    """
    if socket.gethostname() != name:
        socket.sethostname(name)
    if hostname()["boot"] != name:
        __utils__["conffiles.write"](_at("etc/hostname"), f"{name}\n")
    return hostname()


def name_keepers() -> dict[str, str]:
    """Return ``{path: text}`` of the files that keep others from renaming this node.

    cloud-init and NetworkManager, each only where it is: the first would set name and /etc/hosts
    anew at every boot, the second would take the name that a DHCP server gives. dhclient, dhcpcd and
    systemd-networkd leave a node alone that has a name.

    Raises CommandExecutionError when cloud-init's own file cannot be understood.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.name_keepers
    """
    files = {}
    if _at("etc/NetworkManager/conf.d").is_dir():
        files["/etc/NetworkManager/conf.d/90-saltberry-name.conf"] = (
            "# Written by Salt: the node's name is its minion id\n[main]\nhostname-mode=none\n"
        )
    try:
        text = __utils__["conffiles.read"](_at("etc/cloud/cloud.cfg"))
        kept = __utils__["conffiles.cloud_modules_kept"](text)
    except ValueError as exc:
        raise CommandExecutionError(f"/etc/cloud/cloud.cfg {exc}") from exc
    if kept is not None:
        files["/etc/cloud/cloud.cfg.d/99-saltberry.cfg"] = (
            "# Written by Salt: name and /etc/hosts are its own to keep\n"
            + yaml.safe_dump({"cloud_init_modules": kept}, sort_keys=False)
        )
    return files


def name_keepers_missing() -> dict[str, str]:
    """Return those of :func:`name_keepers` that are not as they should be.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.name_keepers_missing
    """
    read = __utils__["conffiles.read"]
    return {path: text for path, text in name_keepers().items() if read(_at(path)) != text}


def keep_name() -> list[str]:
    """Write :func:`name_keepers_missing`; return their paths.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.keep_name
    """
    missing = name_keepers_missing()
    for path, text in missing.items():
        __utils__["conffiles.write"](_at(path), text)
    return sorted(missing)


# --- swap ---------------------------------------------------------------------------------------


def swap() -> dict[str, list[str]]:
    """Return everything that turns swap on here, now or at the next boot; all empty when off.

    ``active``: devices in use. ``fstab``: lines of /etc/fstab. ``services``: enabled units of the
    swap tools. ``generators``: files that still have to be written so that rpi-swap and
    zram-generator make none at boot.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.swap
    """
    return {
        "active": _active_swap(),
        "fstab": __utils__["conffiles.fstab_swap"](_fstab()),
        "services": _swap_services(),
        "generators": sorted(_generator_files()),
    }


def _active_swap() -> list[str]:
    lines = __utils__["conffiles.read"](_at("proc/swaps")).splitlines()[1:]
    # The kernel writes a space in a path as \040.
    return [line.split()[0].replace("\\040", " ") for line in lines if line.split()]


def _fstab() -> str:
    return __utils__["conffiles.read"](_at("etc/fstab"))


def _swap_services() -> list[str]:
    folders = ("usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system")
    there = [unit for unit in _SWAP_UNITS if any(_at(f"{d}/{unit}").exists() for d in folders)]
    return [unit for unit in there if _run(["systemctl", "is-enabled", unit])["retcode"] == 0]


def _generator_files() -> dict[str, str]:
    """Return ``{path: text}`` of the files that keep generators from making swap, if not right."""
    wanted = {}
    if _at(_RPI_SWAP_GENERATOR).exists() or _at("etc/rpi/swap.conf").exists():
        wanted[f"/{_RPI_SWAP_DROPIN}"] = _RPI_SWAP_TEXT
    if any(_at(config).exists() for config in _ZRAM_CONFIGS):
        wanted[f"/{_ZRAM_CONFIGS[0]}"] = _ZRAM_TEXT
    return {
        path: text
        for path, text in wanted.items()
        if __utils__["conffiles.read"](_at(path)) != text
    }


def swap_off() -> dict[str, list[str]]:
    """Turn swap off now and for every boot; return what :func:`swap` says afterwards.

    Lines in /etc/fstab are commented out, services disabled and stopped, generators told to make
    none. Raises CommandExecutionError when the kernel cannot give a device up (the memory is too
    small for what is swapped out).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.swap_off
    """
    found = swap()
    for path, text in _generator_files().items():
        __utils__["conffiles.write"](_at(path), text)
    if found["fstab"]:
        text = __utils__["conffiles.fstab_without_swap"](_fstab())
        __utils__["conffiles.write"](_at("etc/fstab"), text)
    if found["fstab"] or found["generators"]:
        # Else systemd keeps swap units of the old files and may start them again.
        _must(["systemctl", "daemon-reload"])
    for unit in found["services"]:
        _must(["systemctl", "disable", "--now", unit])
    for device in _active_swap():
        _must(["swapoff", device])
    return swap()


# --- kernel modules and settings ----------------------------------------------------------------


def modules_missing(names: Sequence[str]) -> list[str]:
    """Return those kernel modules that are neither loaded nor built in.

    names
        For instance ``["overlay", "br_netfilter"]``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.modules_missing '[overlay, br_netfilter]'
    """
    builtin = __utils__["conffiles.read"](_at(f"lib/modules/{platform.release()}/modules.builtin"))
    return [
        name
        for name in names
        if not _at(f"sys/module/{name.replace('-', '_')}").exists() and f"/{name}.ko" not in builtin
    ]


def load_modules(names: Sequence[str]) -> list[str]:
    """Load kernel modules; return those that were missing. Raises CommandExecutionError.

    names
        For instance ``["overlay", "br_netfilter"]``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.load_modules '[overlay, br_netfilter]'
    """
    missing = modules_missing(names)
    for name in missing:
        _must(["modprobe", "--", name])
    return missing


def _sysctl_path(key: str) -> Path:
    return _at(f"proc/sys/{key.replace('.', '/')}")


def sysctl_scope(key: str) -> str:
    """Say whose a kernel setting is: ``own``, ``host`` (not ours to write) or ``absent``.

    key
        For instance ``net.ipv4.ip_forward``.

    On a machine every setting that exists is its own. In a container the kernel is shared: only
    what each network namespace has for itself (below ``net``, and writable here) is the node's,
    anything else would change the host and all other containers on it.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.sysctl_scope net.ipv4.ip_forward
    """
    path = _sysctl_path(key)
    if not path.exists():
        return "absent"
    if not container():
        return "own"
    return "own" if key.startswith("net.") and os.access(path, os.W_OK) else "host"


def sysctl(key: str) -> str | None:
    """Return the live value of a kernel setting, None when it does not exist.

    key
        For instance ``net.ipv4.ip_forward``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.sysctl net.ipv4.ip_forward
    """
    path = _sysctl_path(key)
    return " ".join(path.read_text().split()) if path.exists() else None


def set_sysctl(key: str, value: str | int) -> None:
    """Write the live value of a kernel setting. Raises CommandExecutionError when it is not ours.

    key
        For instance ``net.ipv4.ip_forward``.
    value
        Its new value.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.set_sysctl net.ipv4.ip_forward 1
    """
    scope = sysctl_scope(key)
    if scope != "own":
        raise CommandExecutionError(
            f"{key} cannot be set here: "
            + ("this kernel has no such setting" if scope == "absent" else "it is the host's")
        )
    try:
        _sysctl_path(key).write_text(f"{value}\n")
    except OSError as exc:
        raise CommandExecutionError(f"the kernel refuses {key} = {value}: {exc.strerror}") from exc


# --- boot flags ---------------------------------------------------------------------------------


def cmdline_path() -> str | None:
    """Return the file that the Pi's firmware takes the kernel command line from.

    ``/boot/firmware/cmdline.txt`` since Bookworm, ``/boot/cmdline.txt`` before; None where neither
    is (a PC, a container). Bookworm leaves a note at the old place, so the new one comes first.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.cmdline_path
    """
    for path in ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt"):
        if _at(path).is_file():
            return path
    return None


def controllers() -> list[str]:
    """Return the cgroup controllers that the running kernel offers, of cgroup v2 and v1.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.controllers
    """
    unified = __utils__["conffiles.read"](_at("sys/fs/cgroup/cgroup.controllers")).split()
    rows = [row.split() for row in __utils__["conffiles.read"](_at("proc/cgroups")).splitlines()]
    legacy = [row[0] for row in rows if len(row) == 4 and row[3] == "1"]
    return sorted({*unified, *legacy})


def boot_flags() -> list[str]:
    """Return the boot flags that this kernel needs for Kubernetes' cgroups.

    Always those for memory, so that a Pi keeps them; cpuset only on a kernel that lacks it (the
    Pi's before 4.9 or so).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.boot_flags
    """
    cpuset = [] if "cpuset" in controllers() else ["cgroup_enable=cpuset"]
    return [*_MEMORY_FLAGS, *cpuset]


def boot_flags_missing(flags: Sequence[str] | None = None) -> list[str]:
    """Return those boot flags that the Pi's cmdline file lacks; none where there is no such file.

    flags
        The wanted ones; default :func:`boot_flags`.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.boot_flags_missing
    """
    path = cmdline_path()
    if path is None:
        return []
    text = __utils__["conffiles.read"](_at(path))
    return __utils__["conffiles.cmdline_missing"](text, flags or boot_flags())


def set_boot_flags(flags: Sequence[str]) -> None:
    """Add boot flags to the one line of the Pi's cmdline file; they count from the next boot.

    flags
        For instance ``["cgroup_enable=memory"]``. Flags that contradict are removed, all others
        stay. Raises CommandExecutionError when there is no such file or it is empty.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.set_boot_flags '["cgroup_enable=memory", "cgroup_memory=1"]'
    """
    path = cmdline_path()
    if path is None:
        raise CommandExecutionError("there is no cmdline.txt on this node: it is no Raspberry Pi")
    try:
        text = __utils__["conffiles.cmdline_with"](__utils__["conffiles.read"](_at(path)), flags)
        __utils__["conffiles.write"](_at(path), text)
    except (OSError, ValueError) as exc:
        raise CommandExecutionError(f"{path}: {exc}") from exc


def reboot_required() -> list[str]:
    """Return why this node has to be rebooted before it can be a Kubernetes node; empty if not.

    The reason shows in the preflight of a node that is to join, and the first-boot script or a person
    reboots it; a member is rebooted by reconcile.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.reboot_required
    """
    lacking = [name for name in ("memory", "cpuset") if name not in controllers()]
    path = cmdline_path()
    if not lacking or path is None:
        return []
    running = __utils__["conffiles.read"](_at("proc/cmdline"))
    waiting = [
        flag
        for flag in __utils__["conffiles.cmdline_missing"](running, boot_flags())
        if flag not in boot_flags_missing()
    ]
    if not waiting:
        return []
    return [
        f"the {' and '.join(lacking)} cgroup is off; {path} has {' '.join(waiting)}, "
        "which counts from the next boot"
    ]


def want_reboot(what: str, why: str) -> None:
    """Note that this node should be rebooted some time; gone after a boot, as it is below /run.

    what
        A word for it; the same word again replaces the reason.
    why
        The reason, in one line.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.want_reboot kernel 'try the new kernel'
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", what):
        raise CommandExecutionError(f"{what!r} is no word for a reason; use lower-case letters")
    __utils__["conffiles.write"](_at(f"{_REBOOT_MARKS}/{what}"), f"{why.splitlines()[0]}\n")


def reboot_wanted() -> list[str]:
    """Return why this node should be rebooted, also where it works without; empty if not.

    What :func:`reboot_required` says, what :func:`want_reboot` noted, and packages that ask for it.
    Nothing for a container, whose kernel and firmware are the host's.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.reboot_wanted
    """
    if container():
        return []
    noted = [
        text
        for path in sorted(_at(_REBOOT_MARKS).glob("[a-z]*"))
        if (text := __utils__["conffiles.read"](path).strip())
    ]
    packages = __utils__["conffiles.read"](_at("run/reboot-required.pkgs")).split()
    if _at("run/reboot-required").exists():
        noted.append(f"packages ask for it: {', '.join(sorted(set(packages))) or 'not named'}")
    return [*reboot_required(), *noted]


def reboot(seconds: int = 3) -> None:
    """Reboot this node in a moment, so that the job which asks for it can report.

    seconds
        How long to wait.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.reboot
    """
    _must([
        "systemd-run", "--quiet", "--collect", f"--on-active={seconds}s", "systemctl", "reboot",
    ])  # fmt: skip


# --- systemd ------------------------------------------------------------------------------------


def unit_enabled(name: str) -> bool | None:
    """Say whether a systemd unit starts at boot; None when there is no such unit.

    name
        For instance ``kubelet.service``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.unit_enabled kubelet.service
    """
    word = _run(["systemctl", "is-enabled", "--", name])["stdout"].strip()
    if word in ("", "not-found"):
        return None
    return word in ("enabled", "enabled-runtime", "static", "alias", "indirect", "generated")


def enable_unit(name: str) -> None:
    """Make a systemd unit start at boot, without starting it now. Raises CommandExecutionError.

    name
        For instance ``kubelet.service``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.enable_unit kubelet.service
    """
    _must(["systemctl", "enable", "--", name])


def restart_later(name: str, seconds: int = 5) -> None:
    """Restart a systemd unit a little later, from a timer of systemd's own.

    name
        For instance ``salt-minion.service``: restarting the minion at once would kill the very
        job that asks for it before it could report.
    seconds
        How long to wait. A timer that still waits is replaced, so asking twice restarts once.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.restart_later salt-minion.service
    """
    timer = f"saltberry-restart-{name.removesuffix('.service')}"
    _run(["systemctl", "stop", f"{timer}.timer"])
    _must([
        "systemd-run", "--quiet", "--collect", f"--unit={timer}", f"--on-active={seconds}s",
        "systemctl", "restart", "--no-block", "--", name,
    ])  # fmt: skip


# --- Salt's own files ---------------------------------------------------------------------------


def modules() -> dict[str, str]:
    """Return which of our modules this minion has, so that the master can tell old ones.

    Returns ``{"modules/node.py": SHA-256 in hex, "states/…": …, "utils/…": …}``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.modules
    """
    synced = Path(__opts__["extension_modules"])
    return {
        str(path.relative_to(synced)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in synced.glob("*/*.py")
    }


def salt_config(path: str, template: str) -> str | None:
    """Return what one of Salt's configuration files should be, None if it was never installed.

    path
        The installed file, for instance ``/etc/salt/minion.d/saltberry.conf``.
    template
        The text as shipped, with ``@PLACEHOLDERS@``.

    What the placeholders stand for (the node's id, where the master is, where the checkout is) was
    decided when Salt was installed, so it is taken from the installed file. Raises
    CommandExecutionError when that does not say, or when the result is no YAML.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.salt_config /etc/salt/minion.d/saltberry.conf 'id: @ID@'
    """
    installed = __utils__["conffiles.read"](_at(path))
    if not installed:
        return None
    try:
        known = yaml.safe_load(installed)
        text = template
        for placeholder in sorted(set(re.findall(r"@[A-Z_]+@", template))):
            # Comments in the template speak of "@PLACEHOLDERS@".
            if placeholder in _SALT_CONFIG:
                text = text.replace(placeholder, _SALT_CONFIG[placeholder](known))
        yaml.safe_load(text)
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as exc:
        raise CommandExecutionError(
            f"{path} does not tell what the new one needs ({exc!r}); run the installer again"
        ) from exc
    return text


# How to read back what the installers filled in.
_SALT_CONFIG: dict[str, Callable[[Any], str]] = {
    "@MASTER@": lambda conf: str(conf["master"]),
    "@ID@": lambda conf: str(conf["id"]),
    "@INTERFACE@": lambda conf: str(conf["interface"]),
    "@REPO@": lambda conf: str(conf["file_roots"]["base"][0]).removesuffix("/salt"),
    "@STATE_DIR@": lambda conf: str(conf["saltberry"]["state_dir"]),
}


# --- preflight ----------------------------------------------------------------------------------


def preflight(role: str | None = None) -> dict[str, Any]:
    """Judge whether this node can become a Kubernetes node, before anything is touched.

    role
        ``control_plane`` or ``worker``; default: the first of the two that the pillar gives it.

    Returns ``{"ok": bool, "problems": [...], "warnings": [...]}``, each a whole sentence. Problems
    make the job's return code 1, so that an orchestration with ``failhard`` stops here.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.preflight worker
    """
    found = fitness(role)
    if not found["ok"]:
        __context__["retcode"] = 1
    return found


def fitness(role: str | None = None) -> dict[str, Any]:
    """Return what :func:`preflight` returns, without touching the job's return code.

    role
        As for :func:`preflight`.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.fitness worker
    """
    role = role or _kubernetes_role()
    problems = [*_check_hardware(role), *_check_kernel(), *_check_pod_network()]
    problems += [*_check_address(), *_check_reach(role)]
    problems += [f"reboot needed: {reason}" for reason in reboot_required()]
    clock = __salt__["clock.judge"]()
    problems += filter(None, [clock["problem"]])
    warnings = [*_warnings(role), *filter(None, [clock["warning"]])]
    return {"ok": not problems, "problems": problems, "warnings": warnings}


def _kubernetes_role() -> str:
    roles = __pillar__.get("node", {}).get("roles", [])
    return "control_plane" if "control_plane" in roles else "worker"


def _check_hardware(role: str) -> list[str]:
    problems = []
    if sys.maxsize <= 2**32 or platform.machine() not in ("aarch64", "x86_64"):
        problems.append(
            f"this is a 32-bit system ({platform.machine()}), for which there are no Kubernetes "
            "packages; write the 64-bit Raspberry Pi OS Lite onto the card"
        )
    memory, wanted = memory_mib(), _MEMORY_MIB.get(role, 0)
    if memory < wanted:
        problems.append(
            f"{memory} MiB of memory are too few for a {role.replace('_', ' ')}, which needs "
            f"{wanted}" + ("; make it a worker" if role == "control_plane" else "")
        )
    if role == "control_plane" and (os.cpu_count() or 1) < 2:
        problems.append("a control plane needs two processor cores, this node has one")
    free, room = disk_free_mib("/var/lib"), _DISK_MIB.get(role, 0)
    if free < room:
        problems.append(f"only {free} MiB are free in /var/lib; images and pods need {room}")
    return problems


def memory_mib() -> int:
    """Return the node's memory in MiB, as the kernel counts it.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.memory_mib
    """
    total = re.search(r"^MemTotal:\s*(\d+) kB", _at("proc/meminfo").read_text(), re.MULTILINE)
    return int(total.group(1)) // 1024 if total else 0


def disk_free_mib(path: str) -> int:
    """Return how many MiB are free for root on the file system of a path.

    path
        For instance ``/var/lib``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' node.disk_free_mib /var/lib
    """
    stat = os.statvfs(_at(path))
    return stat.f_bfree * stat.f_frsize // 2**20


def _check_kernel() -> list[str]:
    problems = []
    flags_missing = boot_flags_missing()
    lacking = [name for name in ("memory", "cpuset") if name not in controllers()]
    # Flags that the base state is about to write are a warning; after that "reboot needed".
    if lacking and not flags_missing and not reboot_required():
        problems.append(
            f"the kernel has no {' and '.join(lacking)} cgroup, and no boot flag for it is waiting; "
            "a stock Raspberry Pi OS or Debian kernel has it"
        )
    minor = int(str(_pillar("kubernetes:version")).split(".")[1])
    if minor >= 35 and not _at("sys/fs/cgroup/cgroup.controllers").exists():
        problems.append(
            f"kubelet 1.{minor} refuses cgroup v1, which this node runs; remove "
            "systemd.unified_cgroup_hierarchy=0 from the boot flags or update the system"
        )
    return problems


def _check_pod_network() -> list[str]:
    """Return what the pods' network lacks here."""
    if _pillar("kubernetes:cni") != "flannel" or _pillar("kubernetes:flannel:backend") != "vxlan":
        return []
    # A container's kernel is its host's; what the host has loaded counts, and nothing else.
    if not modules_missing(["vxlan"]) or (not container() and _can_load("vxlan")):
        return []
    return [
        "this kernel has no module vxlan, which flannel needs; on Ubuntu 21.10 to 23.10 it is in the"
        " package linux-modules-extra-raspi (sudo apt-get install linux-modules-extra-raspi, then"
        " reboot); or set kubernetes.flannel.backend to host-gw, or kubernetes.cni to routed, before the"
        " cluster is made"
    ]


def _can_load(module: str) -> bool:
    if not shutil.which("modprobe"):
        return True  # a blank node; the states install it
    return _run(["modprobe", "--dry-run", "--quiet", module])["retcode"] == 0


def _check_address() -> list[str]:
    """Return what is wrong with the node's addresses on the rack's network."""
    network, found = _pillar("rack:network"), _rack_addresses()
    named = __pillar__.get("node", {}).get("ip")
    has = f"it has {', '.join(found)} there" if found else "it has no address there"
    if named and named not in found:
        return [
            f"the rack says this node is {named} on {network}, but {has}; "
            "correct nodes in pillar/rack.sls, or the node's address"
        ]
    if not named and len(found) != 1:
        return [f"this node must have one address on {network}, but {has}; name its ip in the rack"]
    return []


def _check_reach(role: str) -> list[str]:
    """Return which servers that this node will need do not answer."""
    endpoint = __pillar__.get("cluster", {}).get("endpoint")
    if role != "worker" or not endpoint or is_member():
        return []
    why = _connect_problem(endpoint)
    return [f"the API server {endpoint} does not answer ({why})"] if why else []


def _connect_problem(host_port: str) -> str:
    """Return why a TCP connection cannot be made, empty if it can."""
    host, _, port = host_port.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
            return ""
    except OSError as exc:
        return exc.strerror or str(exc)


def _warnings(role: str) -> list[str]:
    """Return what will not stop the node but should be known."""
    warnings = []
    missing = boot_flags_missing()
    if missing:
        warnings.append(
            f"{cmdline_path()} lacks {' '.join(missing)}; the base state adds them"
            + ("" if "memory" in controllers() else ", then the node has to be rebooted")
        )
    if container() and _active_swap():
        warnings.append("the host of this container uses swap, which only the host can turn off")
    if not _at("usr/bin/kubelet").exists():
        warnings += _repository_warnings()
    return warnings


def _repository_warnings() -> list[str]:
    """Return that the package repository does not answer, if so; a proxy may still reach it."""
    repo = urlsplit(repository()["url"])
    port = repo.port or (443 if repo.scheme == "https" else 80)
    why = _connect_problem(f"{repo.hostname}:{port}")
    return [f"the package repository {repo.netloc} does not answer ({why})"] if why else []
