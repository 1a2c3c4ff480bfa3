"""Container data moves to another disk: real docker, real containerd, and the plug pulled anywhere.

SALTBERRY_KILLS says at how many random times the move is killed (default 6).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.cli import CACHE
from lab.progress import Progress
from tests.lab.conftest import NAME
from tests.lab.storage_node import TARGET, StorageNode, image

KILLS = int(os.environ.get("SALTBERRY_KILLS", "6"))
LOCAL = {"docker": "/var/lib/docker", "containerd": "/var/lib/containerd"}
MOVED = {"docker": f"{TARGET}/docker", "containerd": f"{TARGET}/containerd"}
MIGRATE = ("salt-call", "--local", "container_storage.migrate")
PHASES = (
    "planned",
    "copying",
    "stopping",
    "final",
    "verifying",
    "switching",
    "starting",
    "checking",
)
BREAK = "/etc/systemd/system/docker.service.d/broken.conf"


@pytest.fixture(scope="module")
def pi(progress: Progress) -> Iterator[StorageNode]:
    if os.geteuid() != 0:
        pytest.fail("lab tests make privileged containers: run `sudo make test`")
    node = StorageNode.make(image(CACHE, progress), f"{NAME}-storage")
    try:
        node.wait_engines()
        node.pi("seed")
        yield node
    finally:
        node.remove()


@pytest.fixture(scope="module")
def before(pi: StorageNode) -> dict[str, Any]:
    """What is there, before anything is moved."""
    return pi.facts()


@pytest.fixture
def home(pi: StorageNode, before: dict[str, Any]) -> Iterator[StorageNode]:
    """The node with its data where the engines have it by default, and nothing left over."""
    go_home(pi)
    yield pi
    # Containers that a test has restarted docker under may still be on their way.
    deadline = time.monotonic() + 60
    while (now := pi.facts()) != before and time.monotonic() < deadline:
        time.sleep(1)
    assert now == before


def go_home(pi: StorageNode) -> None:
    pi.run("rm", "-f", BREAK, "/usr/local/bin/rsync")
    pi.run("systemctl", "daemon-reload")
    pi.move("local")
    pi.call("container_storage.purge")
    # An empty folder for drop-ins says nothing; a move back takes it away, a test that left it does not.
    pi.run("sh", "-c", f"rmdir {Path(BREAK).parent} 2>/dev/null", check=False)
    assert pi.roots() == LOCAL


def healthy(pi: StorageNode, before: dict[str, Any], roots: dict[str, str]) -> None:
    """All is there, byte for byte, on these folders; nothing that was written is lost."""
    assert pi.roots() == roots
    assert pi.facts() == before
    written = pi.pi("sequence")
    assert written["whole"], written


def configuration(pi: StorageNode) -> str:
    """All files that a move may change, and the processes of the engines."""
    script = (
        "cat /etc/docker/daemon.json /etc/containerd/config.toml /etc/systemd/system/*.d/*.conf 2>/dev/null;"
        "systemctl show -p MainPID docker containerd; ls -a /srv/containers /etc/systemd/system"
    )
    return pi.run("sh", "-c", script, check=False).stdout


def target_of(pi: StorageNode) -> tuple[str, dict[str, str]]:
    """Where the data is not."""
    return (TARGET, MOVED) if pi.roots() == LOCAL else ("local", LOCAL)


# --- the move -----------------------------------------------------------------------------------


def test_the_data_moves_byte_for_byte_and_containers_come_back(
    home: StorageNode, before: dict[str, Any]
) -> None:
    told = home.state("container_storage.managed", f"name={TARGET}", "test=True")
    assert told["result"] is None
    assert told["changes"]["docker"] == {"old": LOCAL["docker"], "new": MOVED["docker"]}
    for word in (
        "bytes in",
        "free",
        "docker.socket",
        "docker.service",
        "containerd.service",
        "writer",
    ):
        assert word in told["comment"]
    assert home.roots() == LOCAL
    done = home.state("container_storage.managed", f"name={TARGET}")
    assert done["result"] is True, done["comment"]
    healthy(home, before, MOVED)
    again = home.state("container_storage.managed", f"name={TARGET}")
    assert (again["result"], again["changes"]) == (True, {})
    assert home.call("container_storage.verify") == {"ok": True, "problems": []}
    old = {entry["path"] for entry in home.call("container_storage.status")["old_roots"]}
    assert old == set(LOCAL.values())


def test_old_folders_go_only_on_request_and_not_while_a_container_mounts_them(
    home: StorageNode,
) -> None:
    home.move(TARGET)
    home.run(
        "docker",
        "create",
        "--name",
        "binder",
        "-v",
        "/var/lib/docker/volumes:/old",
        "lab/tools:1",
        "ls",
    )
    refusal = home.call("container_storage.purge", check=False)
    home.run("docker", "rm", "binder")
    assert "the container binder mounts /var/lib/docker/volumes" in refusal
    shown = ("-o", "type=none", "-o", "o=bind", "-o", "device=/var/lib/docker/volumes")
    home.run("docker", "volume", "create", *shown, "shown")
    # docker need not run to need it
    home.run("systemctl", "stop", "docker.socket", "docker.service")
    refusal = home.call("container_storage.purge", check=False)
    home.run("systemctl", "start", "docker.socket", "docker.service")
    home.run("docker", "start", "plain")
    home.run("docker", "volume", "rm", "shown")
    assert "the volume shown mounts /var/lib/docker/volumes" in refusal
    home.run("mkdir", "/var/lib/containerd/held")
    holder = home.run(
        "sh", "-c", "cd /var/lib/containerd/held; sleep 300 >/dev/null 2>&1 & echo $!"
    ).stdout.strip()
    refusal = home.call("container_storage.purge", check=False)
    home.run("kill", holder)
    assert "/var/lib/containerd is in use: sleep" in refusal
    assert home.run("ls", "/var/lib/docker").stdout
    done = home.state("container_storage.purged", "name=old")
    assert done["result"] is True, done["comment"]
    assert not home.run("ls", "/var/lib/docker").stdout
    assert home.state("container_storage.purged", "name=old")["changes"] == {}


def test_what_was_written_since_goes_along_when_the_move_is_rolled_back(home: StorageNode) -> None:
    home.move(TARGET)
    home.run("docker", "exec", "always", "sh", "-c", "echo late >/data/late")
    home.call("container_storage.rollback")
    assert home.roots() == LOCAL
    assert home.run("docker", "exec", "always", "cat", "/data/late").stdout == "late\n"
    home.run("rm", "/var/lib/docker/volumes/data/_data/late")


def test_a_folder_given_on_the_command_line_is_taken_over_and_other_settings_stay(
    home: StorageNode, before: dict[str, Any]
) -> None:
    settings = '{\n    "log-opts": {"max-size": "9m"},\n    "log-driver": "json-file"\n}\n'
    drop_in = "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --data-root /srv/scratch/docker\n"
    toml = home.run("cat", "/etc/containerd/config.toml").stdout
    home.run("systemctl", "stop", "docker.socket", "docker.service")
    home.run("rsync", "-aHAXS", "/var/lib/docker/", "/srv/scratch/docker/")
    home.run("mkdir", "-p", "/etc/systemd/system/docker.service.d")
    home.write("/etc/systemd/system/docker.service.d/override.conf", drop_in)
    home.write("/etc/docker/daemon.json", settings)
    home.run("systemctl", "daemon-reload")
    home.run("systemctl", "start", "docker.socket", "docker.service")
    home.run("docker", "start", "plain")
    try:
        assert home.roots()["docker"] == "/srv/scratch/docker"
        home.move(TARGET)
        healthy(home, before, MOVED)
        now = home.run("cat", "/etc/docker/daemon.json").stdout
        assert now == settings.replace(
            '"json-file"\n', f'"json-file",\n    "data-root": "{TARGET}/docker"\n'
        )
        moved = home.run("cat", "/etc/containerd/config.toml").stdout
        assert moved == toml.replace(
            "version = 2\n", f'version = 2\nroot = "{TARGET}/containerd"\n'
        )
        command = home.run("systemctl", "show", "-p", "ExecStart", "docker").stdout
        assert "--data-root" not in command
    finally:
        # /var/lib/docker holds the stale data that the test has left there
        home.run("sh", "-c", "rm -rf /var/lib/docker/*")
        home.run("rm", "-f", "/etc/systemd/system/docker.service.d/override.conf")
        home.run("systemctl", "daemon-reload")
        home.call("container_storage.purge")
        home.move("local")
        home.run("rm", "-f", "/etc/docker/daemon.json")


def test_what_a_person_sets_while_a_move_is_cut_off_is_there_after_it(
    home: StorageNode, before: dict[str, Any]
) -> None:
    seen = home.pi("run", "copying", *MIGRATE, TARGET)
    assert not seen["ended"], seen
    home.write("/etc/docker/daemon.json", '{"log-level": "warn"}\n')
    home.move(TARGET)
    healthy(home, before, MOVED)
    now = json.loads(home.run("cat", "/etc/docker/daemon.json").stdout)
    assert now == {"log-level": "warn", "data-root": MOVED["docker"]}
    home.move("local")
    assert json.loads(home.run("cat", "/etc/docker/daemon.json").stdout) == {"log-level": "warn"}
    home.run("rm", "/etc/docker/daemon.json")
    home.run("systemctl", "restart", "docker")
    home.run("docker", "start", "plain")
    home.wait_engines()


def test_containers_that_outlive_docker_are_stopped_for_the_move_and_come_back(
    home: StorageNode, before: dict[str, Any]
) -> None:
    settings = '{"live-restore": true}\n'
    home.write("/etc/docker/daemon.json", settings)
    home.run("systemctl", "restart", "docker")
    home.run("docker", "start", "plain")
    home.move(TARGET)
    healthy(home, before, MOVED)
    home.move("local")
    assert home.run("cat", "/etc/docker/daemon.json").stdout == settings
    home.run("rm", "/etc/docker/daemon.json")
    home.run("systemctl", "restart", "docker")
    # docker 20.10 takes its own stop of a container that outlived it for one of the user's
    home.run("docker", "start", "plain", "writer")
    home.wait_engines()


# --- killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_each_phase_the_next_run_finishes(
    pi: StorageNode, before: dict[str, Any], phase: str
) -> None:
    target, roots = target_of(pi)
    seen = pi.pi("run", phase, *MIGRATE, target)
    assert not seen["ended"], seen
    pi.move(target)
    healthy(pi, before, roots)


def test_an_unfinished_move_lets_engines_start_as_often_as_they_are_asked(
    pi: StorageNode, before: dict[str, Any]
) -> None:
    """systemd refuses a unit that is started more than five times in ten seconds, and what needs it."""
    target, roots = target_of(pi)
    seen = pi.pi("run", "copying", *MIGRATE, target)
    assert not seen["ended"], seen
    recover = "saltberry-container-storage-recover.service"
    pi.run("sh", "-c", f"set -e; for n in 1 2 3 4 5 6 7 8 9 10; do systemctl start {recover}; done")
    pi.run("systemctl", "restart", "docker")
    pi.pi("revive")
    pi.move(target)
    healthy(pi, before, roots)


CUT_OFF = """
import random, subprocess, time, salt.config, salt.loader
engines = salt.loader.utils(salt.config.minion_config("/etc/salt/minion"))
for moment in (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2):
    subprocess.run(["ctr", "-n", "lab", "tasks", "delete", "--force", "kept"], capture_output=True)
    start = subprocess.Popen(["ctr", "-n", "lab", "tasks", "start", "--detach", "kept"])
    time.sleep(moment)
    start.kill()
    start.wait()
    engines["container_engines.start_task"]("lab", "kept")
    assert engines["container_engines.running_tasks"]("lab") == ["kept"], moment
