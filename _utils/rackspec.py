"""What a rack may look like: the one place that judges what the user wrote in the pillar.

Pure Python without any import of Salt, so that one file serves four places: the minions
(``__utils__["rackspec.load"]``), the master's ``ext_pillar``, the runners and the installer.

* :func:`check` returns every problem of a pillar as a sentence, not only the first one;
* :func:`load` returns a :class:`Rack` to ask questions of, or raises :class:`RackError`;
* :func:`valid_id` decides which minion ids may be touched at all.

A key that is absent is not a problem here unless nobody but the user can know its value
(``rack.network``, ``nodes``): ``pillar/defaults.sls`` holds the defaults, this file holds none.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# ROLES[-1] is what a node is when the pillar does not say
ROLES = ("storage", "master", "control_plane", "worker")
DEFAULT_ROLE = ROLES[-1]

# A host name of one label: RFC 1123, in lower case as Kubernetes wants its node names, and neither
# "localhost" (what a Pi without a name calls itself) nor a bare number (tools read 10 as 0.0.0.10).
# pillar/top.sls repeats this pattern; a test compares the two.
ID_PATTERN = r"(?!localhost\Z)(?![0-9]+\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

# The Kubernetes minors that Saltberry knows, with where their packages come from. 1.20 is what
# Debian's own source package builds (the lab); upstream's per-minor package repositories hold the
# others for arm64 and amd64.
KUBERNETES_MINORS = {
    "1.20": "Debian",
    "1.29": "upstream",
    "1.30": "upstream",
    "1.31": "upstream",
    "1.32": "upstream",
    "1.33": "upstream",
    "1.34": "upstream",
    "1.35": "upstream",
}

CNIS = ("routed",)

# Where a node's images, containers and their layers are; see docs/container-storage.md
BACKENDS = ("local", "disk", "nfs-image")

# A size in the pillar: whole numbers of binary units. Below the least, an image holds no container;
# the most is what ext4 can be with 32-bit numbers of its blocks of 4 KiB.
_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE_LEAST, SIZE_MOST = 256 << 20, 16 << 40

# Folders that a mount would take away from the system, or that are no place for data
_SYSTEM_FOLDERS = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/run", "/sbin", "/sys",
                   "/tmp", "/usr")  # fmt: skip
_CROWDED_FOLDERS = ("/", "/home", "/media", "/mnt", "/opt", "/srv", "/var", "/var/lib", "/var/log",
                    "/var/cache", "/var/tmp")  # fmt: skip
# What has its own home: the engines' default roots, kubelet's, and what Saltberry itself keeps
_OTHERS_FOLDERS = ("/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd",
                   "/var/lib/saltberry", "/srv/saltberry", "/opt/saltberry")  # fmt: skip

# Users that own the folders of the share: the shared volumes' first, then one for each node
_SHARE_UID = 100000
_SHARE_UIDS = 1 << 30

# The controller manager hands each node a network of this size (its default for IPv4)
POD_PREFIX_PER_NODE = 24
# The API server refuses service networks of more than 2**20 addresses, and kubeadm those of fewer
# than ten (the tenth is the cluster's DNS)
SERVICE_PREFIX = (12, 28)
# The controller manager keeps a bitmap of at most 2**16 node networks
POD_PREFIX = (POD_PREFIX_PER_NODE - 16, POD_PREFIX_PER_NODE)
RACK_PREFIX = (8, 30)

# What else listens on a control plane: the API server cannot have these
TAKEN_PORTS = {
    22: "ssh",
    2379: "etcd",
    2380: "etcd",
    4505: "salt-master",
    4506: "salt-master",
    10250: "the kubelet",
    10256: "kube-proxy",
    10257: "the controller manager",
    10259: "the scheduler",
}

# Keys that the ext_pillar adds, or the master for one run; they are no mistakes of the user's
COMPUTED = ("node", "cluster", "container_storage_drained")

_MISSING = object()
_Check = Callable[[str, Any], list[str]]


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
    return isinstance(minion_id, str) and re.fullmatch(ID_PATTERN, minion_id) is not None


def check(pillar: Mapping[str, Any]) -> list[str]:
    """Return every problem of the rack that ``pillar`` describes; an empty list for a good one.

    pillar
        The whole pillar, defaults merged. Keys that are none of Saltberry's are left alone, unless
        they look like a misspelt one of Saltberry's.
    """
    if not isinstance(pillar, Mapping):
        return [f"the pillar: {_show(pillar)} is {_kind(pillar)}; it must be a mapping of keys"]
    problems = _check_top(pillar)
    for key, schema in _SCHEMA.items():
        if key in pillar:
            problems += _check_value(key, pillar[key], schema)
    if _get(pillar, "rack", "network") is None:
        problems.append(
            "rack.network is missing; write the network the Pis are on, for example 192.168.1.0/24"
        )
    problems += _check_nodes(pillar)
    problems += _check_overlaps(pillar)
    problems += _check_pod_room(pillar)
    problems += _check_mirror(pillar)
    problems += _check_share(pillar)
    problems += _check_backends(pillar)
    problems += _check_places(pillar)
    return problems


def size_bytes(size: str) -> int:
    """Return a size of the pillar in bytes.

    size
        A whole number of M, G or T, which are binary units: ``32G`` is 34359738368.

    Raises ValueError for anything else.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,6})([MGT])", size) if isinstance(size, str) else None
    if found is None:
        raise ValueError(f"{_show(size)} is no size; write a whole number of M, G or T, like 32G")
    return int(found.group(1)) * _UNITS[found.group(2)]


