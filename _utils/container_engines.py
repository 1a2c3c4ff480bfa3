"""What docker and containerd hold: asked over docker's socket and with containerd's ``ctr``.

Docker's HTTP interface is the same from 20.10 to 29 for all that is asked here, and is there where no
docker client is installed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

__virtualname__ = "container_engines"

_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
_SECONDS = 60
# A start that was cut off is cleared away by containerd within ten seconds, on a busy Pi in more; after
# so long its shim is ended, which makes containerd let go of it.
_SHIM_SECONDS = 15
_AGAIN_SECONDS = 90
_FAILED_SECONDS = 15
_POLL_SECONDS = 0.5

# Storage drivers whose data is plain files; the others' are volumes of a file system or of LVM.
FILE_DRIVERS = ("overlay2", "overlay", "overlayfs", "fuse-overlayfs", "vfs", "native", "aufs")


class EngineError(RuntimeError):
    """An engine does not answer as it should; the text says what it said."""


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask_docker(path: str, method: str = "GET") -> Any:
    """Ask docker, for instance ``/info``; return its answer. Raises EngineError."""
    address = next((name for name in _SOCKETS if Path(name).is_socket()), _SOCKETS[0])
    connection = _Unix(address)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        raise EngineError(f"docker does not answer on {address}: {exc}") from exc
    finally:
        connection.close()
    if answer.status >= 400:
        raise EngineError(f"docker says to {path}: {text.strip()[:500]}")
    try:
        return json.loads(text) if text.strip() else None
    except ValueError as exc:
        raise EngineError(f"docker answers {path} with no JSON: {text[:200]}") from exc


def docker_facts() -> dict[str, Any]:
    """Return what docker holds now. Raises EngineError.

    ``{"root", "driver", "in_containerd", "version", "images": [ids], "volumes": [names],
    "devices": {volume: path}, "containers": {id: {"name", "image", "running", "policy", "temporary",
    "binds"}}}``. ``devices`` are volumes that show a folder by its path (``-o device=…``).
    ``in_containerd`` says that images are in containerd's store (docker 29's default).
    """
    info = ask_docker("/info")
    status = [list(map(str, pair)) for pair in info.get("DriverStatus") or []]
    volumes = ask_docker("/volumes").get("Volumes") or []
    return {
        "root": info["DockerRootDir"],
        "driver": info["Driver"],
        "in_containerd": any(
            "io.containerd.snapshotter" in word for pair in status for word in pair
        ),
        "version": info["ServerVersion"],
        "images": sorted(image["Id"] for image in ask_docker("/images/json?all=1")),
        "volumes": sorted(volume["Name"] for volume in volumes),
        "devices": {
            volume["Name"]: device
            for volume in volumes
            if (device := (volume.get("Options") or {}).get("device", "")).startswith("/")
        },
        "containers": _containers(),
    }


def _containers() -> dict[str, dict[str, Any]]:
    found = {}
    for entry in ask_docker("/containers/json?all=1"):
        try:
            known = ask_docker(f"/containers/{quote(entry['Id'])}/json")
        except EngineError:
            continue  # gone since, as a container of "docker run --rm" goes
        host = known["HostConfig"]
        found[known["Id"]] = {
            "name": known["Name"].lstrip("/"),
            "image": known["Image"],
            "running": known["State"]["Running"],
            "policy": (host.get("RestartPolicy") or {}).get("Name") or "no",
            "temporary": bool(host.get("AutoRemove")),
            "binds": [mount["Source"] for mount in known.get("Mounts") or []
                      if mount.get("Type") == "bind" and mount.get("Source")],
        }  # fmt: skip
    return found


def binds_on_disk(root: str) -> list[tuple[str, str]]:
    """Return ``(who, path)`` of every folder that docker's containers and volumes mount by its path.

    root
        Docker's folder. Read from its files, so docker need not run. Files that cannot be read are
        passed over: docker leaves such containers out, too.
    """
    found = []
    for place in (Path(root), *Path(root).glob("[0-9]*.[0-9]*")):  # the second: with userns-remap
        for file in sorted(place.glob("containers/*/config.v2.json")):
            known = _json_file(file)
            name = str(known.get("Name", file.parent.name)).lstrip("/")
            found += [(f"the container {name}", mount["Source"])
                      for mount in (known.get("MountPoints") or {}).values()
                      if mount.get("Type") == "bind" and mount.get("Source")]  # fmt: skip
        for file in sorted(place.glob("volumes/*/opts.json")):
            device = str(_json_file(file).get("MountDevice") or "")
            if device.startswith("/"):
                found.append((f"the volume {file.parent.name}", device))
    return found


def _json_file(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text(errors="replace"))
        if isinstance(found, dict):
            return found
    return {}


def file_drivers() -> tuple[str, ...]:
    """Return the storage drivers whose data can be copied as files."""
    return FILE_DRIVERS


def live_restore() -> bool:
    """Say whether docker's containers outlive docker. Raises EngineError."""
    return bool(ask_docker("/info").get("LiveRestoreEnabled"))


def docker_running() -> dict[str, bool]:
    """Return ``{id: runs now}`` of docker's containers. Raises EngineError."""
    entries = ask_docker("/containers/json?all=1")
    return {entry["Id"]: entry["State"] in ("running", "paused", "restarting") for entry in entries}


