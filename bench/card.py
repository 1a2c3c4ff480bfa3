"""bench/card: bytes written to the card while images are pulled, containers run and logs are written,
and how long each takes: what the share saves, and what it costs.

A virtual machine stands for the Pi, its /dev/vda for the card (what /proc/diskstats says was written to
it), its /dev/vdb for a USB disk, another machine for nfs1 with the share and an image registry. The same
work is done with the container data in each place:

* card: `backend: local`, as a Pi comes;
* disk: `backend: disk`;
* share: `backend: nfs-image`;
* share, pods: the same with `pod_data: true`;
* share, pods, journal: that with `system.journal: memory`.

Last, the node loses its network for a minute while a container writes to the share: how long that stands
still, and what it was told of it.

kubelet does not run in the machine. Its rows are plain writes to the folders where it keeps volumes and
logs of pods (/var/lib/kubelet/pods, /var/log/pods), as pods cause them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from lab import vm
from lab.cli import CACHE
from lab.progress import Progress
from lab.vm import SPARE_DISK
from lab.vmsalt import ENGINES, Pi

SECTOR = 512  # bytes, of /proc/diskstats, whatever the disk's own are
MIB = 2**20
REGISTRY = "192.168.78.10:5000"
IMAGE = f"{REGISTRY}/bench/blob"
SIZE = 48  # MiB, of the image, and of what is written in each row
ROWS = {
    "docker pull": f"docker pull -q {IMAGE}",
    "containerd pull": f"ctr -n k8s.io images pull --plain-http {IMAGE}:latest",
    "container writes": (
        f"docker run --rm --network=none {IMAGE} dd if=/dev/zero of=/file bs=1M count={SIZE}"
    ),
    "volume writes": (
        f"docker run --rm --network=none -v bench:/data {IMAGE}"
        f" dd if=/dev/zero of=/data/file bs=1M count={SIZE}"
    ),
    "volume reads": (
        "sync; echo 3 >/proc/sys/vm/drop_caches;"
        f" docker run --rm --network=none -v bench:/data {IMAGE} dd if=/data/file of=/dev/null bs=1M"
    ),
    "small files, 1000": (
        f"docker run --rm --network=none -v bench:/data {IMAGE} sh -c"
        " 'for n in $(seq 1000); do echo $n >/data/$n; done; sync'"
    ),
    "synced writes, 100": (
        f"docker run --rm --network=none -v bench:/data {IMAGE}"
        " sh -c 'for n in $(seq 100); do echo $n >/data/one; sync; done'"
    ),
    "container log": (
        f"docker run --name log --network=none {IMAGE}"
        f" sh -c 'yes log-line-of-sixty-characters-as-programs-write-them-all-day-long"
        f" | head -c {SIZE // 4}m' >/dev/null"
    ),
    "pod volumes (kubelet)": (
        "mkdir -p /var/lib/kubelet/pods/bench;"
        f" dd if=/dev/zero of=/var/lib/kubelet/pods/bench/file bs=1M count={SIZE}"
    ),
    "pod logs (kubelet)": (
        "mkdir -p /var/log/pods/bench;"
        f" dd if=/dev/zero of=/var/log/pods/bench/0.log bs=1M count={SIZE}"
    ),
    # Slower than the journal's own limit, which would leave lines out.
    "system's log": (
        "for n in 1 2 3 4 5; do yes a-line-that-a-service-logs-now-and-then | head -n 1000"
        " | systemd-cat -t bench-$n; done; journalctl --sync"
    ),
    "idle, 30 s": "sleep 30",
}
OUTAGE = 60  # seconds
BEATS = f"""
docker run -d --name beats --network=none -v bench:/data {IMAGE} \
    sh -c 'while :; do busybox cat /proc/uptime >>/data/beats && sync || echo failed; busybox sleep 0.2; done'
until docker exec beats busybox test -s /data/beats; do sleep 0.5; done
"""
CUT = f"""
device=$(ip -o route get {REGISTRY.partition(":")[0]} | grep -o ' dev [^ ]*' | cut -d' ' -f3)
ip link set "$device" down; sleep {OUTAGE}; ip link set "$device" up
"""
# Seconds between one beat and the next.
LONGEST = """
docker exec beats busybox cat /data/beats |
    awk '{ if (NR > 1 && $1 - last > most) most = $1 - last; last = $1 } END { print most }'
"""
SHARE = {"backend": "nfs-image", "size": "1800M"}
PLACES = {
    "card": {"backend": "local"},
    # Beside the image: nothing is mounted over what is still in use.
    "disk": {"backend": "disk", "disk": "LABEL=bench", "mount": "/srv/disk"},
    "share": SHARE,
    "share, pods": {**SHARE, "pod_data": True},
    "share, pods, journal": {**SHARE, "pod_data": True},
}
# What a pull finds at the registry: a small file system with a blob that can't be compressed.
PUBLISH = f"""
echo '{{version: 0.1, http: {{addr: ":5000"}}, storage: {{filesystem: {{rootdirectory: /srv/registry}}}}}}' \
    >/etc/docker/registry/config.yml
