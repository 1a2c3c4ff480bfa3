"""What each role gets, on each system, with each pillar, against files that a person has looked at.

``golden/ROLE.yaml`` is all a node is told with the defaults on Debian 12, arm64; the other files hold
only what differs from it: ``golden/pillars.yaml`` for each of PILLARS, ``golden/systems.yaml`` for each
other system. After a change that is meant::

    SALTBERRY_GOLDEN=write .venv/bin/python -m pytest tests/unit/test_golden.py
    git diff tests/unit/golden
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.state
import yaml

from tests.unit.rendering import PILLARS, ROLES, minion_opts

pytestmark = pytest.mark.usefixtures("kernel_with_nfs")
GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("SALTBERRY_GOLDEN") == "write"

DEBIAN = {"os": "Debian", "os_family": "Debian", "kernel": "Linux"}
ARM64 = {"osarch": "arm64", "cpuarch": "aarch64"}
AMD64 = {"osarch": "amd64", "cpuarch": "x86_64"}
USUAL = "Debian 12, arm64"
# Raspberry Pi OS of 64 bit says that it is Debian.
SYSTEMS: dict[str, dict[str, Any]] = {
    USUAL: {**DEBIAN, **ARM64, "osmajorrelease": 12, "oscodename": "bookworm"},
    "Debian 12, amd64": {**DEBIAN, **AMD64, "osmajorrelease": 12, "oscodename": "bookworm"},
    "Debian 13, arm64": {**DEBIAN, **ARM64, "osmajorrelease": 13, "oscodename": "trixie"},
    "Debian 13, amd64": {**DEBIAN, **AMD64, "osmajorrelease": 13, "oscodename": "trixie"},
    "Ubuntu 24.04, arm64": {
        **DEBIAN, **ARM64, "os": "Ubuntu", "osmajorrelease": 24, "oscodename": "noble"
    },
}  # fmt: skip
# Between them they take every branch that could look at the system.
ON_ALL_SYSTEMS = ("defaults", "images on the share", "people and their habits")

# What templates ask of the node itself: a Pi 4 that is no member yet
FACTS: dict[str, Any] = {
    "clock.daemon": "systemd-timesyncd",
    "container_storage.containerd_root": None,
    "node.boot_flags": ["cgroup_enable=memory", "cgroup_memory=1"],
    "node.is_member": False,
    "node.watchdog": True,
    "node.wifi": ["wlan0"],
    "pull_through.left": [],
    "storage_backend.apparmor": True,
    "user.info": {},
}
# The same, where it is one value among others that come from the pillar
PARTLY_FACTS = {"node.containerd_settings": {"restrict_oom_score_adj": False, "left": []}}
# What states take from modules when they run, so that the compiled states do not show it
SETTINGS = {
    "storage": ("nfs.folders", "nfs.exports"),
    "control_plane": ("kubeadm.init_config",),
    "worker": ("kubeadm.join_config",),
    "all": ("storage_backend.settings", "nfs.mounts", "firewall.wanted"),
}

# Salt's own bookkeeping

_INTERNAL = {"__id__", "__env__", "__sls__", "__sls_included_from__", "state", "fun", "order"}
Told = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Told]:
    """Return a function: what a node of this role is told with this pillar on this system."""

    @functools.cache
    def compiled(role: str, pillar: str, system: str = USUAL) -> Told:
        folder = tmp_path_factory.mktemp("minion")
        roles = role.split("-")
        opts = minion_opts(folder, roles, PILLARS[pillar], **SYSTEMS[system])
        with salt.state.HighState(opts, initial_pillar=opts["pillar"]) as highstate:
            functions = highstate.state.functions
            answers = {name: functools.partial(_say, value) for name, value in FACTS.items()}
            for name, value in PARTLY_FACTS.items():
                answers[name] = functools.partial(_say_also, value, _raw(functions, name))
            assert all(name in functions for name in answers), "loaded, and so not laid over again"
            functions._dict.update(answers)
            highstate.push_active()
            try:
                low = highstate.compile_low_chunks()
            finally:
                highstate.pop_active()
            assert all(isinstance(chunk, dict) for chunk in low), low
            names = [name for part in ("all", *roles) for name in SETTINGS.get(part, ())]
            found = {"settings": {name: _settings(functions, name) for name in names}}
        found |= dict(_states(low))
        # As YAML would have it: no tuples, no ordered dicts, no tabs
        text = json.dumps(found, default=str).replace(r"\t", "  ")
        return dict(json.loads(text))

    return compiled


def _say(value: Any, *_: Any, **__: Any) -> Any:
    return value


def _raw(functions: Any, name: str) -> Callable[..., Any]:
    """The function itself: what the loader gives looks the name up anew at each call."""
    assert name in functions
    return functions._dict[name]


def _say_also(values: dict[str, Any], function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    return {**function(*args), **values}


def _settings(functions: Any, name: str) -> Any:
    try:
        return functions[name]()
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"


def _states(low: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each state a name: several with one id differ in what they are named."""
    for chunk in sorted(low, key=lambda chunk: (chunk["order"], str(chunk["name"]))):
        key = f"{chunk['__id__']} ({chunk['state']}.{chunk['fun']})"
        if chunk["name"] != chunk["__id__"]:
            key += f" {chunk['name']}"
        yield key, {arg: value for arg, value in chunk.items() if arg not in _INTERNAL}


def differences(base: Told, other: Told) -> dict[str, Any]:
    """Return what is gone, new, or has other values."""
    changed: dict[str, Any] = {}
    for key in base.keys() & other.keys():
        names = base[key].keys() | other[key].keys()
        for name in sorted(names):
            if base[key].get(name) != other[key].get(name):
                changed.setdefault(key, {})[name] = other[key].get(name)
    found = {
        "gone": sorted(base.keys() - other.keys()),
        "new": {key: other[key] for key in sorted(other.keys() - base.keys())},
        "changed": {key: changed[key] for key in sorted(changed)},
    }
    return {key: value for key, value in found.items() if value}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, nothing by reference: for people's eyes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def compare(name: str, found: Any) -> None:
    """Fail where this is not what the golden file has; write the file when asked to."""
    path = GOLDEN / name
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        text = yaml.dump(found, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
        path.write_text(f"# See tests/unit/test_golden.py\n{text}", encoding="utf-8")
    golden = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found == golden, f"if this is meant, see the head of {__file__}"


@pytest.mark.parametrize("role", ["-".join(roles) for roles in ROLES])
def test_a_role_with_the_defaults(told: Any, role: str) -> None:
    compare(f"{role}.yaml", told(role, "defaults"))


def test_what_each_pillar_changes(told: Any) -> None:
    roles = ["-".join(roles) for roles in ROLES]
    compare(
        "pillars.yaml",
        {
            pillar: {
                role: differences(told(role, "defaults"), told(role, pillar)) for role in roles
            }
            for pillar in PILLARS
            if pillar != "defaults"
        },
    )


def test_what_each_system_changes(told: Any) -> None:
    compare(
        "systems.yaml",
        {
            system: {
                f"{role}, {pillar}": differences(told(role, pillar), told(role, pillar, system))
                for role in ("-".join(roles) for roles in ROLES)
                for pillar in ON_ALL_SYSTEMS
            }
            for system in SYSTEMS
            if system != USUAL
        },
    )