def start_container(identifier: str) -> None:
    """Start a container of docker's; one that runs is fine. Raises EngineError."""
    ask_docker(f"/containers/{quote(identifier)}/start", "POST")


def stop_container(identifier: str, grace: int) -> None:
    """Stop a container of docker's, killing it after ``grace`` seconds. Raises EngineError."""
    ask_docker(f"/containers/{quote(identifier)}/stop?t={grace}", "POST")


# --- containerd ---------------------------------------------------------------------------------


def ctr(*argv: str, namespace: str | None = None, check: bool = True) -> str:
    """Run ``ctr`` and return what it printed. Raises EngineError."""
    space = ("--namespace", namespace) if namespace else ()
    command = ["ctr", "--timeout", f"{_SECONDS}s", *space, *argv]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * _SECONDS)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EngineError(f"containerd cannot be asked: {exc}") from exc
    if check and done.returncode:
        raise EngineError(f"containerd says to 'ctr {' '.join(argv)}': {done.stderr.strip()[:500]}")
    return done.stdout


def containerd_facts() -> dict[str, dict[str, list[str]]]:
    """Return ``{namespace: {"images", "containers", "running"}}`` of containerd. Raises EngineError."""
    return {
        space: {
            "images": sorted(ctr("images", "list", "--quiet", namespace=space).split()),
            "containers": sorted(ctr("containers", "list", "--quiet", namespace=space).split()),
            "running": sorted(running_tasks(space)),
        }
        for space in namespaces()
    }


def namespaces() -> list[str]:
    """Return containerd's namespaces. Raises EngineError."""
    return ctr("namespaces", "list", "--quiet").split()


def running_tasks(namespace: str) -> list[str]:
    """Return the containers of a containerd namespace that have a living process."""
    rows = ctr("tasks", "list", namespace=namespace).splitlines()[1:]
    return [row.split()[0] for row in rows if row.split()[-1:] == ["RUNNING"]]


def end_tasks(namespace: str, signal: str, tasks: Sequence[str]) -> None:
    """Send every process of some containers a signal; those that are gone are fine.

    The first process by itself: with it go all others of its pid namespace, and where a container's
    cgroup is not where runc looks for it, ``--all`` reaches none and says nothing.
    """
    for task in tasks:
        ctr("tasks", "kill", "--signal", signal, task, namespace=namespace, check=False)
        ctr("tasks", "kill", "--all", "--signal", signal, task, namespace=namespace, check=False)


def forget_all(namespace: str) -> None:
    """Let go of the ended processes of a namespace, and with them of the mounts that they had."""
    for task in ctr("tasks", "list", "--quiet", namespace=namespace).split():
        ctr("tasks", "delete", "--force", task, namespace=namespace, check=False)


def start_task(namespace: str, container: str) -> None:
    """Start a container that was made with ``ctr`` again. Raises EngineError.

    A start that was cut off leaves a process that is made and does not run, or a shim without one;
    containerd takes a moment to clear them away, and both are in the way of the next start.
    """
    began = time.monotonic()
    while True:
        ctr("tasks", "delete", "--force", container, namespace=namespace, check=False)
        try:
            ctr("tasks", "start", "--detach", container, namespace=namespace)
            return
        except EngineError as exc:
            in_the_way = "exists" in str(exc)
            if time.monotonic() - began > (_AGAIN_SECONDS if in_the_way else _FAILED_SECONDS):
                raise
        if in_the_way and time.monotonic() - began > _SHIM_SECONDS:
            _end_shim(namespace, container)
        time.sleep(_POLL_SECONDS)


def _end_shim(namespace: str, container: str) -> None:
    """Kill the shim of a container of ours that has no running process."""
    wanted = ["-namespace", namespace, "-id", container]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text(errors="replace").split("\0")
            if "containerd-shim" in words[0] and words[1:5] == wanted:
                os.kill(int(path.parent.name), signal.SIGKILL)


# --- before and after ---------------------------------------------------------------------------


def lost(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what an engine had and has no more, in words.

    before, after
        ``{"docker": docker_facts() or None, "containerd": containerd_facts() or None}``.
    """
    missing = []
    if before.get("docker") and after.get("docker"):
        missing += _lost_docker(before["docker"], after["docker"])
    for space, had in (before.get("containerd") or {}).items():
        has = (after.get("containerd") or {}).get(space, {})
        # Docker makes and removes its containers there itself.
        kinds = ("images",) if space == "moby" else ("images", "containers")
        for kind in kinds:
            gone = sorted(set(had[kind]) - set(has.get(kind, [])))
            if gone:
                missing.append(f"{kind} of containerd in {space}: {', '.join(gone)}")
    return missing


def _lost_docker(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    missing = []
    for kind in ("images", "volumes"):
        gone = sorted(set(before[kind]) - set(after[kind]))
        if gone:
            missing.append(f"{kind} of docker: {', '.join(gone)}")
    for identifier, had in before["containers"].items():
        has = after["containers"].get(identifier)
        if had["temporary"]:
            continue
        if has is None:
            missing.append(f"docker's container {had['name']}")
        elif (has["policy"], has["image"]) != (had["policy"], had["image"]):
            missing.append(f"the restart policy or image of docker's container {had['name']}")
    return missing