def container_storage(pillar: Mapping[str, Any], minion_id: str) -> dict[str, Any]:
    """Return what the pillar says of a minion's container storage.

    pillar
        The whole pillar, defaults merged.
    minion_id
        A minion; what ``nodes.<id>.container_storage`` says is laid over what is said for all.
    """
    own = _get(pillar, "nodes", minion_id, "container_storage")
    common = _get(pillar, "container_storage")
    return {
        **(common if isinstance(common, Mapping) else {}),
        **(own if isinstance(own, Mapping) else {}),
    }


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
            raise ValueError(f"minion id {_show(minion_id)} {_ID_RULE}")
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


# ---- one value each: (key path, value) -> problems -----------------------------------------------

_ID_RULE = (
    "is not a host name; use at most 63 lower-case letters, digits and hyphens, with at least one"
    " letter or hyphen, no hyphen first or last, and not localhost"
)
_TYPES = (
    (bool, "a yes/no value"),
    (int, "a number"),
    (float, "a number"),
    (str, "text"),
    (Mapping, "a mapping"),
    (list, "a list"),
)


def _kind(value: object) -> str:
    """Name the type of a value as someone who writes YAML knows it."""
    if value is None:
        return "empty"
    for type_, name in _TYPES:
        if isinstance(value, type_):
            return name
    return f"a {type(value).__name__}"


