"""bench/join: how long a Pi takes from its start event to Ready, against a bare `kubeadm join`.

Both sides join the same cluster from equal nodes: packages installed, containerd up,
images pulled, `kubeadm reset` done, no CNI configuration, no routes.

* ours: the minion starts, its start event reaches the master, and nobody types a thing
  (reconcile, preflight, highstate, ticket, join, pod network, Ready);
* bare: a token made beforehand, `kubeadm join` typed by hand, then the CNI file written
  by hand from the node's podCIDR; its clock starts with `kubeadm join`.

The rounds alternate. What is printed is the median of each, the ratio, and our stages.
A blank node (packages still to install) is measured once more and printed beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time

from rich.console import Console
from rich.table import Table

from lab import lifecycle
from lab.cli import CACHE
from lab.podman import Node
from lab.progress import Progress
from lab.rack import Rack

NODE = "pi-bench"
CONFLIST = "/etc/cni/net.d/10-saltberry.conflist"


def main(argv: list[str] | None = None) -> int:
    """Run the bench and print its table.

    Returns:
        0; a failed join raises.
    """
    parser = argparse.ArgumentParser(prog="bench.join", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rack", default="bench", help="the rack to use (made if it is not there)")
    parser.add_argument("--keep", action="store_true", help="leave the rack for the next run")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    progress = Progress()
    try:
        rack = lifecycle.up(arguments.rack, CACHE, progress, only=["cp1"])
        result = measure(rack, arguments.rounds, progress)
    finally:
        made = Rack.load(arguments.rack)
        if made is not None and not arguments.keep:
            made.remove()
    print(json.dumps(result, indent=1)) if arguments.json else show(result)
    return 0


def measure(rack: Rack, rounds: int, progress: Progress) -> dict[str, object]:
    """All rounds of both sides on one node."""
    if NODE in rack.nodes:  # of a run before: it must be blank
        rack.node("cp1").run(*lifecycle.KUBECTL, "delete", "node", NODE, "--ignore-not-found")
        rack.master.run("salt-key", "-y", "-d", NODE, check=False)
        rack.discard(NODE)
    blank_started = time.time()
    lifecycle.plug(rack, NODE, progress)
    lifecycle.wait_ready(rack, NODE, progress)
    blank = time.time() - blank_started
    ours: list[float] = []
    bare: list[float] = []
    stages: list[dict[str, float]] = []
    for number in range(rounds):
        with progress.step(f"round {number + 1}: ours"):
            leave(rack)
            ours.append(join_ours(rack))
            stages.append(dict(entry(rack).get("seconds") or {}))
        with progress.step(f"round {number + 1}: bare kubeadm join"):
            leave(rack)
            bare.append(join_bare(rack))
    return {
        "ours": ours,
        "bare": bare,
        "ratio": statistics.median(ours) / statistics.median(bare),
        "stages": {
            stage: statistics.median(found[stage] for found in stages if stage in found)
            for stage in {name for found in stages for name in found}
        },
        "blank": blank,
    }


def leave(rack: Rack) -> None:
    """Take the node out of the cluster, leaving what is installed."""
    node = rack.node(NODE)
    node.run("systemctl", "stop", "salt-minion")
    control = rack.node("cp1")
    control.run(*lifecycle.KUBECTL, "delete", "node", NODE, "--ignore-not-found")
    node.run("kubeadm", "reset", "-f", check=False)
    node.run("rm", "-rf", CONFLIST, "/etc/saltberry/routes.batch")
    node.run("sh", "-c", "ip route flush proto 83; ip link del cni0 2>/dev/null; true")


def join_ours(rack: Rack) -> float:
    """Start the minion; seconds from its start event to Ready."""
    seen = threading.Event()
    stamp: list[float] = []

    def listen() -> None:
        rack.master.run(
            "salt-run",
            "state.event",
            "count=1",
            "quiet=True",
            f"tagmatch=salt/minion/{NODE}/start",
            timeout=120,
        )
        stamp.append(time.monotonic())
        seen.set()

    listener = threading.Thread(target=listen)
    listener.start()
    time.sleep(4)  # the listener's own start-up, before the clock
    rack.node(NODE).run("systemctl", "start", "salt-minion")
    if not seen.wait(120):
        raise RuntimeError("no start event within 120 s")
    until_ready(rack)
    listener.join()
    return time.monotonic() - stamp[0]


def join_bare(rack: Rack) -> float:
    """What one types on an equal node; seconds from `kubeadm join` to Ready."""
    control, node = rack.node("cp1"), rack.node(NODE)
    command = control.run(
        "kubeadm", "token", "create", "--ttl", "10m", "--print-join-command"
    ).stdout
    ignored = "--ignore-preflight-errors=SystemVerification,FileContent--proc-sys-net-bridge-bridge-nf-call-iptables"
    started = time.monotonic()
    node.run("sh", "-c", f"{command.strip()} {ignored} --node-name {NODE}")
    configure_network_by_hand(rack, node)
    until_ready(rack)
    return time.monotonic() - started


def configure_network_by_hand(rack: Rack, node: Node) -> None:
    """The CNI file a person would write: the bridge plugin on this node's own range."""
    ask = ["kubectl", "--kubeconfig", "/etc/kubernetes/kubelet.conf", "get", "node", NODE]
    pod_cidr = ""
    while not pod_cidr:
        pod_cidr = node.run(*ask, "-o", "jsonpath={.spec.podCIDR}", check=False).stdout.strip()
    conflist = {
        "cniVersion": "0.4.0",
        "name": "bare",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False,
                "ipam": {
                    "type": "host-local", "ranges": [[{"subnet": pod_cidr}]], "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }  # fmt: skip
    node.run("mkdir", "-p", "/etc/cni/net.d")
    node.run("tee", CONFLIST, stdin=json.dumps(conflist).encode())


def until_ready(rack: Rack, seconds: float = 300) -> None:
    """Ask the API server ten times a second."""
    deadline = time.monotonic() + seconds
    while not lifecycle.is_ready(rack, NODE):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{NODE} not Ready within {seconds:.0f} s: {entry(rack)}")
        time.sleep(0.1)


def entry(rack: Rack) -> dict:
    """The node's line of rack.status."""
    return next(found for found in rack.status() if found["id"] == NODE)


def show(result: dict) -> None:
    """Print the table a person reads."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    table = Table(title="start event → Ready against a bare kubeadm join", title_justify="left")
    for column in ("side", "median s", "all rounds"):
        table.add_column(column)
    for side in ("ours", "bare"):
        rounds = result[side]
        table.add_row(
            side, f"{statistics.median(rounds):.1f}", " ".join(f"{value:.1f}" for value in rounds)
        )
    console.print(table)
    console.print(
        "our stages: " + " · ".join(f"{k} {v:.1f} s" for k, v in result["stages"].items())
    )
    console.print(
        f"a blank Pi, from power to Ready (Salt, containerd and Kubernetes installed): {result['blank']:.0f} s"
    )
    console.print(f"ratio {result['ratio']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
