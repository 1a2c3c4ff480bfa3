"""The rack's share: what the storage node exports to whom, what the others mount, and how it stands.

Each node has a folder that belongs to a user of its own number and is exported to its address alone;
whoever comes is that user (``all_squash``), so that even a forged file handle opens nothing of
another node's. NFS 4 only: one port, locks that end with their holder, and holes in files (4.2),
without which an image on the share would never give room back.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "nfs"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]
__opts__: dict[str, Any]

# hard: what a program writes arrives, however long the server is away. Anything else loses data.
# retry=0: the unit tries once and says why not; our service tries again.
_CLIENT_OPTIONS = (
    "nfsvers=4.2", "proto=tcp", "hard", "timeo=600", "retrans=2", "retry=0", "noatime", "nodev",
    "nosuid", "_netdev", "nofail",
)  # fmt: skip
_MOUNT_SECONDS = 60
_PORT = 2049
EXPORTS = "/etc/exports.d/saltberry.exports"
# What the running server lets in: written by exportfs and mountd, a path and a client on each line
_SERVED = Path("/var/lib/nfs/etab")
_CONNECT_SECONDS = 3


def _run(argv: Sequence[str]) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv), python_shell=False, ignore_retcode=True, output_loglevel="debug"
    )


def _pillar() -> dict[str, Any]:
    try:
        return __pillar__["nfs"]
    except KeyError as exc:
        raise CommandExecutionError(
            "the pillar has no nfs: pillar/defaults.sls should set it; look at the pillar's errors"
            " with 'salt-call pillar.items'"
        ) from exc


# --- whether ------------------------------------------------------------------------------------


def storage_node() -> dict[str, str] | None:
    """Return ``{"id", "ip"}`` of the node that serves the share, None when the rack has none.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' nfs.storage_node
    """
    for node_id, body in (__pillar__.get("nodes") or {}).items():
        if "storage" in ((body or {}).get("roles") or []):
            return {"id": node_id, "ip": body["ip"]}
    return None


def kernel_has(file_system: str) -> bool:
    """Say whether this kernel has a file system, loaded or to be loaded.

    file_system
        ``nfs`` (mounting) or ``nfsd`` (serving).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' nfs.kernel_has nfs
    """
    if file_system in Path("/proc/filesystems").read_text().split():
        return True
    if not shutil.which("modprobe"):
        return False
    return _run(["modprobe", "--dry-run", "--quiet", file_system])["retcode"] == 0


def why_not(side: str) -> str:
    """Return why this node does not serve or mount the share, empty when it does.

    side
        ``server`` or ``client``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' nfs.why_not client
    """
    share = _pillar()
    node = storage_node()
    if not share["enabled"]:
        return "nfs.enabled is false in the pillar"
    if node is None:
        return "no node has the role storage"
    if not share["manage_mounts"]:
        return "nfs.manage_mounts is false in the pillar: the share is brought here by other means"
    if side == "server":
        return "" if kernel_has("nfsd") else "this kernel has no NFS server (nfsd)"
    if node["id"] == __opts__["id"]:
        return ""
    if not kernel_has("nfs"):
        return "this kernel cannot mount NFS"
    if _addresses().get(__opts__["id"]) is None:
        return (
            "the storage node does not know this node's address; give it one in the pillar"
            f" (nodes.{__opts__['id']}.ip), or wait until it has joined the cluster"
        )
    return ""


# --- what is exported ---------------------------------------------------------------------------


def _addresses() -> dict[str, str | None]:
    """Return the address of every node that may have a folder, None as long as it is not known.

    The pillar's; for workers that it does not name, the one they joined the cluster with.
    """
    joined = (__pillar__.get("cluster") or {}).get("nodes") or {}
    found = {node_id: facts.get("ip") for node_id, facts in joined.items()}
    for node_id, body in (__pillar__.get("nodes") or {}).items():
        found[node_id] = (body or {}).get("ip") or found.get(node_id)
    return found


def folders() -> dict[str, dict[str, Any]]:
    """Return the folders of the share below ``nfs.path``: ``{path: {"uid", "mode"}}``.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' nfs.folders
    """
    path, uid = _pillar()["path"], __utils__["rackspec.share_uid"]
    tree: dict[str, dict[str, Any]] = {
        path: {"uid": 0, "mode": "0755"},
        # Which nodes there are is nobody's business; each knows its own.
        f"{path}/nodes": {"uid": 0, "mode": "0711"},
        f"{path}/volumes": {"uid": 0, "mode": "0755"},
    }
    for node_id in sorted(_addresses()):
        tree[f"{path}/nodes/{node_id}"] = {"uid": uid(node_id), "mode": "0700"}
    for name in _volumes():
        tree[f"{path}/volumes/{name}"] = {"uid": uid(None), "mode": "0770"}
    for name, owner in __salt__["volumes.folders"]().items():
        tree[f"{path}/volumes/{name}"] = {"uid": owner, "mode": "0770"}
    _refuse_shared_uids(tree)
    return tree


def _refuse_shared_uids(tree: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse the one rack in a million in which two ids have the same number."""
    owners: dict[int, str] = {}
    for path, entry in tree.items():
        other = owners.setdefault(entry["uid"], path)
        if other != path and "/nodes/" in other and "/nodes/" in path:
            raise CommandExecutionError(
                f"{other} and {path} would belong to one user; rename one of the nodes"
            )