def _show(value: object) -> str:
    """Quote a value for a message: short, and on one line whatever is in it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _join(path: str, key: object) -> str:
    """Append a key to a key path; one with odd characters is quoted, so the path stays readable."""
    plain = re.fullmatch(r"[A-Za-z0-9_./:-]+", str(key))
    return f"{path}.{key}" if plain else f"{path}[{key!r}]"


def _did_you_mean(word: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _text(path: str, value: Any, example: str) -> list[str]:
    """Refuse what is not text, with the usual reason: YAML made a number of it."""
    if isinstance(value, str):
        return []
    hint = "; put it in quotes" if isinstance(value, int | float) else ""
    return [f"{path}: {_show(value)} is {_kind(value)}, not text{hint}, for example {example}"]


def _pattern(pattern: str, what: str, example: str) -> _Check:
    """A check for text that must match a pattern as a whole."""

    def run(path: str, value: Any) -> list[str]:
        problems = _text(path, value, example)
        if not problems and not re.fullmatch(pattern, value):
            problems.append(f"{path}: {_show(value)} is no {what}; write it like {example}")
        return problems

    return run


def _choice(known: tuple[str, ...], what: str) -> _Check:
    def run(path: str, value: Any) -> list[str]:
        if isinstance(value, str) and value in known:
            return []
        return [
            f"{path}: {_show(value)} is no {what}; {_did_you_mean(value, known)}Possible: {', '.join(known)}"
        ]

    return run


def _integer(low: int, high: int, unit: str = "") -> _Check:
    """A check for a whole number (of ``unit``, if it has one) from ``low`` to ``high``."""
    of_unit, unit = (f" of {unit}", f" {unit}") if unit else ("", "")

    def run(path: str, value: Any) -> list[str]:
        # bool is an int to Python, and `yes` a bool to YAML
        if isinstance(value, bool) or not isinstance(value, int):
            return [f"{path}: {_show(value)} is {_kind(value)}; write a whole number{of_unit}"]
        if not low <= value <= high:
            return [f"{path}: {value} is out of range; write {low} to {high}{unit}"]
        return []

    return run


def _boolean(path: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return []
    return [f"{path}: {_show(value)} is {_kind(value)}; write true or false, without quotes"]


def _mapping(path: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return []
    return [f"{path}: {_show(value)} is {_kind(value)}; write a mapping of keys, or {{}} for none"]


def _or_null(inner: _Check) -> _Check:
    def run(path: str, value: Any) -> list[str]:
        return [] if value is None else inner(path, value)

    return run


def _list_of(inner: _Check, what: str, *, empty: bool) -> _Check:
    """A check for a list; ``empty`` says whether it may be empty."""

    def run(path: str, value: Any) -> list[str]:
        if not isinstance(value, list):
            return [f"{path}: {_show(value)} is {_kind(value)}; write a list of {what}"]
        if not value and not empty:
            return [f"{path}: [] is empty; write at least one of: {what}"]
        return [p for i, item in enumerate(value) for p in inner(f"{path}[{i}]", item)]

    return run


def _port(path: str, value: Any) -> list[str]:
    problems = _integer(1, 65535)(path, value)
    if not problems and value in TAKEN_PORTS:
        problems.append(
            f"{path}: {value} is the port of {TAKEN_PORTS[value]}; choose another, 6443 is usual"
        )
    return problems


def _version(path: str, value: Any) -> list[str]:
    example = '"1.34.2"'
    problems = _text(path, value, example)
    if problems:
        return problems
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", value):
        return [
            f"{path}: {_show(value)} is no exact version; write all three numbers and no v,"
            f" for example {example}"
        ]
    minor = value.rpartition(".")[0]
    if minor not in KUBERNETES_MINORS:
        return [
            f"{path}: {_show(value)} is of Kubernetes {minor}, which is not supported; choose a"
            f" version of {', '.join(KUBERNETES_MINORS)}"
        ]
    return []


def _network(path: str, value: Any, low: int, high: int, why: str) -> list[str]:
    """Refuse what is not an IPv4 network with a prefix of ``low`` to ``high`` bits."""
    example = "192.168.1.0/24"
    problems = _text(path, value, example)
    if problems:
        return problems
    if not re.fullmatch(r"[^/]+/[0-9]{1,3}", value):
        return [
            f"{path}: {_show(value)} is no network; write an address, a slash and the number of"
            f" network bits, for example {example}"
        ]
    try:
        interface = ipaddress.ip_interface(value)
    except ValueError:
        return [f"{path}: {_show(value)} is no network; write it like {example}"]
    network = interface.network
    if network.version != 4:
        return [
            f"{path}: {_show(value)} is IPv6, which is not supported yet; write an IPv4 network"
        ]
    if interface.ip != network.network_address:
        return [
            f"{path}: {_show(value)} has host bits set, so it is an address and no network; did you"
            f" mean {network}?"
        ]
    if network.is_multicast or network.is_loopback or network.is_link_local:
        return [f"{path}: {_show(value)} is reserved; use a private network such as {example}"]
    if not low <= network.prefixlen <= high:
        size = "large" if network.prefixlen < low else "small"
        return [f"{path}: {_show(value)} is too {size}; use /{low} to /{high}: {why}"]
    return []


def _rack_network(path: str, value: Any) -> list[str]:
    if value is None:
        return []  # check() says that it is missing
    return _network(path, value, *RACK_PREFIX, "it is the network of the Pis")


def _pod_network(path: str, value: Any) -> list[str]:
    why = f"each node takes a /{POD_PREFIX_PER_NODE} of it"
    return _network(path, value, *POD_PREFIX, why)


def _service_network(path: str, value: Any) -> list[str]:
    return _network(path, value, *SERVICE_PREFIX, "the limits of Kubernetes")


def _address(path: str, value: Any) -> list[str]:
    """Refuse what is not an IPv4 address."""
    example = "192.168.1.21"
    problems = _text(path, value, example)
    if problems:
        return problems
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return [f"{path}: {_show(value)} is no IP address; write it like {example}"]
    if address.version != 4:
        return [
            f"{path}: {_show(value)} is IPv6, which is not supported yet; write an IPv4 address"
        ]
    return []


def _url(path: str, value: Any) -> list[str]:
    example = "http://192.168.1.10/apt"
    problems = _text(path, value, example)
    if problems:
        return problems
    if not re.fullmatch(r"https?://[A-Za-z0-9][^\s\"'\\]*", value):
        return [f"{path}: {_show(value)} is no URL; write it like {example}"]
    return []


def _url_of_minor(path: str, value: Any) -> list[str]:
    """A URL in which ``{minor}`` stands for the Kubernetes minor; other braces are a mistake."""
    problems = _url(path, value)
    if not problems and re.search(r"[{}]", value.replace("{minor}", "")):
        problems.append(
            f"{path}: {_show(value)} has braces other than {{minor}}; {{minor}} is the only"
            " placeholder, it becomes for example 1.34"
        )
    return problems


_domain = _pattern(
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
    "domain (lower-case letters, digits, hyphens, dots)",
    "rack.lan",
)
_HOST_PORT = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?"
_image = _pattern(
    _HOST_PORT + r"(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?",
    "image name (no http://, no slash at the end)",
    "registry.k8s.io/pause:3.10",
)
_image_repository = _pattern(
    _HOST_PORT + r"(/[a-z0-9][a-z0-9._-]*)*",
    "image repository (no http://, no slash at the end)",
    "registry.k8s.io",
)


def _registries(path: str, value: Any) -> list[str]:
    """Check ``{host[:port]: {endpoint: URL}}``."""
    problems = _mapping(path, value)
    if problems:
        return problems
    for host, body in value.items():
        here = _join(path, host)
        if not isinstance(host, str) or not re.fullmatch(_HOST_PORT, host):
            problems.append(
                f"{here}: {_show(host)} is no registry; write its host name or address, with :port"
                " if it has one, and no http://"
            )
        if isinstance(body, Mapping) and "endpoint" not in body:
            problems.append(
                f"{here}.endpoint is missing; write the URL to fetch from, for example"
                " http://192.168.1.10:5000"
            )
        problems += _check_value(here, body, {"endpoint": _url})
    return problems


def _roles(path: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [f"{path}: {_show(value)} is text; write a list, for example [{value}]"]
    if not isinstance(value, list):
        return [f"{path}: {_show(value)} is {_kind(value)}; write a list of {', '.join(ROLES)}"]
    if not value:
        return [f"{path}: [] is empty; name a role, or leave roles out for [{DEFAULT_ROLE}]"]
    problems = [
        f"{path}: {_show(role)} is no role; {_did_you_mean(role, ROLES)}Roles are {', '.join(ROLES)}."
        for role in value
        if role not in ROLES
    ]
    for role in ROLES:
        if value.count(role) > 1:
            problems.append(f"{path}: {role!r} is listed twice; list it once")
    if "control_plane" in value and "worker" in value:
        problems.append(
            f"{path}: {_show(value)} makes the node control plane and worker at once, which is not"
            " supported; keep one of the two"
        )
    return problems


def _folder(path: str, value: Any) -> list[str]:
    """Refuse what is no folder that a file system may be mounted at."""
    example = "/srv/containers"
    problems = _text(path, value, example)
    if problems:
        return problems
    if not value.startswith("/"):
        return [
            f"{path}: {_show(value)} is a relative path; write it from the root, like {example}"
        ]
    if not re.fullmatch(r"/|(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+", value):
        return [
            f"{path}: {_show(value)} is no path that a mount unit takes; use letters, digits and"
            f" . _ + -, no slash at the end, no .. and no hidden folder, like {example}"
        ]
    if value in _CROWDED_FOLDERS or _within(value, _SYSTEM_FOLDERS):
        return [f"{path}: {_show(value)} is the system's; use a folder of its own, like {example}"]
    return []


def _within(path: str, folders: Iterable[str]) -> str | None:
    """Return the first of ``folders`` that is ``path`` or above it."""
    return next((f for f in folders if path == f or path.startswith(f"{f.rstrip('/')}/")), None)


def _nested(one: str, other: str) -> bool:
    return bool(_within(one, [other]) or _within(other, [one]))


_UUID = r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"


def _file_system(path: str, value: Any) -> list[str]:
    """Refuse what does not name a file system by what is written in it."""
    example = "UUID=0b1e4c5a-… (see `lsblk -f`) or LABEL=share"
    problems = _text(path, value, example)
    if problems:
        return problems
    if value.startswith("/dev/"):
        return [
            f"{path}: {_show(value)} is a device, whose name may be another's after the next boot;"
            f" name the file system on it: {example}"
        ]
    kind, _, name = value.partition("=")
    if kind == "UUID" and re.fullmatch(_UUID, name):
        return []
    if kind == "UUID":
        return [f"{path}: {_show(value)} is no UUID of an ext4 file system; write {example}"]
    if kind == "LABEL" and re.fullmatch(r"[A-Za-z0-9._-]{1,16}", name):
        return []
    if kind == "LABEL":
        return [
            f"{path}: {_show(value)} is no label; use 1 to 16 letters, digits and . _ -, like"
            " LABEL=share"
        ]
    return [f"{path}: {_show(value)} names no file system; write {example}"]


_device_by_id = _pattern(
    r"/dev/disk/by-id/[A-Za-z0-9][A-Za-z0-9._:+@-]*",
    "name of a device that stays the same (see `ls /dev/disk/by-id`)",
    "/dev/disk/by-id/usb-WD_Elements_25A3_1234-0:0",
)


def _backend(path: str, value: Any) -> list[str]:
    """As any choice, with the reason for what everybody tries first."""
    if value == "nfs":
        return [
            f"{path}: 'nfs' cannot hold containers: overlayfs needs extended attributes and file"
            " types in directories that NFS lacks; nfs-image has the data on the share all the same"
        ]
    return _choice(BACKENDS, "backend")(path, value)


def _size(path: str, value: Any) -> list[str]:
    problems = _text(path, value, "32G")
    if problems:
        return problems
    try:
        size = size_bytes(value)
    except ValueError as exc:
        return [f"{path}: {exc}"]
    if size < SIZE_LEAST:
        return [f"{path}: {_show(value)} is too small to hold images; write at least 256M"]
    if size > SIZE_MOST:
        return [f"{path}: {_show(value)} is more than ext4 can be; write at most 16T"]
    return []


def _volumes(path: str, value: Any) -> list[str]:
    """Check ``{name: {read_only: bool}}``."""
    problems = _mapping(path, value)
    if problems:
        return problems
    for name, body in value.items():
        here = _join(path, name)
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
            problems.append(
                f"{here}: {_show(name)} is no name of a volume; use at most 63 lower-case letters,"
                " digits, _ and -"
            )
        if body is not None:
            problems += _check_value(here, body, {"read_only": _boolean})
    return problems


_REPO: dict[str, Any] = {
    "url": _url_of_minor,
    "suite": _pattern(r"[A-Za-z0-9._/-]+", "suite of an apt repository", '"/"'),
    "key_url": _url_of_minor,
    "key_sha256": _or_null(_pattern(r"[0-9a-f]{64}", "SHA-256 in hex", "64 digits, or null")),
}
_CONTAINER_STORAGE: dict[str, Any] = {
    "backend": _backend,
    "disk": _or_null(_file_system),
    "size": _size,
    "mount": _folder,
    "pod_data": _boolean,
}
_NODE: dict[str, Any] = {
    "ip": _or_null(_address),
    "roles": _or_null(_roles),
    "wifi": _boolean,
    "container_storage": _CONTAINER_STORAGE,
}
# Nested mappings are groups of keys, everything else is the check of one value. Each key here has
# its default and its meaning in pillar/defaults.sls.
_SCHEMA: dict[str, Any] = {
    "rack": {
        "name": _pattern(ID_PATTERN, "name of a rack (lower-case letters, digits, -)", "berry"),
        "domain": _domain,
        "network": _rack_network,
    },
    "kubernetes": {
        "version": _version,
        "package_revision": _pattern(
            r"[A-Za-z0-9.+~]+", "revision of a Debian package (what follows its hyphen)", '"1.1"'
        ),
        "pod_network": _pod_network,
        "service_network": _service_network,
        "service_domain": _domain,
        "api_port": _port,
        "image_repository": _image_repository,
        "dns": _boolean,
        "cni": _choice(CNIS, "CNI of this release"),
        "repo": _REPO,
        "ignore_preflight_errors": _list_of(
            _pattern(r"[A-Za-z0-9-]+", "check of kubeadm's preflight", "NumCPU"),
            "names of checks",
            empty=True,
        ),
        "kubelet": _mapping,
        "kube_proxy": _mapping,
        "ticket_ttl": _integer(60, 86400, "seconds"),
    },
    "containerd": {"registries": _registries, "pause_image": _or_null(_image)},
    "mirror": {"enabled": _boolean, "listen": _or_null(_address)},
    "nfs": {
        "enabled": _boolean,
        "path": _folder,
        "disk": _or_null(_file_system),
        "format": _or_null(_device_by_id),
        "volumes": _volumes,
        "mount": _folder,
        "manage_mounts": _boolean,
    },
    "container_storage": _CONTAINER_STORAGE,
    "docker": {
        "enabled": _boolean,
        "log_max_size": _pattern(r"[1-9][0-9]{0,5}[kmg]", "size of a log file", "10m"),
        "log_max_file": _integer(1, 100, "files"),
    },
    "cards": {
        "hours": _integer(1, 24 * 366, "hours"),
        "user": _pattern(r"[a-z_][a-z0-9_-]{0,31}", "name of a user", "pi"),
        "ssh_keys": _list_of(
            _pattern(
                r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}( [^\n']*)?",
                "public key as ssh has it, on one line",
                "ssh-ed25519 AAAAC3… me@laptop",
            ),
            "public ssh keys",
            empty=True,
        ),
        "timezone": _or_null(
            _pattern(r"[A-Za-z]+([/_+-][A-Za-z0-9]+)*", "time zone", "Europe/Berlin")
        ),
        "address": _choice(("dhcp", "fixed"), "way to get an address"),
        "gateway": _or_null(_address),
        "dns": _list_of(_address, "addresses", empty=True),
        "wifi": {
            "ssid": _or_null(_pattern(r"[^\x00-\x1f;\x22\\]{1,32}", "name of a wifi", "berries")),
            "country": _or_null(_pattern(r"[A-Z]{2}", "country of two capital letters", "DE")),
            "hidden": _boolean,
        },
    },
    "strangers": {"keys": _integer(1, 10000, "keys")},
    "reconcile": {
        "parallel": _integer(1, 50, "nodes"),
        "sweep_minutes": _integer(1, 1440, "minutes"),
        "backoff_seconds": _list_of(_integer(1, 86400, "seconds"), "waits in seconds", empty=False),
        "ready_timeout": _integer(10, 3600, "seconds"),
        "drain_timeout": _integer(10, 86400, "seconds"),
    },
}


# ---- the whole -----------------------------------------------------------------------------------


def _get(pillar: Mapping[str, Any], *keys: str) -> Any:
    """Return a nested value, or None when the way to it is missing or of another type."""
    value: Any = pillar
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _check_value(path: str, value: Any, schema: Any) -> list[str]:
    """Check a value by its check, or a mapping by its schema; refuse keys the schema lacks."""
    if not isinstance(schema, Mapping):
        checker: _Check = schema
        return checker(path, value)
    if not isinstance(value, Mapping):
        return [
            f"{path}: {_show(value)} is {_kind(value)}; write a mapping with the keys {', '.join(schema)}"
        ]
    problems = []
    for key, item in value.items():
        if key in schema:
            problems += _check_value(_join(path, key), item, schema[key])
        else:
            problems.append(
                f"{_join(path, key)}: there is no such key; {_did_you_mean(key, schema)}"
                f"Keys of {path} are {', '.join(schema)}."
            )
    return problems


def _check_top(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse top-level keys that look like misspelt ones of ours; the others are the user's own."""
    known = [*_SCHEMA, "nodes"]
    problems = []
    for key in pillar:
        if key in known or key in COMPUTED:
            continue
        close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.8)
        if close:
            problems.append(f"{key}: there is no such key; did you mean {close[0]!r}?")
    return problems


