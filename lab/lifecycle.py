"""Bringing a rack up, plugging Pis in, and waiting for what then happens by itself."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from lab import artifacts, doctor, podman
from lab.artifacts import Artifacts
from lab.podman import Node
from lab.progress import Progress
from lab.rack import (
    BOOT,
    CHECKOUT,
    CONTROL_PLANE,
    MASTER,
    MIRROR,
    PILLAR,
    REPO,
    STATE,
    Rack,
    RackError,
    all_racks,
    check_name,
    describe,
    wait_for,
    with_role,
)

FIRST_NODES = (CONTROL_PLANE, "pi-01")
# Far beyond what a busy machine needs; the reason is shown while one waits.
READY_SECONDS = 900
# What the install scripts say themselves, among the words of what they call.
SPOKEN = re.compile(r"(?:master|minion|wheelhouse): (.*)")
STAGES = ("card", "boot", "install", "preflight", "states", "join", "ready")
KUBECTL = ("kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf")


def prepare(cache: Path, progress: Progress, upstream: bool = False) -> Artifacts:
    """Install what this machine lacks and build what is not cached.

    Raises:
        RackError: this machine can't carry a rack; with what is wrong and the fix.
    """
    fatal = [finding for finding in doctor.examine(cache) if finding.fatal]
    if fatal:
        raise RackError("\n".join(f"{finding.text}; {finding.fix}" for finding in fatal))
    if doctor.missing_packages():
        with progress.step(f"installing {', '.join(doctor.missing_packages())}"):
            doctor.install_packages()
    doctor.raise_limits()
    return artifacts.ensure(cache, progress, upstream=upstream)


def up(
    name: str,
    cache: Path,
    progress: Progress,
    *,
    upstream: bool = False,
    only: list[str] | None = None,
) -> Rack:
    """Bring a rack up: nfs1 through its own install command, then the first Pis by their cards.

    Args:
        name: the rack's name.
        cache: where built things are kept between racks.
        only: plug in just these Pis after nfs1 (default: cp1 and pi-01).

    Returns:
        The rack, its first Pis Ready.
    """
    built = prepare(cache, progress, upstream)
    image = f"localhost/saltberry-node:{built.node_root.parent.name}"
    if not podman.exists("image", image):
        with progress.step("making the node image"):
            podman.import_image(built.node_root, image)
    rack = Rack.load(name) or Rack.create(name, image, built, upstream)
    podman.create_network(rack.network, rack.subnet, internal=not upstream)
    bring_up_master(rack, built, progress)
    wanted = FIRST_NODES if only is None else [node for node in only if node != MASTER]
    for node in wanted:
        plug(rack, node, progress)
    for node in wanted:
        wait_ready(rack, node, progress)
    return rack


def bring_up_master(rack: Rack, built: Artifacts, progress: Progress) -> None:
    """nfs1: a blank Pi with the checkout on it, then the command a user would run there."""
    new = MASTER not in rack.nodes
    if new:
        with progress.step(f"{MASTER}: boot") as step:
            mounts = {
                built.mirror: f"{MIRROR}:ro", rack.boot_partition(MASTER): BOOT, **rack.share(MASTER),
            }  # fmt: skip
            node = rack.add(MASTER, mounts)
            # It is the mirror: its own packages come from its disk.
            _set_apt_source(rack, node, f"file:{MIRROR}")
            node.power_on()
            _mark(rack, MASTER, "boot", step.seconds)
    elif not rack.master.running():
        with progress.step(f"{MASTER}: power on"):
            power(rack, MASTER)
    with progress.step(f"{MASTER}: install/master.sh") as step:
        push_checkout(rack)
        _stream(rack.master, ["bash", f"{REPO}/install/master.sh"], step.note)
        if new:
            _mark(rack, MASTER, "install", step.seconds)


def push_checkout(rack: Rack) -> None:
    """Put this checkout on nfs1 as `git clone` would, and a pillar unless there is one."""
    listed = subprocess.run(
        ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True,
    ).stdout.split(b"\0")  # fmt: skip
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in filter(None, (entry.decode() for entry in listed)):
            if (CHECKOUT / name).is_symlink() or (CHECKOUT / name).exists():
                tar.add(CHECKOUT / name, arcname=name, recursive=False)
    rack.master.copy_tree(archive.getvalue(), REPO)
    if rack.master.run("test", "-e", PILLAR, check=False).returncode:
        rack.master.write(PILLAR, describe(rack))


def plug(rack: Rack, name: str, progress: Progress, *, role: str | None = None) -> None:
    """Plug a new Pi in: its card is made on nfs1, then it gets power. Nothing else is done to it.

    Raises:
        RackError: the pillar that would result is refused (unknown role, a second control plane).
    """
    if name in rack.nodes and rack.node(name).exists():
        if not rack.node(name).running():
            with progress.step(f"{name}: power on"):
                power(rack, name)
        return
    check_name("node", name)
    if role is not None:
        _name_in_pillar(rack, name, role)
    node = insert_card(rack, name, progress)
    with progress.step(f"{name}: boot") as step:
        _mark(rack, name, "plugged", time.time())
        node.power_on()
        _mark(rack, name, "boot", step.seconds)


def insert_card(rack: Rack, name: str, progress: Progress) -> Node:
    """Put a new Pi into the rack, with its card, and without power."""
    with progress.step(f"{name}: card") as step:
        boot = rack.boot_partition(name)
        node = rack.add(name, {boot: BOOT, **rack.share(name)})
        _set_apt_source(rack, node, f"http://{rack.master_ip}")
        write_card(rack, name, boot)
        _mark(rack, name, "card", step.seconds)
    return node


def write_card(rack: Rack, name: str, boot: Path) -> None:
    """Have the master make the card, and carry it over as one carries an SD card."""
    staging = f"/run/saltberry-cards/{name}"
    rack.master.run("install", "-d", "-m", "0700", staging)
    rack.master.run("salt-run", "enrol.card", name, f"target={staging}", "force=True")
    try:
        podman.podman("cp", f"{rack.master.container}:{staging}/.", str(boot))
    finally:
        rack.master.run("rm", "-rf", staging)


def power(rack: Rack, name: str) -> None:
    """Give a Pi its power back (nothing happens when it has it)."""
    node = rack.node(name)
    if not node.running():
        node.power_on()


def wait_ready(rack: Rack, name: str, progress: Progress) -> None:
    """Wait until the API server calls the node Ready; show how far the rack is meanwhile."""
    with progress.step(f"{name}: joins by itself"):
        wait_for(
            f"{name} becoming Ready", lambda: (is_ready(rack, name), _how_far(rack, name)),
            progress, READY_SECONDS,
        )  # fmt: skip
        plugged = _marks(rack, name).get("plugged")
        if plugged and "total" not in _marks(rack, name):
            _mark(rack, name, "total", time.time() - plugged)


def is_ready(rack: Rack, name: str) -> bool:
    """Whether the API server says so, now."""
    done = rack.node(CONTROL_PLANE).run(
        *KUBECTL, "get", "node", name, "-o", "json", "--request-timeout=5s", check=False
    )
    if done.returncode:
        return False
    conditions = json.loads(done.stdout).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def prove_pod(rack: Rack, name: str, progress: Progress) -> None:
    """Run a pod on the node and ask it, from the control plane, who it is.

    Raises:
        RackError: it did not answer; with the pod's last state.
    """
    pod = f"hello-{name}"
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod, "labels": {"app": "hello"}},
        "spec": {
            "nodeName": name,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "web",
                    "image": f"{rack.master_ip}:5000/busybox:lab",
                    "command": ["busybox", "sh", "-c"],
                    "args": ["hostname > /index.html; exec busybox httpd -f -p 8080 -h /"],
                }
            ],
        },
    }
    control = rack.node(CONTROL_PLANE)
    with progress.step(f"{name}: a pod answers from {CONTROL_PLANE}"):
        control.run(*KUBECTL, "apply", "-f", "-", stdin=json.dumps(manifest).encode())

        def ask() -> tuple[bool, str]:
            done = control.run(*KUBECTL, "get", "pod", pod, "-o", "json", check=False)
            status = json.loads(done.stdout).get("status", {}) if done.returncode == 0 else {}
            address = status.get("podIP")
            if not address:
                return False, f"pod is {status.get('phase', 'unknown')}"
            said = control.run("curl", "-s", "-m", "2", f"http://{address}:8080/", check=False)
            return said.stdout.strip() == pod, f"{address} says {said.stdout.strip()!r}"

        wait_for(f"an answer of pod {pod}", ask, progress, 120)
        control.run(*KUBECTL, "delete", "pod", pod, "--wait=false")


def stages(rack: Rack, entry: dict[str, Any]) -> dict[str, float]:
    """Seconds of each stage of a node's way into the rack, as far as known."""
    marks = {
        stage: value for stage, value in _marks(rack, entry["id"]).items() if stage != "plugged"
    }
    total = marks.pop("total", None)
    found = {**marks, **(entry.get("seconds") or {})}
    ordered = {stage: found[stage] for stage in STAGES if stage in found}
    return {**ordered, "in all": total} if total else ordered


