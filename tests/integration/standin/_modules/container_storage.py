"""Stands in for _modules/container_storage.py: a node wants to be moved while ``wants-ID`` is there."""

from pathlib import Path

from salt.exceptions import CommandExecutionError

STANDIN = Path("@STANDIN@")


def wanted():
    wish = STANDIN / f"wants-{__opts__['id']}"
    return {"target": wish.read_text(encoding="utf-8")} if wish.exists() else None


def status():
    return {"move": {"phase": "copying", "bytes_done": 3_200_000_000, "bytes_total": 8 * 10**10}}


def managed():
    node = __opts__["id"]
    if not wanted() or not __pillar__.get("container_storage_drained"):
        return True
    with (STANDIN / "calls").open("a", encoding="utf-8") as stream:
        stream.write(f"move {node}\n")
    if (STANDIN / f"move-fails-{node}").exists():
        raise CommandExecutionError("the disk is full")
    (STANDIN / f"wants-{node}").unlink()
    return True
