"""Racks and pillars that make the SLS files branch, and the options of a minion that compiles them.

Only ``node`` and ``cluster``, which the master's ext_pillar adds, are given here.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import salt.config
import salt.loader
import salt.pillar

REPO = Path(__file__).resolve().parents[2]
SALT = REPO / "salt"
IDS = {"storage-master": "nfs1", "control_plane": "cp1", "worker": "pi-01"}
ROLES = (["storage", "master"], ["control_plane"], ["worker"])

NODES: dict[str, dict[str, Any]] = {
    "nfs1": {"ip": "192.168.1.10", "roles": ["storage", "master"]},
    "cp1": {"ip": "192.168.1.11", "roles": ["control_plane"]},
    "pi-01": {"ip": "192.168.1.21"},
    "pi-02": {},
}
CLUSTER = {
    "endpoint": "192.168.1.11:6443",
    "ca_hash": f"sha256:{'0' * 64}",
    "version": "v1.34.2",
    "nodes": {"cp1": {"ip": "192.168.1.11", "pod_cidr": "10.244.0.0/24"}},
}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqtest me@laptop"
PILLARS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "with a cluster": {"cluster": CLUSTER},
    "air-gapped": {
        "kubernetes": {
            "version": "1.20.2",
            "cni": "routed",
            "image_repository": "192.168.1.10:5000",
            "repo": {"url": "http://192.168.1.10/apt/kubernetes/", "suite": "stable",
                     "key_url": "http://192.168.1.10/keys/k.gpg", "key_sha256": "0" * 64},
        },
        "containerd": {
            "pause_image": "192.168.1.10:5000/pause:3.2",
            "registries": {"192.168.1.10:5000": {"endpoint": "http://192.168.1.10:5000"},
                           "docker.io": {"endpoint": "http://192.168.1.10:5000"}},
        },
        "mirror": {"listen": "192.168.1.10"},
    },
    "what one pulled the others get": {
        "containerd": {"registries": {"docker.io": {"endpoint": "http://192.168.1.10:5000"}}},
        "mirror": {
            "pull_through": ["docker.io", "quay.io", "ghcr.io"],
            "upstream": {"registries": {"ghcr.io": {"endpoint": "http://10.1.2.3:5000"}}},
        },
    },
    "no mirror": {"mirror": {"enabled": False}},
    "odd but allowed": {"rack": {"name": "yes: [berry] #1"}},
    "images on the share": {
        "nfs": {"disk": "LABEL=share", "volumes": {"media": {"read_only": True}, "work": {}}},
        "container_storage": {"backend": "nfs-image", "size": "64G"},
        "docker": {"enabled": True},
        "cluster": {**CLUSTER, "nodes": {**CLUSTER["nodes"], "pi-99": {"ip": "192.168.1.99"}}},
    },
    "a disk to be formatted": {
        "nfs": {"disk": "LABEL=share", "format": "/dev/disk/by-id/usb-none"},
        "container_storage": {"backend": "disk", "disk": "LABEL=engines", "pod_data": True},
    },
    "a share by other means": {
        "nfs": {"manage_mounts": False},
        "container_storage": {"backend": "nfs-image"},
    },
    "no share": {"nfs": {"enabled": False}},
    "people and their habits": {
        "users": {
            "anna": {"ssh_keys": [KEY], "sudo": True, "groups": ["docker"], "shell": "/bin/sh"},
            "ben": None,
            "gone": {"absent": True},
        },
        "docker": {"enabled": True, "prune_days": 14},
        "system": {
            "packages": ["htop"], "security_updates": True, "timezone": "Europe/Berlin",
            "ntp_servers": ["192.168.1.1"], "journal": "memory", "journal_size": "32M",
            "watchdog_seconds": 15, "config_txt": {"gpu_mem": 16, "dtparam": ["spi=on", "i2c=on"]},
        },
        "nodes": {"cp1": {"system": {"journal": "disk", "packages": []}}},
    },
    "as the image has it": {"ssh": {"harden": False}, "system": {"wifi_power_save": True}},
    "a page for the home": {"page": {"enabled": True, "allow": ["192.168.1.0/24"], "password": True}},
    "what the rack uses": {
        "cluster": CLUSTER,
        "services": {
            "storage": {"enabled": True, "volumes": {"influxdb": {"size": "20G"}}},
            "metrics": {"enabled": True}, "dashboard": {"enabled": True},
        },
    },
    "no checks": {"drift": {"enabled": False}},
    "a rack with services": {
        "services": {
            "storage": {
                "enabled": True,
                "volumes": {"registry": {"size": "50G"},
                            "data": {"size": "10G", "owner": 999, "claim": "web/data"}},
                "dynamic": {"enabled": True},
            },
            "registry": {"enabled": True, "lan": {"enabled": True}},
        },
        "mirror": {"packages": True},
        "cluster": CLUSTER,
    },
    "charts and web services": {
        "cluster": CLUSTER,
        "helm": {"releases": {"greeter": {"namespace": "web", "file": "salt://charts/greeter"}}},
        "services": {
            "ingress": {"enabled": True, "load_balancer": "metallb",
                        "addresses": ["192.168.1.240-192.168.1.249"]},
            "certificates": {"enabled": True},
        },
    },
    "nobody but the rack": {
        "firewall": {"enabled": True, "ports": [{"port": 80}], "node_ports": ["192.168.0.0/16"]},
    },
}  # fmt: skip


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, key by key."""
    both = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            both[key] = merged(base[key], over[key])
    return both


