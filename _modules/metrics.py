"""What is measured of nodes and pods: what the exporter on a node is told, and the values of the
manifests of InfluxDB, its collector, Grafana and metrics-server (``salt/services/metrics``).

Only what the boards show is measured and kept: a Pi has better things to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "metrics"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__pillar__: dict[str, Any]
__opts__: dict[str, Any]

PORT = 9100
KUBELET_PORT = 10250
# Where Debian's node exporter takes files from; drift and reconcile write theirs there, too.
TEXT_FOLDER = "/var/lib/prometheus/node-exporter"
THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")

_COLLECTORS = (
    "cpu", "diskstats", "filesystem", "hwmon", "loadavg", "meminfo", "netdev", "stat", "textfile",
    "thermal_zone",
)  # fmt: skip
# No backslashes and no blanks: the arguments go through systemd's environment file.
_NOT_A_DISK = "^/(dev|proc|run|sys|var/lib/(containerd|docker|kubelet))($|/)"
_NOT_A_NETWORK = "^(lo|veth.*)$"

# Names that the boards ask for.
_OF_NODES = (
    "node_boot_time_seconds",
    "node_cpu_seconds_total",
    "node_disk_read_bytes_total",
    "node_disk_written_bytes_total",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_hwmon_temp_celsius",
    "node_load1",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_network_receive_bytes_total",
    "node_network_transmit_bytes_total",
    "node_thermal_zone_temp",
    "saltberry_.+",
)
_OF_PODS = ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes")

BOARDS = ("rack", "node", "pods", "drift", "enrolment")
# metrics-server refuses less than ten seconds, and kubelet measures no more often than that.
_RESOLUTION_MIN = 15


def _settings() -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = __pillar__["services"]["metrics"]
    except KeyError as exc:
        raise CommandExecutionError(
            "the pillar has no services.metrics: pillar/defaults.sls should set it; look at the pillar's"
            " errors with 'salt-call pillar.items'"
        ) from exc
    return found


def text_folder() -> str:
    """Return the folder from which the node exporter takes figures of others.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' metrics.text_folder
    """
    return TEXT_FOLDER


def throttled_file() -> str | None:
    """Return the file in which the firmware tells of power and heat; None where there is none.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' metrics.throttled_file
    """
    return str(THROTTLED) if THROTTLED.exists() else None


def exporter_arguments() -> list[str]:
    """Return what the node exporter is told on this node: its address, and the few collectors.

    Raises CommandExecutionError when the node's address in the rack is not known: on all addresses it
    would answer anybody.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' metrics.exporter_arguments
    """
    address = __salt__["node.rack_ip"]()
    if not address:
        raise CommandExecutionError(
            f"{__opts__['id']} has no address in rack.network, or several: give it one in the pillar"
            f" (nodes.{__opts__['id']}.ip)"
        )
    return [
        f"--web.listen-address={address}:{PORT}",
        "--collector.disable-defaults",
        *(f"--collector.{name}" for name in _COLLECTORS),
        f"--collector.textfile.directory={TEXT_FOLDER}",
        f"--collector.filesystem.mount-points-exclude={_NOT_A_DISK}",
        f"--collector.netdev.device-exclude={_NOT_A_NETWORK}",
    ]


def values() -> dict[str, Any]:
    """Return the values of the manifests, from the pillar. None of them is a secret.

    CLI Example:

    .. code-block:: bash

        salt cp1 metrics.values
    """
    settings = _settings()
    database = _unless_off(settings["influxdb"])
    return {
        "influxdb": database,
        "collector": _collector(settings) if database else "",
        "volume": settings["volume"],
        "retention_days": settings["retention_days"],
        "uid": __salt__["volumes.owner"](settings["volume"]),
        "grafana": _unless_off(settings["grafana"]) if database else None,
        "boards": list(BOARDS),
        "metrics_server": _unless_off(settings["metrics_server"]),
        "resolution": max(_RESOLUTION_MIN, settings["interval"]),
    }


def _unless_off(part: Mapping[str, Any]) -> dict[str, Any] | None:
    return dict(part) if part["enabled"] else None


def _collector(settings: Mapping[str, Any]) -> str:
    """Return the collector's configuration.

    The nodes are named in it: which there are, the master knows, and tells again when one comes or goes.
    """
    nodes = (__pillar__.get("cluster") or {}).get("nodes") or {}
    members = {name: fact["ip"] for name, fact in nodes.items() if fact.get("ip")}
    return str(
        __salt__["slsutil.renderer"](
            path="salt://services/metrics/files/prometheus.yaml.jinja",
            default_renderer="jinja",
            interval=settings["interval"],
            exporters=_targets({**members, **_others()}, PORT),
            kubelets=_targets(members, KUBELET_PORT),
            node_names=list(_OF_NODES),
            kubelet_names=list(_OF_PODS),
        )
    )


def _others() -> dict[str, str]:
    """Return the addresses of the nodes that are no Kubernetes nodes by their roles: ``nfs1``."""
    found = {}
    for name, body in (__pillar__.get("nodes") or {}).items():
        roles, address = (body or {}).get("roles") or ["worker"], (body or {}).get("ip")
        if address and not {"control_plane", "worker"} & set(roles):
            found[name] = address
    return found


def _targets(addresses: Mapping[str, str], port: int) -> list[dict[str, Any]]:
    """Return nodes as Prometheus wants its targets."""
    return [
        {"targets": [f"{address}:{port}"], "labels": {"instance": name}}
        for name, address in sorted(addresses.items())
    ]


def current() -> bool:
    """Return whether the collector was told the nodes that there are. Only for the control plane.

    CLI Example:

    .. code-block:: bash

        salt cp1 metrics.current
    """
    settings = _settings()
    wanted = values()["collector"] if settings["enabled"] else ""
    there = [
        each
        for each in __salt__["manifests.found"]("metrics")
        if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", "collector")
    ]
    told = there[0].get("data", {}).get("prometheus.yaml", "") if there else ""
    return bool(told == wanted)
