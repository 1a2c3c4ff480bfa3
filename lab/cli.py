"""The `./rack` command."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab import doctor, lifecycle
from lab.host import StepFailed
from lab.podman import PodmanError
from lab.progress import Progress
from lab.rack import ROLES, Rack, RackError, all_racks

DEFAULT_RACK = "berry"
CACHE = Path(os.environ.get("SALTBERRY_CACHE", "/var/cache/saltberry"))


def main(argv: list[str] | None = None) -> int:
    """Run one `./rack` command.

    Returns:
        The exit code: that of CMD for `shell`, else 0 done, 1 failed, 2 wrong words.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    progress = Progress()
    if arguments.command in (None, "help"):
        parser.print_help()
        return 0
    if arguments.command != "doctor" and os.geteuid() != 0:
        progress.console.print("./rack needs root: nodes are privileged containers. Use sudo.")
        return 1
    try:
        return int(arguments.run(arguments, progress) or 0)
    except (RackError, PodmanError) as error:
        progress.console.print(f"[red]✗[/red] {escape(str(error))}", highlight=False)
    except StepFailed as error:
        progress.console.print(f"[red]✗[/red] {escape(str(error))}", highlight=False)
    except subprocess.CalledProcessError as error:
        words = (error.output or error.stderr or "").strip().splitlines()[-15:]
        progress.console.print(
            f"[red]✗[/red] `{' '.join(map(str, error.cmd))}` failed:", highlight=False
        )
        progress.console.print(escape("\n".join(words)), highlight=False)
    except KeyboardInterrupt:
        progress.console.print("stopped; run the same command again to go on")
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./rack", description="A rack of simulated Raspberry Pis on this machine."
    )
    parser.add_argument(
        "--rack", default=os.environ.get("RACK", DEFAULT_RACK), metavar="NAME",
        help=f"which rack (default: $RACK or {DEFAULT_RACK}); racks live side by side",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    up = add("up", _up, "bring up nfs1, cp1 and pi-01; install and build what that needs")
    up.add_argument(
        "--upstream", action="store_true",
        help="take Kubernetes from pkgs.k8s.io and registry.k8s.io instead of building Debian's source",
    )  # fmt: skip
    up.add_argument(
        "--only",
        action="append",
        metavar="NODE",
        help="bring up only these (nfs1 always comes first)",
    )
    add("build", _build, "build what racks are made of, if it is not cached (`up` does it too)")
    plug = add("plug", _plug, "put a new Pi into the rack and watch it join")
    plug.add_argument("node", metavar="NAME")
    plug.add_argument(
        "--role", choices=ROLES, help="written to the pillar; default: unnamed, so a worker"
    )
    plug.add_argument("--no-wait", action="store_true", help="return when it has power")
    add("unplug", _unplug, "cut a Pi's power (no clean stop)").add_argument("node", metavar="NAME")
    add("power", _power, "give a Pi its power back").add_argument("node", metavar="NAME")
    status = add("status", _status, "show every Pi: key, joined, Ready, version, why not")
    status.add_argument("--json", action="store_true")
    shell = add("shell", _shell, "a shell on a Pi, or one command: shell NAME -- CMD")
    shell.add_argument("node", metavar="NAME")
    shell.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    logs = add("logs", _logs, "a Pi's journal, also when it has no power")
    logs.add_argument("node", metavar="NAME")
    logs.add_argument("-n", "--lines", type=int, default=200)
    logs.add_argument("-u", "--unit")
    add("down", _down, "take the rack apart; what was built stays cached")
    clean = add("clean", _clean, "remove everything the lab ever made: racks, images, caches")
    clean.add_argument("--yes", action="store_true", help="also when other racks are up")
    add("doctor", _doctor, "say what this machine lacks to carry a rack, and the fix")
    add("racks", _racks, "list the racks of this machine")
    add("help", None, "show this text")
    return parser


def _existing(name: str) -> Rack:
    rack = Rack.load(name)
    if rack is None:
        raise RackError(f"there is no rack {name!r} here; `./rack up` makes it")
    return rack


def _up(arguments: argparse.Namespace, progress: Progress) -> None:
    rack = lifecycle.up(
        arguments.rack, CACHE, progress, upstream=arguments.upstream, only=arguments.only
    )
    _print_table(rack)


def _build(arguments: argparse.Namespace, progress: Progress) -> None:
    built = lifecycle.prepare(CACHE, progress)
    print(f"Kubernetes {built.kubernetes_version}, node and mirror are in {CACHE}")


def _plug(arguments: argparse.Namespace, progress: Progress) -> None:
    rack = _existing(arguments.rack)
    lifecycle.plug(rack, arguments.node, progress, role=arguments.role)
    if arguments.no_wait:
        return
    lifecycle.wait_ready(rack, arguments.node, progress)
    lifecycle.prove_pod(rack, arguments.node, progress)
    _print_table(rack)


def _unplug(arguments: argparse.Namespace, progress: Progress) -> None:
    node = _existing(arguments.rack).node(arguments.node)
    with progress.step(f"{node.id}: power cut"):
        node.power_cut()


def _power(arguments: argparse.Namespace, progress: Progress) -> None:
    rack = _existing(arguments.rack)
    with progress.step(f"{arguments.node}: power on"):
        lifecycle.power(rack, arguments.node)


def _status(arguments: argparse.Namespace, progress: Progress) -> None:
    rack = _existing(arguments.rack)
    if arguments.json:
        print(json.dumps({"nodes": rack.status()}, indent=1))
    else:
        _print_table(rack)


def _shell(arguments: argparse.Namespace, progress: Progress) -> int:
    node = _existing(arguments.rack).node(arguments.node)
    if not node.running():
        raise RackError(f"{node.id} has no power; `./rack power {node.id}`")
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if argv:
        piped = not sys.stdin.isatty()
        return subprocess.call(node.command(argv, tty=False, stdin=piped))
    return subprocess.call(node.command(["bash", "-l"], tty=sys.stdin.isatty(), stdin=True))


def _logs(arguments: argparse.Namespace, progress: Progress) -> int:
    node = _existing(arguments.rack).node(arguments.node)
    flags = [
        "--no-pager",
        "-n",
        str(arguments.lines),
        *(["-u", arguments.unit] if arguments.unit else []),
    ]
    if node.running():
        return subprocess.call(node.command(["journalctl", *flags]))
    return subprocess.call(["journalctl", "-D", str(node.journal()), *flags])


def _down(arguments: argparse.Namespace, progress: Progress) -> None:
    with progress.step(f"rack {arguments.rack}: taken apart"):
        _existing(arguments.rack).remove()


def _clean(arguments: argparse.Namespace, progress: Progress) -> None:
    others = [rack.name for rack in all_racks() if rack.name != arguments.rack]
    if others and not arguments.yes:
        raise RackError(
            f"other racks are here and use the same caches: {', '.join(others)}. "
            "Take them down first, or `./rack clean --yes` to remove them too."
        )
    lifecycle.clean(CACHE, progress)


def _doctor(arguments: argparse.Namespace, progress: Progress) -> int:
    findings = doctor.examine(CACHE)
    console = Console()
    for finding in findings:
        mark = "[red]✗[/red]" if finding.fatal else "[yellow]![/yellow]"
        console.print(
            f"{mark} {escape(finding.text)}\n    fix: {escape(finding.fix)}", highlight=False
        )
    if not findings:
        console.print("[green]✓[/green] this machine can carry a rack")
    return int(any(finding.fatal for finding in findings))


def _racks(arguments: argparse.Namespace, progress: Progress) -> None:
    for rack in all_racks():
        print(f"{rack.name}  {rack.subnet}  {' '.join(rack.nodes)}")


def _print_table(rack: Rack) -> None:
    """The rack as a person wants to see it, with what each stage took."""
    table = Table(title=f"rack {rack.name}", title_justify="left")
    for column in ("node", "role", "status", "version", "seconds per stage"):
        table.add_column(column, overflow="fold")
    for entry in rack.status():
        stages = lifecycle.stages(rack, entry)
        table.add_row(
            entry["id"],
            str(entry["role"] or "-"),
            _word(entry),
            str(entry["version"] or "-"),
            " · ".join(f"{stage} {seconds:.0f}" for stage, seconds in stages.items()),
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _word(entry: dict[str, Any]) -> str:
    if entry["ready"]:
        return "[green]Ready[/green]"
    if entry["reason"]:
        return escape(str(entry["reason"]))
    return "up" if entry["key"] == "accepted" else str(entry["key"])
