"""Make the Salt modules of this checkout importable in unit tests.

``_modules/kubeadm.py`` and ``_states/kubeadm.py`` share a name, so their folders cannot both be on
``sys.path``. Each folder becomes a package of its own here::

    from saltberry_ext.modules import kubeadm
    from saltberry_ext.states import kubeadm as kubeadm_state
    from saltberry_ext.utils import ticket

The dunders (``__salt__`` ...) come from the plugin's fixture ``configure_loader_modules``.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = "saltberry_ext"
KINDS = ("modules", "states", "utils", "runners", "pillar", "cache")


def _package(name: str, path: list[str]) -> types.ModuleType:
    """Register an empty package whose modules are found in ``path``."""
    package = types.ModuleType(name)
    package.__path__ = path
    sys.modules[name] = package
    return package


if PACKAGE not in sys.modules:
    _root = _package(PACKAGE, [])
    for _kind in KINDS:
        setattr(_root, _kind, _package(f"{PACKAGE}.{_kind}", [str(REPO / f"_{_kind}")]))


@pytest.fixture(scope="module")
def kernel_with_nfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have modprobe find NFS, whatever this machine's kernel is: the branch with it is the longer."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "modprobe").write_text("#!/bin/sh\nexit 0\n")
    (folder / "modprobe").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield
