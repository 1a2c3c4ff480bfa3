"""What a single value of the pillar may be: text, number, address, folder … each a kind with a name.

``_utils/rackschema.py`` says of which kind each setting is; :data:`KINDS` here says what that means:
how a value is checked, and what is allowed, in words for people. What several values must be
together is in ``_utils/rackrules.py``.

A problem is one sentence on one line: key, value, what is wrong with it, and what to write instead.
Pure Python without any import of Salt, see ``_utils/rackspec.py``.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

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

# A size in the pillar: whole numbers of binary units. Below the least, an image holds no container;
# the most is what ext4 can be with 32-bit numbers of its blocks of 4 KiB.
_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE_LEAST, SIZE_MOST = 256 << 20, 16 << 40

# Folders that a mount would take away from the system, or that are no place for data
_SYSTEM_FOLDERS = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/run", "/sbin", "/sys",
                   "/tmp", "/usr")  # fmt: skip
_CROWDED_FOLDERS = ("/", "/home", "/media", "/mnt", "/opt", "/srv", "/var", "/var/lib", "/var/log",
                    "/var/cache", "/var/tmp")  # fmt: skip
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

# (key path, value, setting) -> problems. The setting is a Key of rackschema.py: limits and choices.
_Check = Callable[[str, Any, Any], list[str]]


class Kind(NamedTuple):
    """A kind of value: its check, and what it allows, in words (``allowed`` adds the limits)."""

    check: _Check
    words: str


def valid_id(minion_id: object) -> bool:
    """Say whether a minion id may be used as a host name, a file name, a target.

    minion_id
        What a minion calls itself. Salt lets a minion call itself nearly anything, newlines and
        ``*`` included, so everything that acts on an id asks here first.

    Returns True for a lower-case RFC 1123 label of 1 to 63 characters.
    """
    return isinstance(minion_id, str) and re.fullmatch(ID_PATTERN, minion_id) is not None


def size_bytes(size: str) -> int:
    """Return a size of the pillar in bytes.

    size
        A whole number of M, G or T, which are binary units: ``32G`` is 34359738368.

    Raises ValueError for anything else.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,6})([MGT])", size) if isinstance(size, str) else None
    if found is None:
        raise ValueError(f"{show(size)} is no size; write a whole number of M, G or T, like 32G")
    return int(found.group(1)) * _UNITS[found.group(2)]


# ---- words for messages -------------------------------------------------------------------------

