"""Helm charts on the cluster; see the execution module of the same name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "helm"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

_DONE = {
    "install": ("would be installed", "installed"),
    "upgrade": ("would be upgraded", "upgraded"),
    "mend": (
        "was cut off in the middle; that would be undone, and it would be applied",
        "was cut off in the middle; that is undone, and it is applied",
    ),
    "repair": ("was changed by others; would be set right", "was changed by others; is set right"),
}


def _ret(name: str) -> dict[str, Any]:
    return {"name": name, "result": True, "changes": {}, "comment": ""}


def installed(name: str) -> dict[str, Any]:
    """Have Helm on the control plane, laid there by its hash from the mirror.

    name
        Anything.
    """
    ret = _ret(name)
    try:
        folder = __salt__["helm.engine_wanted"]()
        if __salt__["helm.engine"]() == folder:
            return {**ret, "comment": f"Helm is in {folder}"}
        ret["changes"] = {"helm": folder}
        if __opts__["test"]:
            return {**ret, "result": None, "comment": f"Helm would be laid into {folder}"}
        __salt__["helm.install_engine"]()
    except (CommandExecutionError, OSError) as exc:
        return {**ret, "result": False, "changes": {}, "comment": str(exc)}
    return {**ret, "comment": f"Helm was laid into {folder}"}


def uninstalled(name: str) -> dict[str, Any]:
    """Have no Helm on this node.

    name
        Anything.
    """
    ret = _ret(name)
    there = __salt__["helm.leftovers"]()
    if not there:
        return {**ret, "comment": "Helm is not here"}
    ret["changes"] = {"removed": there}
    if __opts__["test"]:
        return {**ret, "result": None, "comment": f"would be removed: {', '.join(there)}"}
    __salt__["helm.remove_engine"]()
    return {**ret, "comment": f"removed: {', '.join(there)}"}


def released(name: str) -> dict[str, Any]:
    """Have a release as ``helm.releases.<name>`` of the pillar says it, and its pods available.

    name
        Its name.

    In test mode the changes are what the API server would make of it, object by object. What was changed
    by hand is told, and set right.
    """
    ret = _ret(name)
    try:
        if not __salt__["manifests.is_here"]():
            return _not_yet(ret)
        done = __salt__["helm.plan" if __opts__["test"] else "helm.apply"](name)
    except CommandExecutionError as exc:
        return {**ret, "result": False, "comment": str(exc)}
    if done["action"] == "none":
        return {**ret, "comment": f"{name} is as it should be"}
    would, was = _DONE[done["action"]]
    ret["changes"] = done["changes"]
    if __opts__["test"]:
        return {**ret, "result": None, "comment": f"{name} {would}"}
    if done["action"] != "repair" and not done["waited"]:
        was += "; no node takes pods yet, they come with a worker"
    return {**ret, "comment": f"{name} {was}"}


def _not_yet(ret: dict[str, Any]) -> dict[str, Any]:
    why = "there is no cluster here yet"
    if __opts__["test"]:
        return {**ret, "result": None, "comment": f"{why}; {ret['name']} would be installed"}
    return {**ret, "result": False, "comment": f"{why}; apply again when it is there"}


def pruned(name: str, keep: Sequence[str] = ()) -> dict[str, Any]:
    """Have no release that was made from the pillar and is not in it any more.

    name
        Anything.
    keep
        Names of those that stay. Releases of others are never touched.
    """
    ret = _ret(name)
    gone = []
    try:
        surplus = __salt__["helm.others"](keep)
        if not surplus:
            return {**ret, "comment": "there are no others"}
        if __opts__["test"]:
            what = dict.fromkeys(surplus, "gone")
            comment = f"would be uninstalled: {', '.join(surplus)}"
            return {**ret, "result": None, "changes": what, "comment": comment}
        for each in surplus:
            __salt__["helm.remove"](each)
            gone.append(each)
    except CommandExecutionError as exc:
        return {**ret, "result": False, "changes": dict.fromkeys(gone, "gone"), "comment": str(exc)}
    return {
        **ret, "changes": dict.fromkeys(gone, "gone"), "comment": f"uninstalled: {', '.join(gone)}"
    }  # fmt: skip


def mirrored(name: str) -> dict[str, Any]:
    """Have Helm in a folder of the mirror, from which the control plane takes it.

    name
        The folder.
    """
    ret = _ret(name)
    try:
        if not __salt__["helm.mirror_lacks"](name):
            return {**ret, "comment": f"Helm is in {name}"}
        ret["changes"] = {"helm": name}
        if __opts__["test"]:
            return {**ret, "result": None, "comment": f"Helm would be downloaded to {name}"}
        __salt__["helm.fill_mirror"](name)
    except (CommandExecutionError, OSError) as exc:
        return {**ret, "result": False, "changes": {}, "comment": str(exc)}
    return {**ret, "comment": f"Helm was downloaded to {name}"}
