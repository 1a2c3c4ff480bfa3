"""Where docker and containerd keep their data on this node, and the move to another disk.

A move goes through phases that are written down (``_utils/move_journal.py``): the target is tried
out, the data copied while the engines run until little is left, the engines are stopped, the last
difference is copied and compared, the configuration files are replaced, the engines started and
asked whether all is there. Whatever fails puts the node back as it was; whatever cuts the move off
is finished or undone by the next run. The old folders stay until :func:`purge`.

Roots are ``<target>/docker`` and ``<target>/containerd``; the target ``local`` stands for
``/var/lib/docker`` and ``/var/lib/containerd``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import salt.utils.json
from salt.exceptions import CommandExecutionError

__virtualname__ = "container_storage"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

ENGINES = ("docker", "containerd")
LOCAL = "local"

_DIRECTORY = "/var/lib/saltberry/container-storage"
# In memory, so that telling how far a copy is wears out no card.
_PROGRESS = "/run/saltberry/container-storage.json"
_PROGRAM = "recover.py"
_RECOVER_UNIT = "saltberry-container-storage-recover.service"
_GUARD = "zz-saltberry-move.conf"
_UNITS = "/etc/systemd/system"
_KUBELET_CONF = "/etc/kubernetes/kubelet.conf"

_UNIT = {"docker": "docker.service", "containerd": "containerd.service"}
_PROGRAM_NAMES = {"docker": "dockerd", "containerd": "containerd"}
# Who would use an engine, in the order in which they are stopped. docker's socket before docker:
# whoever asks it would start docker again.
_DEPENDENTS = ("kubelet.service", "cri-docker.socket", "cri-docker.service")
_DOCKER = ("docker.socket", "docker.service")
_GUARDED = ("docker.socket", "docker.service", "containerd.service")

_MOST_PASSES = 6
_SMALL_BYTES = 32 << 20
_EVENT_SECONDS = 15
_LOCK_SECONDS = 5
_STOP_SECONDS = 180
_START_SECONDS = 300
_GONE_SECONDS = 60
_SETTLE_SECONDS = 60
_GRACE_SECONDS = 10
_BACK_SECONDS = 30
_POLL_SECONDS = 0.2
# Beside the data itself: what the engines write when they start.
_SPARE_BYTES = 64 << 20


def __virtual__() -> bool | tuple[bool, str]:
    """Load where systemd runs the engines."""
    if shutil.which("systemctl"):
        return True
    return False, "container_storage: this system has no systemd"


def _run(argv: Sequence[str], timeout: float | None = None) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv),
        python_shell=False,
        ignore_retcode=True,
        timeout=timeout,
        output_loglevel="debug",
    )


def _journal() -> Any:
    return __utils__["move_journal.at"](_DIRECTORY)


@contextlib.contextmanager
def _locked(journal: Any) -> Iterator[int]:
    """Hold the lock of all moves; CommandExecutionError when another process has it."""
    held = contextlib.ExitStack()
    try:
        lock = held.enter_context(journal.locked(_LOCK_SECONDS))
    except RuntimeError as exc:
        raise CommandExecutionError(
            f"{exc}; see how far it is with container_storage.status"
        ) from exc
    with held:
        yield lock


# --- facts --------------------------------------------------------------------------------------


def _unit_facts(units: Sequence[str]) -> list[dict[str, str]]:
    """Return some of what systemd knows of units, in their order; nothing where it does not answer."""
    names = "LoadState,ActiveState,FragmentPath,DropInPaths,MainPID"
    shown = _run(["systemctl", "show", *units, f"--property={names}"])["stdout"]
    blocks = shown.strip().split("\n\n")
    blocks += [""] * (len(units) - len(blocks))
    return [
        dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        for block in blocks
    ]


def _active(unit: str) -> bool:
    return bool(_active_of([unit]))


def _active_of(units: Sequence[str]) -> list[str]:
    """Return those of some units that run or are about to."""
    if not units:
        return []
    states = _run(["systemctl", "is-active", *units])["stdout"].split()
    running = ("active", "reloading", "activating")
    return [unit for unit, state in zip(units, states, strict=False) if state in running]


def _wait_settled() -> None:
    """Wait for what a run that was killed has asked of systemd, which goes on with it.

    An engine that is just being stopped still takes questions, and then hangs up.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < deadline:
        states = _run(["systemctl", "is-active", *_DEPENDENTS, *_GUARDED])["stdout"].split()
        if not {"activating", "deactivating", "reloading"} & set(states):
            return
        time.sleep(_POLL_SECONDS)


def _service(engine: str, facts: Mapping[str, str]) -> dict[str, Any]:
    """Return what an engine's unit says: command line, and whence its variables come."""
    paths = [facts.get("FragmentPath", ""), *facts.get("DropInPaths", "").split()]
    read = __utils__["move_journal.read_text"]
    files = [[path, read(path) or ""] for path in paths if path]
    return __utils__["engine_config.parse_unit"](files)


def _engine(engine: str) -> dict[str, Any]:
    return _engines([engine])[engine]


def _engines(engines: Sequence[str] = ENGINES) -> dict[str, dict[str, Any]]:
    """Return each engine's facts: folder, where that is set, and why it could not be moved."""
    if not engines:
        return {}
    said = _unit_facts([_UNIT[engine] for engine in engines])
    return {
        engine: _engine_facts(engine, facts) for engine, facts in zip(engines, said, strict=True)
    }


def _engine_facts(engine: str, facts: Mapping[str, str]) -> dict[str, Any]:
    default = __utils__["engine_config.default_root"](engine)
    found: dict[str, Any] = {
        "installed": facts.get("LoadState") == "loaded", "state": facts.get("ActiveState", ""),
        "active": facts.get("ActiveState") == "active", "root": default, "root_from": "default",
        "pid": int(facts.get("MainPID") or 0), "problem": "", "command": "", "config": "",
        "text": None,
    }  # fmt: skip
    if not found["installed"]:
        return found
    service = _service(engine, facts)
    found["command"] = service["command"]
    found["config"] = __utils__["engine_config.config_path"](engine, service["command"])
    found["text"] = __utils__["move_journal.read_text"](found["config"])
    try:
        _find_root(engine, service, found)
    except ValueError as exc:
        found["problem"] = f"{found['config']} cannot be used: {exc}; repair it first"
    return found


def _find_root(engine: str, service: Mapping[str, Any], found: dict[str, Any]) -> None:
    """Fill in the folder that an engine's files give it. Raises ValueError for unreadable ones."""
    flag = __utils__["engine_config.command_root"](engine, service["command"])
    reader = {"docker": "engine_config.json_root", "containerd": "engine_config.toml_root"}[engine]
    setting = __utils__[reader](found["text"] or "")
    if setting:
        found.update(root=setting, root_from=Path(found["config"]).name)
    if flag:
        found.update(root=flag, root_from="unit")
    variables = _variable_with_root(engine, service)
    if variables:
        found["problem"] = (
            f"{_UNIT[engine]} takes its folder from a variable set in {variables}; take the folder "
            f"out there and put it into {found['config']}, restart {engine}, then try again"
        )
        found.update(root=_process_root(engine, found["pid"]) or found["root"], root_from="unit")


def _variable_with_root(engine: str, service: Mapping[str, Any]) -> str:
    """Return the file whose variable gives an engine its folder, empty without one."""
    if "$" not in service["command"]:
        return ""
    names_root = __utils__["engine_config.names_root"]
    if names_root(engine, service["environment"]):
        return f"Environment= of {_UNIT[engine]}"
    for path in service["environment_files"]:
        text = __utils__["move_journal.read_text"](path)
        if text and names_root(engine, text):
            return str(path)
    return ""