def clean(cache: Path, progress: Progress) -> None:
    """Remove all racks, images and caches."""
    for rack in all_racks():
        with progress.step(f"rack {rack.name}: taken apart"):
            rack.remove()
    with progress.step("caches and images removed"):
        listed = podman.podman(
            "images", "-q", "--filter", "reference=localhost/saltberry-*", check=False
        )
        for image in set(listed.split()):
            podman.podman("rmi", "--force", image, check=False)
        artifacts.remove(cache)
        subprocess.run(["rm", "-rf", str(STATE)], check=True)


def _how_far(rack: Rack, name: str) -> str:
    """The master's last word on a node, read from its record (cheap enough to ask each second)."""
    done = rack.master.run("cat", "/var/lib/saltberry/attempts.json", check=False)
    try:
        record = json.loads(done.stdout)[name]
    except (ValueError, KeyError):
        return "installs Salt and registers"
    if record.get("running"):
        return str(record.get("stage") or "begins")
    return str(record.get("reason") or record.get("stage") or "")


def _name_in_pillar(rack: Rack, name: str, role: str) -> None:
    """Write the node's role to the pillar, unless the master refuses the rack that results."""
    before = rack.master.run("cat", PILLAR).stdout
    # What a person wrote there since stays, comments too
    rack.master.write(PILLAR, with_role(before, name, role))
    done = rack.master.run("salt-run", "rack.validate", check=False)
    if done.returncode:
        rack.master.write(PILLAR, before)
        raise RackError(done.stdout.strip() or done.stderr.strip())
    rack.roles[name] = role
    rack.save()


