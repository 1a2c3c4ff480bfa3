"""bench/burst: a whole rack is switched on at once: how long until all have joined, and what it costs.

Real: the salt-master with the shipped configuration, N salt-minions with cards of `enrol.cards`, the
reactor, `rack.reconcile` with its orchestrations, jobs and locks, and the key exchange of all of them.
Stands in: kubeadm and what would change this machine (`tests/integration/standin`), and a loop for
systemd's path unit, which starts `rack.reconcile` when there is a request. kubeadm's stand-in sleeps for as
long as the real one and kubelet take on a node of the lab (`--takes`). So what is measured is what the
master has to do for N nodes; on real Pis each brings its own processor for its states and packages, here
all share this machine's.

How much of that is the master's own work is told by processor time: a minion's is spent on its own Pi.

The clock starts with the minions (cp1 is a member already) and stops when the last is Ready. One round has
the master killed when half of them have joined, and started again.

With `--rack N` it is real in all parts, for as many nodes as the machine holds: blank Pis of a lab rack get
power at once, install all that they need, and join by the real kubeadm.
"""

from __future__ import annotations

import argparse
import collections
import json
import resource
import sys
import threading
import time
from concurrent import futures
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.loopback import Loopback, Peak, Starts, cpu, family, rack
from lab import lifecycle
from lab.cli import CACHE
from lab.progress import Progress

NODES = (1, 10, 30)
# `make rack` on two cores: join 13, ready 9
TAKES = 22.0
LIMIT = 1500  # seconds for one round


class Units:
    """What systemd does on nfs1: start `rack.reconcile` while a request is there, one at a time."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback
        self._request = loopback.folder / "run" / "reconcile.request"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.session: int | None = None

    def _watch(self) -> None:
        conf = f"{self._loopback.folder}/m/conf"
        program = self._loopback.program("salt-run")
        while not self._over.wait(0.1):
            if not self._request.exists():
                continue
            self._request.unlink(missing_ok=True)  # ExecStartPre
            self.session = self._loopback.start(
                "reconcile", program, "-c", conf, "--log-level=error", "rack.reconcile", "wait=True"
            )
            process = self._loopback.processes["reconcile"]
            while process.poll() is None and not self._over.is_set():
                time.sleep(0.1)
            self.session = None

    def pids(self) -> list[int]:
        session = self.session
        return family(session) if session else []

    @property
    def idle(self) -> bool:
        return self.session is None and not self._request.exists()

    def __enter__(self) -> Units:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()


def calls(loopback: Loopback, word: str) -> collections.Counter[str]:
    """How often something was done, by node."""
    path = loopback.standin / "calls"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return collections.Counter(line.split()[1] for line in lines if line.split()[0] == word)


def measure(count: int, takes: float, restart: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """One round with a rack of its own.

    Args:
        count: nodes that are switched on at once.
        takes: seconds that kubeadm and kubelet need on each, while the master has nothing to do for it.
        restart: kill the master when half of them have joined, and start it again.
        settings: the pillar's ``reconcile``, where it differs from the defaults.

    Returns:
        The figures of the table's row.

    Raises:
        TimeoutError: a node was lost.
    """
    nodes = [f"pi-{number:02}" for number in range(1, count + 1)]
    with rack(nodes, settings=settings) as made, Units(made) as units:
        made.start_minions("cp1", ["cp1"])
        made.until(lambda: calls(made, "wait_ready")["cp1"], 300, "the first control plane node")
        made.until(lambda: units.idle, 300, "the end of the first reconcile")
        for node in nodes:
            (made.standin / f"slow-{node}").write_text(str(takes))
        starts = Starts(made)
        master = made.processes["master"].pid
        with (
            Peak(
                lambda: family(
                    made.processes["master"].pid if "master" in made.processes else master
                )
            ) as of_master,
            Peak(units.pids) as of_reconcile,
        ):
            began = time.monotonic()
            spent = [cpu(family(master)), ended_children()]
            pis = made.start_minions("pis", nodes)
            away = 0.0
            if restart:
                made.until(
                    lambda: len(calls(made, "joined")) >= count / 2, LIMIT, "half of the nodes"
                )
                stopped = time.monotonic()
                made.kill("master")
                made.start_master()
                away = time.monotonic() - stopped
            made.until(lambda: set(nodes) <= ready(made), LIMIT, f"{count} nodes")
            seconds = time.monotonic() - began
            made.until(lambda: units.idle, 300, "the end of the reconcile")
            # Those of reconcile have ended. A master that was killed has taken its count with it.
            spent = [cpu(family(made.processes["master"].pid)) - spent[0] * (not restart),
                     ended_children() - spent[1], cpu(family(pis))]  # fmt: skip
        starts.close()
        joined, tried = calls(made, "joined"), calls(made, "join")
        accepted = [starts.seen[node] - began for node in nodes if node in starts.seen]
        return {
            "nodes": count,
            "restart": restart,
            "away": away,
            "accepted": max(accepted) if len(accepted) == count else None,
            "joined": seconds,
            "tokens": sum(calls(made, "ticket_create").values()),
            "tokens_left": len(list((made.standin / "tokens").iterdir())),
            "tried": sum(tried.values()),
            "lost": count - len(set(nodes) & set(joined)),
            "twice": sum(1 for node in nodes if joined[node] > 1),
            "master_mib": of_master.most,
            "reconcile_mib": of_reconcile.most,
            "master_cpu": spent[0],
            "reconcile_cpu": spent[1],
            "minions_cpu": spent[2],
        }


def measure_rack(count: int, progress: Progress) -> dict[str, Any]:
    """Blank Pis of a lab rack get power at once; how long until all are Ready.

    Returns:
        ``nodes`` and ``joined``, the seconds.
    """
    made = lifecycle.up("burst", CACHE, progress, only=["cp1"])
    try:
        names = [f"pi-{number:02}" for number in range(1, count + 1)]
        pis = [lifecycle.insert_card(made, name, progress) for name in names]
        began = time.monotonic()
        with futures.ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda pi: pi.power_on(), pis))
        for name in names:
            lifecycle.wait_ready(made, name, progress)
        return {"nodes": count, "joined": time.monotonic() - began}
    finally:
        made.remove()


def ended_children() -> float:
    """Return the processor time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ready(made: Loopback) -> set[str]:
    """The nodes that are Ready and whose attempt the master has closed."""
    path = made.folder / "state" / "attempts.json"
    book = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    done = {
        node for node, record in book.items() if not record["attempts"] and not record["running"]
    }
    return done & set(calls(made, "wait_ready"))


def main(argv: list[str] | None = None) -> int:
    """Run the bench and print its table.

    Returns:
        0; 1 when a node was lost or joined twice.
    """
    parser = argparse.ArgumentParser(prog="bench.burst", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=list(NODES))
    parser.add_argument(
        "--no-restart", action="store_true", help="leave out the round with a killed master"
    )
    parser.add_argument("--parallel", type=int, help="reconcile.parallel, in place of the default")
    parser.add_argument(
        "--takes", type=float, default=TAKES,
        help="seconds that kubeadm and kubelet take on a node (%(default)s); 0: the master's part alone",
    )  # fmt: skip
    parser.add_argument(
        "--rack", type=int, metavar="N", help="blank Pis of a lab rack instead, 1 and then N (needs root)"
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.rack:
        return burst_of_a_rack(arguments.rack, arguments.json)
    settings = {"parallel": arguments.parallel} if arguments.parallel else {}
    rounds = []
    for count in arguments.nodes:
        print(f"{count} node(s) ...", file=sys.stderr, flush=True)
        rounds.append(measure(count, arguments.takes, False, settings))
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    if not arguments.no_restart:
        print(
            f"{arguments.nodes[-1]} node(s), the master killed in the middle ...",
            file=sys.stderr,
            flush=True,
        )
        rounds.append(measure(arguments.nodes[-1], arguments.takes, True, settings))
    print(json.dumps(rounds, indent=1)) if arguments.json else show(rounds)
    return int(any(row["lost"] or row["twice"] or row["tokens_left"] for row in rounds))


def burst_of_a_rack(count: int, as_json: bool) -> int:
    """Measure and print real nodes: one, then several.

    Returns:
        0; a node that is not Ready in time raises.
    """
    progress = Progress()
    rounds = [measure_rack(number, progress) for number in (1, count)]
    if as_json:
        print(json.dumps(rounds, indent=1))
        return 0
    for row in rounds:
        print(f"{row['nodes']} blank Pi(s): {row['joined']:.0f} s")
    print(f"{count} take {rounds[1]['joined'] / rounds[0]['joined']:.1f} × as long as 1")
    return 0


def show(rounds: list[dict[str, Any]]) -> None:
    """Print the table a person reads, and the ratio."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title="a rack is switched on at once", title_justify="left")
    for column in (
        "nodes", "all connected s", "all Ready s", "tokens made", "left", "joins tried", "lost", "twice",
        "master MiB", "reconcile MiB", "cpu s: master", "reconcile", "minions",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for row in rounds:
        name = f"{row['nodes']}" + (f", master away {row['away']:.0f} s" if row["restart"] else "")
        accepted = "-" if row["accepted"] is None else f"{row['accepted']:.1f}"
        table.add_row(
            name, accepted, f"{row['joined']:.1f}", str(row["tokens"]), str(row["tokens_left"]), str(row["tried"]),
            str(row["lost"]), str(row["twice"]), f"{row['master_mib']:.0f}", f"{row['reconcile_mib']:.0f}",
            *(f"{row[of]:.0f}" for of in ("master_cpu", "reconcile_cpu", "minions_cpu")),
        )  # fmt: skip
    console.print(table)
    console.print(
        "MiB: the peak of the sum of PSS. kubeadm and systemd's path unit are stand-ins; see bench/burst.py"
    )
    whole = [row for row in rounds if not row["restart"]]
    if len(whole) > 1:
        ratio = whole[-1]["joined"] / whole[0]["joined"]
        console.print(
            f"{whole[-1]['nodes']} nodes take {ratio:.1f} × as long as {whole[0]['nodes']}"
        )


if __name__ == "__main__":
    sys.exit(main())