def _volumes() -> dict[str, bool]:
    """Return ``{name: read-only}`` of the shared volumes."""
    volumes = _pillar()["volumes"] or {}
    return {
        name: bool((body or {}).get("read_only", False)) for name, body in sorted(volumes.items())
    }


def exports() -> str:
    """Return the exports file: each node's folder for its address alone, each volume for all.

    What pods write to a volume of theirs belongs to the volume's owner, whoever they run as.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' nfs.exports
    """
    path, uid = _pillar()["path"], __utils__["rackspec.share_uid"]
    clients = {
        node_id: ip
        for node_id, ip in sorted(_addresses().items())
        if ip is not None and node_id != __opts__["id"]
    }
    lines = ["# Written by Salt (salt/nfs/server)."]
    for node_id, ip in clients.items():
        lines.append(f"{path}/nodes/{node_id} {ip}({_options(uid(node_id), False)})")
    for name, read_only in _volumes().items():
        options = _options(uid(None), read_only)
        everyone = " ".join(f"{ip}({options})" for ip in clients.values())
        if everyone:
            lines.append(f"{path}/volumes/{name} {everyone}")
    for name, owner in __salt__["volumes.folders"]().items():
        options = _options(owner, False)
        pods = " ".join(f"{ip}({options})" for ip in [*clients.values(), *_own_pods()])
        if pods:
            lines.append(f"{path}/volumes/{name} {pods}")
    return "".join(f"{line}\n" for line in lines)


def _own_pods() -> list[str]:
    """This storage node's own address, if it runs pods: kubelet mounts their volumes as anywhere."""
    mine = (__pillar__.get("nodes") or {}).get(__opts__["id"]) or {}
    return [mine["ip"]] if {"worker", "control_plane"} & set(mine.get("roles") or []) else []


def _options(uid: int, read_only: bool) -> str:
    """Return export options; ``sync``: what a node was told is written survives our power cut."""
    options = ["ro" if read_only else "rw", "sync", "no_subtree_check", "sec=sys", "root_squash",
               "all_squash", f"anonuid={uid}", f"anongid={uid}"]  # fmt: skip
    share = _pillar()
    if share["disk"]:
        # Without its disk the folder below would fill the card.
        options.append(f"mountpoint={share['path']}")
    return ",".join(options)


