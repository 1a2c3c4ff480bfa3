"""What the settings of a rack must be together: the checks that look at more than one value.

Each takes the whole pillar, of which any part may be missing or nonsense (``_utils/rackvalues.py`` has
said so already), and returns its problems as sentences: key, value, what is wrong, what to do. A new
rule is a function here and a name in :func:`check`.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import itertools
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def _beside(name: str) -> ModuleType:
    """Load a module of this folder, as rackspec.py does."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"saltberry_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded; is the checkout complete?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_values = _beside("rackvalues")

# The controller manager hands each node a network of this size (its default for IPv4)
POD_PREFIX_PER_NODE = 24

# Where nginx leads to the caches; not 5001, which was the advice for services.registry.port
PULL_THROUGH_PORT = 5002

# What has its own home: the engines' default roots, kubelet's, and what Saltberry itself keeps
_OTHERS_FOLDERS = ("/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd",
                   "/var/lib/saltberry", "/srv/saltberry", "/opt/saltberry")  # fmt: skip


def check(pillar: Mapping[str, Any]) -> list[str]:
    """Return the problems of what belongs together.

    pillar
        The whole pillar, defaults merged.
    """
    rules = (
        _check_nodes,
        _check_overlaps,
        _check_pod_room,
        _check_mirror,
        _check_pull_through,
        _check_share,
        _check_backends,
        _check_places,
        _check_users,
        _check_page,
        _check_firewall,
        _check_volumes,
        _check_registry,
        _check_metrics,
        _check_charts,
        _check_ingress,
    )
    return [problem for rule in rules for problem in rule(pillar)]


def get(pillar: Mapping[str, Any], *keys: str) -> Any:
    """Return a nested value, or None when the way to it is missing or of another type."""
    value: Any = pillar
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def of_node(pillar: Mapping[str, Any], minion_id: str, group: str) -> dict[str, Any]:
    """Return a group of settings as a minion has them.

    pillar
        The whole pillar, defaults merged.
    minion_id
        A minion; what ``nodes.<id>.<group>`` says is laid over what is said for all.
    group
        ``container_storage`` or ``system``.
    """
    own, common = get(pillar, "nodes", minion_id, group), get(pillar, group)
    return {
        **(common if isinstance(common, Mapping) else {}),
        **(own if isinstance(own, Mapping) else {}),
    }


def container_storage(pillar: Mapping[str, Any], minion_id: str) -> dict[str, Any]:
    """Return what the pillar says of a minion's container storage, as :func:`of_node`."""
    return of_node(pillar, minion_id, "container_storage")


def _check_nodes(pillar: Mapping[str, Any]) -> list[str]:
    """Check the nodes' addresses, and that the rack has the roles it cannot do without."""
    nodes = pillar.get("nodes")
    if not isinstance(nodes, Mapping) or not nodes:
        return []
    return _check_addresses(nodes, _parse(pillar, "rack", "network")) + _check_roles(nodes)


def _check_addresses(nodes: Mapping[Any, Any], network: ipaddress.IPv4Network | None) -> list[str]:
    """Check the nodes' addresses against the rack's network and each other."""
    problems = []
    owners: dict[str, Any] = {}
    for node_id, body in nodes.items():
        ip = get(body, "ip") if isinstance(body, Mapping) else None
        path = f"{_values.join('nodes', node_id)}.ip"
        if ip is None or _values.address(path, ip):
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
            if get(nodes[node_id], "ip") is None
        ]
    # a node with several of these roles would be named once for each
    return list(dict.fromkeys(problems))


def _parse(pillar: Mapping[str, Any], *keys: str) -> ipaddress.IPv4Network | None:
    """Return a network of the pillar, or None when it is missing or was found bad."""
    try:
        return ipaddress.IPv4Network(str(get(pillar, *keys)))
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
    roles = get(body, "roles") or [_values.DEFAULT_ROLE]
    return roles if isinstance(roles, list) else []


