"""What a node should be like: name, addresses, swap, kernel settings, boot flags, units.

Thin: the execution module ``node`` finds out and does, these decide. In test mode nothing is
touched and the result is None with what would happen, also on a node that has nothing yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "node"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def _ret(name: str, comment: str = "") -> dict[str, Any]:
    return {"name": name, "result": True, "changes": {}, "comment": comment}


def _would(ret: dict[str, Any], changes: Mapping[str, Any], comment: str) -> dict[str, Any]:
    """Fill in a test run's return."""
    ret.update(result=None, changes=dict(changes), comment=comment)
    return ret


def _do(
    ret: dict[str, Any], changes: Mapping[str, Any], comment: str, *steps: Callable[[], Any]
) -> dict[str, Any]:
    """Take the steps; the changes count only when all of them worked."""
    try:
        for step in steps:
            step()
    except (CommandExecutionError, OSError) as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    ret.update(changes=dict(changes), comment=comment)
    return ret


def _rewrite(ret: dict[str, Any], name: str, old: Any, new: Any) -> dict[str, Any]:
    """Give a file its new text, or say so in test mode."""
    changes = {"diff": __utils__["conffiles.diff"](old, new)}
    if __opts__["test"]:
        return _would(ret, changes, f"{name} would be changed")
    return _do(ret, changes, f"{name} was changed", lambda: __utils__["conffiles.write"](name, new))


def hostname(name: str) -> dict[str, Any]:
    """Have the node called ``name``, now and after every boot.

    name
        One label; kubeadm takes the node's name in the cluster from it.
    """
    ret = _ret(name)
    have = __salt__["node.hostname"]()
    changes = {when: {"old": value, "new": name} for when, value in have.items() if value != name}
    if not changes:
        ret["comment"] = f"the node is called {name}"
        return ret
    if __opts__["test"]:
        return _would(ret, changes, f"the node would be called {name}")
    return _do(
        ret, changes, f"the node is called {name} now", lambda: __salt__["node.set_hostname"](name)
    )


def name_kept(name: str) -> dict[str, Any]:
    """Have nobody else name the node or write its /etc/hosts: neither cloud-init nor DHCP.

    name
        Anything; which files that takes is found out (``node.name_keepers``).
    """
    ret = _ret(name)
    try:
        missing = __salt__["node.name_keepers_missing"]()
    except CommandExecutionError as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    if not missing:
        ret["comment"] = "nobody else names this node"
        return ret
    changes = dict.fromkeys(sorted(missing), "written")
    if __opts__["test"]:
        return _would(ret, changes, f"would be written: {', '.join(changes)}")
    return _do(ret, changes, f"written: {', '.join(changes)}", __salt__["node.keep_name"])