ID_RULE = (
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


def kind_of(value: object) -> str:
    """Name the type of a value as someone who writes YAML knows it."""
    if value is None:
        return "empty"
    for type_, name in _TYPES:
        if isinstance(value, type_):
            return name
    return f"a {type(value).__name__}"


def show(value: object) -> str:
    """Quote a value for a message: short, and on one line whatever is in it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(dict(value)) if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def join(path: str, key: object) -> str:
    """Append a key to a key path; one with odd characters is quoted, so the path stays readable."""
    plain = re.fullmatch(r"[A-Za-z0-9_./:-]+", str(key))
    return f"{path}.{key}" if plain else f"{path}[{key!r}]"


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return "did you mean …? " when something known looks like this word, else nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


# ---- kinds ---------------------------------------------------------------------------------------


def _text(path: str, value: Any, example: str) -> list[str]:
    """Refuse what is not text, with the usual reason: YAML made a number of it."""
    if isinstance(value, str):
        return []
    hint = "; put it in quotes" if isinstance(value, int | float) else ""
    return [f"{path}: {show(value)} is {kind_of(value)}, not text{hint}, for example {example}"]


def _pattern(pattern: str, what: str, example: str, words: str = "") -> Kind:
    """A kind of text that must match a pattern as a whole."""

    def run(path: str, value: Any, _: Any) -> list[str]:
        problems = _text(path, value, example)
        if not problems and not re.fullmatch(pattern, value):
            problems.append(f"{path}: {show(value)} is no {what}; write it like {example}")
        return problems

    article = "an" if what[0] in "aeiou" else "a"
    return Kind(run, words or f"{article} {what}, like {example}")


def _choice(path: str, value: Any, key: Any) -> list[str]:
    if isinstance(value, str) and value in key.choices:
        return []
    return [
        f"{path}: {show(value)} is no {key.what}; {did_you_mean(value, key.choices)}"
        f"Possible: {', '.join(key.choices)}"
    ]


def _number(path: str, value: Any, key: Any) -> list[str]:
    """Refuse what is no whole number (of the key's unit, if it has one) from least to most."""
    of_unit, unit = (f" of {key.unit}", f" {key.unit}") if key.unit else ("", "")
    # bool is an int to Python, and `yes` a bool to YAML
    if isinstance(value, bool) or not isinstance(value, int):
        return [f"{path}: {show(value)} is {kind_of(value)}; write a whole number{of_unit}"]
    if not key.least <= value <= key.most:
        return [f"{path}: {value} is out of range; write {key.least} to {key.most}{unit}"]
    return []


def _boolean(path: str, value: Any, _: Any = None) -> list[str]:
    if isinstance(value, bool):
        return []
    return [f"{path}: {show(value)} is {kind_of(value)}; write true or false, without quotes"]


def mapping(path: str, value: Any, _: Any = None) -> list[str]:
    """Refuse what is no mapping; what is in it is not judged."""
    if isinstance(value, Mapping):
        return []
    return [f"{path}: {show(value)} is {kind_of(value)}; write a mapping of keys, or {{}} for none"]


def _list(path: str, value: Any, key: Any) -> list[str]:
    """Check a list and each of its items, which are of the kind that ``key.of`` says."""
    if not isinstance(value, list):
        return [f"{path}: {show(value)} is {kind_of(value)}; write a list of {key.what}"]
    if not value and not key.empty:
        return [f"{path}: [] is empty; write at least one of: {key.what}"]
    return [p for i, item in enumerate(value) for p in check(f"{path}[{i}]", item, key.of)]


def _port(path: str, value: Any, key: Any) -> list[str]:
    problems = _number(path, value, key)
    if not problems and value in TAKEN_PORTS:
        problems.append(
            f"{path}: {value} is the port of {TAKEN_PORTS[value]}; choose another, 6443 is usual"
        )
    return problems


def _version(path: str, value: Any, _: Any) -> list[str]:
    example = '"1.34.2"'
    problems = _text(path, value, example)
    if problems:
        return problems
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", value):
        return [
            f"{path}: {show(value)} is no exact version; write all three numbers and no v,"
            f" for example {example}"
        ]
    minor = value.rpartition(".")[0]
    if minor not in KUBERNETES_MINORS:
        return [
            f"{path}: {show(value)} is of Kubernetes {minor}, which is not supported; choose a"
            f" version of {', '.join(KUBERNETES_MINORS)}"
        ]
    return []


def _network(path: str, value: Any, key: Any) -> list[str]:
    """Refuse what is not an IPv4 network with a prefix of ``key.least`` to ``key.most`` bits."""
    example = "192.168.1.0/24"
    problems = _text(path, value, example)
    if problems:
        return problems
    if not re.fullmatch(r"[^/]+/[0-9]{1,3}", value):
        return [
            f"{path}: {show(value)} is no network; write an address, a slash and the number of"
            f" network bits, for example {example}"
        ]
    try:
        interface = ipaddress.ip_interface(value)
    except ValueError:
        return [f"{path}: {show(value)} is no network; write it like {example}"]
    network = interface.network
    if network.version != 4:
        return [f"{path}: {show(value)} is IPv6, which is not supported yet; write an IPv4 network"]
    if interface.ip != network.network_address:
        return [
            f"{path}: {show(value)} has host bits set, so it is an address and no network; did you"
            f" mean {network}?"
        ]
    if network.is_multicast or network.is_loopback or network.is_link_local:
        return [f"{path}: {show(value)} is reserved; use a private network such as {example}"]
    if not key.least <= network.prefixlen <= key.most:
        size = "large" if network.prefixlen < key.least else "small"
        return [f"{path}: {show(value)} is too {size}; use /{key.least} to /{key.most}: {key.what}"]
    return []


def address(path: str, value: Any, _: Any = None) -> list[str]:
    """Refuse what is not an IPv4 address."""
    example = "192.168.1.21"
    problems = _text(path, value, example)
    if problems:
        return problems
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError:
        return [f"{path}: {show(value)} is no IP address; write it like {example}"]
    if parsed.version != 4:
        return [f"{path}: {show(value)} is IPv6, which is not supported yet; write an IPv4 address"]
    return []


def _address_or_network(path: str, value: Any, key: Any) -> list[str]:
    """Refuse what is neither an address nor a network of the size that ``key`` allows."""
    is_network = isinstance(value, str) and "/" in value
    return _network(path, value, key) if is_network else address(path, value)


def address_range(value: Any) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address] | None:
    """Return the first and the last address of a range, None for what is none.

    value
        ``192.168.1.240-192.168.1.249``, a network, or one address.
    """
    try:
        if isinstance(value, str) and "-" in value:
            first, _, last = value.partition("-")
            ends = ipaddress.IPv4Address(first.strip()), ipaddress.IPv4Address(last.strip())
            return ends if ends[0] <= ends[1] else None
        network = ipaddress.IPv4Network(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return (network[0], network[-1]) if network else None


def _address_range(path: str, value: Any, _: Any) -> list[str]:
    if address_range(value):
        return []
    return [
        f"{path}: {show(value)} is no range of addresses; write first and last, like"
        " 192.168.1.240-192.168.1.249, or a network"
    ]


def _open_port(path: str, value: Any, key: Any) -> list[str]:
    """Refuse what is no port to be opened: ``{port: 80, proto: tcp, from: [192.168.1.0/24]}``."""
    example = "{port: 80, from: [192.168.1.0/24]}"
    if not isinstance(value, Mapping):
        return [f"{path}: {show(value)} is {kind_of(value)}; write a mapping like {example}"]
    known = ("port", "proto", "from")
    problems = [
        f"{join(path, name)}: there is no such key; {did_you_mean(name, known)}Keys of {path} are"
        f" {', '.join(known)}."
        for name in value
        if name not in known
    ]
    if "port" in value:
        limits = key._replace(least=1, most=65535)
        problems += _number(f"{path}.port", value["port"], limits)
    else:
        problems.append(f"{path}.port is missing; write its number, for example {example}")
    protocol = key._replace(choices=("tcp", "udp"), what="protocol")
    problems += _choice(f"{path}.proto", value.get("proto", "tcp"), protocol)
    if "from" in value:
        sources = key._replace(what="networks or addresses", empty=False)
        problems += _list(f"{path}.from", value["from"], sources)
    return problems


def _url(path: str, value: Any, _: Any = None) -> list[str]:
    example = "http://192.168.1.10/apt"
    problems = _text(path, value, example)
    if problems:
        return problems
    if not re.fullmatch(r"https?://[A-Za-z0-9][^\s\"'\\]*", value):
        return [f"{path}: {show(value)} is no URL; write it like {example}"]
    return []


def _url_of_minor(path: str, value: Any, _: Any) -> list[str]:
    """A URL in which ``{minor}`` stands for the Kubernetes minor; other braces are a mistake."""
    problems = _url(path, value)
    if not problems and re.search(r"[{}]", value.replace("{minor}", "")):
        problems.append(
            f"{path}: {show(value)} has braces other than {{minor}}; {{minor}} is the only"
            " placeholder, it becomes for example 1.34"
        )
    return problems


def _roles(path: str, value: Any, _: Any) -> list[str]:
    if isinstance(value, str):
        return [f"{path}: {show(value)} is text; write a list, for example [{value}]"]
    if not isinstance(value, list):
        return [f"{path}: {show(value)} is {kind_of(value)}; write a list of {', '.join(ROLES)}"]
    if not value:
        return [f"{path}: [] is empty; name a role, or leave roles out for [{DEFAULT_ROLE}]"]
    problems = [
        f"{path}: {show(role)} is no role; {did_you_mean(role, ROLES)}Roles are {', '.join(ROLES)}."
        for role in value
        if role not in ROLES
    ]
    for role in ROLES:
        if value.count(role) > 1:
            problems.append(f"{path}: {role!r} is listed twice; list it once")
    if "control_plane" in value and "worker" in value:
        problems.append(
            f"{path}: {show(value)} makes the node control plane and worker at once, which is not"
            " supported; keep one of the two"
        )
    return problems


def folder(path: str, value: Any, _: Any = None) -> list[str]:
    """Refuse what is no folder that a file system may be mounted at."""
    example = "/srv/containers"
    problems = _text(path, value, example)
    if problems:
        return problems
    if not value.startswith("/"):
        return [f"{path}: {show(value)} is a relative path; write it from the root, like {example}"]
    if not re.fullmatch(r"/|(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+", value):
        return [
            f"{path}: {show(value)} is no path that a mount unit takes; use letters, digits and"
            f" . _ + -, no slash at the end, no .. and no hidden folder, like {example}"
        ]
    if value in _CROWDED_FOLDERS or within(value, _SYSTEM_FOLDERS):
        return [f"{path}: {show(value)} is the system's; use a folder of its own, like {example}"]
    return []


def within(path: str, folders: Iterable[str]) -> str | None:
    """Return the first of ``folders`` that is ``path`` or above it."""
    return next((f for f in folders if path == f or path.startswith(f"{f.rstrip('/')}/")), None)


def nested(one: str, other: str) -> bool:
    """Say whether one of two folders is in the other, or both are the same."""
    return bool(within(one, [other]) or within(other, [one]))


_UUID = r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"


def _file_system(path: str, value: Any, _: Any) -> list[str]:
    """Refuse what does not name a file system by what is written in it."""
    example = "UUID=0b1e4c5a-… (see `lsblk -f`) or LABEL=share"
    problems = _text(path, value, example)
    if problems:
        return problems
    if value.startswith("/dev/"):
        return [
            f"{path}: {show(value)} is a device, whose name may be another's after the next boot;"
            f" name the file system on it: {example}"
        ]
    kind, _, name = value.partition("=")
    if kind == "UUID" and re.fullmatch(_UUID, name):
        return []
    if kind == "UUID":
        return [f"{path}: {show(value)} is no UUID of an ext4 file system; write {example}"]
    if kind == "LABEL" and re.fullmatch(r"[A-Za-z0-9._-]{1,16}", name):
        return []
    if kind == "LABEL":
        return [
            f"{path}: {show(value)} is no label; use 1 to 16 letters, digits and . _ -, like"
            " LABEL=share"
        ]
    return [f"{path}: {show(value)} names no file system; write {example}"]


def _backend(path: str, value: Any, key: Any) -> list[str]:
    """As any choice, with the reason for what everybody tries first."""
    if value == "nfs":
        return [
            f"{path}: 'nfs' cannot hold containers: overlayfs needs extended attributes and file"
            " types in directories that NFS lacks; nfs-image has the data on the share all the same"
        ]
    return _choice(path, value, key)


def _size(path: str, value: Any, _: Any) -> list[str]:
    problems = _text(path, value, "32G")
    if problems:
        return problems
    try:
        size = size_bytes(value)
    except ValueError as exc:
        return [f"{path}: {exc}"]
    if size < SIZE_LEAST:
        return [f"{path}: {show(value)} is too small to hold images; write at least 256M"]
    if size > SIZE_MOST:
        return [f"{path}: {show(value)} is more than ext4 can be; write at most 16T"]
    return []


def _config_txt(path: str, value: Any, _: Any) -> list[str]:
    """Check lines of the Pi's config.txt: ``{gpu_mem: 16, dtparam: [spi=on, i2c=on]}``."""
    problems = mapping(path, value)
    for name, given in value.items() if not problems else ():
        here = join(path, name)
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_:]*", name):
            problems.append(f"{here}: {show(name)} is no name in config.txt; write it like gpu_mem")
        for item in given if isinstance(given, list) else [given]:
            plain = isinstance(item, str | int) and not isinstance(item, bool)
            if not plain or not re.fullmatch(r"[A-Za-z0-9_.,:=/-]{1,90}", str(item)):
                problems.append(
                    f"{here}: {show(item)} is no value in config.txt; write a number or text without"
                    " spaces, like 16, or a list of those"
                )
    return problems


# What kubeadm and the states give; another one would take the node out of its cluster.
_KUBELETS_OWN = (
    "bootstrap-kubeconfig", "config", "container-runtime", "container-runtime-endpoint", "hostname-override",
    "kubeconfig", "node-ip",
)  # fmt: skip


def _kubelet_args(path: str, value: Any, _: Any) -> list[str]:
    """Check flags of kubelet: ``{v: 2, node-labels: disk=ssd}``."""
    problems = mapping(path, value)
    for name, given in value.items() if not problems else ():
        here = join(path, name)
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            problems.append(
                f"{here}: {show(name)} is no flag; write its name without dashes before it"
            )
        elif name in _KUBELETS_OWN:
            problems.append(f"{here}: kubeadm and the states give this flag; leave it out")
        plain = isinstance(given, str | int | bool)
        if not plain or not re.fullmatch(r"[A-Za-z0-9_.,:=/<>@%+-]{0,400}", str(given)):
            problems.append(
                f"{here}: {show(given)} is no value of a flag; write a number, true, false or text without"
                " spaces and quotes"
            )
    return problems


# ---- kinds of names, of which the user has many --------------------------------------------------


def _node_id(path: str, value: Any, _: Any) -> list[str]:
    return [] if valid_id(value) else [f"{path}: {show(value)} {ID_RULE}"]


def _registry_host(path: str, value: Any, _: Any) -> list[str]:
    if isinstance(value, str) and re.fullmatch(_HOST_PORT, value):
        return []
    return [
        f"{path}: {show(value)} is no registry; write its host name or address, with :port"
        " if it has one, and no http://"
    ]


def _volume_name(path: str, value: Any, _: Any) -> list[str]:
    if isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value):
        return []
    return [
        f"{path}: {show(value)} is no name of a volume; use at most 63 lower-case letters,"
        " digits, _ and -"
    ]


