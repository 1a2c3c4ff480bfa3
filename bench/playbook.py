"""The preparation of a node as an Ansible playbook, made from Salt's own low state of it.

Each state becomes the module of ansible-core that a playbook's author would take, with the same values.
Where a state has none, a command that looks at the same thing with `changed_when`, as authors do it too.
What is doubtful is decided in Ansible's favour: the folders of `makedirs` are not looked at, a state that
does several things gets its main one, and packages' holds are one command instead of a module per package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from _utils.conffiles import HOSTS_BEGIN, HOSTS_END

REPO = Path(__file__).resolve().parent.parent
# What a container shares with its host is not the playbook's either
NOT_IN_CONTAINER = (
    "ansible_facts['virtualization_type'] not in ['container', 'docker', 'lxc', 'podman']"
)

Chunk = Mapping[str, Any]
Task = dict[str, Any]


def tasks(low: Sequence[Chunk], sshd: str) -> tuple[list[Task], list[Task]]:
    """Return the tasks and the handlers that do what some low chunks do, in their order.

    Args:
        low: one node's, from ``state.show_low_sls``.
        sshd: what the node's ssh server is to be told (``sshd.wanted``); it depends on who has a key.

    Returns:
        Tasks named by the state's id, with a word in brackets where there are several; handlers.

    Raises ValueError for a state that has no equivalent here.
    """
    made: list[Task] = []
    handlers: list[Task] = []
    for chunk in low:
        kind = f"{chunk['state']}.{chunk['fun']}"
        if kind in _REACTIONS:
            handler = _REACTIONS[kind](chunk)
            causes = [id for entry in _causes(chunk) for id in entry.values()]
            if causes:
                handlers.append(handler)
            for task in made:
                if task["name"] in causes:
                    task.setdefault("notify", []).append(handler["name"])
        if kind == "sshd.hardened":
            made += _copy(chunk, sshd, dest="/etc/ssh/sshd_config.d/10-saltberry.conf")
        elif kind in _TASKS:
            made += _TASKS[kind](chunk)
        elif kind not in _REACTIONS:
            raise ValueError(f"{chunk['__id__']}: no task does what {kind} does")
    for task in made:
        if "{{" in json.dumps(task) or "{%" in json.dumps(task):
            raise ValueError(f"{task['name']}: Ansible would read a template in it")
    return made, handlers


def merged(by_node: Mapping[str, Sequence[Task]]) -> tuple[list[Task], dict[str, dict[str, Any]]]:
    """Return one list of tasks for all nodes, and the variables in which they differ.

    Args:
        by_node: each node's own tasks.

    Returns:
        The tasks, in which a value that is not everywhere the same is a variable; ``{node: {variable:
        value}}``. Raises ValueError when the nodes' tasks are not the same ones.
    """
    names = {node: [task["name"] for task in made] for node, made in by_node.items()}
    first = next(iter(names))
    other = next((node for node in names if names[node] != names[first]), None)
    if other is not None:
        raise ValueError(f"{first} and {other} have different tasks")
    variables: dict[str, dict[str, Any]] = {node: {} for node in by_node}

    def common(values: Mapping[str, Any], path: str) -> Any:
        sample = values[first]
        if all(value == sample for value in values.values()):
            return sample
        if all(
            isinstance(value, dict) and value.keys() == sample.keys() for value in values.values()
        ):
            return {
                key: common(
                    {node: value[key] for node, value in values.items()},
                    f"{path}_{key.rpartition('.')[2]}",
                )
                for key in sample
            }
        for node, value in values.items():
            variables[node][path] = value
        return "{{ " + path + " }}"

    together = [
        common({node: made[number] for node, made in by_node.items()}, f"task{number}")
        for number in range(len(names[first]))
    ]
    return together, variables


# --- one function for each kind of state -------------------------------------------------------


def _task(
    chunk: Chunk, module: str, arguments: Mapping[str, Any], what: str = "", **more: Any
) -> Task:
    name = f"{chunk['__id__']} ({what})" if what else chunk["__id__"]
    return {"name": name, f"ansible.builtin.{module}": dict(arguments), **more}


def _look(chunk: Chunk, script: str, what: str, *arguments: str, **more: Any) -> Task:
    """A command that prints what is wrong; it also runs in check mode, for it only looks."""
    return _task(
        chunk, "command", {"argv": ["sh", "-c", script, "sh", *arguments]}, what,
        register="found", changed_when="found.stdout != ''", check_mode=False, **more,
    )  # fmt: skip


def _copy(chunk: Chunk, content: str, dest: str = "", **more: Any) -> list[Task]:
    mode = {"mode": chunk["mode"]} if "mode" in chunk else {}
    owner = {"owner": chunk["user"]} if "user" in chunk else {}
    dest = dest or chunk["name"]
    return [_task(chunk, "copy", {"dest": dest, "content": content, **mode, **owner, **more})]


def _file_managed(chunk: Chunk) -> list[Task]:
    check = {"validate": f"{chunk['check_cmd']} %s"} if "check_cmd" in chunk else {}
    if "source" in chunk:
        if chunk.get("template"):
            raise ValueError(f"{chunk['__id__']}: templates with a source are not known here")
        path = REPO / "salt" / chunk["source"].removeprefix("salt://")
        return _copy(chunk, path.read_text(encoding="utf-8"), **check)
    contents = chunk["contents"]
    if not isinstance(contents, str):
        contents = "".join(f"{line}\n" for line in contents)
    return _copy(chunk, contents, **check)


def _file_absent(chunk: Chunk) -> list[Task]:
    return [_task(chunk, "file", {"path": chunk["name"], "state": "absent"})]


def _debs_installed(chunk: Chunk) -> list[Task]:
    wanted = chunk["packages"]
    versions = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
    names = [f"{name}={version}" if version else name for name, version in versions.items()]
    made = [_task(chunk, "apt", {"name": names, "state": "present", "install_recommends": False})]
    if chunk.get("hold"):
        script = 'printf "%s\\n" "$@" | grep -vxF "$(apt-mark showhold)" || true'
        made.append(_look(chunk, script, "held", *versions))
        made.append(
            _task(
                chunk,
                "command",
                {"argv": ["apt-mark", "hold", *versions]},
                "hold",
                when="found is changed",
            )
        )
    return made


def _debs_key(chunk: Chunk) -> list[Task]:
    fetch = {"url": chunk["url"], "dest": chunk["name"], "checksum": f"sha256:{chunk['sha256']}"}
    return [_task(chunk, "get_url", {**fetch, "mode": "0644"})]


def _service_running(chunk: Chunk) -> list[Task]:
    enabled = {"enabled": True} if chunk.get("enable") else {}
    return [_task(chunk, "systemd_service", {"name": chunk["name"], "state": "started", **enabled})]


def _user_present(chunk: Chunk) -> list[Task]:
    shell = {"shell": chunk["shell"]} if "shell" in chunk else {}
    groups = chunk.get("optional_groups") or []
    return [
        _task(chunk, "user", {"name": chunk["name"], "groups": groups, "append": True, **shell})
    ]


def _hosts(chunk: Chunk) -> list[Task]:
    entries = sorted(chunk["entries"].items(), key=lambda entry: ip_address(entry[0]).packed)
    lines = [f"{address}\t{' '.join(names)}" for address, names in entries]
    block = {"path": chunk["name"], "block": "\n".join(lines)}
    marks = {"marker": "{mark}", "marker_begin": HOSTS_BEGIN, "marker_end": HOSTS_END}
    return [_task(chunk, "blockinfile", {**block, **marks})]


def _sysctl(chunk: Chunk) -> list[Task]:
    values = {key: str(value) for key, value in chunk["values"].items()}
    script = 'for one; do [ "$(sysctl -n "${one%%=*}")" = "${one#*=}" ] || echo "${one%%=*}"; done'
    text = "".join(f"{key} = {value}\n" for key, value in values.items())
    live = _look(chunk, script, "live", *(f"{key}={value}" for key, value in values.items()))
    load = {"argv": ["sysctl", "-p", chunk["name"]]}
    return [
        *_copy(chunk, text),
        live,
        _task(chunk, "command", load, "load", when="found is changed"),
    ]


def _kernel_modules(chunk: Chunk) -> list[Task]:
    text = "".join(f"{module}\n" for module in chunk["modules"])
    script = 'for one; do [ -d "/sys/module/$one" ] || { echo "$one"; modprobe "$one"; }; done'
    return [
        {**task, "when": NOT_IN_CONTAINER}
        for task in (*_copy(chunk, text), _look(chunk, script, "live", *chunk["modules"]))
    ]


def _swap_off(chunk: Chunk) -> list[Task]:
    script = "tail -n +2 /proc/swaps; grep -E '^[^#]+\\sswap\\s' /etc/fstab || true"
    return [_look(chunk, script, "on", when=NOT_IN_CONTAINER)]


def _hostname(chunk: Chunk) -> list[Task]:
    return [_task(chunk, "hostname", {"name": chunk["name"]})]


def _name_kept(chunk: Chunk) -> list[Task]:
    """Who else would name the node is looked for; on a node that has them, files would follow."""
    return [_look(chunk, "ls -d /etc/NetworkManager/conf.d /etc/cloud/cloud.cfg 2>&-; true", "who")]


def _boot_flags(chunk: Chunk) -> list[Task]:
    script = (
        "for file in /boot/firmware/cmdline.txt /boot/cmdline.txt; do [ -f $file ] || continue;"
        ' for one; do grep -qw -- "$one" $file || echo "$one"; done; done'
    )
    return [_look(chunk, script, "missing", *chunk["flags"])]


def _config_txt(chunk: Chunk) -> list[Task]:
    if chunk["values"]:
        raise ValueError(f"{chunk['__id__']}: lines of config.txt are not known here")
    block = {"path": "/boot/firmware/config.txt", "state": "absent", "marker": "{mark}"}
    marks = {"marker_begin": "# BEGIN saltberry", "marker_end": HOSTS_END}
    there = _task(chunk, "stat", {"path": block["path"]}, "there", register="found")
    return [there, _task(chunk, "blockinfile", {**block, **marks}, when="found.stat.exists")]


def _enabled(chunk: Chunk) -> list[Task]:
    return [_task(chunk, "systemd_service", {"name": chunk["name"], "enabled": True})]


def _clock_followed(chunk: Chunk) -> list[Task]:
    wanted = {"name": "systemd-timesyncd", "state": "started", "enabled": True}
    return [_task(chunk, "systemd_service", wanted, when=NOT_IN_CONTAINER)]


def _restart(chunk: Chunk) -> Task:
    return _task(chunk, "systemd_service", {"name": chunk["name"], "state": "restarted"}, "restart")


def _reload(chunk: Chunk) -> Task:
    return _task(chunk, "systemd_service", {"daemon_reload": True}, "reload")


def _causes(chunk: Chunk) -> list[Mapping[str, str]]:
    """Return the requisites that make a state react to another one's change."""
    return [*chunk.get("watch", []), *chunk.get("onchanges", [])]


_TASKS: dict[str, Callable[[Chunk], list[Task]]] = {
    "clock.followed": _clock_followed,
    "debs.installed": _debs_installed,
    "debs.key": _debs_key,
    "file.absent": _file_absent,
    "file.managed": _file_managed,
    "firmware.config_txt": _config_txt,
    "node.boot_flags": _boot_flags,
    "node.enabled": _enabled,
    "node.hostname": _hostname,
    "node.hosts": _hosts,
    "node.kernel_modules": _kernel_modules,
    "node.name_kept": _name_kept,
    "node.swap_off": _swap_off,
    "node.sysctl": _sysctl,
    "service.running": _service_running,
    "user.present": _user_present,
}
# States that do something when another one changed something: Ansible's handlers
_REACTIONS: dict[str, Callable[[Chunk], Task]] = {
    "module.run": _reload,
    "service.running": _restart,
}
