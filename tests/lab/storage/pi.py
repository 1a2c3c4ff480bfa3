#!/usr/bin/python3
"""On the node: make containers with data, say what is there, cut a move off at a given point.

seed        an image, volumes with hard links, extended attributes, devices and holes, running and
            stopped containers of docker's, a container of containerd's
facts       all of it as JSON: checksums, attributes, owners, links; what runs
roots       the folders that the running engines use
revive      start what nobody starts at boot: containers without a restart policy
kills N SEED  move to and fro, killing the move at N random times, and compare each time (Salt's Python)
run WHEN COMMAND…   start a command and kill it with all its children as soon as the journal tells of
            a phase ("begun" is any), or so many seconds later: PHASE+SECONDS
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TARGET = "/srv/containers"
ANSWER = Path("/run/move-answer")
LOG = Path("/run/kills.json")
JOURNAL = Path("/var/lib/saltberry/container-storage/journal.json")
ACKNOWLEDGED = Path("/srv/acknowledged")
PROGRAMS = ("sh", "sleep", "cat", "tail", "mv", "ls")
# Counts on for ever, and tells somewhere else what it has written, so that a lost line shows.
WRITER = """
n=$(tail -n 1 /data/sequence 2>/dev/null); n=${n:-0}
trap 'exit 0' TERM
while :; do
    n=$((n + 1)); echo $n >>/data/sequence
    echo $n >/acknowledged/new && mv /acknowledged/new /acknowledged/last
    sleep 0.2 & wait
