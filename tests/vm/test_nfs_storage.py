"""Container data on a real NFS server's disk, with overlay2, through reboots, power cuts and outages.

In the order of a rack's life: the share is made, two nodes move their containers (one to an image on the
share, one to a disk of its own), then things happen to them. Later tests go on from what earlier ones
left, so a single one of the second half is run with those before it.
"""

from __future__ import annotations

import json

from lab.vm import SPARE_DISK
from lab.vmsalt import Pi
from tests.vm.conftest import IMAGE, Before, Moved, Served, look

CONTAINERS = "/srv/containers"
# Files with their checksums, each written, synced and renamed, as a careful program does.
WRITER = """
docker run -d --name writer --restart=always --network=none -v load:/data lab/busybox sh -c '
    n=$(cat /data/last 2>/dev/null || echo 0)
    while :; do
        n=$((n + 1)); file=/data/f$((n % 40))
        head -c 60000 /dev/urandom >$file.new
        sha256sum <$file.new >$file.sum.new
        sync; mv $file.new $file; mv $file.sum.new $file.sum; sync
        echo $n >/data/last.new; sync; mv /data/last.new /data/last
    done' >/dev/null
"""
LOAD = f"{CONTAINERS}/docker/volumes/load/_data"
WRITTEN = f"cat {LOAD}/last"
# A power cut between the two renames leaves one file with the sum of its predecessor; no more.
VERIFY = (
    f"cd {LOAD}"
    """
bad=0; good=0
for sum in *.sum; do
    if [ "$(sha256sum <${sum%.sum})" = "$(cat $sum)" ]; then good=$((good + 1)); else bad=$((bad + 1)); fi
done
echo $good $bad
"""
)


def docker_info(pi: Pi) -> dict[str, str]:
    return json.loads(pi.said("docker info -f '{{json .}}'"))


def mounted(pi: Pi, path: str) -> str:
    return pi.said(f"findmnt -n -o FSTYPE {path} || true")


def engines_up(pi: Pi, seconds: float = 240) -> None:
    pi.wait(
        "docker and its container come back by themselves",
        "systemctl is-active --quiet docker && test $(docker inspect -f '{{.State.Running}}' old) = true",
        seconds,
    )


def data_of(pi: Pi) -> Before:
    return look(pi)


# -- the disk of the share --------------------------------------------------------------------


def test_a_disk_with_a_file_system_is_not_formatted(served: Served) -> None:
    formatted = served.refused.state("nfs-disk-formatted")
    assert formatted["result"] is False
    assert "ext4" in formatted["comment"]
    assert SPARE_DISK in formatted["comment"]
    assert served.kept == "precious"
    # Nothing that needs the disk went on without it.
    assert served.refused.state("nfs-server-running")["result"] is False


def test_the_share_in_test_mode_says_what_it_would_do_and_does_nothing(served: Served) -> None:
    assert served.tested.failed == []
    assert served.tested.state("nfs-disk-formatted")["result"] is None
    assert served.tested.state("nfs-server-running")["result"] is None
    assert served.traces_before == served.traces_after


def test_a_blank_disk_is_formatted_mounted_and_served(nfs1: Pi, served: Served) -> None:
    served.applied.good()
    assert "nfs-disk-formatted" in served.applied.changed
    assert nfs1.said(f"blkid -s LABEL -o value {SPARE_DISK}") == "share"
    assert mounted(nfs1, "/srv/nfs") == "ext4"
    exports = nfs1.said("exportfs -s")
    assert "/srv/nfs/nodes/pi-01  192.168.78.21(" in exports
    assert {"-3", "+4.2"} <= set(nfs1.said("cat /proc/fs/nfsd/versions").split())


# -- the move ---------------------------------------------------------------------------------


def test_a_move_in_test_mode_changes_nothing(on_image: Moved) -> None:
    assert on_image.tested.failed == []
    assert on_image.tested.state("container-storage-managed")["result"] is None
    assert on_image.traces_before == on_image.traces_after


def test_docker_runs_with_overlay2_on_the_nfs_disk(pi_01: Pi, nfs1: Pi, on_image: Moved) -> None:
    on_image.applied.good()
    info = docker_info(pi_01)
    assert info["DockerRootDir"] == f"{CONTAINERS}/docker"
    assert info["Driver"] == "overlay2"
    assert mounted(pi_01, CONTAINERS) == "ext4"
    assert mounted(pi_01, "/srv/share/node") == "nfs4"
    assert IMAGE in pi_01.said(f"losetup -n -O BACK-FILE $(findmnt -n -o SOURCE {CONTAINERS})")
    # The bytes are on nfs1's disk, and take no more room there than they need.
    used, size = nfs1.said("stat -c '%b %s' /srv/nfs/nodes/pi-01/containers.img").split()
    assert int(used) * 512 < int(size) / 2