_HOST_PORT = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?"
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

KINDS = {
    "yes-no": Kind(_boolean, "true or false"),
    "number": Kind(_number, "a whole number"),
    "choice": Kind(_choice, "one of"),
    "list": Kind(_list, "a list of"),
    "mapping": Kind(mapping, "a mapping of keys"),
    # the rack
    "rack-name": _pattern(ID_PATTERN, "name of a rack (lower-case letters, digits, -)", "berry"),
    "roles": Kind(_roles, f"a list of {', '.join(ROLES)}"),
    "node-id": Kind(_node_id, "a host name of one label"),
    "domain": _pattern(
        rf"{_LABEL}(\.{_LABEL})*",
        "domain (lower-case letters, digits, hyphens, dots)",
        "rack.lan",
    ),
    "network": Kind(_network, "an IPv4 network, like 192.168.1.0/24"),
    "address-or-network": Kind(_address_or_network, "an IPv4 address or network"),
    "address-range": Kind(
        _address_range, "a range of IPv4 addresses, like 192.168.1.240-192.168.1.249"
    ),
    "address": Kind(address, "an IPv4 address, like 192.168.1.21"),
    "open-port": Kind(
        _open_port, "a mapping of port (1 to 65535), proto (tcp or udp), from (a list, as allow)"
    ),
    "port": Kind(_port, "a TCP port that nothing else on a control plane has"),
    # where things come from
    "url": Kind(_url, "a URL, like http://192.168.1.10/apt"),
    "url-of-minor": Kind(_url_of_minor, "a URL, in which {minor} becomes for example 1.34"),
    "apt-line": _pattern(
        r"deb (\[[A-Za-z0-9 =/._,-]+\] )?[a-z]+:/[^\s\"'\\]+( [A-Za-z0-9._/-]+)+",
        "apt source on one line",
        '"deb http://deb.debian.org/debian bookworm main"',
    ),
    "apt-suite": _pattern(r"[A-Za-z0-9._/-]+", "suite of an apt repository", '"/"'),
    "sha256": _pattern(
        r"[0-9a-f]{64}", "SHA-256 in hex", "64 digits, or null", "a SHA-256, 64 digits in hex"
    ),
    "registry-host": Kind(_registry_host, "a registry's host name or address, with :port"),
    "image": _pattern(
        _HOST_PORT + r"(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?",
        "image name (no http://, no slash at the end)",
        "registry.k8s.io/pause:3.10",
    ),
    "image-repository": _pattern(
        _HOST_PORT + r"(/[a-z0-9][a-z0-9._-]*)*",
        "image repository (no http://, no slash at the end)",
        "registry.k8s.io",
    ),
    # Kubernetes
    "object-name": _pattern(
        _LABEL, "name of an object (lower-case letters, digits, -)", "postgresql"
    ),
    "namespaced-name": _pattern(
        rf"{_LABEL}/{_LABEL}",
        "namespace and name (of lower-case letters, digits, -)",
        "default/data",
    ),
    "kubernetes-version": Kind(
        _version, f"an exact version in quotes, of {', '.join(KUBERNETES_MINORS)}"
    ),
    "package-revision": _pattern(
        r"[A-Za-z0-9.+~]+", "revision of a Debian package (what follows its hyphen)", '"1.1"'
    ),
    "preflight-check": _pattern(r"[A-Za-z0-9-]+", "check of kubeadm's preflight", "NumCPU"),
    "kubernetes-name": _pattern(
        _LABEL, "name of a namespace (lower-case letters, digits, -)", "web"
    ),
    # Helm
    "release-name": _pattern(
        r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?",
        "name of a release (lower-case letters, digits, -, at most 53)",
        "greeter",
    ),
    "chart-name": _pattern(
        r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "name of a chart", "grafana"
    ),
    "oci-chart": _pattern(
        r"oci://" + _HOST_PORT + r"(/[a-z0-9][a-z0-9._-]*)+",
        "chart in a registry (no version in it)",
        "oci://ghcr.io/someone/charts/name",
    ),
    "chart-file": _pattern(
        r"(salt:/)?(/(?!\.\.?(/|\Z))[A-Za-z0-9._+-]+)+",
        "chart on disk (no .., no slash at the end)",
        "salt://charts/greeter",
    ),
    "chart-version": _pattern(
        r"v?[0-9]+\.[0-9]+\.[0-9]+([+-][0-9A-Za-z.+-]+)?",
        "exact version of a chart (three numbers)",
        '"8.5.1"',
    ),
    # disks and folders
    "backend": Kind(_backend, "one of"),
    "folder": Kind(folder, "a folder of its own, like /srv/containers"),
    "file-system": Kind(_file_system, "UUID=… (see `lsblk -f`) or LABEL=…"),
    "device-by-id": _pattern(
        r"/dev/disk/by-id/[A-Za-z0-9][A-Za-z0-9._:+@-]*",
        "name of a device that stays the same (see `ls /dev/disk/by-id`)",
        "/dev/disk/by-id/usb-WD_Elements_25A3_1234-0:0",
    ),
    "path": _pattern(
        r"(/(?!\.\.?(/|\Z))[A-Za-z0-9._+-]+)+",
        "path from the root (letters, digits and . _ + -, no .., no slash at the end)",
        "/srv/nfs/drift",
    ),
    "size": Kind(_size, "a whole number of M, G or T, from 256M to 16T"),
    "log-size": _pattern(r"[1-9][0-9]{0,5}[kmg]", "size of a log file", "10m"),
    "volume-name": Kind(_volume_name, "a name of lower-case letters, digits, _ and -"),
    # a node's system
    "timer": _pattern(
        r"[A-Za-z0-9*~.,:/-]+( [A-Za-z0-9*~.,:/-]+){0,3}",
        "time as systemd's timers have it (see `systemd-analyze calendar`)",
        '"Sun 03:30"',
    ),
    "package": _pattern(r"[a-z0-9][a-z0-9+.-]+", "name of a Debian package", "htop"),
    "host": _pattern(
        r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "host name or address (lower case)", "192.168.1.1"
    ),
    "journal-size": _pattern(r"[1-9][0-9]{0,4}[MG]", "size of a journal", "64M"),
    "kubelet-args": Kind(_kubelet_args, "a mapping of flags to numbers, text, true or false"),
    "config-txt": Kind(_config_txt, "a mapping of names to numbers, text or lists of those"),
    # people and places
    "user-name": _pattern(r"[a-z_][a-z0-9_-]{0,31}", "name of a user", "pi"),
    "ssh-key": _pattern(
        r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}( [^\n']*)?",
        "public key as ssh has it, on one line",
        "ssh-ed25519 AAAAC3… me@laptop",
    ),
    "mail": _pattern(r"[A-Za-z0-9._%+-]+(@[A-Za-z0-9.-]+)?", "mail address", "me@example.org"),
    "timezone": _pattern(r"[A-Za-z]+([/_+-][A-Za-z0-9]+)*", "time zone", "Europe/Berlin"),
    "shell": _pattern(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+", "path of a program", "/bin/bash"),
    "wifi-name": _pattern(r"[^\x00-\x1f;\x22\\]{1,32}", "name of a wifi", "berries"),
    "country": _pattern(r"[A-Z]{2}", "country of two capital letters", "DE"),
}


def check(path: str, value: Any, key: Any) -> list[str]:
    """Return the problems of one value.

    path
        Its key path, for the messages.
    value
        What the user wrote.
    key
        Its setting, a ``Key`` of ``rackschema.py``.
    """
    if value is None and (key.null or key.required):
        return []  # that a required one is missing is said once, for the whole
    return KINDS[key.kind].check(path, value, key)


def allowed(key: Any) -> str:
    """Say in words what a setting may be.

    key
        A ``Key`` of ``rackschema.py``.
    """
    words = KINDS[key.kind].words
    if key.choices:
        words += f" {', '.join(key.choices)}"
    if key.kind == "list":
        words += f" {key.what}, each {allowed(key.of)}"
    if key.kind in ("network", "address-or-network"):
        words += f", /{key.least} to /{key.most}"
    elif key.most:
        words += f", {key.least} to {key.most}" + (f" {key.unit}" if key.unit else "")
    return f"{words}; or null" if key.null else words