done
"""


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


def seed() -> None:
    root = Path("/root/image")
    for name in ("bin", "data", "acknowledged", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    needed = set()
    for program in PROGRAMS:
        path = f"/bin/{program}"
        run("cp", "-L", path, str(root / "bin" / program))
        for word in run("ldd", path).split():
            if word.startswith("/"):
                needed.add(word)
    for library in needed:
        (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        run("cp", "-L", library, str(root / library.lstrip("/")))
    run("sh", "-c", "tar -C /root/image -c . | docker import - lab/tools:1")
    ACKNOWLEDGED.mkdir(exist_ok=True)
    run("docker", "volume", "create", "data")
    run("docker", "volume", "create", "counted")
    fill(Path(docker_root()) / "volumes/data/_data")
    idle = "trap 'exit 0' TERM; while :; do sleep 60 & wait; done"
    quiet = ("--network", "none")
    run("docker", "run", "-d", *quiet, "--name", "always", "--restart", "always", "-v", "data:/data",
        "lab/tools:1", "sh", "-c", idle)  # fmt: skip
    run("docker", "run", "-d", *quiet, "--name", "writer", "--restart", "unless-stopped", "-v", "counted:/data",
        "-v", f"{ACKNOWLEDGED}:/acknowledged", "lab/tools:1", "sh", "-c", WRITER)  # fmt: skip
    # No policy: docker itself would leave it stopped.
    run("docker", "run", "-d", *quiet, "--name", "plain", "-v", "data:/data", "lab/tools:1", "sh", "-c",
        f"echo inside >/tmp/written; {idle}")  # fmt: skip
    run(
        "docker",
        "run",
        *quiet,
        "--name",
        "stopped",
        "lab/tools:1",
        "sh",
        "-c",
        "echo layer >/tmp/own",
    )
    run("sh", "-c", "docker save lab/tools:1 | ctr -n lab images import -")
    run("ctr", "-n", "lab", "run", "-d", "docker.io/lab/tools:1", "kept", "sh", "-c",
        f"echo containerd >/tmp/written; {idle}")  # fmt: skip


def fill(folder: Path) -> None:
    """Everything that a copy may lose."""
    for number in range(200):
        (folder / f"d{number % 20}").mkdir(exist_ok=True)
        (folder / f"d{number % 20}/f{number}").write_bytes(os.urandom(number * 37 % 9000))
    big = folder / "big"
    big.write_bytes(os.urandom(12 << 20))
    os.link(big, folder / "d1/linked")
    os.link(folder / "d2/f2", folder / "d3/linked")
    (folder / "d4/link").symlink_to("../big")
    (folder / "d4/dangling").symlink_to("/nowhere")
    os.chown(folder / "d5/f5", 4711, 4712)
    (folder / "d6/f6").chmod(0o4750)
    os.setxattr(folder / "d7/f7", "user.note", b"kept")
    os.setxattr(folder / "d7", "trusted.overlay.opaque", b"y")
    os.setxattr(folder / "d8/f8", "security.capability",
                bytes.fromhex("0100000200040000000000000000000000000000"))  # fmt: skip
    os.mknod(folder / "d9/whiteout", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    os.mkfifo(folder / "d9/pipe")
    (folder / "d10/räum\n\\ \u2603").write_text("a name")
    with (folder / "d11/holes").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"in the middle")
    os.utime(folder / "d12/f12", ns=(1_000_000_000_123_456_789, 1_000_000_000_123_456_789))
    (folder / "empty").mkdir()


def docker_root() -> str:
    return str(json.loads(ask("/info"))["DockerRootDir"])


def roots() -> dict[str, str]:
    pid = run("systemctl", "show", "-p", "MainPID", "--value", "containerd").strip()
    opened = ""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            path = str(link.readlink())
            if path.endswith("io.containerd.metadata.v1.bolt/meta.db"):
                opened = str(Path(path).parents[1])
    return {"docker": docker_root(), "containerd": opened}


def tree(root: Path) -> dict[str, list[object]]:
    """Every name with all that is known of it; inode numbers as the first name that has one."""
    found: dict[str, list[object]] = {}
    first: dict[int, str] = {}
    for folder, names, files in os.walk(root):
        names.sort()
        for name in sorted([*names, *files]):
            path = Path(folder) / name
            info = path.lstat()
            relative = str(path.relative_to(root))
            digest = ""
            if stat.S_ISREG(info.st_mode):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                digest = str(path.readlink())
            attributes = {key: os.getxattr(path, key, follow_symlinks=False).hex()
                          for key in sorted(os.listxattr(path, follow_symlinks=False))}  # fmt: skip
            size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
            same = (
                first.setdefault(info.st_ino, relative) if info.st_nlink > 1 and size else relative
            )
            sparse = info.st_blocks * 512 < info.st_size
            found[relative] = [info.st_mode, info.st_uid, info.st_gid, size, info.st_mtime_ns, info.st_rdev,
                               same, sparse, attributes, digest]  # fmt: skip
    return found


class Docker(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/run/docker.sock")


def ask(path: str) -> bytes:
    connection = Docker("docker")
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        sys.exit(f"{path}: {text.decode()}")
    return text


def inside(pid: object, path: str) -> str:
    """A file as a running container sees it."""
    return Path(f"/proc/{pid}/root{path}").read_text()


def facts() -> dict[str, object]:
    root = Path(docker_root())
    ids = [entry["Id"] for entry in json.loads(ask("/containers/json?all=1"))]
    shown = {
        entry["Name"]: entry for entry in (json.loads(ask(f"/containers/{i}/json")) for i in ids)
    }
    containers = {
        name: [entry["State"]["Running"], entry["HostConfig"]["RestartPolicy"]["Name"],
               entry["Image"], sorted(mount.get("Name", "") for mount in entry["Mounts"])]
        for name, entry in sorted(shown.items())
    }  # fmt: skip
    text = json.dumps(tree(root / "volumes/data/_data"), sort_keys=True)
    tasks = [row.split() for row in run("ctr", "-n", "lab", "tasks", "ls").splitlines()[1:]]
    return {
        "containers": containers,
        "images": sorted(image["Id"] for image in json.loads(ask("/images/json?all=1"))),
        "volumes": sorted(volume["Name"] for volume in json.loads(ask("/volumes"))["Volumes"]),
        "data": hashlib.sha256(text.encode()).hexdigest(),
        "names": len(json.loads(text)),
        "layers": [
            hashlib.sha256(ask("/containers/stopped/archive?path=/tmp/own")).hexdigest(),
            shown["/plain"]["State"]["Pid"] and inside(shown["/plain"]["State"]["Pid"], "/tmp/written"),
            [inside(pid, "/tmp/written") for _, pid, state in tasks if state == "RUNNING"],
        ],
        "containerd": [run("ctr", "-n", "lab", "images", "ls", "-q"),
                       run("ctr", "-n", "lab", "containers", "ls", "-q"),
                       [task[0::2] for task in tasks]],
    }  # fmt: skip


def revive() -> None:
    run("docker", "start", "plain")
    if "RUNNING" not in run("ctr", "-n", "lab", "tasks", "ls"):
        subprocess.run(["ctr", "-n", "lab", "tasks", "rm", "kept"], capture_output=True)
        run("ctr", "-n", "lab", "tasks", "start", "--detach", "kept")


def sequence() -> dict[str, object]:
    """Is every line there that the writer said it had written?"""
    acknowledged = int((ACKNOWLEDGED / "last").read_text())
    path = Path(docker_root()) / "volumes/counted/_data/sequence"
    lines = [int(line) for line in path.read_text().split()]
    return {
        "acknowledged": acknowledged, "last": lines[-1],
        "whole": lines == list(range(1, len(lines) + 1)) and lines[-1] >= acknowledged,
    }  # fmt: skip


def phase() -> str:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(JOURNAL.read_text())["phase"]
    return ""


def cut(when: str, command: list[str]) -> dict[str, object]:
    """Kill a command with its children at a point; say where it was."""
    name, _, more = when.partition("+")
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        while process.poll() is None and phase() != name and not (name == "begun" and phase()):
            time.sleep(0.001)
        began = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(float(more or 0))
        ended = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return {"phase": phase(), "ended": ended, "seconds": round(time.monotonic() - began, 2)}


def begin(call: Callable[..., object], target: str) -> int:
    """Move in a process group of its own, as a minion's job is; its answer goes to a file."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    code = 1
    try:
        ANSWER.write_text(json.dumps(call("container_storage.migrate", target)))
        code = 0
    except BaseException as exc:
        ANSWER.write_text(str(exc))
    finally:
        os._exit(code)


