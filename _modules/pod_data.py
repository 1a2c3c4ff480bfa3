"""What kubelet keeps for pods and the pods' logs: moved to another disk, and bound to its old place.

kubelet and the runtimes have these paths built in, so the folder stays where it is and shows another
one (a bind mount).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "pod_data"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]


def _run(argv: Sequence[str]) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv), python_shell=False, ignore_retcode=True, output_loglevel="debug"
    )


def _must(argv: Sequence[str]) -> str:
    ret = _run(argv)
    if ret["retcode"]:
        said = ret["stderr"] or ret["stdout"] or "no output"
        raise CommandExecutionError(f"{' '.join(argv)} failed ({ret['retcode']}): {said}")
    return ret["stdout"]


def end_pods() -> bool:
    """Stop kubelet and remove every pod of this node; return whether kubelet ran.

    For a drained node: what is left are pods that belong to it (kube-proxy, on a control plane etcd
    and the API server), and kubelet makes those again. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' pod_data.end_pods
    """
    ran = _run(["systemctl", "is-active", "--quiet", "kubelet.service"])["retcode"] == 0
    if ran:
        _must(["systemctl", "stop", "kubelet.service"])
    if shutil.which("crictl") and _run(["crictl", "version"])["retcode"] == 0:
        _must(["crictl", "--timeout=120s", "rmp", "--all", "--force"])
    return ran


def start_pods() -> None:
    """Start kubelet again. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' pod_data.start_pods
    """
    _must(["systemctl", "start", "kubelet.service"])


def move(path: str, source: str) -> None:
    """Move what is in a folder to another disk; nothing may use it.

    path
        The folder, for instance ``/var/lib/kubelet/pods``. It stays, empty.
    source
        Where its content goes. Copied whole before anything is deleted, so that cut off anywhere
        the next call goes on. Raises CommandExecutionError, OSError.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' pod_data.move /var/lib/kubelet/pods /srv/containers/kubelet-pods
    """
    table = __utils__["mount_unit.parse_mountinfo"](Path("/proc/self/mountinfo").read_text())
    below = [mount["where"] for mount in table if mount["where"].startswith(f"{path}/")]
    # Volumes in memory (secrets) of pods that are gone; kubelet makes them anew.
    for where in reversed(below):
        _must(["umount", where])
    Path(source).mkdir(mode=0o750, parents=True, exist_ok=True)
    _must(["rsync", "-aHAXS", "--numeric-ids", "--one-file-system", f"{path}/", f"{source}/"])
    os.sync()
    for entry in Path(path).iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
