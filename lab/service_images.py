"""The images of services, made from Debian's packages of the same programs.

A rack names an image as it is called upstream (``docker.io/library/registry:2.8.3``, a default in
``_utils/rackschema.py``). The lab's registry has one of that name and tag, with Debian's version of the
program at the path that upstream's image has it. Images that Debian has no program for are not here; what
needs them is only checked (docs/services.md says which).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lab import host, rootfs
from lab.builder import Box
from lab.images import Image
from lab.rootfs import Debian
from lab.store import Store

PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "docker-registry",
    "influxdb",
    "influxdb-client",
    "nginx-light",
    "postgresql",
    "prometheus",
)
_REPO = Path(__file__).resolve().parents[1]
_SCHEMA = _REPO / "_utils/rackschema.py"
_EXAMPLES = _REPO / "docs/examples"

_POSTGRES_PROGRAMS = ("initdb", "pg_ctl", "pg_isready", "postgres", "psql")
# What there is beside each program: a shell, and the users it may run as
_SHELL = "/bin/busybox"
_RECIPES: Mapping[str, dict[str, Any]] = {
    "registry": {
        "debian": ("/usr/bin/docker-registry", "/etc/ssl/certs/ca-certificates.crt"),
        "links": {"/bin/registry": "/usr/bin/docker-registry"},
        "entrypoint": ("/bin/registry",),
        "command": ("serve", "/etc/docker/registry/config.yml"),
        "folders": ("/var/lib/registry",),
        "check": ("/bin/registry", "--version"),
    },
    "influxdb": {
        "debian": ("/usr/bin/influxd", "/usr/bin/influx"),
        "entrypoint": ("/usr/bin/influxd",),
        "folders": ("/var/lib/influxdb",),
        "check": ("/usr/bin/influxd", "version"),
    },
    "prometheus": {
        "debian": ("/usr/bin/prometheus",),
        "links": {"/bin/prometheus": "/usr/bin/prometheus"},
        "entrypoint": ("/bin/prometheus",),
        "folders": ("/prometheus",),
        "check": ("/bin/prometheus", "--version"),
    },
    "nginx": {
        "debian": ("/usr/sbin/nginx", "/etc/nginx/mime.types"),
        "files": {
            "/etc/nginx/nginx.conf": "events {}\nhttp {\n  include mime.types;\n"
            "  include conf.d/*.conf;\n}\n",
            "/etc/nginx/conf.d/default.conf": "server {\n  listen 80;\n"
            "  root /usr/share/nginx/html;\n}\n",
            "/usr/share/nginx/html/index.html": "<h1>nginx</h1>\n",
            # whom its workers run as
            "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
            "/etc/group": "root:x:0:\nnogroup:x:65534:\nnobody:x:65534:\n",
        },
        "folders": ("/var/log/nginx", "/var/lib/nginx", "/var/cache/nginx", "/run", "/etc/nginx"),
        "entrypoint": ("/usr/sbin/nginx",),
        "command": ("-g", "daemon off;"),
        "check": ("/usr/sbin/nginx", "-v"),
    },
    "postgres": {
        "debian": (
            *(f"/usr/lib/postgresql/15/bin/{name}" for name in _POSTGRES_PROGRAMS),
            # of the libraries only what a new database has; LLVM's alone would be 100 MB
            *(f"/usr/lib/postgresql/15/lib/{name}.so" for name in ("dict_snowball", "plpgsql")),
            "/usr/share/postgresql/15",
            "/usr/share/zoneinfo/Etc",
            "/usr/share/zoneinfo/UTC",
        ),
        "links": {
            f"/usr/bin/{name}": f"/usr/lib/postgresql/15/bin/{name}" for name in _POSTGRES_PROGRAMS
        },
        "files": {
            "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
            "postgres:x:999:999::/var/lib/postgresql:/bin/sh\n",
            "/etc/group": "root:x:0:\npostgres:x:999:\n",
            "/usr/local/bin/docker-entrypoint.sh": (
                Path(__file__).parent / "services/postgres-entrypoint.sh"
            ).read_text(),
        },
        "folders": ("/var/lib/postgresql/data", "/var/run/postgresql"),
        "entrypoint": ("/usr/local/bin/docker-entrypoint.sh",),
        "command": ("postgres",),
        "check": ("/usr/bin/postgres", "--version"),
    },
}


def root(store: Store, debian: Debian) -> Box:
    """A Debian 12 with the programs, made if it is not in the cache."""
    inputs = {
        "suite": rootfs.SUITE,
        "architecture": host.architecture(),
        "packages": PACKAGES,
        "layout": 1,
    }

    def build(partial: Path) -> None:
        rootfs.bootstrap(store, "services", partial / "root", PACKAGES, debian)

    text = "collecting the programs of services (half a minute)"
    return Box(store, store.ensure("services", inputs, build, text) / "root")


def definitions() -> list[Image]:
    """Those images of the settings' defaults, and of the examples, that can be made here."""
    made = []
    for name in dict.fromkeys([*_named(_schema().SCHEMA["services"]), *_of_examples()]):
        short = path(name)
        recipe = _RECIPES.get(short.rpartition("/")[2].partition(":")[0])
        if recipe:
            own = {**recipe, "debian": (*recipe["debian"], _SHELL)}
            made.append(Image(short, {}, services=True, **own))
    return made


def path(name: str) -> str:
    """What an image is called in a registry: ``docker.io/library/nginx:1`` is ``library/nginx:1`` there."""
    first, slash, rest = name.partition("/")
    return rest if slash and "." in first else name


def _named(part: Any) -> Iterator[str]:
    """All images among the defaults below a part of the schema."""
    if getattr(part, "kind", "") == "image" and part.default:
        yield part.default
    for below in getattr(part, "keys", {}).values():
        yield from _named(below)


def _of_examples() -> list[str]:
    """All images that docs/examples names."""
    texts = [file.read_text() for file in sorted(_EXAMPLES.glob("*.yaml"))]
    return re.findall(r"^ +(?:- )?image: (\S+)$", "\n".join(texts), re.MULTILINE)


def _schema() -> ModuleType:
    spec = importlib.util.spec_from_file_location("saltberry_rackschema", _SCHEMA)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
