"""Packages for the mirror, as apt itself resolves, fetches and verifies them.

apt works in a folder of its own (its lists and downloads are there, the system's are not touched), as if
nothing were installed, so that what comes is all that any node may lack. What a repository has signed is
kept byte for byte: nodes check the signatures of the distribution, and the mirror has no key of its own.
Below the folder everything lies as on the web: ``<host>/<path of the repository>/{dists,pool}``.

Pure Python but for the programs it calls; no Salt.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

HELPER = "/usr/lib/apt/apt-helper"
# What a client may ask for, first what it would rather have
_PACKED = (".xz", ".gz", ".bz2", "")
# Of what a program says
_MOST_LINES = 4


class Failed(RuntimeError):
    """A program could not do it; the text is what it said."""


class Deb(NamedTuple):
    """A package that is wanted: where it is on the web, its file's name and size."""

    url: str
    name: str
    size: int


def run(argv: Sequence[str], what: str, cwd: Path | None = None) -> str:
    """Run a program, in a folder if one is given; return what it printed.

    Raises Failed with what was to be done and its last words.
    """
    env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=cwd, check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "Err:"))]
        raise Failed(f"{what}: {' / '.join((errors or lines)[-_MOST_LINES:])}")
    return done.stdout


def place(url: str) -> str:
    """Return where something of the web lies in the mirror: ``deb.debian.org/debian/pool/...``."""
    parts = urlsplit(url)
    path = unquote(parts.path).lstrip("/")
    if ".." in path.split("/") or not parts.hostname:
        raise Failed(f"{url} is no address that a mirror can have")
    return f"{parts.hostname}/{path}"


