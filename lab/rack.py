"""One rack: which Pis it has, and what plugging, cutting and asking do to them."""

from __future__ import annotations

import dataclasses
import fcntl
import ipaddress
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lab import podman
from lab.artifacts import Artifacts
from lab.podman import Node
from lab.progress import Progress

STATE = Path("/var/lib/saltberry-lab")
CHECKOUT = Path(__file__).resolve().parent.parent
REPO = "/srv/saltberry/repo"
PILLAR = f"{REPO}/pillar/rack.sls"
MIRROR = "/srv/saltberry/mirror"
BOOT = "/boot/firmware"
# Where nfs1 keeps the share, and where another node has its folder of it and the volumes: nfs.path and
# nfs.mount of the pillar's defaults.
SHARE = "/srv/nfs"
OWN_FOLDER = "/srv/share/node"
VOLUMES = "/srv/share/volumes"
MASTER = "nfs1"
CONTROL_PLANE = "cp1"
ROLES = ("worker", "control_plane")
# Addresses that the pillar fixes; every other Pi gets the next free one.
FIXED = {MASTER: 10, CONTROL_PLANE: 11}
# Whose images the lab's registry has stand-ins of
MIRRORED = ("docker.io", "quay.io", "registry.k8s.io", "ghcr.io")
FIRST_FREE = 21
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


class RackError(RuntimeError):
    """Something a person asked for can't be done; the text says why and what to do."""


def check_name(what: str, name: str) -> str:
    """Refuse names that could not be a host name.

    Raises:
        RackError: naming the value and the rule.
    """
    if not NAME.fullmatch(name):
        raise RackError(
            f"{name!r} is no name for a {what}: use lower-case letters, digits and dashes, at most 32"
        )
    return name


