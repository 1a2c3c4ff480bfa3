#!/usr/bin/env python3
"""Lay Helm into a folder of the mirror, by the hashes in helm.lock beside this script.

    python3 fetch.py DIR [--machine aarch64|x86_64|auto]...

pip's own configuration says from where. A folder that has what is asked for is left alone, with no
network. Beside the wheels an index.html, so that any plain web server will do.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path

LOCK = Path(__file__).resolve().with_name("helm.lock")
MACHINES = ("aarch64", "x86_64")
GLIBC_MINOR = 36  # Bookworm's glibc 2.36: nothing that needs a newer one


def hashes() -> set[str]:
    """Return the sha256 of all files that may be laid there."""
    return set(re.findall(r"--hash=sha256:([0-9a-f]{64})", LOCK.read_text(encoding="utf-8")))


def sha256(path: Path) -> str:
    """Return a file's sha256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def missing(folder: Path, machines: Iterable[str]) -> list[str]:
    """Return the machine types for which the folder has no file that the lock names."""
    known = hashes()
    good = [path.name for path in folder.glob("*.whl") if sha256(path) in known]
    return [machine for machine in machines if not any(f"_{machine}.whl" in name for name in good)]


def download(folder: Path, machines: Iterable[str]) -> None:
    """Fetch what is missing. Raises CalledProcessError: pip has said why."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as work:
        venv.create(f"{work}/venv", with_pip=True)
        for machine in machines:
            print(f"helm: downloading Helm for {machine}", flush=True)
            tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 4, -1)]
            subprocess.run(
                [
                    f"{work}/venv/bin/python", "-m", "pip", "--quiet",
                    "--disable-pip-version-check", "--no-input", "download", "--no-deps",
                    "--require-hashes", "--only-binary=:all:", "--no-cache-dir",
                    *(word for tag in tags for word in ("--platform", tag)),
                    "--dest", f"{work}/wheels", "--requirement", str(LOCK),
                ],
                check=True,
            )  # fmt: skip
        for path in Path(work, "wheels").iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            path.chmod(0o644)
            path.rename(folder / path.name)


def write_index(folder: Path) -> None:
    """Write the list of files, with their hashes."""
    lines = ["<!DOCTYPE html><title>Helm for the control plane</title>"]
    for path in sorted(folder.glob("*.whl")):
        lines.append(f'<a href="{path.name}#sha256={sha256(path)}">{path.name}</a><br>')
    staged = folder / ".index.html.new"
    staged.write_text("\n".join([*lines, ""]), encoding="utf-8")
    staged.rename(folder / "index.html")


def main() -> int:
    """Fill the folder; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--machine", action="append", choices=(*MACHINES, "auto"))
    args = parser.parse_args()
    own = platform.machine()
    machines = {own if name == "auto" else name for name in args.machine or ["auto"]}
    if not machines <= set(MACHINES):
        print(f"helm: there is no Helm for {own}, only for {', '.join(MACHINES)}", file=sys.stderr)
        return 1
    lacking = missing(args.folder, sorted(machines))
    if lacking:
        args.folder.mkdir(parents=True, exist_ok=True)
        try:
            download(args.folder, lacking)
        except subprocess.CalledProcessError as exc:
            print(f"helm: pip ended with {exc.returncode}, see above", file=sys.stderr)
            return 1
    if lacking or not (args.folder / "index.html").exists():
        write_index(args.folder)
    print(f"helm: {args.folder} is complete for {', '.join(sorted(machines))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
