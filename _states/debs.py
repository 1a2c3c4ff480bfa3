"""States of Debian packages that say the truth in test mode, also on a blank node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "debs"

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def __virtual__() -> bool | tuple[bool, str]:
    """Load where the execution module does."""
    if "debs.status" in __salt__:
        return True
    return False, "debs: the execution module debs is not loaded"


def key(name: str, url: str, sha256: str | None = None) -> dict[str, Any]:
    """Keep a package repository's signing key in a file that apt reads.

    name
        The file; its ending tells apt an armoured key (``.asc``) from a binary one (``.gpg``).
    url
        Where to fetch it; http only with a digest.
    sha256
        Hex digest of the key file; without one the first key fetched over https stays trusted.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        problem = __salt__["debs.key_problem"](name, url, sha256)
        if not problem:
            ret["comment"] = f"{name} is in place"
            return ret
        ret["changes"] = {name: {"old": None, "new": url}}
        if __opts__["test"]:
            ret.update(result=None, comment=f"{problem}: it would be fetched from {url}")
            return ret
        __salt__["debs.fetch_key"](name, url, sha256)
    except CommandExecutionError as exc:
        ret.update(result=False, changes={}, comment=str(exc))
        return ret
    ret["comment"] = f"{problem}: it was fetched from {url}"
    return ret


def installed(
    name: str,
    packages: Mapping[str, str | None] | Sequence[str],
    hold: bool = False,
    frozen: bool = False,
) -> dict[str, Any]:
    """Have packages installed, in an exact version where one is given, in one run of apt.

    name
        What the packages are, for the log.
    packages
        ``{name: version or None}``, or a list of names whose version does not matter.
    hold
        Keep them from being upgraded along with the system.
    frozen
        Refuse to replace a version that is installed by another one. For the packages of a node in
        a cluster, whose version an upgrade changes node by node and never a highstate.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    wanted = dict(packages) if isinstance(packages, Mapping) else dict.fromkeys(packages)
    have = __salt__["debs.status"](list(wanted))
    missing = {
        package: version
        for package, version in wanted.items()
        if have[package]["version"] is None or (version and have[package]["version"] != version)
    }
    replaced = [package for package in missing if have[package]["version"]]
    if frozen and replaced:
        ret.update(result=False, comment=_frozen(replaced, wanted, have))
        return ret
    unheld = [package for package in wanted if hold and not have[package]["held"]]
    if not missing and not unheld:
        ret["comment"] = f"{', '.join(wanted)}: as wanted"
        return ret
    ret["changes"] = {
        package: {"old": have[package]["version"], "new": version or "newest"}
        for package, version in missing.items()
    }
    if unheld:
        ret["changes"]["held"] = {"old": None, "new": unheld}
    if __opts__["test"]:
        what = [f"{package} {version or ''}".strip() for package, version in missing.items()]
        ret.update(result=None, comment=f"would be installed: {', '.join(what) or 'nothing'}"
                   + (f"; would be held: {', '.join(unheld)}" if unheld else ""))  # fmt: skip
        return ret
    return _install(ret, missing, unheld)


def _frozen(
    replaced: Sequence[str], wanted: Mapping[str, str | None], have: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return why versions are not changed here."""
    versions = ", ".join(
        f"{package} {have[package]['version']} (the pillar says {wanted[package]})"
        for package in replaced
    )
    return (
        f"this node is in a cluster and has {versions}. A highstate does not change versions of "
        "Kubernetes: set kubernetes.version back, or upgrade the rack"
    )


def _install(
    ret: dict[str, Any], missing: Mapping[str, str | None], unheld: Sequence[str]
) -> dict[str, Any]:
    """Install and hold, and fill a state's return with what has become of it."""
    try:
        if missing:
            __salt__["debs.install"](missing)
        if unheld:
            __salt__["debs.hold"](unheld)
    except CommandExecutionError as exc:
        ret.update(result=False, changes={}, comment=str(exc))
        return ret
    now = __salt__["debs.status"](list(missing))
    for package in missing:
        ret["changes"][package]["new"] = now[package]["version"]
    absent = [package for package in missing if now[package]["version"] is None]
    ret["result"] = not absent
    ret["comment"] = (
        f"apt reports success, yet dpkg does not have {', '.join(absent)}"
        if absent
        else f"installed: {', '.join(missing) or 'nothing new'}"
        + (f"; held: {', '.join(unheld)}" if unheld else "")
    )
    return ret


def removed(name: str, packages: Sequence[str]) -> dict[str, Any]:
    """Have packages removed; their settings and data stay on the disk.

    name
        What the packages are, for the log.
    packages
        Names. What depends on them is removed by apt too, and shown.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    have = __salt__["debs.status"](list(packages))
    there = {package: have[package]["version"] for package in packages if have[package]["version"]}
    if not there:
        return {**ret, "comment": f"{', '.join(packages)}: not installed"}
    changes = {package: {"old": version, "new": None} for package, version in there.items()}
    if __opts__["test"]:
        comment = f"would be removed: {', '.join(there)}"
        return {**ret, "result": None, "changes": changes, "comment": comment}
    try:
        gone = __salt__["debs.remove"](list(there))
    except CommandExecutionError as exc:
        return {**ret, "result": False, "comment": str(exc)}
    left = [
        package for package, fact in __salt__["debs.status"](list(there)).items() if fact["version"]
    ]
    if left:
        comment = f"apt reports success, yet dpkg still has {', '.join(left)}"
        return {**ret, "result": False, "comment": comment}
    changes |= {
        package: {"old": "installed", "new": None} for package in gone if package not in there
    }
    return {**ret, "changes": changes, "comment": f"removed: {', '.join(changes)}"}