def test_nothing_is_lost_on_the_way(on_image: Moved) -> None:
    assert on_image.after == on_image.before


def test_the_second_run_changes_nothing(on_image: Moved, on_disk: Moved, nfs1: Pi) -> None:
    assert on_image.again.good().changed == {}
    assert on_disk.again.good().changed == {}
    assert nfs1.apply("nfs.server").good().changed == {}


def test_a_disk_by_its_label_takes_the_containers_too(pi_02: Pi, on_disk: Moved) -> None:
    on_disk.applied.good()
    assert on_disk.after == on_disk.before
    assert docker_info(pi_02)["DockerRootDir"] == f"{CONTAINERS}/docker"
    source = pi_02.said(f"findmnt -n -o SOURCE {CONTAINERS}")
    assert pi_02.said(f"readlink -f {SPARE_DISK}") == source


# -- what is refused --------------------------------------------------------------------------


def test_nfs_itself_is_refused_with_the_reason_and_the_way_out(pi_01: Pi, on_image: Moved) -> None:
    on_image.applied.good()
    # What the kernel says: the failure that the image is there for.
    pi_01.sh("mkdir -p /srv/share/node/try/u /srv/share/node/try/w /tmp/l /tmp/m")
    overlay = "lowerdir=/tmp/l,upperdir=/srv/share/node/try/u,workdir=/srv/share/node/try/w"
    kernel = pi_01.sh(f"mount -t overlay overlay -o {overlay} /tmp/m", check=False)
    assert kernel.returncode != 0
    pi_01.sh("rm -rf /srv/share/node/try")
    before = pi_01.said("cat /etc/docker/daemon.json; docker ps -q")
    problems = " ".join(pi_01.call("container_storage.plan", "/srv/share/node")["problems"])
    assert "network file system (nfs4" in problems
    assert "overlayfs needs extended attributes" in problems
    assert "Use the backend nfs-image" in problems
    assert pi_01.said("cat /etc/docker/daemon.json; docker ps -q") == before


def test_a_node_reaches_its_own_folder_only(pi_01: Pi, pi_02: Pi, on_image: Moved) -> None:
    on_image.applied.good()
    server = "192.168.78.10"
    theirs = f"{server}:/srv/nfs/nodes"
    pi_02.sh("mkdir -p /tmp/own /tmp/foreign /tmp/all")
    pi_02.sh(f"mount -t nfs4 {theirs}/pi-02 /tmp/own; echo mine >/tmp/own/file; cat /tmp/own/file")
    for path, target in ((f"{theirs}/pi-01", "/tmp/foreign"), (theirs, "/tmp/all")):
        pi_02.sh(f"timeout 40 mount -t nfs4 {path} {target}", check=False)
        tried = pi_02.sh(f"cat {target}/containers.img {target}/pi-01/containers.img", check=False)
        assert tried.returncode != 0
        assert tried.stdout == ""
        assert pi_02.sh(f"touch {target}/pi-01/x {target}/x", check=False).returncode != 0 or (
            mounted(pi_02, target) == ""
        )
    # Version 3 has no say either, and a symbolic link on the share leads nowhere on the server.
    assert pi_02.sh(
        f"timeout 40 mount -t nfs -o vers=3 {theirs}/pi-01 /tmp/foreign", check=False
    ).returncode
    pi_02.sh("ln -sfn ../pi-01 /tmp/own/link")
    assert pi_02.sh("ls /tmp/own/link/", check=False).returncode != 0
    pi_02.sh(
        "rm -f /tmp/own/link /tmp/own/file; umount /tmp/own /tmp/foreign /tmp/all 2>/dev/null || true"
    )
    assert pi_01.said("ls /srv/share/node").split() == ["containers.img", "containers.img.lock"]


def test_the_second_node_after_an_image_is_refused(
    nfs1: Pi, pi_01: Pi, pi_02: Pi, on_disk: Moved
) -> None:
    on_disk.applied.good()
    holder = data_of(pi_01)
    # As after a card that was copied: the server gives pi-02 what belongs to pi-01.
    uid = nfs1.said("stat -c %u /srv/nfs/nodes/pi-01")
    options = f"rw,sync,no_subtree_check,all_squash,anonuid={uid},anongid={uid}"
    nfs1.sh(f"exportfs -o {options} 192.168.78.22:/srv/nfs/nodes/pi-01")
    pi_02.sh(
        "systemctl disable --now saltberry-share.service srv-share-node.mount 2>/dev/null || true;"
        " ! mountpoint -q /srv/share/node && mkdir -p /srv/share/node"
        " && mount -t nfs4 192.168.78.10:/srv/nfs/nodes/pi-01 /srv/share/node"
        " && test -s /srv/share/node/containers.img"
    )
    pi_02.configure(
        {
            "pi-02": {
                "container_storage": {
                    "backend": "nfs-image",
                    "size": "800M",
                    "mount": "/srv/second",
                }
            }
        },
        nfs={"manage_mounts": False},
        docker={"enabled": True},
    )
    try:
        refused = pi_02.apply("container_storage.mounted")
        said = str(refused)
        assert refused.failed, said
        assert "in use by pi-01" in said, said
        assert mounted(pi_02, "/srv/second") == ""
    finally:
        pi_02.sh(
            "systemctl disable --now saltberry-containers.service srv-second.mount 2>/dev/null;"
            " umount /srv/share/node",
            check=False,
        )
        nfs1.sh("exportfs -u 192.168.78.22:/srv/nfs/nodes/pi-01")
    assert data_of(pi_01) == holder