"""


def test_a_container_whose_start_was_cut_off_is_started_all_the_same(pi: StorageNode) -> None:
    """containerd then has a shim without a process for some seconds, in the way of the next start."""
    pi.run("/opt/saltberry/salt/bin/python", "-c", CUT_OFF, timeout=300)


@pytest.mark.timeout(600 + 120 * KILLS)
def test_killed_at_random_times_the_data_is_whole_on_one_side_or_the_other(
    pi: StorageNode, before: dict[str, Any]
) -> None:
    seed = os.environ.get("SALTBERRY_SEED", "3")
    done = pi.run("/opt/saltberry/salt/bin/python", "/usr/local/sbin/pi", "kills", str(KILLS), seed,
                  timeout=120 * KILLS)  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert told["kills"] == KILLS
    healthy(pi, before, pi.roots())


@pytest.mark.parametrize("phase", ["copying", "final", "switching", "starting"])
def test_after_a_power_cut_both_engines_are_on_one_side_before_anybody_does_anything(
    pi: StorageNode, before: dict[str, Any], phase: str
) -> None:
    target, roots = target_of(pi)
    seen = pi.pi("run", phase, *MIGRATE, target)
    assert not seen["ended"], seen
    pi.power_cut()
    pi.power_on()
    pi.wait_engines()
    assert pi.roots() in (LOCAL, MOVED)
    pi.pi("revive")
    pi.move(target)
    healthy(pi, before, roots)


def test_a_power_cut_between_two_configuration_files_never_shows_a_mixed_pair(
    home: StorageNode, before: dict[str, Any]
) -> None:
    """The one window that a kill hardly hits, made by hand: flag there, one of the files new."""
    seen = home.pi("run", "verifying", *MIGRATE, TARGET)
    assert not seen["ended"], seen
    script = """