class Apt:
    """apt with a root of its own below ``work``, for the repositories of ``sources``.

    work
        Folder for its lists and downloads; what is there already is not fetched again.
    sources
        Lines as in ``/etc/apt/sources.list``; none: those of this system.
    more
        Lines besides.
    """

    def __init__(self, work: Path, sources: Sequence[str], more: Sequence[str]) -> None:
        self.work = work
        # Groups that these repositories do not have whole, by their first package
        self.partial: dict[str, list[str]] = {}
        for name in ("lists/partial", "archives/partial", "none/partial", "parts", "empty"):
            (work / name).mkdir(parents=True, exist_ok=True)
        (work / "status").write_text("")
        (work / "parts/saltberry-mirror.list").write_text("".join(f"{line}\n" for line in more))
        (work / "sources.list").write_text("".join(f"{line}\n" for line in sources))
        if not sources:
            self._copy_system()

    def _copy_system(self) -> None:
        """This system's repositories, but for the one that our own states wrote."""
        main = Path("/etc/apt/sources.list")
        if main.exists():
            shutil.copy(main, self.work / "sources.list")
        for path in sorted(Path("/etc/apt/sources.list.d").glob("*")):
            if path.suffix in (".list", ".sources") and not path.name.startswith("saltberry"):
                shutil.copy(path, self.work / "parts" / path.name)

    def _options(self, archives: str = "archives") -> list[str]:
        at = self.work
        settings = {
            "Dir::State::lists": at / "lists",
            "Dir::State::status": at / "status",
            "Dir::Cache": at,
            "Dir::Cache::Archives": at / archives,
            "Dir::Etc::sourcelist": at / "sources.list",
            "Dir::Etc::sourceparts": at / "parts",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            # Its own mirror is no source for it.
            "Acquire::http::Proxy": "false",
            "Acquire::Retries": 3,
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Fetch the repositories' lists and check their signatures."""
        run(["apt-get", "-q", *self._options(), "update"], "apt-get update")

    def known(self, groups: Iterable[Sequence[str]]) -> list[list[str]]:
        """Return the groups without those packages that these repositories have not at all."""
        groups = [list(group) for group in groups]
        have = self._available({name.partition("=")[0] for group in groups for name in group})
        # Kubernetes' own are asked for all the same: that they are missing has to be said.
        kept = [[name for name in group if name in have or "=" in name] for group in groups]
        return [group for group in kept if group]

    def _available(self, names: Iterable[str]) -> set[str]:
        argv = ["apt-cache", *self._options(), "madison", *sorted(names)]
        rows = run(argv, "apt-cache madison").splitlines()
        return {row.split("|")[0].strip() for row in rows if "|" in row}

    def needed(self, groups: Iterable[Sequence[str]]) -> dict[str, Deb]:
        """Return all packages that these need, each group resolved by itself, by file name.

        A repository of your own may lack the base system, which every node has. Of a group that cannot be
        resolved therefore it is all that there is; :attr:`partial` has its name.
        """
        found: dict[str, Deb] = {}
        for group in groups:
            try:
                said = self._install(group, "none", "--print-uris")
            except Failed:
                self.partial[group[0]] = self._reachable(group)
                said = self._download(self.partial[group[0]], "--print-uris")
            for line in said.splitlines():
                if hit := re.match(r"'([^']+)' (\S+) (\d+) ", line):
                    found[hit[2]] = Deb(hit[1], hit[2], int(hit[3]))
        return found

    def _reachable(self, group: Sequence[str]) -> list[str]:
        """What the group depends on, directly or not, of what there is."""
        exact = {name.partition("=")[0]: name for name in group}
        without = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        argv = ["apt-cache", *self._options(), "depends", "--recurse",
                *(f"--no-{word}" for word in without), *exact]  # fmt: skip
        said = run(argv, f"resolving {' '.join(group)}").splitlines()
        names = {line.strip() for line in said if line[:1] not in ("", " ", "<", "|")}
        return [exact.get(name, name) for name in sorted(self._available(names | exact.keys()))]

    def fetch(self, groups: Iterable[Sequence[str]]) -> None:
        """Download what is not there yet; apt goes on where it was cut off, and checks the hashes."""
        for group in groups:
            if group[0] in self.partial:
                self._download(self.partial[group[0]])
            else:
                self._install(group, "archives", "--download-only")

    def _install(self, group: Sequence[str], archives: str, *how: str) -> str:
        argv = ["apt-get", "-qq", *self._options(archives), *how, "--yes",
                "--no-install-recommends", "install", *group]  # fmt: skip
        return run(argv, f"fetching {' '.join(group)}")

    def _download(self, names: Sequence[str], *how: str) -> str:
        argv = ["apt-get", "-qq", *self._options(), *how, "download", *names]
        return run(argv, f"fetching {' '.join(names)}", cwd=self.work / "archives")

    def publish(self, folder: Path, debs: Mapping[str, Deb]) -> int:
        """Lay lists and packages where nodes look for them; return how many packages are new.

        First the packages, then the lists that name them: a node never sees a package that is not there.
        """
        new = 0
        for deb in debs.values():
            target = folder / place(deb.url)
            if target.is_file() and target.stat().st_size == deb.size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            _put(self.work / "archives" / deb.name, target)
            new += 1
        for base, keys in self._indexes().items():
            self._publish_lists(folder / place(base), base, keys)
        return new

    def _indexes(self) -> dict[str, set[str]]:
        """The lists that apt uses, by the folder of the signed file that names them."""
        argv = ["apt-get", *self._options(), "indextargets", "--format", "$(BASE_URI) $(METAKEY)"]
        found: dict[str, set[str]] = {}
        for line in run(argv, "apt-get indextargets").splitlines():
            base, _, key = line.partition(" ")
            found.setdefault(base, set()).add(key)
        return found

    def _publish_lists(self, target: Path, base: str, keys: set[str]) -> None:
        name = _listed(base)
        signed = self.work / "lists" / f"{name}InRelease"
        extra = []
        if not signed.exists():
            signed = self.work / "lists" / f"{name}Release"
            extra = [self.work / "lists" / f"{name}Release.gpg"]
        hashes = _hashes(signed.read_text())
        for key in sorted(keys):
            for packed in _PACKED:
                if f"{key}{packed}" in hashes:
                    self._publish_list(target, base, f"{key}{packed}", hashes[f"{key}{packed}"])
        for path in [*extra, signed]:
            _put(path, target / path.name.removeprefix(name))

    def _publish_list(self, target: Path, base: str, key: str, sha256: str) -> None:
        """Fetch one list in the form that is signed, to both its names."""
        kept = target / Path(key).parent / "by-hash/SHA256" / sha256
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.work / "list"
            fresh.unlink(missing_ok=True)
            argv = [HELPER, *self._options(), "download-file", f"{base}{key}", str(fresh),
                    f"SHA256:{sha256}"]  # fmt: skip
            try:
                run(argv, f"fetching {base}{key}")
            except Failed:
                # A repository names forms of a list that it does not serve; one of them it does.
                if key.endswith((".xz", ".gz")):
                    raise
                return
            fresh.replace(kept)
        _put(kept, target / key)


def _put(source: Path, target: Path) -> None:
    """Have a file under another name, too, in one step and without taking room twice."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file to another of the same does nothing, and leaves both
    spare = target.with_name(f".{target.name}.new")
    spare.unlink(missing_ok=True)
    try:
        os.link(source, spare)
    except OSError:
        shutil.copy(source, spare)
    spare.chmod(0o644)
    spare.replace(target)


def _listed(base: str) -> str:
    """What apt calls the files of an address in its lists."""
    bare = base.partition("://")[2]
    quoted = re.sub(r'[\\|{}\[\]<>"^~_=!@#$%&*]', lambda hit: f"%{ord(hit[0]):02x}", bare)
    return quoted.replace("/", "_")


def _hashes(release: str) -> dict[str, str]:
    """The SHA-256 of each list that a Release file names."""
    section = re.search(r"^SHA256:\n((?: .*\n?)+)", release, re.MULTILINE)
    rows = [line.split() for line in section[1].splitlines()] if section else []
    return {row[2]: row[0] for row in rows if len(row) == 3}