# -- what happens to nodes and server ---------------------------------------------------------


def test_a_reboot_brings_containers_and_data_back(pi_01: Pi, on_image: Moved) -> None:
    pi_01.sh("docker exec old sh -c 'echo written-before-reboot >/data/note'")
    pi_01.vm.reboot()
    engines_up(pi_01)
    assert docker_info(pi_01)["DockerRootDir"] == f"{CONTAINERS}/docker"
    assert pi_01.said("docker exec old cat /data/note") == "written-before-reboot"
    assert data_of(pi_01) == on_image.before
    journal = pi_01.said("journalctl -b -1 --no-pager -o cat -k")
    assert "I/O error" not in journal
    # It went down in order: no journal of the file system had to be replayed.
    assert "recovery complete" not in pi_01.said(
        "journalctl -b -k --no-pager -o cat | grep loop || true"
    )


def test_a_server_that_loses_power_under_load_costs_time_but_no_data(
    nfs1: Pi, pi_01: Pi, on_image: Moved
) -> None:
    pi_01.sh(WRITER)
    pi_01.wait("the writer is at work", f"test $({WRITTEN}) -ge 5")
    nfs1.vm.power_cut()
    last = int(pi_01.said(f"timeout 20 {WRITTEN}"))
    nfs1.vm.start()
    nfs1.vm.wait_ready()
    pi_01.wait("the writer goes on", f"test $({WRITTEN}) -ge {last + 5}", 300)
    assert pi_01.said("docker inspect -f '{{.RestartCount}}' writer") == "0"
    kernel = pi_01.said("journalctl -b -k --no-pager -o cat")
    assert "EXT4-fs error" not in kernel
    assert "I/O error" not in kernel
    pi_01.sh("docker stop -t 2 writer >/dev/null")
    good, bad = map(int, pi_01.said(VERIFY).split())
    assert good >= 5
    assert bad <= 1
    assert data_of(pi_01) == on_image.before


def test_a_node_boots_without_the_server_says_so_and_mounts_when_it_is_back(
    nfs1: Pi, pi_01: Pi, on_image: Moved
) -> None:
    pi_01.sh("docker start writer >/dev/null")
    pi_01.wait("the writer is at work", f'test -n "$({WRITTEN})"; sleep 3')
    pi_01.vm.power_cut()
    nfs1.vm.power_cut()
    pi_01.vm.start()
    pi_01.vm.wait_ready()
    engines = pi_01.sh("systemctl is-active docker containerd", check=False).stdout.split()
    assert "active" not in engines
    assert not pi_01.said(f"ls -A {CONTAINERS}"), "an engine wrote below the mount point"
    status = pi_01.sh(
        "systemctl status --no-pager --lines=30 saltberry-share.service", check=False
    ).stdout
    assert "/srv/share/node" in status
    nfs1.vm.start()
    nfs1.vm.wait_ready()
    engines_up(pi_01, 400)
    # It is at work again, and would replace files while they are compared.
    pi_01.wait("the writer has gone on", "docker top writer >/dev/null")
    pi_01.sh("docker stop -t 2 writer >/dev/null")
    good, bad = map(int, pi_01.said(VERIFY).split())
    assert good >= 5
    assert bad <= 1
    assert data_of(pi_01) == on_image.before


def test_after_all_that_the_file_systems_are_whole(nfs1: Pi, pi_01: Pi, on_image: Moved) -> None:
    pi_01.sh("systemctl stop docker.socket docker containerd")
    # What a container has still to write keeps the mount for a moment.
    pi_01.wait(
        "nobody uses the mount",
        f"umount {CONTAINERS} || {{ grep -l {CONTAINERS} /proc/[0-9]*/mountinfo; exit 1; }}",
        60,
    )
    pi_01.sh(f"e2fsck -fn {IMAGE}")
    pi_01.sh(
        "systemctl stop saltberry-share.service saltberry-containers.service; umount /srv/share/node"
    )
    nfs1.sh(f"systemctl stop nfs-server; umount /srv/nfs; e2fsck -fn {SPARE_DISK}")