def hosts(name: str, entries: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Have the rack's nodes in a hosts file, in a block of their own at its end.

    name
        The file, ``/etc/hosts``.
    entries
        ``{address: [names]}``. Lines outside the block that say otherwise of these names lose them
        (Debian's ``127.0.1.1 <own name>``).
    """
    ret = _ret(name)
    old = __utils__["conffiles.read"](name)
    new = __utils__["conffiles.hosts_with"](old, entries)
    if old == new:
        ret["comment"] = f"{name} names {len(entries)} nodes of the rack"
        return ret
    return _rewrite(ret, name, old, new)


def swap_off(name: str) -> dict[str, Any]:
    """Have no swap, now and after every boot: kubelet refuses to start beside it.

    name
        Anything.

    In a container swap is the host's and stays.
    """
    if __salt__["node.container"]():
        return _ret(name, "swap is the host's: this node is a container")
    ret = _ret(name)
    found = {what: items for what, items in __salt__["node.swap"]().items() if items}
    if not found:
        ret["comment"] = "swap is off"
        return ret
    changes = {what: {"old": items, "new": []} for what, items in found.items()}
    listed = ", ".join(f"{what} ({', '.join(items)})" for what, items in found.items())
    if __opts__["test"]:
        return _would(ret, changes, f"would be turned off: {listed}")
    ret = _do(ret, changes, f"turned off: {listed}", __salt__["node.swap_off"])
    left = {what: items for what, items in __salt__["node.swap"]().items() if items}
    if ret["result"] and left:
        ret.update(result=False, comment=f"still turning swap on: {left}")
    return ret


def kernel_modules(name: str, modules: Sequence[str]) -> dict[str, Any]:
    """Have kernel modules loaded, now and after every boot.

    name
        The file for systemd-modules-load, below ``/etc/modules-load.d``.
    modules
        For instance ``[overlay, br_netfilter]``.

    In a container modules are the host's: nothing is loaded, and no file is written, for
    systemd-modules-load would fail on it at every boot.
    """
    if __salt__["node.container"]():
        return _ret(name, "kernel modules are the host's: this node is a container")
    ret = _ret(name)
    text = "".join(f"{module}\n" for module in modules)
    missing = __salt__["node.modules_missing"](modules)
    changes: dict[str, Any] = {}
    if __utils__["conffiles.read"](name) != text:
        changes["file"] = {"old": __utils__["conffiles.read"](name), "new": text}
    if missing:
        changes["loaded"] = missing
    if not changes:
        ret["comment"] = f"loaded or built in: {', '.join(modules)}"
        return ret
    if __opts__["test"]:
        return _would(ret, changes, f"would be loaded: {', '.join(missing) or 'at boot only'}")
    return _do(
        ret,
        changes,
        f"loaded: {', '.join(missing) or 'at the next boot'}",
        lambda: __utils__["conffiles.write"](name, text),
        lambda: __salt__["node.load_modules"](modules),
    )


def sysctl(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Have kernel settings, now and after every boot, as far as they are this node's own.

    name
        The file for systemd-sysctl, below ``/etc/sysctl.d``.
    values
        ``{key: value}``.

    A setting that belongs to the host of a container, or that its kernel does not have, is left
    out of the file too (see ``node.sysctl_scope``); the comment names it.
    """
    ret = _ret(name)
    wanted, left_out, unknown = _sort_by_scope(values)
    changes: dict[str, Any] = {}
    for key, value in wanted.items():
        live = __salt__["node.sysctl"](key)
        if live != value:
            changes[key] = {"old": live, "new": value}
    text = "".join(f"{key} = {value}\n" for key, value in wanted.items())
    if __utils__["conffiles.read"](name) != text:
        changes["file"] = {"old": __utils__["conffiles.read"](name), "new": text}
    aside = f"; not this container's to set: {', '.join(left_out)}" if left_out else ""
    if not changes:
        ret["comment"] = f"{', '.join(wanted)}: as wanted{aside}"
        return ret
    if __opts__["test"]:
        return _would(ret, changes, f"would be set: {', '.join(changes)}{aside}")
    if unknown:
        ret.update(
            result=False,
            comment=f"this kernel has no {', '.join(unknown)}; the module that brings it is not "
            "loaded (br_netfilter for net.bridge)",
        )
        return ret
    live_keys = [key for key in changes if key != "file"]
    return _do(
        ret,
        changes,
        f"set: {', '.join(changes)}{aside}",
        lambda: __utils__["conffiles.write"](name, text),
        *(lambda key=key: __salt__["node.set_sysctl"](key, wanted[key]) for key in live_keys),
    )


def _sort_by_scope(
    values: Mapping[str, Any],
) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the settings that are ours, the keys that are not, and those of ours that lack."""
    wanted: dict[str, str] = {}
    left_out: list[str] = []
    unknown: list[str] = []
    in_container = __salt__["node.container"]()
    for key, value in values.items():
        scope = __salt__["node.sysctl_scope"](key)
        if scope == "own" or not in_container:
            wanted[key] = str(value)
            if scope == "absent":
                unknown.append(key)
        else:
            left_out.append(key)
    return wanted, left_out, unknown


def boot_flags(name: str, flags: Sequence[str]) -> dict[str, Any]:
    """Have flags on the kernel's command line, on a Pi, from its next boot on.

    name
        Anything; the file is found (``node.cmdline_path``).
    flags
        For instance ``[cgroup_enable=memory, cgroup_memory=1]``.

    Nothing is rebooted here; ``node.preflight`` says when that is due.
    """
    ret = _ret(name)
    path = __salt__["node.cmdline_path"]()
    if path is None:
        ret["comment"] = "no cmdline.txt here: this is no Raspberry Pi"
        return ret
    missing = __salt__["node.boot_flags_missing"](flags)
    if not missing:
        waiting = __salt__["node.reboot_required"]()
        ret["comment"] = f"reboot needed: {waiting[0]}" if waiting else f"{path} has them all"
        return ret
    changes = {path: {"added": missing}}
    if __opts__["test"]:
        return _would(ret, changes, f"{path} would get {' '.join(missing)}")
    return _do(
        ret,
        changes,
        f"{path} got {' '.join(missing)}, which count from the next boot",
        lambda: __salt__["node.set_boot_flags"](flags),
    )


def enabled(name: str) -> dict[str, Any]:
    """Have a systemd unit start at boot, without starting it now.

    name
        For instance ``kubelet.service``. In test mode a unit that does not exist yet is one that
        would be enabled.
    """
    ret = _ret(name)
    now = __salt__["node.unit_enabled"](name)
    if now:
        ret["comment"] = f"{name} starts at boot"
        return ret
    changes = {name: {"old": "absent" if now is None else "disabled", "new": "enabled"}}
    if __opts__["test"]:
        return _would(ret, changes, f"{name} would be made to start at boot")
    return _do(
        ret, changes, f"{name} starts at boot now", lambda: __salt__["node.enable_unit"](name)
    )


def restarted_later(name: str) -> dict[str, Any]:
    """Restart a unit a few seconds after this run; to be used with ``onchanges``.

    name
        ``salt-minion.service`` or ``salt-master.service``: restarting either at once would cut off
        the run that asks for it.
    """
    ret = _ret(name)
    changes = {name: "restarts in a few seconds"}
    if __opts__["test"]:
        return _would(ret, changes, f"{name} would be restarted after the run")
    return _do(
        ret,
        changes,
        f"{name} will be restarted after the run",
        lambda: __salt__["node.restart_later"](name),
    )


def salt_config(name: str, source: str) -> dict[str, Any]:
    """Have one of Salt's configuration files as shipped, with what the installer filled in.

    name
        The installed file. One that was never installed by us is left alone.
    source
        The shipped text on the master's file server.
    """
    ret = _ret(name)
    template = __salt__["cp.get_file_str"](source)
    if not template:
        ret.update(result=False, comment=f"the master does not serve {source}")
        return ret
    try:
        new = __salt__["node.salt_config"](name, template)
    except CommandExecutionError as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    old = __utils__["conffiles.read"](name)
    if new is None or new == old:
        ret["comment"] = (
            f"{name} is as shipped" if new else f"{name} is not this project's to write"
        )
        return ret
    return _rewrite(ret, name, old, new)


def left_cluster(name: str) -> dict[str, Any]:
    """Have this node in no cluster (``kubeadm reset``). Ends all its pods; only on request.

    name
        Anything.
    """
    ret = _ret(name)
    found = __salt__["kubeadm.facts"]()
    if not found["role"] and not found["half_joined"]:
        ret["comment"] = "this node is in no cluster"
        return ret
    changes = {"cluster": {"old": found["role"] or "half-finished join", "new": None}}
    if __opts__["test"]:
        return _would(ret, changes, "the node would be taken out of its cluster")
    return _do(
        ret,
        changes,
        "the node was taken out of its cluster; its node object is still there "
        f"(kubectl delete node {__opts__['id']})",
        lambda: __salt__["kubeadm.reset"](force=True),
    )


def fit(name: str) -> dict[str, Any]:
    """Go on only when the node can become a Kubernetes node; a check, it changes nothing.

    name
        The role, ``control_plane`` or ``worker``. A node that is in a cluster is not asked again.
    """
    ret = _ret(name)
    if __salt__["node.is_member"]():
        ret["comment"] = "the node is in a cluster"
        return ret
    found = __salt__["node.fitness"](name)
    said = "\n".join([*found["problems"], *(f"(warning) {text}" for text in found["warnings"])])
    ret["comment"] = said or "nothing stands in the way"
    if not found["ok"]:
        ret["result"] = None if __opts__["test"] else False
    return ret