def _check_mirror(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse a mirror that no node would hold."""
    nodes = pillar.get("nodes")
    if get(pillar, "mirror", "enabled") is False and get(pillar, "mirror", "packages") is True:
        return [
            "mirror.packages: true needs the mirror; set mirror.enabled to true, or this to false"
        ]
    if get(pillar, "mirror", "enabled") is not True or not isinstance(nodes, Mapping):
        return []
    if not nodes or any("storage" in _roles_of(body) for body in nodes.values()):
        return []
    return [
        "mirror.enabled: true needs a node to hold the mirror; give one roles: [storage], or set"
        " mirror.enabled to false"
    ]


def _pulls_through(pillar: Mapping[str, Any]) -> list[Any]:
    """Return what ``mirror.pull_through`` lists, of which any item may be nonsense."""
    listed = get(pillar, "mirror", "pull_through")
    return listed if isinstance(listed, list) else []


def _check_pull_through(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse a cache that nothing serves, of one registry twice, or of the rack itself."""
    hosts, path = _pulls_through(pillar), "mirror.pull_through"
    problems = []
    if hosts and get(pillar, "mirror", "enabled") is False:
        problems.append(
            f"{path}: {_values.show(hosts)} needs the mirror; set mirror.enabled to true, or this to []"
        )
    own = _own_names(pillar)
    for i, host in enumerate(hosts):
        if host in hosts[:i]:
            problems.append(f"{path}[{i}]: {_values.show(host)} is listed twice; list it once")
        if isinstance(host, str) and host in own:
            problems.append(
                f"{path}[{i}]: {host!r} is this rack itself, whose images are there already; leave it out"
            )
    return problems


def _own_names(pillar: Mapping[str, Any]) -> set[str]:
    """Return the names and addresses by which the rack's own registry and mirror answer."""
    nodes, domain = pillar.get("nodes"), get(pillar, "rack", "domain")
    ids = list(map(str, nodes)) if isinstance(nodes, Mapping) else []
    addresses = {str(get(pillar, "nodes", node_id, "ip")) for node_id in ids}
    return {"localhost", *ids, *(f"{node_id}.{domain}" for node_id in ids), *addresses}


def _check_share(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse to format a disk that could not be found again."""
    device, disk = get(pillar, "nfs", "format"), get(pillar, "nfs", "disk")
    if device is None or disk is not None:
        return []
    return [
        f"nfs.format: {_values.show(device)} needs nfs.disk, the name that the new file system gets; set"
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
        if isinstance(get(pillar, "nodes", node_id, "container_storage"), Mapping):
            path = f"{_values.join('nodes', node_id)}.container_storage"
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
    if get(pillar, "nfs", "enabled") is False:
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
        f"{_values.join('nodes', node_id)}.ip is missing; its backend is nfs-image, and the share lets a"
        " node in by its address"
        for node_id, body in nodes.items()
        if engines & set(map(str, _roles_of(body)))
        and container_storage(pillar, node_id).get("backend") == "nfs-image"
        and get(body, "ip") is None
        # _check_roles() asks for that one's already
        and "control_plane" not in _roles_of(body)
        and "storage" not in _roles_of(body)
    ]


def _check_places(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse mounts that lie in each other or in what has its own home."""
    problems = []
    share = [(f"nfs.{key}", _place(get(pillar, "nfs", key))) for key in ("path", "mount")]
    storages = [(f"{p}.mount", _place(v.get("mount"))) for p, _, v in _storages(pillar)]
    # A node that says nothing of its mount has the common one, which was judged already
    known = {path: place for path, place in storages if place is not None}
    common = known.get("container_storage.mount")
    own = {p: m for p, m in known.items() if p == "container_storage.mount" or m != common}
    for path, place in [*share, *own.items()]:
        taken = place and next((f for f in _OTHERS_FOLDERS if _values.nested(place, f)), None)
        if taken:
            problems.append(
                f"{path}: {_values.show(place)} and {taken} lie in each other; use a folder of its own,"
                " for example one below /srv"
            )
    if share[0][1] and share[1][1] and _values.nested(share[0][1], share[1][1]):
        problems.append(
            f"nfs.mount: {_values.show(share[1][1])} and nfs.path {_values.show(share[0][1])} lie in each other;"
            " use two folders"
        )
    for path, place in own.items():
        for name, other in share:
            if other and _values.nested(place, other):
                problems.append(
                    f"{path}: {_values.show(place)} and {name} {_values.show(other)} lie in each other, and"
                    " containers cannot live on NFS itself (overlayfs needs what NFS lacks); use"
                    " another folder, and backend: nfs-image to have the data on the share"
                )
    return problems


def _check_users(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse what would lock people out, or says two things at once."""
    users = pillar.get("users")
    problems = []
    for name, body in users.items() if isinstance(users, Mapping) else ():
        path, gone = _values.join("users", name), get(body, "absent") is True
        if gone and name in ("root", get(pillar, "cards", "user")):
            problems.append(
                f"{path}.absent: {name!r} is needed to repair a node; leave it, or name another in"
                " cards.user"
            )
        if gone and (get(body, "ssh_keys") or get(body, "sudo")):
            problems.append(
                f"{path}.absent: true says that there is no such user, but it has keys or sudo; keep"
                " one of the two"
            )
    return problems


def _check_page(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse a page that everybody could read, or whose port the storage node's services have."""
    page, port = get(pillar, "page"), get(pillar, "page", "port")
    problems = []
    if (
        get(page, "enabled") is True
        and not get(page, "allow")
        and get(page, "password") is not True
    ):
        problems.append(
            "page.enabled: true shows the rack to everybody; set page.allow to the networks that may"
            " see it, for example [192.168.1.0/24], or page.password to true"
        )
    taken = {80: "the mirror", 2049: "the share", 5000: "the image registry"}
    if _pulls_through(pillar):
        taken[PULL_THROUGH_PORT] = "mirror.pull_through"
    if isinstance(port, int) and not isinstance(port, bool) and port in taken:
        problems.append(
            f"page.port: {port} is the port of {taken[port]}; choose another, 8080 is usual"
        )
    return problems


def _check_firewall(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse an ``allow`` that says that the rack itself may not use ssh."""
    network, nodes = _parse(pillar, "rack", "network"), pillar.get("nodes")
    said = {"firewall.allow": get(pillar, "firewall", "allow")}
    for node_id in nodes if isinstance(nodes, Mapping) else ():
        path = f"{_values.join('nodes', node_id)}.firewall.allow"
        said[path] = get(pillar, "nodes", node_id, "firewall", "allow")
    problems = []
    for path, allow in said.items():
        if network is None or not isinstance(allow, list) or not allow:
            continue
        try:
            merged = ipaddress.collapse_addresses(
                ipaddress.IPv4Network(str(each)) for each in allow
            )
        except ValueError:
            continue
        if not any(network.subnet_of(each) for each in merged):
            problems.append(
                f"{path}: {_values.show(allow)} leaves out rack.network {network}, from which the nodes"
                f" are looked after; add {network}"
            )
    return problems


def _check_volumes(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse volumes that nobody would hold, or that two would have."""
    storage = get(pillar, "services", "storage")
    volumes = get(storage, "volumes")
    names = list(volumes) if isinstance(volumes, Mapping) else []
    shared = get(pillar, "nfs", "volumes")
    twice = [name for name in names if isinstance(shared, Mapping) and name in shared]
    problems = [
        f"services.storage.volumes.{name}: nfs.volumes has one of this name, and both would be one folder;"
        " rename one of them"
        for name in twice
    ]
    if "dynamic" in names:
        problems.append(
            "services.storage.volumes.dynamic: that is the folder of the volumes that are made on demand;"
            " rename it"
        )
    claims: dict[Any, str] = {}
    for name in names:
        claim = get(volumes, name, "claim")
        if isinstance(claim, str) and claim in claims:
            problems.append(
                f"services.storage.volumes.{name}.claim: {claim!r} is also that of {claims[claim]}; a claim"
                " has one volume"
            )
        claims.setdefault(claim, name)
    if get(storage, "enabled") is not True:
        return problems
    nodes = pillar.get("nodes")
    if get(pillar, "nfs", "enabled") is False:
        problems.append(
            "services.storage.enabled: true needs the share; set nfs.enabled to true, or this to false"
        )
    elif (
        isinstance(nodes, Mapping)
        and nodes
        and not any("storage" in _roles_of(b) for b in nodes.values())
    ):
        problems.append(
            "services.storage.enabled: true needs a node with the share; give one roles: [storage]"
        )
    if get(storage, "dynamic", "enabled") is True and get(pillar, "nfs", "manage_mounts") is False:
        problems.append(
            "services.storage.dynamic.enabled: true needs nfs.manage_mounts: the driver mounts what the"
            " storage node exports; set nfs.manage_mounts to true, or this to false"
        )
    return problems


# Of kubernetes.service_network: the API server has its first address, the cluster's DNS its tenth
_TAKEN_SERVICES = {0: "the network's own", 1: "the API server's", 10: "the cluster DNS's"}
REGISTRY_CLAIM = "registry/registry"


def registry_address(service_network: str) -> str:
    """Return the address of the rack's registry among the services when the pillar names none.

    service_network
        ``kubernetes.service_network``. The fiftieth: Kubernetes hands out the low ones last.
    """
    network = ipaddress.IPv4Network(service_network)
    return str(network[min(50, network.num_addresses - 2)])


def _check_registry(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse a registry without a volume, an address, or a port of its own."""
    registry, path = get(pillar, "services", "registry"), "services.registry"
    problems = _check_registry_address(pillar, get(registry, "cluster_ip"))
    elsewhere = get(pillar, "containerd", "registries")
    own = f"localhost:{get(registry, 'port')}"
    if isinstance(elsewhere, Mapping) and own in elsewhere:
        problems.append(
            f"containerd.registries.{own}: that is the rack's own registry"
            f" ({path}.port); leave it out, or choose another port"
        )
    name = get(registry, "volume")
    claim = get(pillar, "services", "storage", "volumes", str(name), "claim")
    if claim is not None and claim != REGISTRY_CLAIM:
        problems.append(
            f"services.storage.volumes.{name}.claim: {_values.show(claim)} is not the registry's; leave it"
            f" out, or name another volume in {path}.volume"
        )
    if get(registry, "enabled") is not True:
        return problems
    if get(pillar, "services", "storage", "enabled") is False:
        problems.append(
            f"{path}.enabled: true needs services.storage.enabled: true, for its volume"
        )
    volumes = get(pillar, "services", "storage", "volumes")
    if isinstance(volumes, Mapping) and name not in volumes:
        problems.append(
            f"{path}.volume: there is no services.storage.volumes.{name}; write one, for example"
            f" {name}: {{size: 50G}}"
        )
    return problems + _check_registry_port(pillar, get(registry, "port"))


def _check_registry_address(pillar: Mapping[str, Any], ip: Any) -> list[str]:
    network = _parse(pillar, "kubernetes", "service_network")
    path = "services.registry.cluster_ip"
    if ip is None or network is None or _values.address(path, ip):
        return []
    address = ipaddress.IPv4Address(ip)
    if address not in network or address == network.broadcast_address:
        return [
            f"{path}: {ip!r} is no address of kubernetes.service_network {network}; use one of it"
        ]
    place = int(address) - int(network.network_address)
    if place in _TAKEN_SERVICES:
        return [f"{path}: {ip!r} is {_TAKEN_SERVICES[place]}; use another, or null"]
    return []


def _check_registry_port(pillar: Mapping[str, Any], port: Any) -> list[str]:
    """Refuse a port of the mirror's on a storage node that runs pods: it listens on localhost, too."""
    nodes = pillar.get("nodes")
    if port in _values.TAKEN_PORTS:
        return [
            f"services.registry.port: {port} is the port of {_values.TAKEN_PORTS[port]}; choose another, 5000"
            " is usual"
        ]
    taken = [5000, *([PULL_THROUGH_PORT] if _pulls_through(pillar) else [])]
    if port not in taken or not isinstance(nodes, Mapping):
        return []
    if get(pillar, "mirror", "enabled") is not True or get(pillar, "mirror", "listen") is not None:
        return []
    return [
        f"services.registry.port: {port} is the mirror's on {node_id}, which also runs pods; set mirror.listen"
        f" to its address, or services.registry.port to another, for example 5001"
        for node_id, body in nodes.items()
        if "storage" in _roles_of(body)
        and {"control_plane", "worker"} & set(map(str, _roles_of(body)))
    ]


def _check_metrics(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse figures without a place, boards without figures, and two services at one port."""
    metrics, path = get(pillar, "services", "metrics"), "services.metrics"
    problems = _check_node_ports(pillar)
    if get(metrics, "enabled") is not True:
        return problems
    if get(metrics, "influxdb", "enabled") is False:
        if get(metrics, "grafana", "enabled") is not False:
            problems.append(
                f"{path}.grafana.enabled: Grafana has nothing to show without InfluxDB; set it to false too,"
                f" or {path}.influxdb.enabled to true"
            )
        return problems
    return problems + _check_metrics_volume(pillar, get(metrics, "volume"))


def _check_metrics_volume(pillar: Mapping[str, Any], name: Any) -> list[str]:
    """Refuse a volume for InfluxDB that there is not, or that is another's."""
    path = "services.metrics.volume"
    if name is None:
        return []
    if get(pillar, "services", "storage", "enabled") is False:
        return [
            f"{path}: {_values.show(name)} needs services.storage.enabled: true; or write null, and the"
            " figures go with their pod"
        ]
    volumes = get(pillar, "services", "storage", "volumes")
    if isinstance(volumes, Mapping) and name not in volumes:
        return [
            f"{path}: there is no services.storage.volumes.{name}; write one, for example"
            f" {name}: {{size: 20G}}, or null here, and the figures go with their pod"
        ]
    registry = get(pillar, "services", "registry")
    claim = get(pillar, "services", "storage", "volumes", str(name), "claim")
    if claim not in (None, f"metrics/{name}") or name == get(registry, "volume"):
        return [f"{path}: {_values.show(name)} is another's; use one of its own"]
    return []


def _check_node_ports(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse two services at one port of the nodes."""
    wanted = {
        "services.registry.lan.port": (
            get(pillar, "services", "registry", "lan", "port"),
            get(pillar, "services", "registry", "lan", "enabled"),
        ),
        "services.metrics.grafana.node_port": (
            get(pillar, "services", "metrics", "grafana", "node_port"),
            get(pillar, "services", "metrics", "enabled"),
        ),
        "services.dashboard.node_port": (
            get(pillar, "services", "dashboard", "node_port"),
            get(pillar, "services", "dashboard", "enabled"),
        ),
    }
    owners: dict[Any, str] = {}
    problems = []
    for path, (port, on) in wanted.items():
        if port is None or on is not True:
            continue
        if port in owners:
            problems.append(f"{path}: {port} is also {owners[port]}; give each a port of its own")
        owners.setdefault(port, path)
    return problems


def _check_charts(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse releases that name no chart, or two, and charts that change under the same name."""
    found = get(pillar, "helm", "releases")
    releases: Mapping[Any, Any] = found if isinstance(found, Mapping) else {}
    own = {name: key for name, (key, wanted) in _charts_of_services(pillar).items() if wanted}
    problems = []
    for name, body in releases.items():
        path = _values.join("helm.releases", name)
        if isinstance(body, Mapping):
            problems += _check_chart(path, body)
        if name in own:
            problems.append(f"{path}: {own[name]} brings that release itself; choose another name")
    if not releases and not own:
        return []
    if get(pillar, "mirror", "enabled") is False and get(pillar, "helm", "source") is None:
        problems.append(
            f"helm.source is missing: {next(iter(own.values()), 'helm.releases')} needs Helm, and there is"
            " no mirror (mirror.enabled) that the control plane could take it from; write the URL of a"
            " folder that has it, see docs/services/helm.md"
        )
    return problems


def _charts_of_services(pillar: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """The releases that services bring, with the setting that says so, and whether it does."""
    services = get(pillar, "services")
    ingress, certificates = get(services, "ingress"), get(services, "certificates")
    balanced = get(ingress, "enabled") is True and get(ingress, "load_balancer") == "metallb"
    return {
        "metallb": ("services.ingress.load_balancer", balanced),
        "cert-manager": ("services.certificates", get(certificates, "enabled") is True),
    }


def _check_ingress(pillar: Mapping[str, Any]) -> list[str]:
    """Refuse nodes and addresses on which an ingress could not answer."""
    ingress = get(pillar, "services", "ingress")
    if get(ingress, "enabled") is not True:
        return []
    path, balanced = "services.ingress", get(ingress, "load_balancer") == "metallb"
    nodes, addresses = get(ingress, "nodes") or [], get(ingress, "addresses") or []
    problems = []
    if balanced and not addresses:
        problems.append(
            f"{path}.addresses is missing; metallb needs addresses to give, for example"
            " [192.168.1.240-192.168.1.249]"
        )
    if balanced and nodes:
        problems.append(
            f"{path}.nodes: with load_balancer metallb it answers on an address of its own, wherever it"
            " runs; leave nodes out"
        )
    if addresses and not balanced:
        problems.append(
            f"{path}.addresses: only with load_balancer: metallb; without it the nodes' own addresses"
            " are used"
        )
    problems += [said for each in nodes for said in _check_ingress_node(pillar, each)]
    return problems + _check_ranges(pillar, f"{path}.addresses", addresses)


def _check_ingress_node(pillar: Mapping[str, Any], node_id: Any) -> list[str]:
    path = f"services.ingress.nodes: {_values.show(node_id)}"
    roles = _roles_of(get(pillar, "nodes", node_id))
    if "worker" not in roles:
        return [f"{path} takes no pods, by its roles {', '.join(map(str, roles))}; name a worker"]
    if "storage" in roles and get(pillar, "mirror", "enabled") is not False:
        return [f"{path} has the mirror, which answers on port 80 there; name another node"]
    page, port = get(pillar, "page", "enabled"), get(pillar, "page", "port")
    if "master" in roles and page is True and port in (80, 443):
        return [f"{path} has the page on port {port}; set page.port to 8080, or name another node"]
    return []


def _check_ranges(pillar: Mapping[str, Any], path: str, ranges: Any) -> list[str]:
    """Refuse addresses that are not the rack's, or that a node has."""
    network = _parse(pillar, "rack", "network")
    nodes = pillar.get("nodes")
    taken = (
        {str(get(body, "ip")): node_id for node_id, body in nodes.items()}
        if isinstance(nodes, Mapping)
        else {}
    )
    problems: list[str] = []
    seen: list[tuple[Any, Any]] = []
    for each in ranges if isinstance(ranges, list) else ():
        ends = _values.address_range(each)
        if ends is None or network is None:
            continue
        first, last = ends
        where = f"{path}: {_values.show(each)}"
        if first <= network.network_address or last >= network.broadcast_address:
            problems.append(
                f"{where} is not within rack.network {network}, without its first and last address"
            )
        problems += [
            f"{where} has {ip} in it, the ip of {node_id}; leave it out"
            for ip, node_id in taken.items()
            if not _values.address("", ip) and first <= ipaddress.IPv4Address(ip) <= last
        ]
        problems += [
            f"{where} overlaps {_values.show(other)}; give each address once"
            for other, (start, end) in seen
            if first <= end and start <= last
        ]
        seen.append((each, ends))
    return problems


def _check_chart(path: str, body: Mapping[Any, Any]) -> list[str]:
    given = [key for key in ("repo", "oci", "file") if body.get(key) is not None]
    if len(given) != 1:
        which = f"it has {' and '.join(given)}" if given else "it names no chart"
        return [f"{path}: {which}; give exactly one of repo (with chart), oci, file"]
    kind, problems = given[0], []
    if kind == "repo" and body.get("chart") is None:
        problems.append(f"{path}.chart is missing; write the chart's name in {path}.repo")
    if kind != "repo" and body.get("chart") is not None:
        problems.append(f"{path}.chart: only with repo; {kind} names the chart already")
    if kind == "file" and body.get("version") is not None:
        problems.append(f"{path}.version: only with repo or oci; the file is what it is")
    if kind != "file" and body.get("version") is None:
        problems.append(
            f'{path}.version is missing; write the exact one, in quotes, for example "1.2.3"'
        )
    if kind != "oci" and body.get("plain_http"):
        problems.append(
            f"{path}.plain_http: only with oci; a repo says it by its http:// or https://"
        )
    return problems


def _place(value: Any) -> str | None:
    """Return a folder that was found good, else None."""
    return value if isinstance(value, str) and not _values.folder("", value) else None