def _process_root(engine: str, pid: int) -> str | None:
    """Return the folder on a running engine's command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    return __utils__["engine_config.flag_root"](engine, words)


def containerd_root() -> str | None:
    """Return the folder that containerd's configuration sets, None when it is the default one.

    Saltberry's own state of ``config.toml`` asks here, so that it keeps what a move has written.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.containerd_root
    """
    text = __utils__["move_journal.read_text"]("/etc/containerd/config.toml")
    try:
        return __utils__["engine_config.toml_root"](text or "")
    except ValueError:
        return None


def roots() -> dict[str, dict[str, str]]:
    """Return where each installed engine keeps its data: ``{engine: {"root", "root_from"}}``.

    ``root_from`` is what sets it: ``default``, ``daemon.json``, ``config.toml`` (or whatever file
    the unit names) or ``unit`` (a flag on its command line).

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.roots
    """
    found = _engines()
    return {
        engine: {"root": facts["root"], "root_from": facts["root_from"]}
        for engine, facts in found.items()
        if facts["installed"]
    }


def targets(target: str, engines: Sequence[str] | None = None) -> dict[str, str]:
    """Return where each engine's data goes for a target: ``{engine: folder}``.

    target
        A folder, or ``local``.
    engines
        ``[docker]``, ``[containerd]`` or None for both.

    Raises CommandExecutionError for an engine that nobody knows.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.targets /srv/containers
    """
    unknown = sorted(set(engines or ()) - set(ENGINES))
    if unknown:
        raise CommandExecutionError(
            f"{', '.join(unknown)}: no such engine; there are {' and '.join(ENGINES)}"
        )
    default = __utils__["engine_config.default_root"]
    if target == LOCAL:
        return {engine: default(engine) for engine in engines or ENGINES}
    real = os.path.realpath(target) if target.startswith("/") else target
    return {engine: f"{real.rstrip('/')}/{engine}" for engine in engines or ENGINES}


def pending(target: str, engines: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
    """Return what a move to ``target`` would move: ``{engine: {"from", "to"}}``, empty when done.

    Looks at configuration files alone, so it is cheap. Engines that are not installed are left out.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.pending /srv/containers
    """
    found = {}
    wanted_of = targets(target, engines)
    for engine, facts in _engines(list(wanted_of)).items():
        wanted = wanted_of[engine]
        if facts["installed"] and os.path.realpath(facts["root"]) != os.path.realpath(wanted):
            found[engine] = {
                "from": os.path.realpath(facts["root"]),
                "to": os.path.realpath(wanted),
            }
    return found


def unfinished() -> dict[str, Any] | None:
    """Return the move that was begun and not finished, None without: ``{"target", "phase", …}``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.unfinished
    """
    try:
        return _journal().load()
    except ValueError as exc:
        raise CommandExecutionError(str(exc)) from exc


def last() -> dict[str, Any] | None:
    """Return how the last move ended: ``{"ok", "target", "at", "error", "moves", "downtime"}``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.last
    """
    return _journal().history()["last"]


def is_member() -> bool:
    """Say whether this node is part of a cluster, so that it has to be drained before a move.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.is_member
    """
    return Path(_KUBELET_CONF).exists()


def status() -> dict[str, Any]:
    """Return where the data is, how far a move is, and which old folders are left.

    ``{"engines": {engine: {"installed", "active", "root", "root_from", "version"}},
    "move": None or {"id", "phase", "from", "to", "bytes_done", "bytes_total", "rate", "message"},
    "old_roots": [{"engine", "path", "bytes"}], "last": …}``. Bytes; ``rate`` in bytes a second.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.status
    """
    engines = {}
    for engine in ENGINES:
        facts = _engine(engine)
        engines[engine] = {key: facts[key] for key in ("installed", "active", "root", "root_from")}
        engines[engine]["version"] = _version(engine) if facts["installed"] else None
    history = _journal().history()
    # As they were when they were left: to measure millions of files takes minutes.
    keys = ("engine", "path", "bytes")
    there = [entry for entry in history["old_roots"] if _still_there(entry)]
    old = [{key: entry.get(key, 0) for key in keys} for entry in there]
    return {"engines": engines, "move": _move_status(), "old_roots": old, "last": history["last"]}


def _left(engine: str, path: str, at: float, size: int) -> dict[str, Any]:
    """Return what the history keeps of a folder that a move leaves behind."""
    inode = os.stat(path).st_ino if Path(path).is_dir() else 0  # noqa: PTH116
    return {"engine": engine, "path": path, "at": at, "bytes": size, "inode": inode}


def _still_there(entry: Mapping[str, Any]) -> bool:
    """Say whether a folder that a move left is still that folder.

    A link that somebody made in its place, or another disk that is mounted there now, leads to data
    that is not ours to write over or to delete.
    """
    path = Path(entry["path"])
    if not path.is_dir() or os.path.realpath(path) != entry["path"]:
        return False
    return entry.get("inode", 0) in (0, path.stat().st_ino)


def _version(engine: str) -> str | None:
    words = _run([_PROGRAM_NAMES[engine], "--version"])["stdout"].replace(",", " ").split()
    return next((word.lstrip("v") for word in words if word.lstrip("v")[:1].isdigit()), None)


def _move_status() -> dict[str, Any] | None:
    record = unfinished()
    if record is None:
        return None
    progress: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        progress = salt.utils.json.loads(Path(_PROGRESS).read_text())
    if progress.get("id") != record["id"]:
        progress = {}
    return {
        "id": record["id"], "phase": record["phase"], "target": record["target"],
        "from": {engine: move["from"] for engine, move in record["moves"].items()},
        "to": {engine: move["to"] for engine, move in record["moves"].items()},
        "bytes_done": progress.get("bytes_done", 0), "bytes_total": record["bytes"],
        "rate": progress.get("rate", 0), "message": record.get("error") or "",
    }  # fmt: skip


# --- plan ---------------------------------------------------------------------------------------


def plan(
    target: str,
    engines: Sequence[str] | None = None,
    margin: float = 0.1,
    system_disk: bool = False,
    mounted: bool = True,
) -> dict[str, Any]:
    """Return what a move would do, and every reason why it cannot be done; change nothing.

    target
        A folder on a mounted disk, or ``local``.
    engines
        ``[docker]``, ``[containerd]`` or None for all that are installed.
    margin
        Room to spare at the target, as a part of the data's size.
    system_disk
        The target may be a folder on the system's own disk.
    mounted
        False for a target that is still to be mounted: only what is to be moved is looked at.

    Returns ``{"from", "to", "bytes", "files", "free_bytes", "services", "running_containers",
    "warnings", "problems"}``. The target is tried out by mounting an overlay there for a moment.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.plan /srv/containers
    """
    problems = _engine_problems(engines)
    if target != LOCAL and mounted:
        problems += __utils__["copy_target.path_problems"](target, system_disk)
    moves = pending(target, engines) if not problems else {}
    result: dict[str, Any] = {
        "target": target, "from": {engine: move["from"] for engine, move in moves.items()},
        "to": {engine: move["to"] for engine, move in moves.items()},
        "bytes": 0, "files": 0, "sizes": {}, "free_bytes": None, "services": _services(moves),
        "running_containers": [], "warnings": [], "problems": problems,
    }  # fmt: skip
    if moves:
        _plan_engines(moves, result)
        files = _plan_sizes(moves, result)
    if moves and mounted:
        _plan_room(moves, result, files, margin)
        for engine, move in moves.items():
            problems += _move_problems(engine, move, target)
        problems += _overlay_problems(moves) if not problems else []
    return result


def _engine_problems(engines: Sequence[str] | None) -> list[str]:
    """Return why engines cannot be moved, before a target is looked at."""
    wanted = targets(LOCAL, engines)
    facts = _engines(list(wanted))
    there = [engine for engine in facts if facts[engine]["installed"]]
    problems = [
        f"{engine} is not installed on this node; install it first, or leave it out of engines"
        for engine in facts
        if engines and engine not in there
    ]
    if not there and not problems:
        problems.append(
            "neither docker nor containerd is installed on this node: there is nothing to move"
        )
    problems += [facts[engine]["problem"] for engine in there if facts[engine]["problem"]]
    if not shutil.which("rsync"):
        problems.append("rsync is not installed on this node; install it (apt install rsync)")
    return problems


def _services(moves: Mapping[str, Any]) -> list[str]:
    """Return the active units that a move stops, in that order."""
    names: list[str] = []
    if "containerd" in moves or _active_of(_DEPENDENTS[1:]):
        names += _DEPENDENTS
    if moves:
        names += _DOCKER
    if "containerd" in moves:
        names.append(_UNIT["containerd"])
    return _active_of(names)


def _plan_engines(moves: Mapping[str, Any], result: dict[str, Any]) -> None:
    """Ask the engines what runs, and whether their data can be moved as files."""
    problems, warnings = result["problems"], result["warnings"]
    docker, containerd = _engine("docker"), _engine("containerd")
    try:
        facts = _snapshot(moves)
    except RuntimeError as exc:
        problems.append(f"{exc}. It did not work before the move either: repair it first "
                        "(systemctl status docker containerd)")  # fmt: skip
        return
    for engine, state in (("docker", docker), ("containerd", containerd)):
        if state["installed"] and state["state"] == "failed" and engine in moves:
            problems.append(f"{engine} has failed and does not run (systemctl status {engine}); "
                            "repair it before its data is moved")  # fmt: skip
    if facts["containerd"] is not None and unfinished() is None:
        try:
            _check_containerd(moves["containerd"]["from"])
        except RuntimeError:
            problems.append(
                f"containerd does not run on {moves['containerd']['from']}, where its configuration "
                "says; restart it, and see that no imported file of its configuration sets root"
            )
    if facts["docker"]:
        _docker_problems(moves, facts["docker"], docker, problems, warnings)
        result["running_containers"] += [
            container["name"] for container in facts["docker"]["containers"].values()
            if container["running"]
        ]  # fmt: skip
    for space, had in (facts["containerd"] or {}).items():
        if space != "moby":
            result["running_containers"] += [f"{space}/{name}" for name in had["running"]]


def _docker_problems(
    moves: Mapping[str, Any],
    facts: Mapping[str, Any],
    docker: Mapping[str, Any],
    problems: list[str],
    warnings: list[str],
) -> None:
    inside = __utils__["copy_target.inside"]
    source = os.path.realpath(docker["root"])
    if not inside(os.path.realpath(facts["root"]), source):
        problems.append(
            f"docker runs on {facts['root']}, its configuration says {docker['root']}; restart docker "
            "and see where its data is before moving it"
        )
    drivers = __utils__["container_engines.file_drivers"]()
    if "docker" in moves and facts["driver"] not in drivers:
        problems.append(
            f"docker's storage driver is {facts['driver']}, whose data is no plain files and cannot be "
            "copied as such; set overlay2 first (images have to be pulled again)"
        )
    if "docker" in moves and "containerd" not in moves and facts["in_containerd"]:
        warnings.append("docker's images are in containerd's store, which stays where it is; leave "
                        "engines out to move both")  # fmt: skip
    for container in facts["containers"].values():
        if container["temporary"] and container["running"]:
            warnings.append(f"{container['name']} was started with --rm and is gone after the stop")
        elif any(inside(os.path.realpath(bind), source) for bind in container["binds"]):
            warnings.append(f"{container['name']} mounts a folder below {source} by its path, and "
                            "will still see the old one: make it again after the move")  # fmt: skip
    for name, device in facts["devices"].items():
        if "docker" in moves and inside(os.path.realpath(device), source):
            warnings.append(f"the volume {name} shows {device}, a folder below {source}, and will still "
                            "show the old one: make it again after the move")  # fmt: skip


def _plan_sizes(moves: Mapping[str, Any], result: dict[str, Any]) -> dict[str, int]:
    """Fill in the sizes of what is to be moved; return the number of files of each engine."""
    files = {}
    for engine, move in moves.items():
        size = __utils__["tree_copy.measure"](move["from"])
        result["sizes"][engine] = size["bytes"]
        result["bytes"] += size["bytes"]
        result["files"] += size["files"]
        files[engine] = size["files"]
    return files


def _plan_room(
    moves: Mapping[str, Any], result: dict[str, Any], files_of: Mapping[str, int], margin: float
) -> None:
    """Refuse targets without room for what is to be moved."""
    disks: dict[str, list[int]] = {}
    for engine, move in moves.items():
        place = _existing(move["to"])
        # An earlier copy is brought up to date and takes no room twice.
        have = __utils__["tree_copy.measure"](move["to"])
        need = disks.setdefault(__utils__["copy_target.mount_of"](place)["point"], [0, 0])
        size = int(result["sizes"][engine] * (1 + margin)) + _SPARE_BYTES
        need[0] += max(0, size - have["bytes"])
        need[1] += max(0, int(files_of[engine] * (1 + margin)) - have["files"])
    for point, (size, files) in disks.items():
        room = __utils__["copy_target.room"](point)
        result["free_bytes"] = min(room["bytes"], result["free_bytes"] or room["bytes"])
        if room["bytes"] < size:
            result["problems"].append(
                f"the disk at {point} has {_mib(room['bytes'])} free, {_mib(size)} are needed "
                f"({_mib(result['bytes'])} of data, {margin:.0%} to spare); make room, or use a larger one"
            )
        elif room["files"] is not None and room["files"] < files:
            result["problems"].append(
                f"the disk at {point} has inodes for {room['files']} more files, {files} are needed; "
                "make its file system anew with more (mkfs.ext4 -T small), or use a larger one"
            )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


def _existing(path: str) -> str:
    """Return a path, or the nearest folder above it that exists."""
    return str(next(place for place in (Path(path), *Path(path).parents) if place.is_dir()))


def _move_problems(engine: str, move: Mapping[str, str], target: str) -> list[str]:
    """Return why one engine's folder cannot be copied to its place."""
    source, wanted = move["from"], move["to"]
    inside = __utils__["copy_target.inside"]
    problems = []
    if inside(wanted, source) or inside(source, wanted):
        problems.append(f"{wanted} and {source}, where {engine} has its data, lie in each other; "
                        "choose a folder beside it")  # fmt: skip
        return problems
    if not Path(source).is_dir():
        problems.append(f"{source}, where {engine} should have its data, does not exist; start "
                        f"{engine} once, or correct its configuration")  # fmt: skip
    for mount in __utils__["copy_target.below"](source):
        if not _engines_own(mount, source):
            problems.append(
                f"{mount['kind']} ({mount['source']}) is mounted at {mount['point']}, inside the data "
                f"of {engine}; it would not be moved along: unmount it first"
            )
    problems += [
        f"{mount['source']} is mounted at {mount['point']}, inside the target; unmount it first"
        for mount in __utils__["copy_target.below"](wanted)
    ]
    return problems + _foreign_problems(wanted, target)


