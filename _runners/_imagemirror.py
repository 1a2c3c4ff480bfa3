"""Images for the mirror: skopeo copies them into the storage that the mirror's registry serves.

That registry is read-only. A second one works on the same storage for as long as a copy takes, and
listens to this machine alone. What is there already is not fetched again.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_START_SECONDS = 30.0


def path(image: str) -> str:
    """Return an image's name in the mirror: without its registry, as containerd asks a mirror for it."""
    first, slash, rest = image.partition("/")
    return rest if slash and ("." in first or ":" in first or first == "localhost") else image


def source(image: str, endpoints: Mapping[str, str]) -> tuple[str, bool]:
    """Return where an image comes from, as skopeo has it, and whether by TLS.

    endpoints
        Other places than the registry that the name has, by that: ``{docker.io: http://…}``.
    """
    host = image.partition("/")[0] if path(image) != image else "docker.io"
    endpoint = endpoints.get(host, "")
    plain = endpoint.startswith("http://")
    at = endpoint.partition("://")[2].rstrip("/") or host
    return f"docker://{at}/{path(image)}", not plain


def there(storage: Path, image: str) -> bool:
    """Say whether a registry's storage has an image with this tag, whole."""
    name, _, tag = path(image).partition("@")[0].rpartition(":")
    folder = storage / "docker/registry/v2"
    link = folder / f"repositories/{name}/_manifests/tags/{tag}/current/link"
    if not link.is_file():
        return False
    digest = link.read_text().strip().removeprefix("sha256:")
    blob = folder / f"blobs/sha256/{digest[:2]}/{digest}/data"
    try:
        manifest = json.loads(blob.read_text())
    except (OSError, ValueError):
        return False
    parts = [*manifest.get("layers", []), manifest.get("config", {})]
    digests = [part["digest"].removeprefix("sha256:") for part in parts if "digest" in part]
    return all((folder / f"blobs/sha256/{d[:2]}/{d}/data").is_file() for d in digests)


@contextlib.contextmanager
def registry(storage: Path, program: str = "docker-registry") -> Iterator[str]:
    """Have a registry on the storage that takes images, on an address of this machine's own."""
    storage.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(storage)}},
        "http": {"addr": address},
    }
    file = storage.parent / ".sync/registry.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config))
    with subprocess.Popen(
        [program, "serve", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait(f"http://{address}/v2/", process)
            yield address
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    raise RuntimeError("docker-registry does not start; is another copy at work?")


def copy(image: str, address: str, endpoints: Mapping[str, str]) -> Sequence[str]:
    """Return the command that copies an image to the registry at ``address``.

    For this machine's architecture; a name with a digest means all architectures, whose list has it.
    """
    came, tls = source(image, endpoints)
    tagged = path(image).partition("@")[0]
    everything = ["--all"] if "@" in image else []
    return ["skopeo", "copy", "--quiet", "--insecure-policy", "--retry-times=3", *everything,
            f"--src-tls-verify={str(tls).lower()}", "--dest-tls-verify=false", came,
            f"docker://{address}/{tagged}"]  # fmt: skip