import json, pathlib
folder = pathlib.Path("/var/lib/saltberry/container-storage")
record = json.loads((folder / "journal.json").read_text())
record["phase"] = "switching"
(folder / "journal.json").write_text(json.dumps(record))
(folder / "switching").write_text("switching")
path = "/etc/docker/daemon.json"
pathlib.Path(path).write_text(record["files"][path]["new"])
"""
    # the copy has to be the last one: nothing may have run since
    home.run("sh", "-c", "rsync -aHAXS --delete /var/lib/docker/ /srv/containers/docker/; "
             "rsync -aHAXS --delete /var/lib/containerd/ /srv/containers/containerd/")  # fmt: skip
    home.run("python3", "-c", script)
    home.power_cut()
    home.power_on()
    home.wait_engines()
    assert home.roots() == MOVED
    home.pi("revive")
    home.move(TARGET)
    healthy(home, before, MOVED)


# --- what goes wrong ----------------------------------------------------------------------------


def test_docker_that_refuses_to_start_on_the_new_folder_is_back_on_the_old_one(
    home: StorageNode, before: dict[str, Any]
) -> None:
    break_docker(home)
    said = home.refused(TARGET)
    assert "docker.service does not start" in said
    assert "was undone" in said
    healthy(home, before, LOCAL)
    state = home.state("container_storage.managed", f"name={TARGET}")
    assert state["result"] is False
    assert "tried again in" in state["comment"]
    home.run("rm", "-f", BREAK)
    home.run("systemctl", "daemon-reload")
    home.move(TARGET)
    healthy(home, before, MOVED)


@pytest.mark.parametrize("phase", ["restoring", "restarting"])
def test_killed_while_it_rolls_back_the_next_run_goes_on_rolling_back(
    home: StorageNode, before: dict[str, Any], phase: str
) -> None:
    break_docker(home)
    seen = home.pi("run", phase, *MIGRATE, TARGET)
    assert not seen["ended"], seen
    home.refused(TARGET)
    healthy(home, before, LOCAL)


def break_docker(pi: StorageNode) -> None:
    """From now on docker does not start where it is told another folder than its own."""
    pi.run("mkdir", "-p", "/etc/systemd/system/docker.service.d")
    pi.write(BREAK, "[Service]\nExecStartPre=/bin/sh -c '! grep -q containers /etc/docker/daemon.json'\n"
                    "RestartSec=1\n")  # fmt: skip
    pi.run("systemctl", "daemon-reload")


def small_disk(pi: StorageNode, size: str) -> str:
    """An ext4 of that size at /srv/small."""
    pi.run("sh", "-c", f"umount /srv/small 2>/dev/null; mkdir -p /srv/small; rm -f /srv/scratch/small; "
           f"truncate -s {size} /srv/scratch/small && mkfs.ext4 -q /srv/scratch/small && "
           "mount -o loop /srv/scratch/small /srv/small")  # fmt: skip
    return "/srv/small"


def test_a_disk_that_is_full_in_the_middle_stops_nothing(home: StorageNode) -> None:
    target = small_disk(home, "24M")
    was = configuration(home)
    # the check beforehand is told to let it pass
    said = home.refused(target, "margin=-20")
    assert "full" in said
    assert configuration(home) == was
    assert home.roots() == LOCAL
    said = home.refused(target)
    assert "are needed" in said
    home.call("container_storage.purge")
    home.run("umount", target)


@pytest.mark.parametrize("number", [1, 3])
def test_rsync_that_fails_leaves_all_as_it_was(
    home: StorageNode, before: dict[str, Any], number: int
) -> None:
    count = "/run/rsync-calls"
    home.run("rm", "-f", count)
    home.write("/usr/local/bin/rsync", f"""#!/bin/sh