def _check_nodes(pillar: Mapping[str, Any]) -> list[str]:
    """Check each node, and that the rack has the roles it cannot do without."""
    nodes = pillar.get("nodes")
    if nodes is None or nodes == {}:
        return [
            "nodes is missing; name at least the master and the control plane, for example"
            " cp1: {ip: 192.168.1.11, roles: [control_plane]}"
        ]
    if not isinstance(nodes, Mapping):
        return [
            f"nodes: {_show(nodes)} is {_kind(nodes)}; write a mapping, for example"
            " pi-01: {ip: 192.168.1.21}"
        ]
    problems = []
    for node_id, body in nodes.items():
        if not valid_id(node_id):
            problems.append(f"{_join('nodes', node_id)}: {_show(node_id)} {_ID_RULE}")
        if body is not None:
            problems += _check_value(_join("nodes", node_id), body, _NODE)
    network = _get(pillar, "rack", "network")
    usable = network is not None and not _rack_network("rack.network", network)
    problems += _check_addresses(nodes, ipaddress.IPv4Network(network) if usable else None)
    return problems + _check_roles(nodes)


def _check_addresses(nodes: Mapping[Any, Any], network: ipaddress.IPv4Network | None) -> list[str]:
    """Check the nodes' addresses against the rack's network and each other."""
    problems = []
    owners: dict[str, Any] = {}
    for node_id, body in nodes.items():
        ip = _get(body, "ip") if isinstance(body, Mapping) else None
        path = f"{_join('nodes', node_id)}.ip"
        if ip is None or _address(path, ip):
            continue
        if ip in owners:
            problems.append(
                f"{path}: {ip!r} is also the ip of {owners[ip]}; give each node its own"
            )
        owners.setdefault(ip, node_id)
        if network is None:
            continue
        address = ipaddress.IPv4Address(ip)
        if address not in network:
            problems.append(
                f"{path}: {ip!r} is not in rack.network {network}; correct one of the two"
            )
        elif address == network.network_address:
            problems.append(f"{path}: {ip!r} is the address of {network} itself; use another")
        elif address == network.broadcast_address:
            problems.append(f"{path}: {ip!r} is the broadcast address of {network}; use another")
    return problems