def rack_of(roles: list[str], pillar: dict[str, Any]) -> dict[str, Any]:
    """Return what pillar/rack.sls and the ext_pillar give the node that has these roles."""
    rack = merged({"rack": {"network": "192.168.1.0/24"}, "nodes": NODES, "cluster": {}}, pillar)
    node = IDS.get("-".join(roles), "pi-01")
    rack["node"] = {"id": node, "roles": roles, "ip": NODES[node]["ip"], "named": True}
    return rack


@functools.cache
def own_grains() -> dict[str, Any]:
    """What this machine is; finding out takes a second."""
    opts = salt.config.minion_config(None)
    opts.update({"id": "any", "enable_gpu_grains": False, "enable_fqdns_grains": False})
    return dict(salt.loader.grains(opts))


def minion_opts(
    folder: Path, roles: list[str], pillar: dict[str, Any], **grains: Any
) -> dict[str, Any]:
    """Return the options of a minion with these roles, this pillar, these grains; its files are in folder."""
    rack = rack_of(roles, pillar)
    pillar_root = folder / "pillar"
    pillar_root.mkdir()
    shutil.copy(REPO / "pillar/defaults.sls", pillar_root)
    (pillar_root / "rack.sls").write_text(json.dumps(rack))
    (pillar_root / "top.sls").write_text(json.dumps({"base": {"*": ["defaults", "rack"]}}))
    opts: dict[str, Any] = salt.config.minion_config(None)
    opts.update({
        "id": rack["node"]["id"],
        **{key: str(folder / key) for key in
           ("root_dir", "cachedir", "pki_dir", "sock_dir", "extension_modules", "conf_file")},
        "file_client": "local", "local": True, "fire_event": False,
        "file_roots": {"base": [str(SALT)]}, "pillar_roots": {"base": [str(pillar_root)]},
        "pillar_source_merging_strategy": "recurse",
        "module_dirs": [str(REPO / "_modules")], "states_dirs": [str(REPO / "_states")],
        "utils_dirs": [str(REPO / "_utils")],
    })  # fmt: skip
    opts["grains"] = {**own_grains(), "id": opts["id"], **grains}
    compiler = salt.pillar.get_pillar(opts, opts["grains"], opts["id"], opts["saltenv"])
    opts["pillar"] = compiler.compile_pillar()
    assert "_errors" not in opts["pillar"], opts["pillar"]["_errors"]
    return opts
