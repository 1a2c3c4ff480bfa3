"""Stands in for _modules/node.py: preflight finds the problems that ``preflight-ID`` holds."""

import hashlib
from pathlib import Path

STANDIN = Path("@STANDIN@")


def modules():
    synced = Path(__opts__["extension_modules"])
    return {
        str(path.relative_to(synced)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in synced.glob("*/*.py")
    }


def preflight(role=None):
    with (STANDIN / "calls").open("a", encoding="utf-8") as stream:
        stream.write(f"preflight {__opts__['id']} {role}\n")
    found = STANDIN / f"preflight-{__opts__['id']}"
    problems = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
    if problems:
        __context__["retcode"] = 1
    return {"ok": not problems, "problems": problems, "warnings": []}


def reboot_wanted():
    wish = STANDIN / f"reboot-{__opts__['id']}"
    return wish.read_text(encoding="utf-8").splitlines() if wish.exists() else []


def reboot(seconds=3):
    """Start anew: the mark of the start changes, and the wish is gone unless it is to stay."""
    node = __opts__["id"]
    with (STANDIN / "calls").open("a", encoding="utf-8") as stream:
        stream.write(f"reboot {node}\n")
    (STANDIN / "boot").write_text(f"{node} again", encoding="utf-8")
    if not (STANDIN / f"reboot-stays-{node}").exists():
        (STANDIN / f"reboot-{node}").unlink()
