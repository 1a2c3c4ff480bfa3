"""A tiny package index and a wheelhouse made from it: the install scripts run for real, offline.

The packages are stand-ins of a few lines (a "salt" whose salt-call prints its version), made by
wheelhouse.sh like the real ones: with pip, by hash, Salt from its source archive.
"""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

INSTALL = Path(__file__).resolve().parents[3] / "install"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"

SALT_CALL = "def main():\n    print('salt-call {version}')\n"

# A build backend that needs nothing: zips the module with its metadata.
BACKEND = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from pack import wheel

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name, data = wheel("salt", "{version}", {files!r}, {scripts!r})
    Path(directory, name).write_bytes(data)
    return name
"""


def wheel(
    name: str, version: str, files: Mapping[str, str], scripts: str = ""
) -> tuple[str, bytes]:
    """Return file name and content of a wheel for any Python 3."""
    info = f"{name}-{version}.dist-info"
    content = dict(files)
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if scripts:
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}\n"
    record = []
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record.append(f"{path},sha256={digest.decode()},{len(text.encode())}")
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{name}-{version}-py3-none-any.whl", buffer.getvalue()


def salt_source(version: str) -> bytes:
    """Return Salt's stand-in as a source archive, as PyPI has the real one."""
    files = {"salt_stub.py": SALT_CALL.format(version=version)}
    scripts = "salt-call = salt_stub:main\nsalt-minion = salt_stub:main"
    here = Path(__file__).read_text()
    packer = here[here.index("def wheel(") : here.index("def salt_source(")]
    content = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: salt\nVersion: {version}\n",
        "pyproject.toml": (
            "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        ),
        "backend.py": BACKEND.format(version=version, files=files, scripts=scripts),
        "pack.py": "from __future__ import annotations\nimport base64, hashlib, io, zipfile\n"
        + packer,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in content.items():
            entry = tarfile.TarInfo(f"salt-{version}/{path}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def bundled_pip() -> Path:
    """Return the pip wheel that comes with this Python."""
    places = (Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels"))
    return next(file for place in places for file in place.glob("pip-*.whl"))


@dataclass
class Index:
    """A folder with packages, and the lock over them."""

    folder: Path
    version: str = "1.0"
    lock: Path = field(init=False)

    def __post_init__(self) -> None:
        """Make the packages and the lock."""
        self.folder.mkdir(parents=True)
        pip = bundled_pip()
        packages = {f"salt-{self.version}.tar.gz": salt_source(self.version)}
        packages[pip.name] = pip.read_bytes()
        for name in ("setuptools", "packaging", "looseversion", "helper"):
            packages.update([wheel(name, "1.0", {f"{name}.py": ""})])
        lines = []
        for name, data in packages.items():
            (self.folder / name).write_bytes(data)
            package, version = name.removesuffix(".tar.gz").split("-")[:2]
            digest = hashlib.sha256(data).hexdigest()
            lines.append(f"{package}=={version} \\\n    --hash=sha256:{digest}\n")
        self.lock = self.folder.parent / f"{self.folder.name}.lock"
        self.lock.write_text("# a comment\n" + "".join(sorted(lines)))

    def environment(self) -> dict[str, str]:
        """Return variables that make pip see this folder and nothing else."""
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("PIP_")},
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.folder),
        }

    def fill(self, target: Path, *args: str) -> subprocess.CompletedProcess[str]:
        """Run wheelhouse.sh."""
        args = args or ("--python", HERE)
        return subprocess.run(
            ["bash", INSTALL / "wheelhouse.sh", target, "--lock", self.lock, *args],
            env=self.environment(),
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index(tmp_path_factory.mktemp("index") / "packages")


@pytest.fixture(scope="session")
def wheels(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete wheelhouse; not to be changed."""
    target = tmp_path_factory.mktemp("wheels") / "wheels"
    done = index.fill(target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="session")
def newer(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder after an update of the lock; not to be changed."""
    folder = tmp_path_factory.mktemp("newer")
    shutil.copytree(wheels, folder / "wheels")
    done = Index(folder / "packages", version="1.1").fill(folder / "wheels", "--arch", "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "wheels"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with a key pair as the master makes it for a card."""
    return make_keys(tmp_path / "keys")


def make_keys(folder: Path) -> Path:
    from cryptography.hazmat.primitives import serialization as ser
    from cryptography.hazmat.primitives.asymmetric import rsa

    folder.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        ser.Encoding.PEM, ser.PrivateFormat.TraditionalOpenSSL, ser.NoEncryption()
    )
    public = key.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    (folder / "minion.pem").write_bytes(private)
    (folder / "minion.pub").write_bytes(public.rstrip())  # as Salt writes it
    return folder


@dataclass
class Pi:
    """A root file system of its own for minion.sh, on this machine."""

    root: Path
    wheels: Path
    opt: Path

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "SALTBERRY_ROOT": str(self.root),
            "SALTBERRY_OPT": str(self.opt),
            "SALTBERRY_RETRY_SECONDS": "0",
            **more,
        }

    def command(self, *args: str | Path, source: tuple[str | Path, ...] | None = None) -> list[str]:
        """Return minion.sh's command line; ARGS come last and so win."""
        source = source if source is not None else ("--wheels", self.wheels)
        words = ["bash", INSTALL / "minion.sh", "--id", "pi-01", "--master", "10.0.0.1", *source]
        return [str(word) for word in (*words, *args)]

    def install(
        self, *args: str | Path, source: tuple[str | Path, ...] | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*args, source=source),
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def files(self) -> dict[str, tuple[int, int]]:
        """Return {path: (inode, time of change)} of all that minion.sh is in charge of."""
        found = (path for path in self.root.rglob("*") if "__pycache__" not in path.parts)
        return {
            str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns)
            for path in found
            if not path.is_dir() or path.is_symlink()
        }


@pytest.fixture
def blank_pi(tmp_path: Path, wheels: Path) -> Pi:
    """A Pi on which nothing of ours is installed."""
    return _pi(tmp_path / "pi", wheels, tmp_path / "pi/opt/saltberry")


@pytest.fixture(scope="session")
def salt_opt(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished /opt/saltberry; not to be changed."""
    pi = _pi(tmp_path_factory.mktemp("ready"), wheels)
    done = pi.install()
    assert done.returncode == 0, done.stdout + done.stderr
    return pi.opt


@pytest.fixture
def pi(tmp_path: Path, wheels: Path, salt_opt: Path) -> Pi:
    """A Pi that has Salt's files in /opt already, which takes seconds, and nothing else."""
    return _pi(tmp_path / "pi", wheels, salt_opt)


def _pi(root: Path, wheels: Path, opt: Path | None = None) -> Pi:
    if os.geteuid() != 0:
        pytest.skip("the install scripts want root")
    (root / "etc").mkdir(parents=True, exist_ok=True)
    return Pi(root, wheels, opt or root / "opt/saltberry")


@pytest.fixture
def command(tmp_path: Path) -> Callable[[str, str], str]:
    """Put a program of our own before the system's; returns the PATH to use."""
    folder = tmp_path / "bin"

    def make(name: str, script: str) -> str:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    return make
