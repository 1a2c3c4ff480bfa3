"""Which file system this node's container engines are to live on, from the pillar and from facts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "storage_backend"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]
__opts__: dict[str, Any]

_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")

# The image's name in the node's folder on the share.
IMAGE = "containers.img"
LOCK_UNIT = "saltberry-containers-lock.service"
CHECK_UNIT = "saltberry-containers-check.service"

# Where kubelet and the container runtimes keep what belongs to pods, and the folder for it on the
# mount. /var/log/containers holds only links into /var/log/pods.
POD_DATA = {"/var/lib/kubelet/pods": "kubelet-pods", "/var/log/pods": "pod-logs"}


def settings() -> dict[str, Any]:
    """Return what the states of container storage go by.

    Keys of the pillar: ``backend``, ``mount``, ``size``, ``pod_data``. From them:

    * ``target``: for ``container_storage.managed``: the mount point, or ``local``;
    * ``what``, ``unit``: what is mounted, see ``systemd_mount.mounted``; None for local;
    * ``share``, ``image``: for nfs-image;
    * ``pod_folders``: for pod_data, ``{path: folder on the mount}``;
    * ``later``: why nfs-image cannot be had yet; the engines stay local until then.

    Raises CommandExecutionError when the backend can never be had on this node.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' storage_backend.settings
    """
    found = __utils__["rackspec.container_storage"](__pillar__, __opts__["id"])
    if not found:
        raise CommandExecutionError(
            "the pillar has no container_storage: pillar/defaults.sls should set it; look at the"
            " pillar's errors with 'salt-call pillar.items'"
        )
    found["pod_folders"] = {path: f"{found['mount']}/{name}" for path, name in POD_DATA.items()}
    found.update(target="local", share=None, image=None, what=None, unit=None, later="")
    if found["backend"] == "disk":
        found.update(target=found["mount"], what=found["disk"], unit=_disk_unit())
    if found["backend"] == "nfs-image":
        found["later"] = _later()
        if not found["later"]:
            share = f"{__pillar__['nfs']['mount']}/node"
            image = f"{share}/{IMAGE}"
            found.update(target=found["mount"], share=share, image=image, what=image,
                         unit=_image_unit())  # fmt: skip
    return found


def _later() -> str:
    """Return why the image cannot be had yet."""
    reason = __salt__["nfs.why_not"]("client")
    if not reason or not __pillar__["nfs"]["manage_mounts"]:
        return ""
    if "address" in reason:
        return reason
    raise CommandExecutionError(
        f"container_storage.backend: nfs-image cannot be had on this node: {reason}; choose local or"
        " disk for it"
    )


def _disk_unit() -> dict[str, Any]:
    return {
        "description": "Container storage on a disk of its own",
        "options": ["noatime", "discard", "nofail"],
    }


def _image_unit() -> dict[str, Any]:
    return {
        "description": "Container storage in an image on the rack's share",
        "fstype": "ext4",
        # discard: what is deleted becomes a hole in the image, and room on the share. _netdev: it
        # is unmounted before the network goes.
        "options": ["loop", "discard", "noatime", "errors=remount-ro", "_netdev", "nofail"],
        "needs": [LOCK_UNIT, CHECK_UNIT],
    }


def apparmor() -> bool:
    """Say whether this kernel enforces AppArmor: docker then starts no container without its loader.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' storage_backend.apparmor
    """
    return _APPARMOR.exists() and _APPARMOR.read_text().strip() == "Y"


def lock_unit() -> str:
    """Return the unit that holds the lock of the image as long as it is mounted.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' storage_backend.lock_unit
    """
    image, share = settings()["image"], settings()["share"]
    lock = f"{image}.lock"
    return (
        "# Written by Salt.\n"
        "[Unit]\n"
        "Description=Lock of the container storage image: one image, one node\n"
        f"RequiresMountsFor={share}\n"
        "StopWhenUnneeded=yes\n"
        # Whoever waits for the share may try for hours.
        "StartLimitIntervalSec=0\n"
        "\n"
        "[Service]\n"
        "Type=notify\n"
        "NotifyAccess=all\n"
        # The lock is the kernel's, and on NFS the server's: it ends with the process or its node.
        "ExecStart=/usr/bin/flock --exclusive --nonblock --conflict-exit-code 75 --no-fork"
        f" {lock} /bin/sh -c 'echo %H >{lock}; systemd-notify --ready; exec sleep infinity'\n"
        f'ExecStopPost=/bin/sh -c \'test "$$EXIT_STATUS" != 75 ||'
        f' echo "{image} is in use by $$(cat {lock}); one image belongs to one node"\'\n'
        # Killed by accident: take it again before anybody notices.
        "Restart=on-abnormal\n"
        "RestartSec=0\n"
        "TimeoutStartSec=60\n"
    )


def check_unit() -> str:
    """Return the unit that checks the image's file system before it is mounted.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' storage_backend.check_unit
    """
    found = settings()
    mount = __utils__["mount_unit.name"](found["mount"])
    return (
        "# Written by Salt.\n"
        "[Unit]\n"
        "Description=Check of the container storage image\n"
        f"RequiresMountsFor={found['share']}\n"
        f"Requires={LOCK_UNIT}\n"
        f"After={LOCK_UNIT}\n"
        f"Before={mount}\n"
        # Once for each mount: a second one beside the mounted file system would be refused.
        "StopWhenUnneeded=yes\n"
        "StartLimitIntervalSec=0\n"
        "\n"
        "[Service]\n"
        "Type=oneshot\n"
        "RemainAfterExit=yes\n"
        # 1: mended. Above that a person has to look, and nothing is mounted.
        "SuccessExitStatus=0 1\n"
        f"ExecStart=/sbin/e2fsck -p {found['image']}\n"
        "TimeoutStartSec=infinity\n"
    )
