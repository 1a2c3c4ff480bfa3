"""What a rack may look like: the one place that judges what the user wrote in the pillar.

Pure Python without any import of Salt, so that it serves four places: the minions
(``__utils__["rackspec.load"]``), the master's ``ext_pillar``, the runners and the installer.

* :func:`check` returns every problem of a pillar as a sentence, not only the first one;
* :func:`load` returns a :class:`Rack` to ask questions of, or raises :class:`RackError`;
* :func:`settings` returns what may be set, with defaults and meanings;
* :func:`valid_id` decides which minion ids may be touched at all.

This is the front of three modules beside it: ``rackschema.py`` has the settings (add one there),
``rackvalues.py`` the kinds of single values, ``rackrules.py`` what several values must be together.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def _beside(name: str) -> ModuleType:
    """Load a module of this folder, whoever loads this one, and from wherever: not by sys.path."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"saltberry_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded; is the checkout complete?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_schema = _beside("rackschema")
_values = _beside("rackvalues")
_rules = _beside("rackrules")

ROLES: tuple[str, ...] = _values.ROLES
DEFAULT_ROLE: str = _values.DEFAULT_ROLE
ID_PATTERN: str = _values.ID_PATTERN
KUBERNETES_MINORS: dict[str, str] = _values.KUBERNETES_MINORS

# Users that own the folders of the share: the shared volumes' first, then one for each node
_SHARE_UID = 100000
_SHARE_UIDS = 1 << 30

# Keys that the ext_pillar adds, or the master for one run; they are no mistakes of the user's
COMPUTED = ("node", "cluster", "container_storage_drained")