@contextmanager
def _allocation_lock() -> Iterator[None]:
    """Hold while a rack picks its addresses, so that two never pick the same."""
    STATE.mkdir(parents=True, exist_ok=True, mode=0o755)
    with (STATE / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclasses.dataclass
class Rack:
    """A named rack; everything of it carries its name, so racks never touch each other."""

    name: str
    subnet: str
    image: str
    upstream: bool = False
    # What it was built from, as its pillar and its cards name it: a rack keeps its own when the
    # checkout moves on.
    apt_source: str = ""
    kubernetes: dict[str, str] = dataclasses.field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    # Roles given with `plug --role`; a node without one is not named in the pillar.
    roles: dict[str, str] = dataclasses.field(default_factory=dict)

    # -- keeping it ---------------------------------------------------------------------------

    @staticmethod
    def directory_of(name: str) -> Path:
        return STATE / "racks" / name

    @property
    def directory(self) -> Path:
        return self.directory_of(self.name)

    @property
    def network(self) -> str:
        return f"saltberry-{self.name}"

    @classmethod
    def load(cls, name: str) -> Rack | None:
        """The rack of that name, or None when it was never brought up."""
        try:
            return cls(**json.loads((cls.directory_of(name) / "rack.json").read_text()))
        except FileNotFoundError:
            return None

    @classmethod
    def create(cls, name: str, image: str, built: Artifacts, upstream: bool) -> Rack:
        """Reserve a name and a network of its own."""
        check_name("rack", name)
        with _allocation_lock():
            rack = cls(
                name=name,
                subnet=_free_subnet(),
                image=image,
                upstream=upstream,
                apt_source=built.debian_sources if upstream else built.apt_source("@MIRROR@"),
                kubernetes={
                    "version": built.kubernetes_version,
                    "package_revision": built.package_revision,
                    "key_sha256": built.key_sha256,
                },
            )
            rack.save()
        return rack

    def save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "rack.json"
        staged = path.with_suffix(".tmp")
        staged.write_text(json.dumps(dataclasses.asdict(self), indent=1))
        staged.replace(path)

    # -- its nodes ----------------------------------------------------------------------------

    def address(self, host: int) -> str:
        return str(ipaddress.ip_network(self.subnet)[host])

    @property
    def master_ip(self) -> str:
        return self.address(FIXED[MASTER])

    def _next_address(self, node: str) -> str:
        if node in FIXED:
            return self.address(FIXED[node])
        taken = {entry["ip"] for entry in self.nodes.values()}
        for number in range(FIRST_FREE, 250):
            if self.address(number) not in taken:
                return self.address(number)
        raise RackError(f"rack {self.name} has no address left in {self.subnet}")

    def node(self, node: str) -> Node:
        """The Pi of that name.

        Raises:
            RackError: the rack has none.
        """
        entry = self.nodes.get(node)
        if entry is None:
            known = ", ".join(self.nodes) or "none yet"
            raise RackError(f"rack {self.name} has no node {node!r} (it has: {known})")
        return Node(
            rack=self.name,
            id=node,
            ip=entry["ip"],
            image=self.image,
            network=self.network,
            mounts={Path(source): target for source, target in entry["mounts"].items()},
        )

    def add(self, node: str, mounts: dict[Path, str]) -> Node:
        """Put a new Pi, without power, into the rack."""
        check_name("node", node)
        self.nodes[node] = {
            "ip": self._next_address(node),
            "mounts": {str(source): target for source, target in mounts.items()},
        }
        self.save()
        made = self.node(node)
        if not made.exists():
            made.create()
        return made

    def discard(self, node: str) -> None:
        """Take a Pi away for good, with its card; the cluster and the master are not told."""
        self.node(node).remove()
        del self.nodes[node]
        self.save()

    @property
    def master(self) -> Node:
        return self.node(MASTER)

    def boot_partition(self, node: str) -> Path:
        """The host directory that stands for the node's boot partition."""
        path = self.directory / "boot" / node
        path.mkdir(parents=True, exist_ok=True)
        return path

    def share(self, node: str) -> dict[Path, str]:
        """The share's folders on this machine that the node sees, and where it sees them.

        The machine's kernel may have no NFS, so the lab brings the share by bind mounts: to nfs1 the
        whole, to each other node its own folder and the volumes, as exports and kubelet would.
        """
        whole = self.directory / "share"
        own = {whole / "nodes" / node: OWN_FOLDER, whole / "volumes": VOLUMES}
        seen = {whole: SHARE} if node == MASTER else own
        for path in seen:
            path.mkdir(parents=True, exist_ok=True)
        return seen

    # -- what Salt says -----------------------------------------------------------------------

    def status(self) -> list[dict[str, Any]]:
        """What `salt-run rack.status` on the master says, plus the Pis it has not met yet.

        Raises:
            RackError: the master is off or does not answer.
        """
        if MASTER not in self.nodes or not self.master.running():
            raise RackError(f"{MASTER} of rack {self.name} is off; `./rack power {MASTER}`")
        done = self.master.run("salt-run", "--out=json", "rack.status", check=False, timeout=120)
        try:
            known = json.loads(done.stdout)["nodes"]
        except (ValueError, KeyError, TypeError):
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
            raise RackError(f"{MASTER} does not say how the rack is: {tail}") from None
        met = {entry["id"] for entry in known}
        for node in self.nodes:
            if node not in met:
                known.append(
                    {
                        "id": node, "role": None, "key": "none", "joined": False, "ready": False,
                        "version": None, "reason": "has not called the master yet",
                    }
                )  # fmt: skip
        for entry in known:
            if entry["id"] in self.nodes and not self.node(entry["id"]).running():
                entry["power"] = False
                entry["reason"] = "no power"
        return known

    def remove(self) -> None:
        """Take the rack apart: nodes, cards, network, state."""
        for node in self.nodes:
            self.node(node).remove()
        podman.podman("network", "rm", "--force", self.network, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def _free_subnet() -> str:
    """A /24 that no rack and no route of this machine uses."""
    taken = [
        ipaddress.ip_network(json.loads(path.read_text())["subnet"])
        for path in STATE.glob("racks/*/rack.json")
    ]
    routes = subprocess.run(["ip", "-4", "route"], capture_output=True, text=True).stdout
    for word in (line.split()[0] for line in routes.splitlines() if line):
        if "/" in word:
            taken.append(ipaddress.ip_network(word, strict=False))
    for third in range(256):
        candidate = ipaddress.ip_network(f"10.78.{third}.0/24")
        if not any(candidate.overlaps(used) for used in taken):
            return str(candidate)
    raise RackError("no free /24 left in 10.78.0.0/16; `./rack down` a rack you no longer need")


def all_racks() -> list[Rack]:
    """Every rack of this machine."""
    names = sorted(path.parent.name for path in STATE.glob("racks/*/rack.json"))
    return [rack for rack in map(Rack.load, names) if rack is not None]


def wait_for(what: str, ask: Any, progress: Progress, seconds: float, every: float = 1.0) -> Any:
    """Ask until the answer is true, telling the reason meanwhile.

    Args:
        what: what is waited for, for the message when it never comes.
        ask: returns (answer, reason); a true answer ends the wait.
        seconds: how long to wait at most.

    Raises:
        RackError: it did not come; with the last reason.
    """
    deadline = time.monotonic() + seconds
    reason = ""
    while time.monotonic() < deadline:
        answer, reason = ask()
        if answer:
            return answer
        if reason:
            progress.note(reason)
        time.sleep(every)
    raise RackError(f"{what} did not happen within {seconds:.0f} s: {reason or 'no reason given'}")


def with_role(pillar: str, node: str, role: str) -> str:
    """Return the text of a pillar/rack.sls that says a node's role as well.

    Raises:
        RackError: it has no line ``nodes:`` to write it under, or says what this node is already.
    """
    lines = pillar.splitlines()
    if "nodes:" not in lines:
        raise RackError(f"pillar/rack.sls has no line `nodes:`; write {node}'s role there yourself")
    if node in (yaml.safe_load(pillar)["nodes"] or {}):
        raise RackError(f"pillar/rack.sls says already what {node} is; leave out --role")
    lines.insert(lines.index("nodes:") + 1, f"  {node}: {{roles: [{role}]}}")
    return "\n".join(lines) + "\n"


def describe(rack: Rack) -> str:
    """The rack's pillar/rack.sls: what a user would write, plus what this machine needs."""
    mirror, built = rack.master_ip, rack.kubernetes
    lines = [
        "# Written by ./rack for a rack of simulated Pis.",
        "rack:",
        f"  name: {rack.name}",
        f"  network: {rack.subnet}",
        "nodes:",
        f"  {MASTER}: {{ip: {rack.address(FIXED[MASTER])}, roles: [storage, master]}}",
        f"  {CONTROL_PLANE}: {{ip: {rack.address(FIXED[CONTROL_PLANE])}, roles: [control_plane]}}",
        *(f"  {node}: {{roles: [{role}]}}" for node, role in rack.roles.items()),
        "# The share is brought to the nodes by bind mounts.",
        "nfs: {manage_mounts: false}",
        "kubernetes:",
        "  # Debian has no flannel.",
        "  cni: routed",
        "  kube_proxy:",
        "    # The number of tracked connections is the host's; a node must not write it.",
        "    conntrack: {maxPerCore: 0}",
    ]
    if not rack.upstream:
        lines += [
            f'  version: "{built["version"]}"',
            f'  package_revision: "{built["package_revision"]}"',
            f"  image_repository: {mirror}:5000",
            "  repo:",
            f"    url: http://{mirror}/apt/kubernetes/",
            f"    key_url: http://{mirror}/keys/kubernetes.asc",
            f'    key_sha256: "{built["key_sha256"]}"',
            "  # This kernel may lack br_netfilter, and kubeadm 1.20 does not know Linux 6.",
            "  ignore_preflight_errors:",
            "    - SystemVerification",
            "    - FileContent--proc-sys-net-bridge-bridge-nf-call-iptables",
            "containerd:",
            "  registries:",
            f'    "{mirror}:5000": {{endpoint: "http://{mirror}:5000"}}',
            "    # The images of services, under their own names.",
            *(f'    {host}: {{endpoint: "http://{mirror}:5000"}}' for host in MIRRORED),
            "services:",
            "  # Debian has neither Grafana nor metrics-server.",
            "  metrics: {grafana: {enabled: false}, metrics_server: {enabled: false}}",
        ]
    return "\n".join(lines) + "\n"