def _set_apt_source(rack: Rack, node: Node, mirror: str) -> None:
    """Point apt to the mirror; a rack with internet gets Debian's own and a name server."""
    node.write("/etc/apt/sources.list", rack.apt_source.replace("@MIRROR@", mirror) + "\n")
    if rack.upstream:
        node.write("/etc/resolv.conf", Path("/etc/resolv.conf").read_text())


def _stream(node: Node, argv: list[str], say: Any) -> None:
    """Run an install script in a node, passing on what it says itself; fail with its last lines."""
    lines: list[str] = []
    with subprocess.Popen(
        node.command(argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if spoken := SPOKEN.match(line):
                say(spoken[1][:100])
    if process.returncode:
        tail = "\n".join(lines[-20:])
        raise RackError(f"{node.id}: `{' '.join(argv)}` ended with {process.returncode}:\n{tail}")


def _marks_path(rack: Rack) -> Path:
    return rack.directory / "seconds.json"


def _marks(rack: Rack, node: str) -> dict[str, float]:
    try:
        return json.loads(_marks_path(rack).read_text()).get(node, {})
    except FileNotFoundError:
        return {}


def _mark(rack: Rack, node: str, stage: str, seconds: float) -> None:
    path = _marks_path(rack)
    everything = json.loads(path.read_text()) if path.exists() else {}
    everything.setdefault(node, {})[stage] = seconds
    path.write_text(json.dumps(everything))
