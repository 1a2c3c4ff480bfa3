"""Check the rack description the way the salt-master will, before it is installed or touches anything.

    /opt/saltberry/salt/bin/python install/check_rack.py    # prints: <id of the master node> <its address or ->

Compiles the pillar through Salt itself with the project's own ext_pillar, so that Jinja, the defaults and the
checks of _utils/rackspec.py are what they will be later. Exit code 1 with every problem on standard error.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import salt.config
import salt.pillar

REPO = Path(__file__).resolve().parent.parent


def options(cache: str) -> dict[str, Any]:
    """Return a master's options for this checkout that touch nothing outside ``cache``."""
    overrides = {
        "root_dir": cache,
        "pillar_roots": {"base": [str(REPO / "pillar")]},
        "pillar_source_merging_strategy": "recurse",
        "pillar_dirs": [str(REPO / "_pillar")],
        "utils_dirs": [str(REPO / "_utils")],
        "ext_pillar": [{"saltberry": {}}],
        "file_client": "local",
    }
    opts: dict[str, Any] = salt.config.apply_master_config(overrides)
    return opts


def compiled() -> dict[str, Any]:
    """Return the pillar of the master's own runs, which has the whole rack. Raises nothing: see ``_errors``."""
    with tempfile.TemporaryDirectory() as cache:
        opts = options(cache)
        # Salt logs what it also returns in _errors, in more words
        logging.disable(logging.CRITICAL)
        pillar: dict[str, Any] = salt.pillar.Pillar(
            opts, {}, "check_master", "base"
        ).compile_pillar()
    return pillar


def rackspec() -> ModuleType:
    """Load this checkout's ``_utils/rackspec.py``."""
    spec = importlib.util.spec_from_file_location("saltberry_rackspec", REPO / "_utils/rackspec.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Print the master's id and address, or the problems; return the exit code."""
    pillar = compiled()
    errors = pillar.get("_errors")
    if errors:
        print("\n".join(str(error) for error in errors), file=sys.stderr)
        return 1
    rack = rackspec().load(pillar)
    print(rack.master_id, rack.ip(rack.master_id) or "-")
    return 0


if __name__ == "__main__":
    sys.exit(main())
