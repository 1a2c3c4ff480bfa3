"""bench/footprint: what a salt-minion costs a Pi: Salt's default configuration against ours.

Each side is one real minion of a real master, on a disk of its own (an image, mounted) and with /run in
memory, as Debian has it. Ours has `etc/minion.d` and the options of `etc/systemd/salt-minion.service`.

* idle: the sum of PSS of its processes, a minute after its start;
* state.apply: their peak while 60 files are rendered and compared, and how long `salt` takes for it;
* start: from the program's start to its start event;
* written: what its disk's file system wrote: in the first minute, in a minute of idleness, and in ten
  rounds of state.apply that have nothing to do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.loopback import LENIENT, REPO, Loopback, Peak, Starts, family, pss, rack

SIDES = ("default", "ours")
FILES = 60
APPLIES = 10
# As our own states look: files from templates, and no `unless`
SLS = """
{%- set folder = opts['root_dir'] ~ '/applied' %}
folder:
  file.directory:
    - name: {{ folder }}
{%- for number in range(@FILES@) %}
file-{{ number }}:
  file.managed:
    - name: {{ folder }}/{{ number }}
    - source: salt://footprint/template.jinja
    - template: jinja
    - context: {number: {{ number }}}
{%- endfor %}
"""


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, with /run in memory; gone afterwards. Needs root."""
    image, root = folder / "disk.img", folder / "disk"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(512 * 2**20)
    subprocess.run(
        ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True
    )
    subprocess.run(["mount", "-o", "loop", image, root], check=True)
    try:
        for name in ("run", "var"):
            (root / name).mkdir()
        (root / "var/run").symlink_to("../run")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root / "run"], check=True)
        try:
            yield root
        finally:
            subprocess.run(["umount", "-l", root / "run"], check=True)
    finally:
        subprocess.run(["umount", "-l", root], check=True)
        root.rmdir()
        image.unlink()


def written(root: Path) -> int:
    """Return how many KiB the file system has written since it was mounted."""
    source = subprocess.run(
        ["findmnt", "-no", "SOURCE", root], capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run(["sync", "-f", root], check=True)
    return int(Path(f"/sys/fs/ext4/{Path(source).name}/session_write_kbytes").read_text())


def unit_options() -> tuple[list[str], dict[str, str]]:
    """Return the options and the environment that our service gives to salt-minion."""
    options: list[str] = []
    environment: dict[str, str] = {}
    unit = (REPO / "etc/systemd/salt-minion.service").read_text(encoding="utf-8")
    for line in unit.splitlines():
        key, _, value = line.partition("=")
        if key == "ExecStart":
            options = value.split()[1:]
        elif key == "Environment":
            environment |= dict(word.split("=", 1) for word in shlex.split(value))
    return options, environment


def measure(made: Loopback, side: str, settle: float) -> dict[str, Any]:
    """One side on a blank disk.

    Args:
        made: the master.
        side: `default` or `ours`.
        settle: seconds from the start to the look at idle memory.

    Returns:
        The figures of its column.
    """
    options, environment = unit_options() if side == "ours" else ([], {})
    node = f"pi-{side}"
    with disk(made.folder) as root:
        conf = made.configure_minion(node, root, shipped=side == "ours")
        before = written(root)
        starts = Starts(made)
        began = time.monotonic()
        command = [made.program("salt-minion"), "-c", str(conf), *options]
        pid = made.start(side, "env", *(f"{k}={v}" for k, v in environment.items()), *command)
        try:
            made.until(lambda: node in starts.seen, 120, f"the start event of {node}")
            start = starts.seen[node] - began
            starts.close()
            time.sleep(max(0.0, settle - (time.monotonic() - began)))
            idle = pss(family(pid))
            first = written(root)
            time.sleep(60)
            minute = written(root)
            with Peak(lambda: family(pid), every=0.05) as peak:
                apply(made, node)
            mark = written(root)
            seconds = [apply(made, node) for _ in range(APPLIES)]
            applied = written(root)
            after = pss(family(pid))
        finally:
            made.kill(side)
    return {
        "idle_mib": idle, "processes": 1 if "--disable-keepalive" in options else 2, "apply_mib": peak.most,
        "after_mib": after, "start": start, "apply": statistics.median(seconds), "first_kib": first - before,
        "idle_kib": minute - first, "apply_kib": (applied - mark) / APPLIES,
    }  # fmt: skip


def apply(made: Loopback, node: str) -> float:
    """`salt NODE state.apply footprint`; the seconds it took.

    Raises RuntimeError when a state failed.
    """
    began = time.monotonic()
    command = [
        made.program("salt"),
        "-c",
        f"{made.folder}/m/conf",
        "--out=json",
        node,
        "state.apply",
        "footprint",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    returned = json.loads(done.stdout or "{}").get(node)
    if not isinstance(returned, dict) or not all(state["result"] for state in returned.values()):
        raise RuntimeError(f"state.apply on {node}: {done.stdout[-800:]}{done.stderr[-800:]}")
    return time.monotonic() - began


def main(argv: list[str] | None = None) -> int:
    """Run the bench and print its table. Needs root, for the mounts.

    Returns:
        0; a failed state raises.
    """
    parser = argparse.ArgumentParser(prog="bench.footprint", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--settle", type=float, default=60, help="seconds from start to the look at idle memory"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        parser.error("it mounts a disk for each side: run it as root")
    with rack([f"pi-{side}" for side in SIDES], LENIENT) as made:
        folder = made.checkout / "salt/footprint"
        folder.mkdir()
        (folder / "init.sls").write_text(SLS.replace("@FILES@", str(FILES)), encoding="utf-8")
        (folder / "template.jinja").write_text(
            "number {{ number }} of {{ pillar['node']['id'] }}\n"
        )
        result = {}
        for side in SIDES:
            print(f"{side} ...", file=sys.stderr, flush=True)
            result[side] = measure(made, side, arguments.settle)
    print(json.dumps(result, indent=1)) if arguments.json else show(result)
    return 0


ROWS = {
    "idle_mib": "idle, MiB",
    "apply_mib": "peak in state.apply, MiB",
    "after_mib": "idle after ten of them, MiB",
    "start": "start to start event, s",
    "apply": "state.apply with nothing to do, s",
    "first_kib": "written in the first minute, KiB",
    "idle_kib": "written in a minute of idleness, KiB",
    "apply_kib": "written by a state.apply with nothing to do, KiB",
}


def show(result: dict[str, dict[str, Any]]) -> None:
    """Print the table a person reads."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    table = Table(title="a salt-minion: Salt's defaults against ours", title_justify="left")
    for column in ("", *SIDES, "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for key, name in ROWS.items():
        theirs, ours = result["default"][key], result["ours"][key]
        ratio = f"{ours / theirs:.2f}" if theirs else "-"
        table.add_row(name, f"{theirs:.1f}", f"{ours:.1f}", ratio)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