def current() -> bool:
    """Say whether the share is served as the pillar and the cluster's facts have it.

    A node that joins without being named in the pillar brings its address with it, and the exports
    then lack it. True also where nothing is served.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' nfs.current
    """
    node = storage_node()
    if node is None or node["id"] != __opts__["id"] or why_not("server"):
        return True
    missing = [path for path in folders() if not Path(path).is_dir()]
    return not missing and __utils__["conffiles.read"](EXPORTS) == exports()


def server_running() -> bool:
    """Say whether the NFS server runs.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' nfs.server_running
    """
    return _run(["systemctl", "is-active", "--quiet", "nfs-server.service"])["retcode"] == 0


def not_served() -> list[str]:
    """Return what the exports file has and the running server has not, ``path client`` each.

    Somebody has taken it back by hand (``exportfs -u``); :func:`export` gives it again. Nothing is
    missing where no server runs: it reads the file when it starts.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' nfs.not_served
    """
    if not server_running():
        return []
    try:
        served = _pairs(_SERVED.read_text(encoding="utf-8"))
    except OSError:
        served = set()
    return sorted(_pairs(exports()) - served)


def _pairs(text: str) -> set[str]:
    """Return ``path client`` for each client of an exports file, or of the server's own table."""
    lines = [line.split() for line in text.splitlines() if line[:1] == "/"]
    return {f"{path} {client.partition('(')[0]}" for path, *clients in lines for client in clients}


def export() -> None:
    """Have the running server read the exports again; clients notice nothing.

    Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' nfs.export
    """
    ret = _run(["exportfs", "-ra"])
    if ret["retcode"]:
        raise CommandExecutionError(f"exportfs -ra failed: {ret['stderr'] or ret['stdout']}")


# --- what is mounted ----------------------------------------------------------------------------


def mounts() -> list[dict[str, Any]]:
    """Return what of the share this node mounts: ``[{"where", "what", "unit"}]``.

    ``unit`` are the arguments of ``systemd_mount.mounted``. Empty where :func:`why_not` has a
    reason. On the storage node itself they are bind mounts.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' nfs.mounts
    """
    node = storage_node()
    if why_not("client") or node is None:
        return []
    share = _pillar()
    pairs = {f"{share['mount']}/node": f"{share['path']}/nodes/{__opts__['id']}"}
    for name in _volumes():
        pairs[f"{share['mount']}/volumes/{name}"] = f"{share['path']}/volumes/{name}"
    own = node["id"] == __opts__["id"]
    return [
        {
            "where": where,
            "what": path if own else f"{node['ip']}:{path}",
            "unit": {
                "description": f"The rack's share: {path}",
                "fstype": "none" if own else "nfs4",
                "options": ["bind", "nofail"] if own else list(_CLIENT_OPTIONS),
                "timeout": _MOUNT_SECONDS,
            },
        }
        for where, path in pairs.items()
    ]


def answers() -> bool:
    """Say whether the storage node's NFS server takes connections, within a few seconds.

    Whoever touches a hard mount while it does not, waits for it; so this is asked before.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' nfs.answers
    """
    node = storage_node()
    if node is None:
        return False
    try:
        socket.create_connection((node["ip"], _PORT), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def status() -> dict[str, Any]:
    """Return how the share stands on this node, for a person.

    Keys: ``answers`` (does the storage node), ``server`` (on the storage node: ``running``,
    ``exports``), ``mounts`` (for each mount point ``mounted``, ``state``, ``reason``), ``waiting``
    (mount points that are still tried), ``why_not`` (why nothing is mounted here).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' nfs.status
    """
    node = storage_node()
    wanted = mounts()
    found = {entry["where"]: __salt__["systemd_mount.status"](entry["where"]) for entry in wanted}
    report: dict[str, Any] = {
        "answers": answers(),
        "mounts": found,
        "waiting": [where for where, state in found.items() if not state["mounted"]],
        "why_not": why_not("client"),
    }
    if node is not None and node["id"] == __opts__["id"]:
        lines = exports().splitlines()[1:]
        report["server"] = {"running": server_running(), "exports": lines,
                            "why_not": why_not("server")}  # fmt: skip
    return report