def _check_roles(nodes: Mapping[Any, Any]) -> list[str]:
    """Check that the roles which the others have to find exist once, with an address."""
    problems = []
    for role, what, required in (
        ("master", "the salt-master", True),
        ("control_plane", "the control plane", True),
        ("storage", "the storage node", False),
    ):
        holders = [node_id for node_id, body in nodes.items() if role in _roles_of(body)]
        if required and not holders:
            problems.append(f"nodes: no node is {what}; give one of them roles: [{role}]")
        if len(holders) > 1:
            problems.append(
                f"nodes: {', '.join(map(str, holders))} all have the role {role!r}; more than one"
                " is not supported yet, keep it at one of them"
            )
        problems += [
            f"nodes.{node_id}.ip is missing; it is {what}, so the others need its fixed address"
            for node_id in holders
            if _get(nodes[node_id], "ip") is None
        ]
    # a node with several of these roles would be named once for each
    return list(dict.fromkeys(problems))


def _parse(pillar: Mapping[str, Any], *keys: str) -> ipaddress.IPv4Network | None:
    """Return a network of the pillar, or None when it is missing or was found bad."""
    try:
        return ipaddress.IPv4Network(str(_get(pillar, *keys)))
    except ValueError:
        return None


def _check_overlaps(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse networks that share addresses: packets for one would go to the other."""
    keys = (("rack", "network"), ("kubernetes", "pod_network"), ("kubernetes", "service_network"))
    networks = [(".".join(key), _parse(pillar, *key)) for key in keys]
    return [
        f"{name}: '{network}' overlaps {other_name} '{other}'; choose networks that share no address"
        for (other_name, other), (name, network) in itertools.combinations(networks, 2)
        if network is not None and other is not None and network.overlaps(other)
    ]


def _check_pod_room(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse a pod network with fewer node networks than the rack has Kubernetes nodes."""
    network = _parse(pillar, "kubernetes", "pod_network")
    nodes = pillar.get("nodes")
    if network is None or network.prefixlen > POD_PREFIX_PER_NODE or not isinstance(nodes, Mapping):
        return []
    members = [
        n
        for n, body in nodes.items()
        if {"control_plane", "worker"} & set(map(str, _roles_of(body)))
    ]
    room = 2 ** (POD_PREFIX_PER_NODE - network.prefixlen)
    if len(members) <= room:
        return []
    bits = (len(members) - 1).bit_length()
    return [
        f"kubernetes.pod_network: '{network}' is too small: {len(members)} nodes need a"
        f" /{POD_PREFIX_PER_NODE} each and it holds {room}; use a"
        f" /{POD_PREFIX_PER_NODE - bits} or larger"
    ]


def _roles_of(body: Any) -> list[Any]:
    """Return the roles of a node, of which _roles() may have found that they are nonsense."""
    roles = _get(body, "roles") or [DEFAULT_ROLE]
    return roles if isinstance(roles, list) else []


def _check_mirror(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse a mirror that no node would hold."""
    nodes = pillar.get("nodes")
    if _get(pillar, "mirror", "enabled") is not True or not isinstance(nodes, Mapping):
        return []
    if not nodes or any("storage" in _roles_of(body) for body in nodes.values()):
        return []
    return [
        "mirror.enabled: true needs a node to hold the mirror; give one roles: [storage], or set"
        " mirror.enabled to false"
    ]


def _check_share(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse to format a disk that could not be found again."""
    device, disk = _get(pillar, "nfs", "format"), _get(pillar, "nfs", "disk")
    if device is None or disk is not None:
        return []
    return [
        f"nfs.format: {_show(device)} needs nfs.disk, the name that the new file system gets; set"
        " nfs.disk, for example to LABEL=share"
    ]


def _storages(pillar: Mapping[str, Any]) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Return what is said of container storage, as ``(key path, minion id, values)``.

    First what is said for all nodes, then for each node that says something of its own.
    """
    nodes = pillar.get("nodes")
    found: list[tuple[str, str | None, dict[str, Any]]] = [
        ("container_storage", None, container_storage(pillar, ""))
    ]
    for node_id in nodes if isinstance(nodes, Mapping) else ():
        if isinstance(_get(pillar, "nodes", node_id, "container_storage"), Mapping):
            path = f"{_join('nodes', node_id)}.container_storage"
            found.append((path, node_id, container_storage(pillar, node_id)))
    return found


def _check_backends(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse a backend that lacks what it stands on."""
    problems = []
    for path, _, values in _storages(pillar):
        if values.get("backend") == "disk" and values.get("disk") is None:
            problems.append(
                f"{path}.backend: 'disk' needs {path}.disk, the file system to use; set it to"
                " UUID=… (see `lsblk -f`) or LABEL=…"
            )
    images = [
        (path, node_id)
        for path, node_id, values in _storages(pillar)
        if values.get("backend") == "nfs-image"
    ]
    if images:
        problems += _check_image_server(pillar, images[0][0])
    return problems + _check_image_addresses(pillar)


def _check_image_server(pillar: Mapping[str, Any], path: str) -> list[str]:
    nodes = pillar.get("nodes")
    bodies = list(nodes.values()) if isinstance(nodes, Mapping) else []
    if _get(pillar, "nfs", "enabled") is False:
        return [
            f"{path}.backend: 'nfs-image' needs the share; set nfs.enabled to true, or choose local"
            " or disk"
        ]
    if bodies and not any("storage" in _roles_of(body) for body in bodies):
        return [
            f"{path}.backend: 'nfs-image' needs a node with the share; give one roles: [storage],"
            " or choose local or disk"
        ]
    return []


def _check_image_addresses(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse named nodes whose image the storage node could not export: it goes by the address."""
    nodes = pillar.get("nodes")
    if not isinstance(nodes, Mapping):
        return []
    engines = {"control_plane", "worker"}
    return [
        f"{_join('nodes', node_id)}.ip is missing; its backend is nfs-image, and the share lets a"
        " node in by its address"
        for node_id, body in nodes.items()
        if engines & set(map(str, _roles_of(body)))
        and container_storage(pillar, node_id).get("backend") == "nfs-image"
        and _get(body, "ip") is None
        # _check_roles() asks for that one's already
        and "control_plane" not in _roles_of(body)
        and "storage" not in _roles_of(body)
    ]


def _check_places(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse mounts that lie in each other or in what has its own home."""
    problems = []
    share = [(f"nfs.{key}", _place(_get(pillar, "nfs", key))) for key in ("path", "mount")]
    storages = [(f"{p}.mount", _place(v.get("mount"))) for p, _, v in _storages(pillar)]
    # A node that says nothing of its mount has the common one, which was judged already
    known = {path: place for path, place in storages if place is not None}
    common = known.get("container_storage.mount")
    own = {p: m for p, m in known.items() if p == "container_storage.mount" or m != common}
    for path, place in [*share, *own.items()]:
        taken = place and next((f for f in _OTHERS_FOLDERS if _nested(place, f)), None)
        if taken:
            problems.append(
                f"{path}: {_show(place)} and {taken} lie in each other; use a folder of its own,"
                " for example one below /srv"
            )
    if share[0][1] and share[1][1] and _nested(share[0][1], share[1][1]):
        problems.append(
            f"nfs.mount: {_show(share[1][1])} and nfs.path {_show(share[0][1])} lie in each other;"
            " use two folders"
        )
    for path, place in own.items():
        for name, other in share:
            if other and _nested(place, other):
                problems.append(
                    f"{path}: {_show(place)} and {name} {_show(other)} lie in each other, and"
                    " containers cannot live on NFS itself (overlayfs needs what NFS lacks); use"
                    " another folder, and backend: nfs-image to have the data on the share"
                )
    return problems


def _place(value: Any) -> str | None:
    """Return a folder that was found good, else None."""
    return value if isinstance(value, str) and not _folder("", value) else None
