"""What current versions of Kubernetes know of an object: checked against their published schemas.

The API server of the tests is 1.20 (tests/unit/modules/kube_api.py); racks run 1.29 and later.
"""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
from saltberry_ext.utils import rackvalues

# The oldest and the newest that Saltberry supports and that there is a schema of (fields come and go with
# notice: what both know, those between do), and the newest of all
_SUPPORTED = [minor for minor in rackvalues.KUBERNETES_MINORS if minor != "1.20"]
MINORS = (_SUPPORTED[0], _SUPPORTED[-1])
NEWEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])


def problems(thing: dict[str, Any], version: str) -> list[str]:
    """What this version of Kubernetes does not know, or knows otherwise; unknown fields too.

    thing
        An object.
    version
        ``1.34``.
    """
    try:
        kubernetes_validate.validate(copy.deepcopy(thing), version, strict=True)
    except kubernetes_validate.ValidationError as exc:
        where = ".".join(str(each) for each in exc.path)
        return [f"{thing['kind']} {thing['metadata']['name']} {where}: {exc.message[:200]}"]
    except (kubernetes_validate.InvalidSchemaError, kubernetes_validate.SchemaNotFoundError):
        name, kind = thing["metadata"]["name"], f"{thing['kind']} of {thing['apiVersion']}"
        return [f"{name}: {version} knows no {kind}"]
    return []


def is_builtin(thing: dict[str, Any]) -> bool:
    """Whether Kubernetes itself knows the kind, so that there is a schema."""
    group = thing["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")
