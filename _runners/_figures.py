"""The rack's figures for the node exporter's folder of text files: keys, members, joins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Where Debian's node exporter takes files from; it is there when the exporter is.
FOLDER = Path("/var/lib/prometheus/node-exporter")
FILE = "saltberry-rack.prom"

_KEYS = ("accepted", "pending", "denied", "rejected", "none")


def text(document: Mapping[str, Any], now: float) -> str:
    """Return the figures of a status document (``rack.status``) in Prometheus' text format.

    Args:
        document: ``{"nodes": [...]}``. Ids that are no host names are left out, but counted.
        now: when the rack was looked at.
    """
    rows = list(document["nodes"])
    states = Counter(row["key"] for row in rows)
    named = [row for row in rows if row["role"]]
    members = [row for row in named if row["ready"] is not None]
    lines: list[str] = []

    def gauge(name: str, about: str, samples: Iterable[tuple[str, float]]) -> None:
        lines.append(f"# HELP saltberry_rack_{name} {about}")
        lines.append(f"# TYPE saltberry_rack_{name} gauge")
        lines.extend(f"saltberry_rack_{name}{labels} {value:.15g}" for labels, value in samples)

    gauge("keys", "Keys by what the master holds of them; none: of the pillar, never seen.",
          ((f'{{state="{state}"}}', states[state]) for state in _KEYS))  # fmt: skip
    gauge("node_joined", "Whether a node is in the cluster.",
          ((_of(row), bool(row["joined"])) for row in members))  # fmt: skip
    gauge("node_ready", "Whether a member of the cluster is Ready.",
          ((_of(row), bool(row["ready"])) for row in members))  # fmt: skip
    gauge("node_failures", "How often in a row a node could not be joined, moved or rebooted.",
          ((_of(row), row["attempts"]) for row in named))  # fmt: skip
    gauge("node_join_seconds", "How long the last work on a node took: a join, a move or a reboot.",
          ((_of(row), sum(row["seconds"].values())) for row in named if row["seconds"]))  # fmt: skip
    gauge("last_look_timestamp_seconds", "When the rack was looked at.", [("", now)])
    return "\n".join(lines) + "\n"


def _of(row: Mapping[str, Any]) -> str:
    return f'{{node="{row["id"]}"}}'