echo x >>{count}
[ $(wc -l <{count}) -lt {number} ] || {{ echo 'rsync: a cable was pulled' >&2; exit 12; }}
exec /usr/bin/rsync "$@"
""", "0755")  # fmt: skip
    said = home.refused(TARGET)
    assert "a cable was pulled" in said
    healthy(home, before, LOCAL)


def test_each_bad_target_has_its_own_refusal_and_nothing_changes(home: StorageNode) -> None:
    home.run("sh", "-c", "mkdir -p /srv/scratch/other /srv/scratch/old /srv/scratch/full/docker /srv/ro; "
             "ln -sfn loop2 /srv/scratch/loop1; ln -sfn loop1 /srv/scratch/loop2; touch /srv/scratch/file; "
             "touch /srv/scratch/full/docker/stranger; mkdir -p /srv/system")  # fmt: skip
    home.write(
        "/srv/scratch/other/.saltberry-storage", json.dumps({"node": "pi-07", "machine": "x"})
    )
    home.write("/srv/scratch/old/.saltberry-storage", json.dumps({"node": "pi-01", "machine": "x"}))
    home.run("sh", "-c", "mountpoint -q /srv/ro || { mount --bind /srv/scratch /srv/ro; "
             "mount -o remount,ro,bind /srv/ro; }; "
             "mkdir -p /srv/memory; mountpoint -q /srv/memory || mount -t tmpfs tmpfs /srv/memory")  # fmt: skip
    was = configuration(home)
    expected = {
        "srv/containers": "relative path",
        "/srv/missing": "does not exist",
        "/srv/scratch/loop1": "loop of symbolic links",
        "/srv/scratch/file": "is no folder",
        "/srv/ro": "read-only",
        "/srv/memory": "in memory",
        "/srv/system": "system's own disk",
        "/srv/scratch/other": "container data of pi-07",
        "/srv/scratch/old": "earlier installation of this node",
        "/srv/scratch/full": "have not put there",
        "/var/lib/docker": "lie in each other",
    }
    for target, words in expected.items():
        assert words in home.refused(target), target
    assert "no such engine" in home.refused(TARGET, "engines=[podman]")
    home.run(
        "sh",
        "-c",
        "mkdir -p /var/lib/docker/volumes/disk && mount -t tmpfs tmpfs /var/lib/docker/volumes/disk",
    )
    said = home.refused(TARGET)
    home.run("sh", "-c", "umount /var/lib/docker/volumes/disk; rmdir /var/lib/docker/volumes/disk")
    assert "is mounted at /var/lib/docker/volumes/disk" in said
    assert configuration(home) == was
    home.run("umount", "/srv/ro", "/srv/memory")


def test_docker_that_was_broken_before_is_not_moved(home: StorageNode) -> None:
    home.write("/etc/docker/daemon.json", '{"data-root": ')
    said = home.refused(TARGET)
    assert "daemon.json cannot be used" in said
    assert "repair it first" in said
    home.run("rm", "/etc/docker/daemon.json")
    home.run("sh", "-c", "echo 'DOCKER_OPTS=\"--data-root /srv/x\"' >>/etc/default/docker")
    said = home.refused(TARGET)
    home.run("sed", "-i", "/data-root/d", "/etc/default/docker")
    assert "a variable set in /etc/default/docker" in said


def test_an_engine_that_is_not_installed_is_named(home: StorageNode) -> None:
    # systemd would make a unit of the second
    units = ("/lib/systemd/system/docker.service", "/etc/init.d/docker")
    for number, unit in enumerate(units):
        home.run("mv", unit, f"/root/unit{number}")
    home.run("systemctl", "daemon-reload")
    said = home.refused(TARGET, "engines=[docker]")
    told = home.state("container_storage.managed", "name=local", "engines=[docker]", "test=True")
    for number, unit in enumerate(units):
        home.run("mv", f"/root/unit{number}", unit)
    home.run("systemctl", "daemon-reload")
    assert "docker is not installed on this node" in said
    assert told["changes"] == {}