def _engines_own(mount: Mapping[str, Any], source: str) -> bool:
    """Say whether a mount inside an engine's folder is one that the engine makes itself."""
    if mount["kind"] in ("overlay", "fuse-overlayfs", "fuse.fuse-overlayfs", "nsfs", "proc"):
        return True
    parts = Path(mount["point"]).relative_to(source).parts
    if mount["kind"] in ("tmpfs", "shm", "mqueue"):
        return parts[:1] == ("containers",) or "_data" in parts or parts[-1:] == ("shm",)
    # A volume of "docker volume create -o": docker mounts it while a container uses it.
    return parts[:1] == ("volumes",) and (Path(source, *parts[:2]) / "opts.json").is_file()


def _foreign_problems(wanted: str, target: str) -> list[str]:
    """Return whose data is at the target already, unless it is what this node left there."""
    if target != LOCAL:
        owner = __utils__["copy_target.owner"](target)
        if owner and owner.get("node") != __opts__["id"]:
            return [f"{target} holds the container data of {owner.get('node')}; give this node a disk "
                    f"of its own, or empty {target} (its file .saltberry-storage too)"]  # fmt: skip
        if owner and owner.get("machine") != _machine():
            return [f"{target} holds container data of an earlier installation of this node; move it "
                    f"away or delete it, with the file {target}/.saltberry-storage"]  # fmt: skip
    old = _journal().history()["old_roots"]
    known = [entry["path"] for entry in old if _still_there(entry)]
    record = unfinished()
    known += [move["to"] for move in record["moves"].values()] if record else []
    if wanted in known or not __utils__["copy_target.has_files"](wanted):
        return []
    return [f"{wanted} holds files that this node's moves have not put there; move them away or "
            "delete them"]  # fmt: skip