def ended(child: int, seconds: float) -> bool:
    """Wait for a child; whether it has ended in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.002)
    return False


def kill_at(call: Callable[..., object], target: str, seconds: float) -> str | None:
    """Kill a move so many seconds after it began; its phase, or None when it was quicker."""
    child = begin(call, target)
    while not phase():
        if ended(child, 0.003):
            return None
    if ended(child, seconds):
        return None
    seen = phase() or "closed"
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return seen


def whole(call: Callable[..., object], target: str) -> float:
    """Move without a cut; seconds."""
    began = time.monotonic()
    child = begin(call, target)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"the move to {target} that should have finished: {ANSWER.read_text()}")
    return time.monotonic() - began


def kills(count: str, seed: str) -> dict[str, object]:
    import salt.client
    import salt.config

    caller = salt.client.Caller(mopts=salt.config.minion_config("/etc/salt/minion"))
    call = caller.cmd
    call("container_storage.status")
    chance = random.Random(seed)
    before = facts()
    longest = whole(call, aside()[0])
    seen: dict[str, int] = {}
    twice = 0
    while sum(seen.values()) < int(count):
        target, wanted = aside()
        name = kill_at(call, target, chance.uniform(0, longest))
        if name is None:
            longest *= 0.9
        else:
            seen[name] = seen.get(name, 0) + 1
            if sum(seen.values()) % 4 == 0:
                # The run that finishes what was killed is killed as well.
                twice += kill_at(call, target, chance.uniform(0, longest)) is not None
        longest = (3 * longest + whole(call, target)) / 4
        if roots() != wanted:
            sys.exit(f"after a kill in {name}: on {roots()} instead of {wanted}")
        if (now := facts()) != before:
            sys.exit(f"after a kill in {name}: {now} instead of {before}")
        if not sequence()["whole"]:
            sys.exit(f"after a kill in {name}: lines were lost, {sequence()}")
        LOG.write_text(json.dumps({"kills": sum(seen.values()), "by phase": seen, "twice": twice}))
    return {"kills": sum(seen.values()), "by phase": seen, "twice": twice}


def aside() -> tuple[str, dict[str, str]]:
    """Where the data is not: the target, and the folders that the engines then use."""
    local = {engine: f"/var/lib/{engine}" for engine in ("docker", "containerd")}
    if roots() == local:
        return TARGET, {engine: f"{TARGET}/{engine}" for engine in local}
    return "local", local


PROGRAMME: dict[str, Callable[..., object]] = {
    "seed": seed, "facts": facts, "roots": roots, "sequence": sequence, "revive": revive, "kills": kills,
}  # fmt: skip


def main() -> None:
    what, *argv = sys.argv[1:]
    answer = cut(argv[0], argv[1:]) if what == "run" else PROGRAMME[what](*argv)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