class RackError(ValueError):
    """The pillar describes no rack that can be built.

    ``problems`` holds every reason, each a whole sentence with key, value and remedy.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        lines = "\n".join(f"- {problem}" for problem in self.problems)
        super().__init__(f"the rack description has {head}; nothing was changed:\n{lines}")


def valid_id(minion_id: object) -> bool:
    """Say whether a minion id may be used as a host name, a file name, a target.

    minion_id
        What a minion calls itself. Salt lets a minion call itself nearly anything, newlines and
        ``*`` included, so everything that acts on an id asks here first.

    Returns True for a lower-case RFC 1123 label of 1 to 63 characters.
    """
    good: bool = _values.valid_id(minion_id)
    return good


def check(pillar: Mapping[str, Any]) -> list[str]:
    """Return every problem of the rack that ``pillar`` describes; an empty list for a good one.

    pillar
        The whole pillar, defaults merged. Keys that are none of Saltberry's are left alone, unless
        they look like a misspelt one of Saltberry's.

    A key that is absent is no problem unless nobody but the user can know its value.
    """
    if not isinstance(pillar, Mapping):
        said = f"{_values.show(pillar)} is {_values.kind_of(pillar)}"
        return [f"the pillar: {said}; it must be a mapping of keys"]
    groups = {key: part for key, part in _schema.SCHEMA.items() if isinstance(part, _schema.Group)}
    problems = _check_top(pillar)
    for key, group in groups.items():
        if key in pillar:
            problems += _check_part(key, pillar[key], group)
    for key, group in groups.items():
        problems += _check_required(key, pillar.get(key), group.keys)
    for key in [key for key in _schema.SCHEMA if key not in groups]:
        if key in pillar or _schema.SCHEMA[key].required:
            problems += _check_table(key, pillar.get(key), _schema.SCHEMA[key])
    if any(problem.startswith("rack.network:") for problem in problems):
        # A wrong network would make every address wrong, too: one problem is said once
        pillar = {**pillar, "rack": {}}
    return problems + _rules.check(pillar)


def size_bytes(size: str) -> int:
    """Return a size of the pillar in bytes.

    size
        A whole number of M, G or T, which are binary units: ``32G`` is 34359738368.

    Raises ValueError for anything else.
    """
    count: int = _values.size_bytes(size)
    return count


def container_storage(pillar: Mapping[str, Any], minion_id: str) -> dict[str, Any]:
    """Return what the pillar says of a minion's container storage.

    pillar
        The whole pillar, defaults merged.
    minion_id
        A minion; what ``nodes.<id>.container_storage`` says is laid over what is said for all.
    """
    found: dict[str, Any] = _rules.container_storage(pillar, minion_id)
    return found


def system(pillar: Mapping[str, Any], minion_id: str) -> dict[str, Any]:
    """Return what the pillar says of a minion's system.

    pillar
        The whole pillar, defaults merged.
    minion_id
        A minion; what ``nodes.<id>.system`` says is laid over what is said for all.
    """
    found: dict[str, Any] = _rules.of_node(pillar, minion_id, "system")
    return found


def firewall(pillar: Mapping[str, Any], minion_id: str) -> dict[str, Any]:
    """Return what the pillar says of a minion's firewall.

    pillar
        The whole pillar, defaults merged.
    minion_id
        A minion; what ``nodes.<id>.firewall`` says is laid over what is said for all.
    """
    found: dict[str, Any] = _rules.of_node(pillar, minion_id, "firewall")
    return found


def settings() -> list[dict[str, Any]]:
    """Return all that may be set, in the order of the schema, each with what is known of it.

    ``key`` is its path (``docker.log_max_size``, ``nodes.<id>.ip``), ``meaning`` a sentence, ``kind``
    ``group``, ``table``, ``like`` or the kind of its value, ``allowed`` what that is in words, ``default``
    its default (absent for what has none of its own), ``required`` the remedy where the user has to set
    it, else empty, ``used`` the files that read it.
    """
    return list(_flat("", _schema.SCHEMA, ""))


def _flat(path: str, parts: Mapping[str, Any], used: str) -> Iterator[dict[str, Any]]:
    for name, part in parts.items():
        here = f"{path}.{name}" if path else name
        files = getattr(part, "used", "") or used
        entry = {"key": here, "meaning": part.meaning, "used": files.split()}
        entry["required"] = getattr(part, "required", "")
        if isinstance(part, _schema.Key):
            entry |= {"kind": part.kind, "allowed": _values.allowed(part)}
            # What is in a table exists only once the user has named it
            if "<" not in here and not part.required:
                entry["default"] = part.default
        elif isinstance(part, _schema.Like):
            keys = _schema.SCHEMA[part.group].keys
            entry |= {"kind": "like", "allowed": f"a mapping with any of {', '.join(keys)}"}
            entry["used"] = _schema.SCHEMA[part.group].used.split()
        else:
            table = isinstance(part, _schema.Table)
            entry |= {
                "kind": "table" if table else "group",
                "example": getattr(part, "example", ""),
            }
            entry["allowed"] = f"a mapping with any of {', '.join(part.keys)}"
            if table:
                word = _values.KINDS[part.names].words
                entry["allowed"] = (
                    f"a mapping from <{part.name}> ({word}) to {', '.join(part.keys)}"
                )
        yield entry
        if isinstance(part, _schema.Group | _schema.Table):
            below = f"{here}.<{part.name}>" if isinstance(part, _schema.Table) else here
            yield from _flat(below, part.keys, files)


def share_uid(minion_id: str | None) -> int:
    """Return the user and group on the storage node that own a minion's folder of the share.

    minion_id
        A minion, or None for the volumes that all share.

    The number follows from the id alone, so that it stays the same whatever else the rack has.
    """
    if minion_id is None:
        return _SHARE_UID
    digest = hashlib.sha256(minion_id.encode()).digest()
    return _SHARE_UID + 1 + int.from_bytes(digest[:8], "big") % _SHARE_UIDS


def registry_address(pillar: Mapping[str, Any]) -> str:
    """Return the address among the services that the rack's registry has.

    pillar
        The whole pillar, defaults merged.
    """
    said = pillar["services"]["registry"]["cluster_ip"]
    found: str = said or _rules.registry_address(pillar["kubernetes"]["service_network"])
    return found


def pull_through_port() -> int:
    """Return the port of the storage node that leads to the caches of ``mirror.pull_through``."""
    return int(_rules.PULL_THROUGH_PORT)


def registry_claim(pillar: Mapping[str, Any], volume: str) -> str | None:
    """Return the claim of the rack's registry if a volume is its own, else None.

    pillar
        The whole pillar, defaults merged.
    volume
        One of ``services.storage.volumes``.
    """
    own = volume == pillar["services"]["registry"]["volume"]
    return str(_rules.REGISTRY_CLAIM) if own else None


def load(pillar: Mapping[str, Any]) -> Rack:
    """Return the rack that ``pillar`` describes.

    pillar
        The whole pillar, defaults merged.

    Raises :class:`RackError` with all problems when :func:`check` finds any.
    """
    problems = check(pillar)
    if problems:
        raise RackError(problems)
    return Rack(pillar)


class Rack:
    """A rack whose description was found good. Make one with :func:`load`."""

    def __init__(self, pillar: Mapping[str, Any]) -> None:
        self.pillar = pillar
        self.nodes: dict[str, dict[str, Any]] = {
            node_id: dict(body or {}) for node_id, body in pillar["nodes"].items()
        }

    def named(self, minion_id: str) -> bool:
        """Say whether the pillar names this minion."""
        return minion_id in self.nodes

    def roles(self, minion_id: str) -> list[str]:
        """Return the roles of a minion; one that the pillar does not name is a worker."""
        return list(self.nodes.get(minion_id, {}).get("roles") or [DEFAULT_ROLE])

    def ip(self, minion_id: str) -> str | None:
        """Return the address that the pillar gives a minion, or None."""
        return self.nodes.get(minion_id, {}).get("ip")

    def node(self, minion_id: str) -> dict[str, Any]:
        """Return what the pillar key ``node`` holds for a minion.

        Raises ValueError for an id that is no host name, so that no answer is ever given for one.
        """
        if not valid_id(minion_id):
            raise ValueError(f"minion id {_values.show(minion_id)} {_values.ID_RULE}")
        return {
            "id": minion_id,
            "roles": self.roles(minion_id),
            "ip": self.ip(minion_id),
            "named": self.named(minion_id),
        }

    def with_role(self, role: str) -> list[str]:
        """Return the ids of the named nodes with a role, in the order of the pillar."""
        return [node_id for node_id in self.nodes if role in self.roles(node_id)]

    @property
    def control_planes(self) -> list[str]:
        """The ids of the control planes; one, until more are supported."""
        return self.with_role("control_plane")

    @property
    def master_id(self) -> str:
        """The id of the minion on the salt-master's own machine."""
        return self.with_role("master")[0]


