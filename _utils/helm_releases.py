"""Helm's own records of its releases, which are Secrets in the cluster, and what we note in them.

Helm writes one Secret for each revision of a release, with labels that say which. Two labels are ours:
that the release is ours, and a digest of all that it was made from, so that a run which has nothing to
do needs neither Helm nor a rendered chart. No import of Salt.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

__virtualname__ = "helm_releases"

OURS = "saltberry/managed"
INPUTS = "saltberry/inputs"
_SHORTEST_SECRET = 4
# Helm cannot go on from here by itself
UNFINISHED = ("pending-install", "pending-upgrade", "pending-rollback", "uninstalling", "unknown")
# Revisions that were whole once
WHOLE = ("deployed", "superseded")


def unfinished() -> tuple[str, ...]:
    """Return the statuses that Helm does not go on from by itself."""
    return UNFINISHED


def records(metadata: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the Secrets' metadata say, a mapping for each revision.

    metadata
        ``metadata`` of Secrets with the label ``owner=helm``.

    Keys: name, namespace, revision, status, ours, inputs, secret.
    """
    found = []
    for each in metadata:
        labels = each.get("labels") or {}
        if labels.get("owner") != "helm" or not str(labels.get("version", "")).isdigit():
            continue
        found.append(
            {
                "name": labels.get("name", ""),
                "namespace": each["namespace"],
                "revision": int(labels["version"]),
                "status": labels.get("status", ""),
                "ours": OURS in labels,
                "inputs": labels.get(INPUTS, ""),
                "secret": each["name"],
            }
        )
    return found


def newest(
    found: Iterable[Mapping[str, Any]], name: str, namespace: str
) -> tuple[dict[str, Any] | None, int | None]:
    """Return the newest revision of a release, and the number of the newest that was whole."""
    mine = [each for each in found if (each["name"], each["namespace"]) == (name, namespace)]
    if not mine:
        return None, None
    whole = [each["revision"] for each in mine if each["status"] in WHOLE]
    return dict(max(mine, key=lambda each: each["revision"])), max(whole, default=None)


def decoded(secret: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record itself: manifest, chart, config. Raises ValueError where it is damaged."""
    try:
        packed = base64.b64decode(base64.b64decode(secret["data"]["release"]))
        whole: dict[str, Any] = json.loads(gzip.decompress(packed))
    except (KeyError, TypeError, OSError, EOFError) as exc:
        raise ValueError(f"Helm's record {secret['metadata']['name']} is damaged") from exc
    return whole


def objects(manifest: str, name: str, namespace: str) -> list[dict[str, Any]]:
    """Return the objects of a rendered release as Helm puts them on the API server.

    manifest
        As Helm renders it.
    name, namespace
        The release's, which Helm notes on each object.

    Raises ValueError for what is no YAML.
    """
    try:
        documents = [each for each in yaml.safe_load_all(manifest) if isinstance(each, dict)]
    except yaml.YAMLError as exc:
        raise ValueError(f"the chart renders to what is no YAML: {exc}") from exc
    found: list[dict[str, Any]] = []
    for document in documents:
        parts = document.get("items") if document.get("kind", "").endswith("List") else None
        found += parts or [document]
    for each in found:
        meta = each.setdefault("metadata", {})
        meta["labels"] = {**(meta.get("labels") or {}), "app.kubernetes.io/managed-by": "Helm"}
        meta["annotations"] = {
            **(meta.get("annotations") or {}),
            "meta.helm.sh/release-name": name,
            "meta.helm.sh/release-namespace": namespace,
        }
    return found


def digest(*parts: Any) -> str:
    """Return a digest that fits into a label."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def chart_digest(path: Path) -> str:
    """Return a digest of a chart on disk: of all its files, or of the packed one."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return digest(
        [
            (str(each.relative_to(path)), hashlib.sha256(each.read_bytes()).hexdigest())
            for each in files
        ]
    )


def laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with others laid over them, key by key, as Helm itself does."""
    both = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], Mapping) and isinstance(over[key], Mapping):
            both[key] = laid_over(base[key], over[key])
    return both


def secrets_in(values: Any) -> set[str]:
    """Return all texts and numbers among values that come from a file of secrets.

    Also as base64, as they stand in a Secret. Shorter ones than four characters would turn up
    everywhere by accident.
    """
    leaves = {leaf for leaf in _leaves(values) if len(leaf) >= _SHORTEST_SECRET}
    return leaves | {base64.b64encode(leaf.encode()).decode() for leaf in leaves}


def _leaves(values: Any) -> Iterator[str]:
    if isinstance(values, Mapping):
        for each in values.values():
            yield from _leaves(each)
    elif isinstance(values, list):
        for each in values:
            yield from _leaves(each)
    elif values is not None and not isinstance(values, bool):
        yield str(values)
        # Lines of a text stand by themselves in a diff
        yield from str(values).splitlines()
