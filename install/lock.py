#!/usr/bin/env python3
"""Make locks: exact versions and PyPI's sha256 of every file we may install.

    python3 install/lock.py            # writes install/salt.lock from install/salt.in
    python3 install/lock.py helm       # writes salt/helm/files/helm.lock from install/helm.in
    python3 install/lock.py --check    # exit 1 if salt.lock does not answer salt.in

Needs only Python >= 3.11 and PyPI (through pip's own configuration). First everything that Salt asks for is
resolved, so that the versions fit together; then, for each Python and machine type, pip tells which wheel of
the packages named in salt.in it would take there. Salt itself exists only as a source archive.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The file server serves only what is below salt/, and the control plane reads Helm's lock from there.
LOCKS = {"salt": HERE / "salt.lock", "helm": HERE.parent / "salt/helm/files/helm.lock"}
PYTHONS = ("3.11", "3.12", "3.13")  # Bookworm, Ubuntu 24.04, Trixie
MACHINES = ("aarch64", "x86_64")
GLIBC_MINOR = 36  # Bookworm's glibc 2.36: nothing that needs a newer one
SOURCE_ONLY = "salt"
HEADER = """\
# Made by install/lock.py from install/{name}.in: do not edit, run it again.
# For Python {pythons} on {machines}. Install with: pip install --no-deps --require-hashes
# (without --no-deps pip would ask for what {name}.in leaves out on purpose).
"""


def normalized(name: str) -> str:
    """Return the name as PyPI compares it: lower case, runs of ``-_.`` as one dash (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(text: str) -> dict[str, str]:
    """Return {normalized name: requirement as written} of a requirements file's text."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {normalized(re.split(r"[=<>!~\[ ]", line)[0]): line for line in lines if line}


def locked(text: str) -> dict[str, str]:
    """Return {normalized name: version} of a lock's text."""
    return {normalized(n): v for n, v in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}


def platforms(machine: str) -> list[str]:
    """Return every wheel platform tag that runs on ``machine`` with Bookworm's C library."""
    modern = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 4, -1)]
    return [
        *modern,
        f"manylinux2014_{machine}",
        f"manylinux2010_{machine}",
        f"manylinux1_{machine}",
    ]


def pip_report(python: Path, *args: str) -> dict[str, tuple[str, str]]:
    """Return {name: (version, sha256)} of what ``pip install ARGS`` would take. Raises CalledProcessError."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--disable-pip-version-check", "--report", "-", *args]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    items: list[dict[str, Any]] = json.loads(result.stdout)["install"]
    return {
        normalized(item["metadata"]["name"]): (
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in items
    }


def resolve(requirements: dict[str, str], work: Path) -> dict[str, tuple[str, set[str]]]:
    """Return {name: (version, sha256 of every file for our targets)} for the packages in ``requirements``."""
    venv.create(work / "venv", with_pip=True)
    python = work / "venv/bin/python"
    print("lock: resolving all that it asks for", file=sys.stderr)
    everything = pip_report(python, *requirements.values())
    result = {name: (everything[name][0], set[str]()) for name in requirements}
    if SOURCE_ONLY in result:
        result[SOURCE_ONLY][1].add(everything[SOURCE_ONLY][1])
    pins = [f"{name}=={version}" for name, (version, _) in result.items() if name != SOURCE_ONLY]
    for machine in MACHINES:
        for version in PYTHONS:
            print(f"lock: wheels for Python {version} on {machine}", file=sys.stderr)
            target = ["--no-deps", "--only-binary=:all:", "--target", str(work / "target")]
            target += ["--python-version", version, "--implementation", "cp"]
            target += [word for tag in platforms(machine) for word in ("--platform", tag)]
            for name, (_, sha256) in pip_report(python, *target, *pins).items():
                result[name][1].add(sha256)
    return result


def lock_text(packages: dict[str, tuple[str, set[str]]], name: str = "salt") -> str:
    """Return the lock: one requirement with its hashes each, sorted, so that two runs compare."""
    machines = " and ".join(MACHINES)
    parts = [HEADER.format(pythons=", ".join(PYTHONS), machines=machines, name=name)]
    for package, (version, hashes) in sorted(packages.items()):
        options = [f"    --hash=sha256:{sha256}" for sha256 in sorted(hashes)]
        parts.append(" \\\n".join([f"{package}=={version}", *options]) + "\n")
    return "".join(parts)


def problems(requirements: dict[str, str], lock: str, of: str = "salt") -> list[str]:
    """Return in plain words where the lock's text does not answer its input (needs no network)."""
    have = locked(lock)
    found = [
        f"{name} is in {of}.in but not in {of}.lock" for name in requirements.keys() - have.keys()
    ]
    found += [
        f"{name} is in {of}.lock but not in {of}.in" for name in have.keys() - requirements.keys()
    ]
    for name, line in requirements.items():
        pin = line.partition("==")[2]
        if pin and have.get(name, pin) != pin:
            found.append(f"{of}.in pins {line}, {of}.lock has {have[name]}")
    return sorted(found)


def main() -> int:
    """Write or check the lock; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", nargs="?", choices=sorted(LOCKS), default="salt")
    parser.add_argument("--check", action="store_true", help="only compare the lock with its input")
    args = parser.parse_args()
    requirements = wanted((HERE / f"{args.name}.in").read_text())
    lock_file = LOCKS[args.name]
    if args.check:
        found = problems(requirements, lock_file.read_text(), args.name)
        for problem in found:
            print(f"{problem}: run python3 install/lock.py {args.name}", file=sys.stderr)
        return 1 if found else 0
    with tempfile.TemporaryDirectory() as work:
        text = lock_text(resolve(requirements, Path(work)), args.name)
    lock_file.write_text(text)
    print(f"wrote {lock_file}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