def _machine() -> str:
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return ""


def _overlay_problems(moves: Mapping[str, Mapping[str, str]]) -> list[str]:
    places = dict.fromkeys(_existing(move["to"]) for move in moves.values())
    found = [__utils__["copy_target.overlay_problem"](place) for place in places]
    return [problem for problem in found if problem]


def _snapshot(moves: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the engines that a move touches what they hold. Raises RuntimeError."""
    active = _active_of(_GUARDED)
    containerd = "containerd" in moves and _UNIT["containerd"] in active
    docker = "docker.service" in active or "docker.socket" in active
    return {
        "docker": __utils__["container_engines.docker_facts"]() if docker else None,
        "containerd": __utils__["container_engines.containerd_facts"]() if containerd else None,
    }


# --- the move -----------------------------------------------------------------------------------


class _Move:
    """One run at a move: its record, and how far it is for those who look on."""

    def __init__(self, journal: Any, record: dict[str, Any], lock: int) -> None:
        self.journal = journal
        self.record = record
        self.lock = lock
        self.done = 0
        self._told = 0.0
        self._began = time.monotonic()

    @property
    def moves(self) -> dict[str, dict[str, str]]:
        return self.record["moves"]

    def phase(self, name: str) -> None:
        """Write down that a step begins, and tell."""
        self.journal.save(self.record, name)
        self.tell()

    def tell(self, done: int | None = None) -> None:
        """Keep the bytes done where status finds them, and send an event now and then."""
        if done is not None:
            self.done = done
        rate = int(self.done / max(time.monotonic() - self._began, 1))
        told = {"id": self.record["id"], "phase": self.record["phase"], "rate": rate,
                "bytes_done": min(self.done, self.record["bytes"]),
                "bytes_total": self.record["bytes"]}  # fmt: skip
        with contextlib.suppress(OSError):
            Path(_PROGRESS).parent.mkdir(parents=True, exist_ok=True)
            spare = Path(f"{_PROGRESS}.new")
            spare.write_text(salt.utils.json.dumps(told))
            spare.replace(_PROGRESS)
        # An event costs a signature; while the engines are down there is no time for it.
        down = self.record["phase"] not in ("planned", "copying", "done", "failed")
        if not down and time.monotonic() - self._told >= _EVENT_SECONDS:
            self._told = time.monotonic()
            _event("", told)


def _event(what: str, data: Mapping[str, Any]) -> None:
    """Tell the master; that it is away stops nothing."""
    tag = f"saltberry/node/{__opts__['id']}/storage{what}"
    with contextlib.suppress(Exception):
        __salt__["event.send"](tag, dict(data))


def migrate(
    target: str,
    engines: Sequence[str] | None = None,
    margin: float = 0.1,
    system_disk: bool = False,
) -> dict[str, Any]:
    """Move the engines' data to a target, or finish the move that was cut off.

    target, engines, margin, system_disk
        As for :func:`plan`.

    Returns ``{"changed", "moves", "downtime" (seconds), "bytes", "message"}``. Raises
    CommandExecutionError with the reason when it cannot be done; all is then as it was before, and
    the engines run on the old folders.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.migrate /srv/containers
    """
    journal = _journal()
    with _locked(journal) as lock:
        wanted = targets(target, engines)
        record = unfinished()
        if record is not None:
            _wait_settled()
            ended = _resume(_Move(journal, record, lock), target, wanted, margin, system_disk)
            if ended is not None and not pending(target, engines):
                return ended
        found = plan(target, engines, margin, system_disk)
        if found["problems"]:
            raise CommandExecutionError("\n".join(found["problems"]))
        if not found["to"]:
            return {"changed": False, "moves": {}, "downtime": 0.0, "bytes": 0,
                    "message": f"the data is at {target} already"}  # fmt: skip
        return _go(_begin(journal, found, lock))


def _begin(journal: Any, found: Mapping[str, Any], lock: int) -> _Move:
    """Write down a new move, and see to it that engines find it at boot."""
    moves = {
        engine: {"from": found["from"][engine], "to": found["to"][engine]} for engine in found["to"]
    }
    record: dict[str, Any] = {
        "id": f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:4]}",
        "phase": "planned", "target": found["target"], "moves": moves, "bytes": found["bytes"],
        "sizes": found["sizes"],
        "services": found["services"], "snapshot": {"docker": None, "containerd": None},
        "stopped": [], "ended": {}, "began": time.time(), "since": None, "down": None,
        "files": {}, "recovered": False, "error": None,
    }  # fmt: skip
    try:
        record["files"] = _new_files(moves, found["target"])
        _install_guard(journal)
        if found["target"] != LOCAL:
            __utils__["copy_target.own"](found["target"], __opts__["id"], _machine())
    except (ValueError, OSError) as exc:
        _remove_guard(journal)
        raise CommandExecutionError(str(exc)) from exc
    move = _Move(journal, record, lock)
    move.phase("planned")
    return move


def _new_files(moves: Mapping[str, Mapping[str, str]], target: str) -> dict[str, dict[str, Any]]:
    """Return ``{path: {"old", "new"}}`` of the files that the switch replaces.

    Raises ValueError for files that cannot be edited.
    """
    files: dict[str, dict[str, Any]] = {}
    for engine, move in moves.items():
        facts = _engine(engine)
        default = __utils__["engine_config.default_root"](engine)
        setting = None if move["to"] == os.path.realpath(default) else move["to"]
        edit = {"docker": "json_with_root", "containerd": "toml_with_root"}[engine]
        try:
            text = __utils__[f"engine_config.{edit}"](facts["text"] or "", setting)
        except ValueError as exc:
            raise ValueError(f"{facts['config']} cannot be edited: {exc}") from exc
        # A file that only said where the data is goes with it.
        empty = text.strip() in ("", "{}", "{\n}") and setting is None
        files[facts["config"]] = {"old": facts["text"], "new": None if empty else text}
        name = f"{_UNITS}/{_UNIT[engine]}.d/{__utils__['engine_config.drop_in_name']()}"
        files[name] = {
            "old": __utils__["move_journal.read_text"](name),
            "new": __utils__["engine_config.drop_in"](
                # systemd follows no links when it looks for the mount.
                None if target == LOCAL else os.path.realpath(target),
                _replaced_command(engine, facts, name),
            ),
        }
    return {path: texts for path, texts in files.items() if texts["old"] != texts["new"]}


def _renew_files(move: _Move) -> None:
    """Take the configuration files as they are now: a copy takes hours, one that was cut off may be
    days old, and what was edited meanwhile has to stay.

    Raises RuntimeError when an engine was given another folder meanwhile, ValueError for files that
    cannot be edited any more.
    """
    _must_point_to_source(move)
    move.record["files"] = _new_files(move.moves, move.record["target"])
    move.journal.save(move.record)


def _must_point_to_source(move: _Move) -> None:
    """Raise RuntimeError unless the engines' files still name the folders that are copied.

    Whoever named the new ones by hand has his data there now, and a copy would delete it.
    """
    for engine, entry in move.moves.items():
        facts = _engine(engine)
        if facts["problem"]:
            raise RuntimeError(facts["problem"])
        if os.path.realpath(facts["root"]) != entry["from"]:
            raise RuntimeError(
                f"{engine} was given another folder while its data was copied: {facts['root']} "
                f"(by {facts['root_from']}) instead of {entry['from']}"
            )


def _replaced_command(engine: str, facts: Mapping[str, Any], drop_in: str) -> str | None:
    """Return the command line that our drop-in has to give, None when the unit's own will do.

    Raises ValueError when a flag cannot be taken out of it.
    """
    [unit] = _unit_facts([_UNIT[engine]])
    paths = unit.get("DropInPaths", "").split()
    others = {**unit, "DropInPaths": " ".join(path for path in paths if path != drop_in)}
    service = _service(engine, others)
    if __utils__["engine_config.command_root"](engine, service["command"]) is None:
        return None
    later = [path for path in paths if Path(path).name > Path(drop_in).name]
    if service["path"] in later:
        raise ValueError(
            f"{service['path']} gives {engine} its folder by a flag, and comes after our own drop-in; "
            "take the flag out there"
        )
    return __utils__["engine_config.command_without_root"](engine, service["command"])


def _install_guard(journal: Any) -> None:
    """Have every start of an engine look at the journal first, at boot above all."""
    journal.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write = __utils__["move_journal.write_whole"]
    program = journal.directory / _PROGRAM
    write(program, __utils__["move_journal.program"](), 0o700)
    write(f"{_UNITS}/{_RECOVER_UNIT}", __utils__["move_journal.unit"](f"/usr/bin/python3 -I {program}"),
          0o644)  # fmt: skip
    for unit in _GUARDED:
        write(f"{_UNITS}/{unit}.d/{_GUARD}", __utils__["move_journal.guard"](), 0o644)
    _reload()


def _remove_guard(journal: Any) -> None:
    remove = __utils__["move_journal.remove"]
    for unit in _GUARDED:
        remove(f"{_UNITS}/{unit}.d/{_GUARD}")
        with contextlib.suppress(OSError):
            Path(f"{_UNITS}/{unit}.d").rmdir()
    remove(f"{_UNITS}/{_RECOVER_UNIT}")
    remove(journal.directory / _PROGRAM)
    _reload()


def _reload() -> None:
    _run(["systemctl", "daemon-reload"])


def _go(move: _Move) -> dict[str, Any]:
    """Do all phases from the copy on. Raises CommandExecutionError once all is as before."""
    try:
        _copy_live(move)
        # Now, as it asks systemd: while the engines are down every second counts.
        _renew_files(move)
    except BaseException as exc:
        # Nothing was stopped; after a move that was cut off it may have been.
        _undo(move, exc)
        raise CommandExecutionError(_undone(move, exc)) from exc
    try:
        _stop(move)
        _copy_rest(move)
        _verify_copy(move)
        if not __utils__["move_journal.files_are"](move.record["files"], "old"):
            _renew_files(move)
    except BaseException as exc:
        _undo(move, exc)
        raise CommandExecutionError(_undone(move, exc)) from exc
    return _switch_and_start(move)


def _switch_and_start(move: _Move) -> dict[str, Any]:
    try:
        move.journal.replace_files(move.record, "switching")
        _reload()
        return _start_new(move, strict=True)
    except BaseException as exc:
        _roll_back(move, exc)
        raise CommandExecutionError(_undone(move, exc)) from exc


def _undone(move: _Move, exc: BaseException) -> str:
    where = ", ".join(f"{engine} in {entry['from']}" for engine, entry in move.moves.items())
    return f"{_said(exc)}\nThe move to {move.record['target']} was undone: {where} as before"


def _said(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__


# --- copying ------------------------------------------------------------------------------------


def _copy_live(move: _Move) -> None:
    """Copy while the engines run, until a pass finds little. Raises RuntimeError, OSError."""
    move.phase("copying")
    record = move.record
    known = {entry["path"]: entry["at"] for entry in move.journal.history()["old_roots"]}
    if record["since"] is None:
        began = [__utils__["tree_copy.begin"](entry["from"]) for entry in move.moves.values()]
        # An older copy at the target is the same as the source was then, not as it was today.
        began += [known[entry["to"]] for entry in move.moves.values() if entry["to"] in known]
        record["since"] = min(began)
        move.phase("copying")
    for entry in move.moves.values():
        _make_root(entry["to"])
    before = None
    for number in range(_MOST_PASSES):
        moved, base = 0, 0
        for entry in move.moves.values():
            report = _reporter(move, base) if number == 0 else None
            done = __utils__["tree_copy.copy"](
                entry["from"], entry["to"], live=True, lock=move.lock, report=report
            )
            moved += done["bytes"]
            base += done["bytes"]
        if moved <= _SMALL_BYTES or (before is not None and moved > 0.8 * before):
            break
        before = moved
    move.tell(record["bytes"])


def _reporter(move: _Move, base: int) -> Callable[[int], None]:
    return lambda done: move.tell(base + done)


def _make_root(path: str) -> None:
    """Make an engine's new folder; the engines need no more than to pass through those above."""
    missing = [place for place in (Path(path), *Path(path).parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o711)


def _copy_rest(move: _Move) -> None:
    """Copy the last difference while nothing runs."""
    move.record["final"] = time.time()
    move.phase("final")
    recheck, copy = __utils__["tree_copy.recheck"], __utils__["tree_copy.copy"]

    def finish(entry: Mapping[str, str]) -> None:
        recheck(entry["from"], entry["to"], move.record["since"], lock=move.lock)
        # After it, for files that are replaced give their folders another time.
        copy(entry["from"], entry["to"], lock=move.lock)

    with ThreadPoolExecutor(len(ENGINES)) as pool:
        list(pool.map(finish, move.moves.values()))


def _verify_copy(move: _Move) -> None:
    """Compare source and copy, and have the copy on its disk. Raises RuntimeError.

    The last pass over the resting source has compared every name in every respect, and set right
    what differed; rsync compares once more what it set right. A count that does not go by rsync
    covers all.
    """
    move.phase("verifying")
    for engine, entry in move.moves.items():
        with ThreadPoolExecutor(4) as pool:
            settled = pool.submit(__utils__["tree_copy.settle"], entry["to"])
            names = __utils__["tree_copy.touched"](entry["to"], move.record["final"])
            differing = pool.submit(
                __utils__["tree_copy.differences"], entry["from"], entry["to"], names
            )
            tallies = [
                pool.submit(__utils__["tree_copy.tally"], entry[side]) for side in ("from", "to")
            ]
            settled.result()
            found = differing.result()
            had, has = (tally.result() for tally in tallies)
        if found:
            raise RuntimeError(
                f"the copy of {engine}'s data differs from {entry['from']}:\n" + "\n".join(found)
            )
        if had != has:
            wrong = [f"{key}: {had[key]} there, {has[key]} in the copy" for key in had
                     if had[key] != has[key]]  # fmt: skip
            raise RuntimeError(f"the copy of {engine}'s data differs: {'; '.join(wrong)}")
        entry["files"] = had["files"]


# --- stopping and starting ----------------------------------------------------------------------


def _stop(move: _Move) -> None:
    """Stop the engines and everything in them. Raises RuntimeError, naming who stays."""
    record = move.record
    _remember(move)
    move.phase("stopping")
    record["down"] = time.time()
    _systemctl("stop", [name for name in record["services"] if name in _DEPENDENTS])
    _stop_containers(move)
    _systemctl("stop", [name for name in record["services"] if name not in _DEPENDENTS])
    for name in _active_of(_DOCKER):
        raise RuntimeError(f"{name} was started again by somebody while it had to be stopped")
    _wait_gone(move)


def _remember(move: _Move) -> None:
    """Write down what runs and what is there, for the comparison at the end.

    After a move that was cut off the engines may be down: what was written down then counts.
    """
    record = move.record
    now = _snapshot(move.moves)
    active = _services(move.moves)
    record["services"] = [
        name for name in (*_DEPENDENTS, *_GUARDED) if name in record["services"] or name in active
    ]
    if now["docker"]:
        for identifier in record["stopped"]:
            if identifier in now["docker"]["containers"]:
                now["docker"]["containers"][identifier]["running"] = True
    for space, tasks in record["ended"].items():
        if now["containerd"] and space in now["containerd"]:
            had = now["containerd"][space]
            had["running"] = sorted({*had["running"], *tasks})
    for engine in ENGINES:
        record["snapshot"][engine] = now[engine] or record["snapshot"][engine]


def _stop_containers(move: _Move) -> None:
    """End what would outlive its engine: docker's with live-restore, and containerd's always."""
    record = move.record
    if _active("docker.service") and __utils__["container_engines.live_restore"]():
        running = __utils__["container_engines.docker_running"]()
        record["stopped"] = sorted({*record["stopped"], *(key for key in running if running[key])})
        move.phase("stopping")
        for identifier in record["stopped"]:
            __utils__["container_engines.stop_container"](identifier, _GRACE_SECONDS)
    if "containerd" not in move.moves or not _active(_UNIT["containerd"]):
        return
    # Docker's own containers end with docker, and their tasks with them.
    _systemctl("stop", [name for name in record["services"] if name in _DOCKER])
    spaces = __utils__["container_engines.namespaces"]()
    for space in spaces:
        running = __utils__["container_engines.running_tasks"](space)
        record["ended"][space] = sorted({*record["ended"].get(space, []), *running})
    move.phase("stopping")
    _end_tasks(spaces)


def _end_tasks(spaces: Sequence[str]) -> None:
    """Ask containerd's containers to end, then make them, and let go of their mounts."""
    running = __utils__["container_engines.running_tasks"]
    for signal, seconds in (("SIGTERM", _GRACE_SECONDS), ("SIGKILL", _GRACE_SECONDS)):
        for space in spaces:
            __utils__["container_engines.end_tasks"](space, signal, running(space))
        deadline = time.monotonic() + seconds
        while any(running(space) for space in spaces) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    for space in spaces:
        __utils__["container_engines.forget_all"](space)


def _wait_gone(move: _Move) -> None:
    """Wait until no process and no mount uses the old folders. Raises RuntimeError with names."""
    deadline = time.monotonic() + _GONE_SECONDS
    for entry in move.moves.values():
        while users := __utils__["copy_target.users"](entry["from"]):
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{entry['from']} is still in use {_GONE_SECONDS} s after the engines were "
                    f"stopped: {', '.join(users[:5])}; end that first"
                )
            time.sleep(_POLL_SECONDS)
        # Else the disk below could not be unmounted, though nothing uses it any more.
        __utils__["copy_target.release"](entry["from"])


def _systemctl(verb: str, units: Sequence[str]) -> None:
    """Start or stop units; systemd knows their order. Raises RuntimeError with what it says."""
    if not units:
        return
    seconds = {"stop": _STOP_SECONDS, "start": _START_SECONDS}[verb]
    if verb == "start":
        # Docker allows few starts a minute, and ours are no sign of a broken one.
        _run(["systemctl", "reset-failed", *units])
    ret = _run(["systemctl", verb, *units], timeout=seconds)
    if ret["retcode"]:
        running = _active_of(units)
        wrong = [unit for unit in units if (unit in running) == (verb == "stop")]
        names = ", ".join(wrong or units)
        raise RuntimeError(
            f"{names} does not {verb}: {_why((wrong or units)[-1]) or ret['stderr']}"
        )


def _why(unit: str) -> str:
    """Return the last words of a unit that are no mere notice."""
    said = _run(["journalctl", "--unit", unit, "--lines=40", "--output=cat", "--no-pager"])[
        "stdout"
    ]
    bad = [line for line in said.splitlines()
           if any(word in line.lower() for word in ("fail", "error", "fatal", "unable", "assert"))]  # fmt: skip
    told = [line for line in bad if "level=error" in line or "level=fatal" in line or
            not line.startswith(("time=", unit))]  # fmt: skip
    return " / ".join((told or bad)[-2:])[:600]


def _start_services(move: _Move) -> None:
    """Start what was stopped, in the other order, but for the users of the engines."""
    names = [name for name in _GUARDED if name in move.record["services"]]
    if _UNIT["containerd"] in names:
        # Docker would start one of its own without it, and not every unit of docker's waits.
        _systemctl("start", [_UNIT["containerd"]])
    _systemctl("start", [name for name in names if name in _DOCKER])


def _start_users(move: _Move) -> None:
    _systemctl("start", [name for name in reversed(_DEPENDENTS) if name in move.record["services"]])


def _start_new(move: _Move, strict: bool) -> dict[str, Any]:
    """Start the engines on the new folders and see whether all is there.

    strict
        Nothing can have changed since the stop, so everything must be there. Otherwise the engines
        have run for themselves meanwhile, and people may have removed things.

    Raises RuntimeError.
    """
    move.phase("starting")
    _start_services(move)
    move.phase("checking")
    _check(move, strict)
    _start_users(move)
    return _finish(move)


def _check(move: _Move, strict: bool) -> None:
    """Raise RuntimeError unless the engines run on the new folders with all that they had."""
    record = move.record
    had = record["snapshot"]
    now = _snapshot(move.moves)
    inside = __utils__["copy_target.inside"]
    if "docker" in move.moves and now["docker"]:
        root = os.path.realpath(now["docker"]["root"])
        if not inside(root, move.moves["docker"]["to"]):
            raise RuntimeError(f"docker runs on {root} instead of {move.moves['docker']['to']}")
    if "containerd" in move.moves and now["containerd"] is not None:
        _check_containerd(move.moves["containerd"]["to"])
    lost = __utils__["container_engines.lost"](had, now)
    if lost and strict:
        raise RuntimeError(f"missing after the move: {'; '.join(lost)}")
    record["missing"] = lost
    if had["docker"] and now["docker"]:
        _bring_back(
            had["docker"]["containers"], set(now["docker"]["containers"]), record["stopped"], strict
        )
    if had["containerd"] and now["containerd"] is not None:
        _bring_tasks_back(had["containerd"], strict)


def _bring_tasks_back(had: Mapping[str, Mapping[str, Any]], strict: bool) -> None:
    """Have containerd's own containers run that ran before.

    Raises RuntimeError for one that does not start; without ``strict`` it is left as it is.
    """
    for space, facts in had.items():
        # Docker and kubelet start theirs themselves.
        if space in ("moby", "k8s.io") or not facts["running"]:
            continue
        running = __utils__["container_engines.running_tasks"](space)
        for name in sorted(set(facts["running"]) - set(running)):
            try:
                __utils__["container_engines.start_task"](space, name)
            except RuntimeError:
                if strict:
                    raise


def _check_containerd(root: str) -> None:
    """Raise RuntimeError unless the running containerd has its database open in ``root``."""
    [unit] = _unit_facts([_UNIT["containerd"]])
    pid = unit.get("MainPID", "0")
    opened = []
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                opened.append(str(link.readlink()))
    if not any(__utils__["copy_target.inside"](path, root) for path in opened):
        raise RuntimeError(f"containerd does not use {root} after its start")


def _bring_back(
    had: Mapping[str, Mapping[str, Any]], there: set[str], stopped: Sequence[str], strict: bool
) -> None:
    """Have docker's containers run that ran before: by their restart policy, else by ours.

    stopped
        Those that were stopped one by one; docker keeps to that for some policies.

    Raises RuntimeError for one that does not start; without ``strict`` it is left as it is.
    """
    wanted = {key for key, facts in had.items()
              if facts["running"] and not facts["temporary"] and key in there}  # fmt: skip
    itself = {key for key in wanted
              if had[key]["policy"] in ("always", "unless-stopped") and key not in stopped}  # fmt: skip
    _start_containers(wanted - itself, had, strict)
    deadline = time.monotonic() + _BACK_SECONDS
    while itself - _running() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    _start_containers(itself, had, strict)


def _running() -> set[str]:
    found = __utils__["container_engines.docker_running"]()
    return {identifier for identifier, runs in found.items() if runs}


def _start_containers(wanted: set[str], had: Mapping[str, Mapping[str, Any]], strict: bool) -> None:
    for key in sorted(wanted - _running()):
        try:
            __utils__["container_engines.start_container"](key)
        except RuntimeError as exc:
            if strict:
                raise RuntimeError(f"{had[key]['name']} does not start any more: {exc}") from exc


# --- the ends of a move -------------------------------------------------------------------------


def _finish(move: _Move) -> dict[str, Any]:
    """All is well: keep the old folders in mind, forget the move."""
    record = move.record
    # Kept, should this be cut off now and finished another day.
    record["up"] = record.get("up") or time.time()
    move.journal.save(record)
    downtime = round(record["up"] - record["down"], 1) if record["down"] else 0.0
    history = move.journal.history()
    arrived = {entry["to"] for entry in move.moves.values()}
    old = [entry for entry in history["old_roots"] if entry["path"] not in arrived]
    old = [entry for entry in old if entry["path"] not in
           {left["from"] for left in move.moves.values()}]  # fmt: skip
    # Both were the same when the engines were down.
    at, sizes = record["down"] or record["began"], record["sizes"]
    old += [_left(engine, entry["from"], at, sizes.get(engine, 0))
            for engine, entry in move.moves.items()]  # fmt: skip
    moves = {engine: {key: entry[key] for key in ("from", "to")}
             for engine, entry in move.moves.items()}  # fmt: skip
    missing = record.get("missing") or []
    end = {"ok": True, "error": None, "moves": moves, "downtime": downtime, "missing": missing}
    _close(move, old, end)
    return {"changed": True, "moves": moves, "downtime": downtime, "bytes": record["bytes"],
            "message": f"moved to {record['target']}; the old folders stay until "
                       "container_storage.purge" + _told_missing(missing)}  # fmt: skip


def _told_missing(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    return (
        "; the move was cut off and the engines ran meanwhile: compared with the time before it, these "
        f"are gone, removed by somebody or lost: {'; '.join(missing)}"
    )


def _close(move: _Move, old: list[dict[str, Any]], end: dict[str, Any]) -> None:
    record = move.record
    last_move = {**end, "id": record["id"], "target": record["target"], "at": time.time(),
                 "bytes": record["bytes"]}  # fmt: skip
    move.journal.save_history({"old_roots": old, "last": last_move})
    _remove_guard(move.journal)
    move.journal.close()
    with contextlib.suppress(OSError):
        Path(_PROGRESS).unlink()
    _event("", {"phase": "done" if end["ok"] else "failed", "error": end["error"],
                "bytes_done": record["bytes"] if end["ok"] else move.done, "rate": 0,
                "bytes_total": record["bytes"], "downtime": end.get("downtime")})  # fmt: skip


def _undo(move: _Move, exc: BaseException) -> None:
    """Start on the old folders again what was stopped; their configuration was never changed."""
    move.record["error"] = move.record["error"] or _said(exc)
    move.phase("restarting")
    _end_failed(move)


def _roll_back(move: _Move, exc: BaseException) -> None:
    """Put the old configuration back and start on the old folders. Raises CommandExecutionError
    when the engines do not even start there; the next run tries again."""
    move.record["error"] = move.record["error"] or _said(exc)
    # Should this be cut off now, the next run must not take these folders for good.
    move.journal.save(move.record)
    names = [name for name in (*_DEPENDENTS, *_GUARDED) if name in move.record["services"]]
    for name in names:
        with contextlib.suppress(RuntimeError):
            if name == _UNIT["containerd"] and _active(name):
                _end_tasks(__utils__["container_engines.namespaces"]())
            _systemctl("stop", [name])
    move.journal.replace_files(move.record, "restoring")
    _reload()
    move.phase("restarting")
    _end_failed(move)


def _end_failed(move: _Move) -> None:
    """Start the engines on the old folders, then forget the move but for its reason."""
    record = move.record
    try:
        _start_services(move)
        had = record["snapshot"]["docker"]
        if had and _active("docker.service"):
            there = set(__utils__["container_engines.docker_running"]())
            _bring_back(had["containers"], there, record["stopped"], strict=False)
        if record["snapshot"]["containerd"] and _active(_UNIT["containerd"]):
            _bring_tasks_back(record["snapshot"]["containerd"], strict=False)
        _start_users(move)
    except RuntimeError as exc:
        record["error"] = f"{record['error']}; and on the old folders: {exc}"
        move.journal.save(record)
        raise CommandExecutionError(
            f"{record['error']}\nThe old configuration is in place, yet the engines do not start; "
            "look at systemctl status docker containerd, then run this again"
        ) from exc
    history = move.journal.history()
    known = {entry["path"] for entry in history["old_roots"]}
    # Somebody may have put an engine there by hand meanwhile.
    known |= {os.path.realpath(facts["root"]) for facts in _engines().values()}
    # What was copied so far may serve the next try, and goes with a purge.
    measure = __utils__["tree_copy.measure"]
    left = [
        _left(engine, entry["to"], record["since"], measure(entry["to"])["bytes"])
        for engine, entry in move.moves.items()
        if entry["to"] not in known and record["since"] and Path(entry["to"]).is_dir()
    ]
    moves = {engine: {key: entry[key] for key in ("from", "to")}
             for engine, entry in move.moves.items()}  # fmt: skip
    _close(move, [*history["old_roots"], *left],
           {"ok": False, "error": record["error"], "moves": moves})  # fmt: skip


def _resume(
    move: _Move, target: str, wanted: Mapping[str, str], margin: float, system_disk: bool
) -> dict[str, Any] | None:
    """Bring a move that was cut off to an end; return its result, None when it was undone.

    Raises CommandExecutionError when it could not be finished and was undone.
    """
    record = move.record
    if __utils__["move_journal.finish_files"](move.journal):
        _reload()
        record.update(move.journal.load())
    phase = record["phase"]
    if phase == "restoring":
        move.journal.replace_files(record, "restoring")
    if phase in ("restoring", "restarting"):
        _reload()
        move.phase("restarting")
        _end_failed(move)
        return None
    if __utils__["move_journal.is_switched"](record):
        return _resume_start(move)
    try:
        _must_point_to_source(move)
    except RuntimeError as exc:
        _undo(move, exc)
        return None
    same = all(wanted.get(engine) == entry["to"] for engine, entry in move.moves.items())
    found = plan(target, list(move.moves), margin, system_disk) if same else {"problems": []}
    if not same or found["problems"]:
        reason = "; ".join(found["problems"]) or f"another target was asked for: {target}"
        _undo(move, RuntimeError(reason))
        if same:
            raise CommandExecutionError(_undone(move, RuntimeError(reason)))
        return None
    _install_guard(move.journal)
    return _go(move)


def _resume_start(move: _Move) -> dict[str, Any]:
    """The files are the new ones; engines may run on the new folders, for seconds or for days."""
    ran = move.record["recovered"] or any(
        _active(name) for name in _GUARDED if name.endswith(".service")
    )
    try:
        if move.record["error"]:
            raise RuntimeError(move.record["error"])
        return _start_new(move, strict=not ran)
    except BaseException as exc:
        _roll_back(move, exc)
        raise CommandExecutionError(_undone(move, exc)) from exc


# --- afterwards ---------------------------------------------------------------------------------


def verify() -> dict[str, Any]:
    """Return ``{"ok", "problems"}``: do the engines run where their configuration says, and well?

    Looks at the folders, the mark of the disk, the engines' own word, and tries an overlay.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.verify
    """
    problems: list[str] = []
    record = unfinished()
    if record is not None:
        problems.append(f"a move to {record['target']} is unfinished ({record['phase']}); run "
                        f"container_storage.migrate {record['target']}")  # fmt: skip
    for engine in ENGINES:
        facts = _engine(engine)
        if not facts["installed"]:
            continue
        root = os.path.realpath(facts["root"])
        if facts["problem"]:
            problems.append(facts["problem"])
        elif not Path(root).is_dir():
            problems.append(f"{root}, where {engine} should have its data, does not exist")
        else:
            problem = __utils__["copy_target.overlay_problem"](root)
            problems += [problem] if problem else []
            problems += _running_problems(engine, facts, root)
    return {"ok": not problems, "problems": problems}


def _running_problems(engine: str, facts: Mapping[str, Any], root: str) -> list[str]:
    if not facts["active"]:
        return [f"{engine} does not run ({facts['state']})"]
    try:
        if engine == "containerd":
            _check_containerd(root)
        else:
            found = os.path.realpath(__utils__["container_engines.docker_facts"]()["root"])
            if not __utils__["copy_target.inside"](found, root):
                return [f"docker runs on {found}, its configuration says {root}; restart it"]
    except RuntimeError as exc:
        return [str(exc)]
    return []


def rollback() -> dict[str, Any]:
    """Undo: an unfinished move is taken back, a finished one is moved back with all that is new.

    Returns as :func:`migrate`. Raises CommandExecutionError when there is nothing to go back to.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.rollback
    """
    journal = _journal()
    with _locked(journal) as lock:
        record = unfinished()
        if record is not None:
            move = _Move(journal, record, lock)
            _wait_settled()
            reason = RuntimeError("rolled back on request")
            if __utils__["move_journal.finish_files"](journal):
                record.update(journal.load())
            if __utils__["move_journal.is_switched"](record):
                _roll_back(move, reason)
            else:
                _undo(move, reason)
            return {"changed": True, "moves": {}, "downtime": 0.0, "bytes": 0,
                    "message": f"the unfinished move to {record['target']} was taken back"}  # fmt: skip
    return migrate(_previous())


def _previous() -> str:
    """Return the target that the data was at before the last move."""
    end = last()
    if not end or not end["ok"]:
        raise CommandExecutionError("no move was made on this node: there is nothing to go back to")
    sources = {engine: move["from"] for engine, move in end["moves"].items()}
    default = __utils__["engine_config.default_root"]
    if all(path == os.path.realpath(default(engine)) for engine, path in sources.items()):
        return LOCAL
    parents = {str(Path(path).parent) for path in sources.values()}
    if len(parents) == 1 and all(Path(path).name == engine for engine, path in sources.items()):
        return parents.pop()
    raise CommandExecutionError(
        f"the data was at {', '.join(sources.values())}, which is no one target; move it to one "
        "with container_storage.migrate"
    )


def purge() -> dict[str, Any]:
    """Delete the old folders that moves have left. What is deleted is gone.

    Returns ``{"removed": [paths], "bytes"}``. Raises CommandExecutionError, having deleted nothing,
    while a move is unfinished, an engine points to one of the folders, a container mounts from
    it, or a process or mount uses it.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.purge
    """
    journal = _journal()
    with _locked(journal):
        history = journal.history()
        left = [entry for entry in history["old_roots"] if _still_there(entry)]
        problems = purge_problems()
        if problems:
            raise CommandExecutionError("\n".join(problems))
        size = 0
        for entry in left:
            size += __utils__["tree_copy.measure"](entry["path"])["bytes"]
            _delete(entry["path"])
        journal.save_history({**history, "old_roots": []})
        return {"removed": [entry["path"] for entry in left], "bytes": size}


def purge_problems() -> list[str]:
    """Return why the old folders must not be deleted now; empty when they may.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.purge_problems
    """
    record = unfinished()
    if record is not None:
        return [f"a move to {record['target']} is unfinished ({record['phase']}); finish it first"]
    left = [entry for entry in _journal().history()["old_roots"] if _still_there(entry)]
    if not left:
        return []
    inside = __utils__["copy_target.inside"]
    facts = _engines()
    binds = _binds()
    # Where such an engine has its data is not known.
    problems = [state["problem"] for state in facts.values() if state["problem"]]
    for entry in left:
        path = entry["path"]
        problems += [
            f"{engine} has its data in {state['root']}: {path} must not be deleted"
            for engine, state in facts.items()
            if state["installed"] and (inside(os.path.realpath(state["root"]), path)
                                       or inside(path, os.path.realpath(state["root"])))
        ]  # fmt: skip
        problems += [
            f"{name} mounts {bind}; make it again without, then purge {path}"
            for name, bind in binds
            if inside(os.path.realpath(bind), path)
        ]
        problems += [f"{mount['point']} is mounted inside {path}; unmount it first"
                     for mount in __utils__["copy_target.below"](path)]  # fmt: skip
        problems += [f"{path} is in use: {user}" for user in __utils__["copy_target.users"](path)]
    return problems


def _binds() -> list[tuple[str, str]]:
    """Return ``(who, path)`` of every folder that a container or volume of docker's mounts by path.

    From docker's files: it may be stopped, and its containers still need the folders.
    """
    docker = _engine("docker")
    if not docker["installed"]:
        return []
    return list(__utils__["container_engines.binds_on_disk"](os.path.realpath(docker["root"])))


def _delete(path: str) -> None:
    """Delete what is in a folder, and the folder where nothing is mounted on it."""
    ret = _run(["find", path, "-xdev", "-mindepth", "1", "-delete"])
    if ret["retcode"]:
        raise CommandExecutionError(f"{path} cannot be deleted: {ret['stderr'][:500]}")
    default = [__utils__["engine_config.default_root"](engine) for engine in ENGINES]
    with contextlib.suppress(OSError):
        if path not in default:
            Path(path).rmdir()
    marked = Path(path).parent
    if not any((marked / engine).exists() for engine in ENGINES):
        with contextlib.suppress(OSError):
            (marked / ".saltberry-storage").unlink()


def want(target: str, engines: Sequence[str] | None = None) -> None:
    """Ask the master for a move: it drains this node first, one node of the rack at a time.

    Writes ``wanted.json`` beside the journal and sends ``saltberry/node/<id>/storage/wanted``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.want /srv/containers
    """
    text = salt.utils.json.dumps({"target": target, "engines": list(engines) if engines else None})
    file = _journal().directory / "wanted.json"
    if __utils__["move_journal.read_text"](file) != text:
        __utils__["move_journal.write_whole"](file, text)
    _event("/wanted", {"target": target})


def wanted() -> dict[str, Any] | None:
    """Return what :func:`want` wrote down, None when nothing is wanted.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.wanted
    """
    text = __utils__["move_journal.read_text"](_journal().directory / "wanted.json")
    return salt.utils.json.loads(text) if text else None


def satisfied() -> None:
    """Forget what was wanted: it is there.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' container_storage.satisfied
    """
    __utils__["move_journal.remove"](_journal().directory / "wanted.json")
