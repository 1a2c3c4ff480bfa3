"""bench/migration: how long containers are down while their data moves, against stop-copy-start.

Both sides move the same data of docker and containerd between the same two folders of one node, to
an empty target each time: at least 2 GB in many small files and some big ones, below a volume.

* ours: `salt-call container_storage.migrate`, with every check that it makes;
* plain: what one types: stop the engines, rsync both folders, set both configurations, start. No
  check, and nothing that would survive a power cut.

Downtime is seen from outside: a watcher asks docker ten times a second whether the container
runs, and the longest time without a yes counts. The rounds alternate.

Measured twice: as fast as this machine's disk is, and with the rsync of both sides held to the rate at
which a Pi reads its SD card. The first says what the checks cost, the second what a Pi's owner sees.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from lab.cli import CACHE
from lab.progress import Progress
from tests.lab.storage_node import TARGET, StorageNode, image

SMALL_FILES = 100_000
BIG_FILES = 4
BIG_MIB = 256
# MB/s. A Pi 3's card slot ends at 22, a Pi 4's at 45; 0 is without a limit.
RATES = (0, 40)
LIMITED = "/usr/local/bin/rsync"

# Sizes as of source trees and web data: 1 to 20 KB.
LOAD = f"""
import os, random, sys
root = sys.argv[1]
chance = random.Random(1)
noise = os.urandom(1 << 20)
for number in range({SMALL_FILES}):
    folder = f"{{root}}/{{number % 100:02d}}/{{number // 100 % 50:02d}}"
    os.makedirs(folder, exist_ok=True)
    start = chance.randrange(1 << 19)
    with open(f"{{folder}}/{{number}}", "wb") as file:
        file.write(noise[start:start + chance.randrange(1000, 20000)])
for number in range({BIG_FILES}):
    with open(f"{{root}}/big{{number}}", "wb") as file:
        for _ in range({BIG_MIB}):
            file.write(noise)
os.sync()
"""
WATCH = """
import http.client, json, socket, sys, time
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(1)
        self.sock.connect("/run/docker.sock")
def up():
    try:
        connection = Unix("docker")
        connection.request("GET", "/containers/writer/json")
        return json.loads(connection.getresponse().read())["State"]["Running"]
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return False
    finally:
        connection.close()
longest, last, end = 0.0, time.monotonic(), None
while True:
    if up():
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    try:
        open("/run/watch-end").close()
        if time.monotonic() - last < 1:
            break
    except FileNotFoundError:
        pass
    time.sleep(0.1)
print(longest)
"""
PLAIN = f"""set -e
systemctl stop docker.socket docker.service
ctr -n lab tasks kill -s SIGKILL kept && sleep 0.2 && ctr -n lab tasks rm kept
systemctl stop containerd
mkdir -p {TARGET}/docker {TARGET}/containerd
rsync -aHAXS --numeric-ids /var/lib/docker/ {TARGET}/docker/
rsync -aHAXS --numeric-ids /var/lib/containerd/ {TARGET}/containerd/
echo '{{"data-root": "{TARGET}/docker"}}' >/etc/docker/daemon.json
sed -i 's|^version = 2|version = 2\\nroot = "{TARGET}/containerd"|' /etc/containerd/config.toml
systemctl start containerd docker.socket docker.service
docker start plain
"""
PLAIN_BACK = f"""set -e
systemctl stop docker.socket docker.service containerd
rm -f /etc/docker/daemon.json
sed -i '/^root = /d' /etc/containerd/config.toml
umount {TARGET}/docker 2>/dev/null || true
rm -rf {TARGET}/docker {TARGET}/containerd
systemctl start containerd docker.socket docker.service
docker start plain
ctr -n lab tasks start -d kept
"""


def main(argv: list[str] | None = None) -> int:
    """Run the bench and print its table.

    Returns:
        0; a move that fails raises.
    """
    parser = argparse.ArgumentParser(prog="bench.migration", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--rates",
        type=int,
        nargs="+",
        default=list(RATES),
        help="MB/s of both sides' rsync; 0: no limit",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    progress = Progress()
    node = StorageNode.make(image(CACHE, progress), "bench")
    try:
        result = measure(node, arguments.rounds, arguments.rates, progress)
    finally:
        node.remove()
    print(json.dumps(result, indent=1)) if arguments.json else show(result)
    return 0


def measure(node: StorageNode, rounds: int, rates: list[int], progress: Progress) -> dict[str, Any]:
    """All rounds of both sides on one node, at each rate."""
    node.wait_engines()
    with progress.step("containers and 2 GB of data"):
        node.pi("seed")
        node.run("python3", "-c", LOAD, "/var/lib/docker/volumes/data/_data", timeout=1200)
    plan = node.call("container_storage.plan", TARGET)
    found = []
    for rate in rates:
        limit(node, rate)
        found.append({"rate": rate, **compare(node, rounds, f"{rate or 'all'} MB/s", progress)})
    return {"bytes": plan["bytes"], "files": plan["files"], "rates": found}


def limit(node: StorageNode, rate: int) -> None:
    """Hold every rsync on the node to a rate in MB/s; 0 lets go."""
    if not rate:
        node.run("rm", "-f", LIMITED)
        return
    node.write(LIMITED, f'#!/bin/sh\nexec /usr/bin/rsync --bwlimit={rate}m "$@"\n', "0755")


def compare(node: StorageNode, rounds: int, name: str, progress: Progress) -> dict[str, Any]:
    """All rounds of both sides."""
    sides: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for number in range(rounds):
        with progress.step(f"{name}, round {number + 1}: plain"):
            sides["plain"].append(watched(node, lambda: node.run("sh", "-c", PLAIN, timeout=3600)))
        with progress.step("back"):
            node.run("sh", "-c", PLAIN_BACK, timeout=600)
            node.wait_engines()
        with progress.step(f"{name}, round {number + 1}: ours"):
            sides["ours"].append(watched(node, lambda: node.move(TARGET)))
        with progress.step("back"):
            node.move("local")
            node.call("container_storage.purge")
    down = {side: statistics.median(run["down"] for run in found) for side, found in sides.items()}
    return {"rounds": sides, "down": down, "ratio": down["ours"] / down["plain"]}


def watched(node: StorageNode, move: Any) -> dict[str, float]:
    """Seconds without the container, and seconds in all, of one move."""
    node.run("rm", "-f", "/run/watch-end")
    seen: list[str] = []
    watcher = threading.Thread(
        target=lambda: seen.append(node.run("python3", "-c", WATCH, timeout=7200).stdout)
    )
    watcher.start()
    time.sleep(1)
    started = time.monotonic()
    move()
    total = time.monotonic() - started
    node.run("touch", "/run/watch-end")
    watcher.join()
    return {"down": float(seen[0]), "total": total}


def show(result: dict[str, Any]) -> None:
    """Print the table a person reads."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    title = (
        f"containers down while {result['bytes'] / 1e9:.2f} GB in {result['files']:,} files move"
    )
    table = Table(title=title, title_justify="left")
    for column in ("rsync", "side", "median s down", "all rounds", "s in all", "ratio"):
        table.add_column(column)
    for at in result["rates"]:
        for side in ("plain", "ours"):
            rounds = at["rounds"][side]
            table.add_row(
                f"{at['rate']} MB/s" if at["rate"] else "no limit",
                side,
                f"{at['down'][side]:.1f}",
                " ".join(f"{run['down']:.1f}" for run in rounds),
                " ".join(f"{run['total']:.1f}" for run in rounds),
                f"{at['ratio']:.3f}" if side == "ours" else "",
            )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
