"""Objects of the cluster, applied server-side from the control plane.

kubectl does the work: it is there, it is of the cluster's version, and it costs a Pi nothing more, while
the Python client takes 126 MB. Every object of a service carries the label
``app.kubernetes.io/part-of: <service>``; what has it and is not wanted any more goes. What holds data
(:data:`KEPT`) never does.

Apply is the API server's own, with Saltberry as the field manager, so that fields of others (a scaler's
replicas, a controller's status) stay; test mode is the API server's dry run. Content of Secrets is
never returned.

Two things are added to what a file says. A Secret with the annotation ``saltberry/generated: a,b`` gets
random passwords under these keys, once; they stay as long as it does. And pods start anew when a ConfigMap
of their volumes changes, for most programs read their configuration once.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "manifests"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__context__: dict[str, Any]

ADMIN_CONF = Path("/etc/kubernetes/admin.conf")
PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "saltberry"
# Whose field of a Secret the passwords are that were made here, so that applying the file leaves them alone
PASSWORD_MANAGER = "saltberry-passwords"
GENERATED = "saltberry/generated"
# On pods: what their ConfigMaps say, in short
CONFIGURED = "saltberry/configured"

_SEEN = "manifests.managed"  # in __context__

# Where a service's objects are looked for: in the order in which they are deleted.
KINDS = (
    "ingresses.networking.k8s.io",
    "ingressclasses.networking.k8s.io",
    "networkpolicies.networking.k8s.io",
    "cronjobs.batch",
    "jobs.batch",
    "daemonsets.apps",
    "deployments.apps",
    "statefulsets.apps",
    "services",
    "configmaps",
    "secrets",
    "rolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "serviceaccounts",
    "apiservices.apiregistration.k8s.io",
    "csidrivers.storage.k8s.io",
    "storageclasses.storage.k8s.io",
    "persistentvolumeclaims",
    "persistentvolumes",
    "namespaces",
)
# Data: deleted by nobody but a person. A namespace takes the claims in it along.
KEPT = ("PersistentVolume", "PersistentVolumeClaim")
_ROLLED_OUT = ("Deployment", "DaemonSet", "StatefulSet")

# What the API server adds, and what others write
_NOT_OURS = (
    "managedFields",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "uid",
    "selfLink",
)
_POLL_SECONDS = 2.0
# Seconds for all objects of a service at once: a Pi from whose card etcd lives needs one or two for each
_LIMIT = 180.0
# Of what the API server says
_MOST_LINES, _MOST_WORDS = 6, 800


def _items(*arguments: str, objects: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """The objects that kubectl answers with, when it is given these on its standard input.

    One call for all of them: on a Pi kubectl takes a second to start.
    """
    if not ADMIN_CONF.is_file():
        raise CommandExecutionError(
            f"this node is no control plane: {ADMIN_CONF} is missing. Call this on the rack's control plane"
        )
    given = {"apiVersion": "v1", "kind": "List", "items": objects or []}
    done = __utils__["kube_programs.kubectl"](
        *arguments, "-o", "json",
        kubeconfig=ADMIN_CONF, stdin=json.dumps(given), limit=_LIMIT,
    )  # fmt: skip
    if done.returncode:
        raise CommandExecutionError(_refusal(done.stderr))
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {"items": []}
    items: list[dict[str, Any]] = found.get("items", [found])
    return items


def _refusal(said: str) -> str:
    """The API server's words, but not those on a Secret: they may have its content in them."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("secret" in line.lower() for line in lines):
        return "the API server refuses a Secret; its words are left out, they may have it in them"
    return " / ".join(lines[:_MOST_LINES])[:_MOST_WORDS]


def is_here() -> bool:
    """Say whether this node has the admin's way to a cluster, so that objects can be applied from it.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.is_here
    """
    return ADMIN_CONF.is_file()


