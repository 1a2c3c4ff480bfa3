"""Salt for the nodes: the wheels that install/wheelhouse.sh collects, on the nodes' own Python."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab import rootfs
from lab.builder import Box
from lab.store import Store, tree_contents

_INSTALL = Path(__file__).resolve().parent.parent / "install"
_HELM = _INSTALL.parent / "salt/helm/files"
_MADE_FROM = ("salt.lock", "wheelhouse.sh")

_PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
# pip's words for Debian's
_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")
_VARIABLES = re.compile(r"PIP_\w+|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE")
_LOCAL = re.compile(r"(?:file://)?(/[^\s,;\"']+)")


def ensure(store: Store, box: Box, system: rootfs.System | None = None) -> Path:
    """Directory with the wheels. Raises StepFailed with the script's last words."""
    system = system or rootfs.System()
    python = _PYTHONS[system.suite]
    files = tree_contents(_INSTALL)
    inputs = {
        "files": {name: files.get(name) for name in _MADE_FROM},
        "suite": system.suite,
        "architecture": system.architecture,
        "python": python,
    }

    def build(partial: Path) -> None:
        wheels = partial / "wheels"
        wheels.mkdir()
        mounts, environment = pip_settings(os.environ, Path.home())
        box.run(
            "wheels",
            [
                "bash",
                "/install/wheelhouse.sh",
                "/wheels",
                "--python",
                python,
                "--arch",
                _ARCHES[system.architecture],
            ],
            step="collecting Salt's wheels",
            mounts={**mounts, _INSTALL: "/install:ro", wheels: "/wheels"},
            env=environment,
            on_line=lambda line: store.note(line, "wheelhouse: "),
        )

    return store.ensure("wheels", inputs, build, "collecting Salt's wheels") / "wheels"


def helm(store: Store, box: Box, system: rootfs.System | None = None) -> Path:
    """Directory with Helm for the control plane. Raises StepFailed with the script's last words."""
    system = system or rootfs.System()
    inputs = {"files": tree_contents(_HELM), "architecture": system.architecture}

    def build(partial: Path) -> None:
        folder = partial / "helm"
        folder.mkdir()
        mounts, environment = pip_settings(os.environ, Path.home())
        box.run(
            "helm",
            ["python3", "/files/fetch.py", "/helm", "--machine", _ARCHES[system.architecture]],
            step="downloading Helm",
            mounts={**mounts, _HELM: "/files:ro", folder: "/helm"},
            env=environment,
        )

    return store.ensure("helm", inputs, build, "downloading Helm") / "helm"


def _spoken(line: str, store: Store) -> None:
    """Pass on what the script says itself, not pip's words."""
    said = line.removeprefix("wheelhouse: ")
    if said != line:
        store.progress.note(said.strip()[:80])


def pip_settings(
    variables: Mapping[str, str], home: Path
) -> tuple[dict[Path, str], dict[str, str]]:
    """What pip inside the builder needs to reach packages the way this machine's pip does.

    Networks differ: an index of one's own, a proxy with its own certificate authority, packages in
    a directory. Returns the mounts (all read-only) and the environment for the builder.
    """
    environment = {name: value for name, value in variables.items() if _VARIABLES.fullmatch(name)}
    files = [Path(name.replace("~", str(home), 1)) for name in _PIP_FILES]
    if "PIP_CONFIG_FILE" in environment:
        files.append(Path(environment["PIP_CONFIG_FILE"]))
    files = [file for file in files if file.is_file()]
    texts = [*environment.values(), *(file.read_text(errors="replace") for file in files)]
    mounts = {file: f"{_inside(file, home)}:ro" for file in files}
    for path in _local_paths(texts):
        mounts[path] = f"{path}:ro"
    if Path(_CERTIFICATES).is_file():
        mounts[Path(_CERTIFICATES)] = f"{_CERTIFICATES}:ro"
    return mounts, environment


def _inside(file: Path, home: Path) -> str:
    """Where a configuration file goes in the builder, whose user is root."""
    return f"/root/{file.relative_to(home)}" if file.is_relative_to(home) else str(file)


def _local_paths(texts: Iterable[str]) -> list[Path]:
    """Existing files and directories that pip's settings name."""
    found = set()
    for text in texts:
        for name in _LOCAL.findall(re.sub(r"https?://\S+", "", text)):
            path = Path(name)
            # A local index (".../simple") links to files beside it.
            path = path.parent if path.name == "simple" else path
            if path.exists() and len(path.parts) > 2 and not path.is_relative_to("/etc/ssl/certs"):
                found.add(path)
    return sorted(found)
