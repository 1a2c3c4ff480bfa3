"""PersistentVolumes on the rack's share, as ``services.storage`` in the pillar describes them.

A volume is a folder of its name below ``<nfs.path>/volumes`` on the storage node. Kubelet mounts it over
NFS; where the share comes to the nodes by other means (``nfs.manage_mounts: false``), the pod sees the
folder below ``<nfs.mount>/volumes`` of its node. Nothing here ever deletes a volume's data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "volumes"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]

ADMIN_CONF = Path("/etc/kubernetes/admin.conf")
DYNAMIC = "dynamic"
_ACCESS = ["ReadWriteOnce", "ReadWriteMany"]
# What a program writes arrives, however long the storage node is away; one port; no files that give rights.
_MOUNT_OPTIONS = ["nfsvers=4.2", "hard", "noatime", "nosuid", "nodev"]


def _storage() -> dict[str, Any]:
    found: dict[str, Any] = (__pillar__.get("services") or {}).get("storage") or {}
    return found


def folders() -> dict[str, int]:
    """Return the folders that pods' volumes are, by name, with the user that each belongs to.

    That of the volumes made on demand is among them. Empty when ``services.storage`` is off.

    CLI Example:

    .. code-block:: bash

        salt 'nfs1' volumes.folders
    """
    storage = _storage()
    if not storage.get("enabled"):
        return {}
    names = list(storage.get("volumes") or {})
    if storage["dynamic"]["enabled"]:
        names.append(DYNAMIC)
    return {name: owner(name) for name in sorted(names)}


def owner(name: str) -> int:
    """Return the number of the user that a volume belongs to; whoever writes to it is that user.

    name
        The volume.

    CLI Example:

    .. code-block:: bash

        salt 'cp1' volumes.owner registry
    """
    said = ((_storage().get("volumes") or {}).get(name) or {}).get("owner")
    return int(said or __utils__["rackspec.share_uid"](None))


def values() -> dict[str, Any]:
    """Return what the manifests of ``services.storage`` take: ``volumes`` and ``dynamic``.

    CLI Example:

    .. code-block:: bash

        salt 'cp1' volumes.values
    """
    wanted = sorted((_storage().get("volumes") or {}).items())
    return {"volumes": [_volume(name, body) for name, body in wanted], "dynamic": _dynamic()}


def _volume(name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        # 50G in the pillar are binary units.
        "size": f"{body['size']}i",
        "access": body.get("access") or _ACCESS,
        "claim": _claim(name, body),
        "source": _source(name),
        "options": _MOUNT_OPTIONS if __pillar__["nfs"]["manage_mounts"] else [],
    }


def _claim(name: str, body: dict[str, Any]) -> dict[str, str] | None:
    """The claim that a volume is reserved for; the registry's needs nobody to say so."""
    said = body.get("claim") or __utils__["rackspec.registry_claim"](__pillar__, name)
    if not said:
        return None
    namespace, _, claim = said.partition("/")
    return {"namespace": namespace, "name": claim}


def _source(name: str) -> dict[str, dict[str, Any]]:
    share = __pillar__["nfs"]
    if not share["manage_mounts"]:
        # Directory: where the share is missing the pod waits, and nothing is written to the card.
        return {"hostPath": {"path": f"{share['mount']}/volumes/{name}", "type": "Directory"}}
    return {"nfs": {"server": _server(), "path": f"{share['path']}/volumes/{name}"}}


def _server() -> str:
    node = __salt__["nfs.storage_node"]()
    if node is None:
        raise CommandExecutionError(
            "no node has the role storage; give one roles: [storage] in the pillar"
        )
    return str(node["ip"])


def _dynamic() -> dict[str, Any] | None:
    dynamic = _storage()["dynamic"]
    if not dynamic["enabled"]:
        return None
    images = {key: dynamic[f"{key}_image"] for key in ("driver", "provisioner", "registrar")}
    share = f"{__pillar__['nfs']['path']}/volumes/{DYNAMIC}"
    return {
        **images,
        "server": _server(),
        "share": share,
        "on_delete": dynamic["on_delete"],
        "options": _MOUNT_OPTIONS,
    }


def released() -> list[str]:
    """Return the reserved volumes whose claim was deleted, and which no new claim can get therefore.

    Kubernetes remembers the very claim that a volume had, and never gives it to another, so that data does
    not come to strangers. A volume that the pillar reserves for a name may go to the next claim of it.

    CLI Example:

    .. code-block:: bash

        salt 'cp1' volumes.released
    """
    reserved = {
        each["name"]: each["claim"]["namespace"] + "/" + each["claim"]["name"]
        for each in values()["volumes"]
        if each["claim"]
    }
    if not reserved or not ADMIN_CONF.is_file():
        return []
    found = json.loads(_kubectl("get", "persistentvolumes", "-o", "json"))["items"]
    return sorted(
        each["metadata"]["name"]
        for each in found
        if each.get("status", {}).get("phase") == "Released"
        and _claimed_by(each) == reserved.get(each["metadata"]["name"])
    )


def _claimed_by(volume: dict[str, Any]) -> str:
    claim = volume["spec"].get("claimRef") or {}
    return f"{claim.get('namespace')}/{claim.get('name')}"


def open_again(name: str) -> None:
    """Let the next claim of the reserved name have a volume whose claim was deleted; its data stays.

    name
        The volume.

    Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt 'cp1' volumes.open_again registry
    """
    forget = [{"op": "remove", "path": "/spec/claimRef/uid"}]
    _kubectl("patch", "persistentvolume", name, "--type=json", f"--patch={json.dumps(forget)}")


def _kubectl(*arguments: str) -> str:
    done = __utils__["kube_programs.kubectl"](*arguments, kubeconfig=ADMIN_CONF)
    if done.returncode:
        said = __utils__["kube_programs.last_lines"](done.stderr, 2)
        raise CommandExecutionError(f"kubectl {' '.join(arguments[:2])} failed: {said}")
    return str(done.stdout)