def read(source: str, service: str, **values: Any) -> list[dict[str, Any]]:
    """Return the objects of a file of manifests, labelled as the service's.

    source
        ``salt://…``, YAML of one or several documents, with Jinja.
    service
        Its name.
    values
        For Jinja, beside Salt's own names.

    Raises CommandExecutionError for what is no manifest.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.read salt://services/registry/manifests.yaml registry
    """
    text = __salt__["slsutil.renderer"](path=source, default_renderer="jinja", **values)
    try:
        objects = [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as exc:
        raise CommandExecutionError(f"{source} is no YAML: {exc}") from exc
    for each in objects:
        if not isinstance(each, dict) or not {"apiVersion", "kind", "metadata"} <= each.keys():
            raise CommandExecutionError(
                f"{source}: a document without apiVersion, kind and metadata: {str(each)[:80]}"
            )
        labels = each["metadata"].setdefault("labels", {})
        labels |= {PART_OF: service, MANAGED_BY: MANAGER}
    _mark_configuration(objects)
    return objects


def _mark_configuration(objects: list[dict[str, Any]]) -> None:
    """Note in each workload's pods what their ConfigMaps say, so that a change starts them anew."""
    texts = {
        (each["metadata"].get("namespace"), each["metadata"]["name"]): each.get("data")
        for each in objects
        if each["kind"] == "ConfigMap"
    }
    for each in objects:
        if each["kind"] not in _ROLLED_OUT:
            continue
        template = each["spec"]["template"]
        space = each["metadata"].get("namespace")
        names = [
            one.get("configMap", {}).get("name") for one in template["spec"].get("volumes", [])
        ]
        said = [texts[space, name] for name in names if (space, name) in texts]
        if said:
            digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
            template["metadata"].setdefault("annotations", {})[CONFIGURED] = digest[:16]


def found(service: str) -> list[dict[str, Any]]:
    """Return the service's objects that the cluster has, in the order in which they may go.

    service
        Its name.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.found registry
    """
    return [each for each in _managed() if each["metadata"]["labels"][PART_OF] == service]


def services() -> list[str]:
    """Return the names of the services that have objects on the cluster other than data.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.services
    """
    return sorted(
        {each["metadata"]["labels"][PART_OF] for each in _managed() if not _stays(each, _managed())}
    )


def _managed() -> list[dict[str, Any]]:
    """All objects that are ours, asked for once in a run: most services of a rack are off.

    Whoever writes, or waits for something, calls :func:`_look_again`.
    """
    if _SEEN not in __context__:
        kinds = ",".join(KINDS)
        ours = f"--selector={PART_OF},{MANAGED_BY}={MANAGER}"
        there = _items("get", kinds, "--all-namespaces", ours)
        __context__[_SEEN] = [each for each in there if not _made_by_others(each)]
    seen: list[dict[str, Any]] = __context__[_SEEN]
    return seen


def _look_again() -> None:
    __context__.pop(_SEEN, None)


def _made_by_others(each: Mapping[str, Any]) -> bool:
    """Whether a controller made it (a Job of a CronJob): it goes with its owner."""
    return bool(each["metadata"].get("ownerReferences"))


def _key(each: Mapping[str, Any]) -> str:
    """How people name an object: ``Deployment registry/registry``."""
    meta = each["metadata"]
    where = f"{meta['namespace']}/" if meta.get("namespace") else ""
    return f"{each['kind']} {where}{meta['name']}"


def plan(service: str, objects: list[dict[str, Any]]) -> dict[str, str]:
    """Return what :func:`apply` would do, by object: ``new``, ``gone``, or a diff.

    service
        Its name.
    objects
        As from :func:`read`.

    Asks the API server, by a dry run; an object in a namespace that is not there yet is new without
    being asked for. Raises CommandExecutionError with the API server's words for an object it refuses.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.plan registry "$(cat objects.json)"
    """
    there = {_key(each): each for each in found(service)}
    todo = dict.fromkeys((_key(each) for each in objects), "new")
    # A namespace that is not there yet cannot be asked about what is in it.
    askable = [each for each in objects if not _namespace_is_new(each, objects, there)]
    askable = _of_known_kinds(askable)
    strangers = [each for each in askable if _key(each) not in there]
    there |= {_key(each): each for each in _live(strangers)}
    for result in _server_side(askable, "--dry-run=server"):
        key = _key(result)
        if key in there:
            todo[key] = _difference(there[key], result) or _keys_to_make(result)
    over = {key: there[key] for key in there.keys() - todo.keys()}
    gone = [key for key, each in over.items() if not _is_kept(each) and not _is_leaving(each)]
    return {key: what for key, what in todo.items() if what} | dict.fromkeys(sorted(gone), "gone")


def _of_known_kinds(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose kind the cluster has: what an operator brings, it has only when that is there."""
    if all(_is_builtin(each) for each in objects):
        return objects
    done = __utils__["kube_programs.kubectl"](
        "api-resources", "--no-headers", "--output=name", kubeconfig=ADMIN_CONF
    )
    groups = {line.strip().partition(".")[2] for line in done.stdout.splitlines()}
    return [each for each in objects if _is_builtin(each) or _group(each) in groups]


def _group(each: Mapping[str, Any]) -> str:
    return str(each["apiVersion"]).rpartition("/")[0]


def _is_builtin(each: Mapping[str, Any]) -> bool:
    return "." not in _group(each) or _group(each).endswith(".k8s.io")


def _namespace_is_new(
    each: Mapping[str, Any], objects: Iterable[Mapping[str, Any]], there: Mapping[str, Any]
) -> bool:
    space = each["metadata"].get("namespace")
    ours = {one["metadata"]["name"] for one in objects if one["kind"] == "Namespace"}
    return space in ours and f"Namespace {space}" not in there


def _live(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These objects as they are, where they are there without being ours yet."""
    return _items("get", "--ignore-not-found", "-f", "-", objects=objects) if objects else []


def _server_side(
    objects: list[dict[str, Any]], *flags: str, manager: str = MANAGER
) -> list[dict[str, Any]]:
    """Apply them, and return them as they then are."""
    by_client = [each for each in objects if each["kind"] == "APIService" and _panics_on_it()]
    by_server = [each for each in objects if each not in by_client]
    ways = ((by_server, _applying(manager)), (by_client, ("apply", f"--field-manager={manager}")))
    return [
        each for some, how in ways if some for each in _items(*how, *flags, "-f", "-", objects=some)
    ]


def _panics_on_it() -> bool:
    """Whether the API server is one that ends in a panic when it is to apply an APIService.

    Before 1.20.6: https://github.com/kubernetes/kubernetes/pull/100714
    """
    done = __utils__["kube_programs.kubectl"]("get", "--raw", "/version", kubeconfig=ADMIN_CONF)
    version = re.search(r'"gitVersion":\s*"v(\d+)\.(\d+)\.(\d+)', done.stdout)
    return version is not None and tuple(map(int, version.groups())) < (1, 20, 6)


def _keys_to_make(secret: Mapping[str, Any]) -> str:
    """Say which passwords are still to be made; empty when there are all."""
    lacking = [key for key in _generated(secret) if key not in (secret.get("data") or {})]
    return f"to be made: {', '.join(lacking)}" if lacking else ""


def _generated(each: Mapping[str, Any]) -> list[str]:
    """The keys of a Secret that get passwords."""
    wanted = str((each["metadata"].get("annotations") or {}).get(GENERATED, ""))
    return [key.strip() for key in wanted.split(",") if key.strip()]


def _make_passwords(service: str, objects: list[dict[str, Any]]) -> None:
    """Have the passwords in their Secrets, before there are pods that want them."""
    wanting = [each for each in objects if _generated(each)]
    if not wanting:
        return
    spaces = {each["metadata"].get("namespace") for each in wanting}
    _server_side(
        [
            each
            for each in objects
            if each["kind"] == "Namespace" and each["metadata"]["name"] in spaces
        ]
    )
    there = {_key(each): each for each in found(service)}
    for each in wanting:
        has = there.get(_key(each), {}).get("data") or {}
        if set(_generated(each)) <= set(has):
            continue
        data = {
            key: has.get(key) or base64.b64encode(secrets.token_hex(16).encode()).decode()
            for key in _generated(each)
        }
        _server_side([{**each, "data": data}], manager=PASSWORD_MANAGER)


def _clean(each: Mapping[str, Any]) -> dict[str, Any]:
    meta = {key: value for key, value in each["metadata"].items() if key not in _NOT_OURS}
    cleaned = {**each, "metadata": meta}
    cleaned.pop("status", None)
    if each["kind"] == "Secret":
        # Which keys there are may be told; whether one changes, too.
        for part in ("data", "stringData"):
            if part in cleaned:
                cleaned[part] = {key: _stands_for(value) for key, value in cleaned[part].items()}
    return cleaned


def _stands_for(value: Any) -> str:
    """What stands for a secret in a diff: another one in each process, so that it gives nothing away."""
    return f"<secret {hash(('saltberry', str(value))) & 0xFFFF:04x}>"


class _Readable(yaml.SafeDumper):
    """Texts of several lines as such: a configuration file in quotes nobody can read."""


def _as_block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Readable.add_representer(str, _as_block)


def _difference(live: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    old, new = (
        yaml.dump(_clean(each), Dumper=_Readable, sort_keys=True).splitlines()
        for each in (live, result)
    )
    lines = list(difflib.unified_diff(old, new, "is", "should be", lineterm="", n=2))
    return "\n".join(lines)


def apply(service: str, objects: list[dict[str, Any]]) -> dict[str, str]:
    """Have the service's objects as they should be, and those gone that are not wanted any more.

    service
        Its name.
    objects
        As from :func:`read`, in the order in which they are made.

    Returns what was done, as :func:`plan` said it. Raises CommandExecutionError with the API server's words.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.apply registry "$(cat objects.json)"
    """
    todo = plan(service, objects)
    if not todo:
        return {}
    _make_passwords(service, objects)
    _look_again()
    _server_side([each for each in objects if _key(each) in todo])
    gone = [key for key, what in todo.items() if what == "gone"]
    _delete([each for each in found(service) if _key(each) in gone])
    return todo


def remove(service: str, test: bool = False) -> dict[str, str]:
    """Delete the service's objects but those that hold data.

    service
        Its name.
    test
        Only say what would go.

    Returns by object ``gone`` or ``kept``.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.remove registry test=True
    """
    there = found(service)
    keep = [each for each in there if _stays(each, there)]
    go = [each for each in there if each not in keep and not _is_leaving(each)]
    if not test:
        _delete(go)
    return {_key(each): "kept" for each in keep} | {_key(each): "gone" for each in go}


def _is_kept(each: Mapping[str, Any]) -> bool:
    return each["kind"] in KEPT


def _is_leaving(each: Mapping[str, Any]) -> bool:
    """Whether it was deleted and needs nobody any more: a namespace takes a while."""
    return bool(each["metadata"].get("deletionTimestamp"))


def _stays(each: Mapping[str, Any], there: Iterable[Mapping[str, Any]]) -> bool:
    """Whether it stays when its service goes: it holds data, or is the namespace of what does."""
    if each["kind"] != "Namespace":
        return _is_kept(each)
    return any(
        other["metadata"].get("namespace") == each["metadata"]["name"]
        for other in there
        if other["kind"] == "PersistentVolumeClaim"
    )


def _delete(objects: list[dict[str, Any]]) -> None:
    _look_again()
    for each in objects:
        space = each["metadata"].get("namespace")
        done = __utils__["kube_programs.kubectl"](
            "delete", "--ignore-not-found", "--wait=false",
            *([f"--namespace={space}"] if space else []),
            _resource(each), each["metadata"]["name"], kubeconfig=ADMIN_CONF,
        )  # fmt: skip
        if done.returncode:
            said = __utils__["kube_programs.last_lines"](done.stderr, 2)
            raise CommandExecutionError(f"{_key(each)} could not be deleted: {said}")


def _resource(each: Mapping[str, Any]) -> str:
    """What kubectl calls the kind, exactly: ``Deployment.v1.apps``."""
    group, _, version = each["apiVersion"].rpartition("/")
    return f"{each['kind']}.{version}.{group}" if group else each["kind"]


def wait(service: str, timeout: float = 300) -> dict[str, str]:
    """Wait until all pods of the service that should run are available; return by object why not.

    service
        Its name.
    timeout
        Seconds at most.

    Reasons are those of the pods: an image that does not come, a volume that is not there, no node that
    fits.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.wait registry
    """
    deadline = time.monotonic() + timeout
    while True:
        missing = _not_available(service)
        if not missing or time.monotonic() > deadline:
            return {key: _why(each) for key, each in missing.items()}
        time.sleep(_POLL_SECONDS)


def _not_available(service: str) -> dict[str, dict[str, Any]]:
    _look_again()
    return {
        _key(each): each
        for each in found(service)
        if each["kind"] in _ROLLED_OUT and not (_available(each) or _lacks_nodes_only(each))
    }


def _lacks_nodes_only(each: Mapping[str, Any]) -> bool:
    """Whether a DaemonSet is up wherever a node is: a Pi that is off is no fault of a service."""
    if each["kind"] != "DaemonSet":
        return False
    off = {node["metadata"]["name"] for node in _items("get", "nodes") if not _is_ready(node)}
    pods = _pods(each) if off else []
    late = [pod for pod in pods if not _is_ready(pod)]
    wanted = each.get("status", {}).get("desiredNumberScheduled", 0)
    return (
        bool(late)
        and len(pods) >= wanted
        and all(pod["spec"].get("nodeName") in off for pod in late)
    )


def _is_ready(node_or_pod: Mapping[str, Any]) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in node_or_pod.get("status", {}).get("conditions", [])
    )


def has_room() -> bool:
    """Return whether any Ready node takes ordinary pods; a control plane alone does not.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.has_room
    """
    return any(_takes_pods(each) for each in _items("get", "nodes"))


def _takes_pods(node: Mapping[str, Any]) -> bool:
    refused = any(
        taint["effect"] in ("NoSchedule", "NoExecute") for taint in node["spec"].get("taints", [])
    )
    return _is_ready(node) and not refused and not node["spec"].get("unschedulable")


def compare(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> dict[str, str]:
    """Return what differs between two lists of objects, by object: ``new``, ``gone``, or a diff.

    old, new
        Objects as they stand in files. Content of Secrets is not shown.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.compare '[]' "$(cat objects.json)"
    """
    before, after = ({_key(each): each for each in objects} for objects in (old, new))
    todo = {
        key: _difference(before[key], each) if key in before else "new"
        for key, each in after.items()
    }
    gone = dict.fromkeys((key for key in before if key not in after), "gone")
    return {key: what for key, what in todo.items() if what} | gone


def drift(objects: list[dict[str, Any]], manager: str, namespace: str) -> dict[str, str]:
    """Return where the cluster's objects are not what another manager has applied, by object.

    objects
        What was applied.
    manager
        By whom, as the API server knows it: ``helm``.
    namespace
        Of those objects that name none.

    Returns ``new`` for what is not there any more, or a diff. Jobs are left out: they run once.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.drift "$(cat objects.json)" helm web
    """
    lasting = [each for each in objects if each["kind"] != "Job"]
    live = _within(namespace, lasting, "get", "--ignore-not-found", "-f", "-")
    there = {_key(each): each for each in live}
    result = _within(namespace, lasting, *_applying(manager), "--dry-run=server", "-f", "-")
    todo = {
        _key(each): _difference(there[_key(each)], each) if _key(each) in there else "new"
        for each in result
    }
    return {key: what for key, what in todo.items() if what}


def enforce(objects: list[dict[str, Any]], manager: str, namespace: str) -> None:
    """Apply objects once more in another manager's name, so that what :func:`drift` told is set right.

    objects, manager, namespace
        As for :func:`drift`.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.enforce "$(cat objects.json)" helm web
    """
    lasting = [each for each in objects if each["kind"] != "Job"]
    _within(namespace, lasting, *_applying(manager), "-f", "-")


def unavailable(objects: list[dict[str, Any]], namespace: str) -> dict[str, str]:
    """Return why those workloads among objects are not available that are not, by object.

    objects, namespace
        As for :func:`drift`.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.unavailable "$(cat objects.json)" web
    """
    workloads = [each for each in objects if each["kind"] in _ROLLED_OUT]
    live = _within(namespace, workloads, "get", "--ignore-not-found", "-f", "-")
    return {_key(each): _why(each) for each in live if not _available(each)}


def _applying(manager: str) -> tuple[str, ...]:
    return ("apply", "--server-side", "--force-conflicts", f"--field-manager={manager}")


def _within(namespace: str, objects: list[dict[str, Any]], *arguments: str) -> list[dict[str, Any]]:
    """Ask about objects, of which those that name no namespace are in this one.

    kubectl refuses a namespace on its command line for objects that name another.
    """
    found: list[dict[str, Any]] = []
    for named in (True, False):
        some = [each for each in objects if bool(each["metadata"].get("namespace")) is named]
        where = () if named else (f"--namespace={namespace}",)
        found += _items(*arguments, *where, objects=some) if some else []
    return found


def _available(each: Mapping[str, Any]) -> bool:
    status = each.get("status", {})
    if status.get("observedGeneration", 0) < each["metadata"]["generation"]:
        return False
    if each["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        have = (status.get("numberAvailable", 0), status.get("updatedNumberScheduled", 0))
    else:
        wanted = each["spec"].get("replicas", 1)
        up = "availableReplicas" if each["kind"] == "Deployment" else "readyReplicas"
        have = (status.get(up, 0), status.get("updatedReplicas", 0))
        # An old pod that is up does not count for a new one that does not come
        if each["kind"] == "Deployment" and status.get("replicas", 0) > have[1]:
            return False
    return min(have) >= wanted


def _pods(each: Mapping[str, Any]) -> list[dict[str, Any]]:
    labels = each["spec"]["selector"].get("matchLabels", {})
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    space = each["metadata"]["namespace"]
    return _items("get", "pods", f"--namespace={space}", f"--selector={selector}")


def _why(each: Mapping[str, Any]) -> str:
    """What the pods of a workload say."""
    pods = _pods(each)
    reasons = pod_reasons(pods)
    if reasons:
        return "; ".join(reasons)
    return "its pods are not ready yet" if pods else "it has no pods yet"


def pod_reasons(pods: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what pods say of why they are not up: no node that fits, an image that does not come.

    pods
        As the API server has them.

    CLI Example:

    .. code-block:: bash

        salt cp1 manifests.pod_reasons "$(kubectl get pods -o json | jq .items)"
    """
    return sorted({reason for pod in pods for reason in _pod_reasons(pod)})


def _pod_reasons(pod: Mapping[str, Any]) -> Iterable[str]:
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"{name} fits on no node: {condition.get('message', '')}"
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind, []):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                said = f": {waiting['message']}" if waiting.get("message") else ""
                yield f"{name} {waiting['reason']}{said}"
            ended = container.get("state", {}).get("terminated", {})
            if ended.get("exitCode"):
                yield f"{name} ended with {ended['exitCode']}: kubectl logs -n {pod['metadata']['namespace']} {name}"