install -d -o docker-registry /srv/registry
systemctl restart docker-registry
systemctl start docker
mkdir -p /tmp/image/bin
cp /bin/busybox /tmp/image/bin/
for name in sh dd yes head seq sync; do ln -sf busybox /tmp/image/bin/$name; done
head -c {SIZE}M /dev/urandom >/tmp/image/blob
tar -C /tmp/image -c . | docker import - localhost:5000/bench/blob >/dev/null
docker push -q localhost:5000/bench/blob
"""
CLEAN = f"""
docker rm -f log 2>/dev/null || true
docker volume rm -f bench >/dev/null
docker rmi -f {IMAGE} >/dev/null 2>&1 || true
ctr -n k8s.io images rm --sync {IMAGE}:latest >/dev/null 2>&1 || true
rm -rf /var/lib/kubelet/pods/bench /var/log/pods/bench
"""


@dataclass
class Column:
    """MiB written to the card and seconds by row, with the container data in one place."""

    place: str
    mib: dict[str, float]
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.mib.values())


@dataclass
class Pause:
    """What a container that writes to the share saw of an outage."""

    seconds: float
    errors: int
    restarts: int


def main(argv: list[str] | None = None) -> int:
    """Run the bench and print its table.

    Returns:
        0; what fails raises.
    """
    parser = argparse.ArgumentParser(prog="bench.card", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--place", action="append", choices=PLACES, help="only these (default: all, in order)"
    )
    arguments = parser.parse_args(argv)
    progress = Progress()
    image = vm.prepare(CACHE, progress)
    with vm.net(image) as net:
        with progress.step("starting nfs1 and pi-01"):
            server, node = (
                Pi(net.add(name, number)) for name, number in (("nfs1", 10), ("pi-01", 21))
            )
            net.start()
        with progress.step("nfs1: the share and a registry"):
            server.configure({}, nfs={"disk": None})
            server.apply("nfs.server").good()
            server.sh(PUBLISH)
        columns = [measure(node, place, progress) for place in arguments.place or PLACES]
        pause = outage(node, progress) if "share" in columns[-1].place else None
    if arguments.json:
        found = [asdict(column) for column in columns]
        print(
            json.dumps(
                {"places": found, "outage": OUTAGE, "pause": asdict(pause) if pause else None},
                indent=1,
            )
        )
    else:
        show(columns, pause)
    return 0


def measure(node: Pi, place: str, progress: Progress) -> Column:
    """Put the container data to a place and do the work of every row."""
    with progress.step(f"{place}: moving there"):
        own = {"container_storage": PLACES[place]}
        journal = "memory" if "journal" in place else "as-is"
        node.configure({"pi-01": own}, docker={"enabled": True}, system={"journal": journal})
        # The key is the person's own; the states keep it.
        node.sh(_INSECURE)
        if place == "disk":
            node.sh(f"mkfs.ext4 -q -L bench {SPARE_DISK}; udevadm settle")
        node.apply("journal", *ENGINES).good()
        node.sh(CLEAN)
    column = Column(place, {}, {})
    for row, script in ROWS.items():
        with progress.step(f"{place}: {row}"):
            column.mib[row], column.seconds[row] = written(node, script)
    node.sh(CLEAN)
    return column


def outage(node: Pi, progress: Progress) -> Pause:
    """Take the network from a node whose container writes to the share, and give it back."""
    with progress.step(f"no network for {OUTAGE} s"):
        node.sh(BEATS)
        time.sleep(3)
        node.sh(CUT)
        count = "docker exec beats busybox wc -l /data/beats | cut -d' ' -f1"
        before = int(node.said(count, timeout=600))
        node.wait("the container writes again", f"test $({count}) -gt $(({before} + 3))", 300)
        pause = Pause(
            seconds=float(node.said(LONGEST)),
            errors=int(node.said("docker logs beats 2>&1 | wc -l")),
            restarts=int(node.said("docker inspect -f '{{.RestartCount}}' beats")),
        )
        node.sh("docker rm -f beats")
    return pause


_INSECURE = f"""
mkdir -p /etc/docker
test -s /etc/docker/daemon.json || echo '{{"insecure-registries": ["{REGISTRY}"]}}' >/etc/docker/daemon.json
"""


def written(node: Pi, script: str) -> tuple[float, float]:
    """MiB written to the card by some work, and its seconds, with what was in memory at its end."""
    before, began = sectors(node), time.monotonic()
    node.sh(script, timeout=900)
    after = sectors(node)
    return (after - before) * SECTOR / MIB, time.monotonic() - began


def sectors(node: Pi) -> int:
    """Sectors written to the card since the boot."""
    line = node.said("sync; grep ' vda ' /proc/diskstats")
    return int(line.split()[9])


def show(columns: list[Column], pause: Pause | None) -> None:
    """Print the table a person reads."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    table = Table(
        title=f"MiB written to the card, and seconds ({SIZE} MiB of image or data a row)",
        title_justify="left",
    )
    table.add_column("work")
    for column in columns:
        table.add_column(column.place, justify="right")
        table.add_column("s", justify="right")
    for row in ROWS:
        pairs = [(f"{column.mib[row]:.1f}", f"{column.seconds[row]:.1f}") for column in columns]
        table.add_row(row, *(cell for pair in pairs for cell in pair))
    table.add_section()
    table.add_row("in all", *(cell for column in columns for cell in (f"{column.total:.1f}", "")))
    console.print(table)
    first, last = columns[0], columns[-1]
    if first is not last:
        console.print(f"{last.place}: {last.total / first.total:.3f} of {first.place}")
    if pause is not None:
        console.print(
            f"no network for {OUTAGE} s: a container on the share stood still for {pause.seconds:.0f} s,"
            f" with {pause.errors} errors and {pause.restarts} restarts"
        )


if __name__ == "__main__":
    sys.exit(main())