# ---- what was written, against the schema ---------------------------------------------------------


def _check_part(path: str, value: Any, part: Any) -> list[str]:
    """Check a value by its part of the schema, down to the last; refuse keys the schema lacks."""
    if isinstance(part, _schema.Key):
        problems: list[str] = _values.check(path, value, part)
        return problems
    if isinstance(part, _schema.Table):
        return _check_table(path, value, part)
    keys = _schema.SCHEMA[part.group].keys if isinstance(part, _schema.Like) else part.keys
    return _check_keys(path, value, keys)


def _check_keys(path: str, value: Any, keys: Mapping[str, Any]) -> list[str]:
    if not isinstance(value, Mapping):
        said = f"{_values.show(value)} is {_values.kind_of(value)}"
        return [f"{path}: {said}; write a mapping with the keys {', '.join(keys)}"]
    problems = []
    for key, item in value.items():
        here = _values.join(path, key)
        if key in keys:
            problems += _check_part(here, item, keys[key])
        else:
            problems.append(
                f"{here}: there is no such key; {_values.did_you_mean(key, keys)}"
                f"Keys of {path} are {', '.join(keys)}."
            )
    return problems


def _check_table(path: str, value: Any, table: Any) -> list[str]:
    """Check a mapping from names of the user's choice: each name, and what it stands for."""
    if table.required and (value is None or value == {}):
        return [f"{path} is missing; {table.required}"]
    if not isinstance(value, Mapping):
        said = f"{_values.show(value)} is {_values.kind_of(value)}"
        example = f", for example {table.example}" if table.example else " of keys, or {} for none"
        return [f"{path}: {said}; write a mapping{example}"]
    problems = []
    for name, body in value.items():
        here = _values.join(path, name)
        problems += _values.check(here, name, _schema.Key(table.names))
        if body is None and table.bare:
            continue
        if isinstance(body, Mapping):
            problems += _check_required(here, body, table.keys)
        problems += _check_keys(here, body, table.keys)
    return problems


def _check_required(path: str, value: Any, keys: Mapping[str, Any]) -> list[str]:
    """Name what only the user can know, and has not said."""
    there = value if isinstance(value, Mapping) else {}
    return [
        f"{path}.{name} is missing; {part.required}"
        for name, part in keys.items()
        if getattr(part, "required", "") and there.get(name) is None
    ]


def _check_top(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse top-level keys that look like misspelt ones of ours; the others are the user's own."""
    problems = []
    for key in pillar:
        if key in _schema.SCHEMA or key in COMPUTED:
            continue
        close = difflib.get_close_matches(str(key), list(_schema.SCHEMA), n=1, cutoff=0.8)
        if close:
            problems.append(f"{key}: there is no such key; did you mean {close[0]!r}?")
    return problems
