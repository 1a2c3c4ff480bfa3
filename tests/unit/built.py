"""The real programs that the lab has built (`./rack build`), for tests that want them."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = Path(os.environ.get("SALTBERRY_CACHE", "/var/cache/saltberry"))


def newest(pattern: str) -> Path:
    """The latest path in the lab's cache that fits; one that does not exist when none does."""
    found = sorted(CACHE.glob(pattern), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else CACHE / pattern.replace("*", "none")


PROGRAMS = newest("kubernetes-*/bin")
ETCD = newest("builder-*/root/usr/bin/etcd")
HELM = newest("helm-*/helm")
