"""The mirror on the storage node: what a rack without internet is built from, and filling it.

:func:`list` says what that is, :func:`sync` fetches it. Both go by the pillar: the Kubernetes version, the
packages that the states install, the images of kubeadm and of the services that are on. See docs/mirror.md.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from salt.exceptions import CommandExecutionError

__opts__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]

__func_alias__ = {"list_": "list"}

REPO = Path(__file__).resolve().parents[1]
FOLDER = "/srv/saltberry/mirror"
STATE_DIR = "/var/lib/saltberry"


def _load(path: Path) -> ModuleType:
    """Load a Python file that Salt's loader leaves alone."""
    spec = importlib.util.spec_from_file_location(f"saltberry_{path.stem.lstrip('_')}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded; is the checkout complete?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_aptmirror = _load(Path(__file__).with_name("_aptmirror.py"))
_imagemirror = _load(Path(__file__).with_name("_imagemirror.py"))
_locks = _load(Path(__file__).with_name("_locks.py"))
# It keeps the key as the nodes do
_debs = _load(REPO / "_modules/debs.py")

# What the states install, each group as they install it. Names that a distribution has not are left
# out: Debian 13 split docker-cli off. A test compares this with the states.
PACKAGES: tuple[tuple[str, ...], ...] = (
    ("containerd", "runc"),
    ("conntrack", "ebtables", "ethtool", "ipset", "iproute2", "iptables", "socat"),
    ("docker.io", "docker-cli", "apparmor"),
    ("nftables",),
    ("prometheus-node-exporter",),
    ("e2fsprogs", "nfs-common", "rsync"),
    ("e2fsprogs", "nfs-kernel-server", "rsync"),
    ("docker-registry", "nginx-light", "skopeo"),
    ("prometheus-node-exporter",),
    ("sudo", "tzdata", "systemd-timesyncd", "unattended-upgrades", "openssl"),
)
# Without this much room it is not begun; what is known to come is asked for besides.
_SPARE = 1 << 30


class _Refused(Exception):
    """Nothing more was done; the text says why and what to do."""


def list_(version: str = "", folder: str = FOLDER) -> dict[str, Any]:
    """Say what a rack without internet needs: packages, images, wheels. Needs no internet itself.

    version
        Of Kubernetes; the pillar's if left out.
    folder
        The mirror.

    Returns ``{"ok": True, "kubernetes": version, "packages": [...], "images": [...], "missing": [...]}``;
    ``missing`` are the images that the mirror has not. Which etcd, coredns and pause belong to the
    version is known to its kubeadm alone: they are in the list once its package is in the mirror, and
    ``note`` says so until then.

    CLI Example:

    .. code-block:: bash

        salt-run mirror.list
        salt-run mirror.list version=1.35.1
    """
    try:
        pillar = _pillar(version)
        images, note = _images(pillar, Path(folder))
    except _Refused as exc:
        return {"ok": False, "reason": str(exc), "retcode": 1}
    storage = Path(folder) / "registry"
    found = {
        "ok": True,
        "kubernetes": pillar["kubernetes"]["version"],
        "packages": sorted({name for group in _groups(pillar) for name in group}),
        "images": images,
        "missing": [image for image in images if not _imagemirror.there(storage, image)],
    }
    return {**found, "note": note} if note else found


def sync(version: str = "", folder: str = FOLDER, test: bool = False) -> dict[str, Any]:
    """Fetch what the mirror lacks of :func:`list`. Needs the internet, and may take an hour.

    version
        Of Kubernetes, for instance the next one; the pillar's if left out. The packages of both are kept.
    folder
        The mirror.
    test
        Only say what would be fetched. What packages need in turn is known after a first sync.

    Cut off anywhere, it goes on where it was; what is there is not fetched again, and nothing is deleted.
    Returns ``{"ok": True, "packages": new ones, "images": [copied], ...}``, or ``{"ok": False, "reason":
    …, "retcode": 1}``.

    CLI Example:

    .. code-block:: bash

        salt-run mirror.sync test=True
        salt-run mirror.sync
    """
    target = Path(folder)
    try:
        pillar = _pillar(version)
        _check_place(pillar, target)
        if test:
            return _foretold(pillar, target)
        with _alone():
            return _sync(pillar, target)
    except (_Refused, _aptmirror.Failed, RuntimeError) as exc:
        return {"ok": False, "reason": str(exc), "retcode": 1}
    except OSError as exc:
        reason = f"{exc.filename or folder}: {exc.strerror or exc}"
        return {"ok": False, "reason": reason, "retcode": 1}


def _pillar(version: str) -> dict[str, Any]:
    """The rack's pillar, with another Kubernetes version if one is given."""
    pillar: dict[str, Any] = __salt__["pillar.show_pillar"](__opts__["id"])
    if version:
        pillar = {**pillar, "kubernetes": {**pillar["kubernetes"], "version": version}}
    problems = __utils__["rackspec.check"](pillar)
    if problems:
        raise _Refused("; ".join(problems))
    return pillar


def _check_place(pillar: Mapping[str, Any], target: Path) -> None:
    """Refuse what could not be served, or not be written."""
    nodes = pillar["nodes"]
    holders = [
        name for name, body in nodes.items() if "storage" in ((body or {}).get("roles") or [])
    ]
    if not pillar["mirror"]["enabled"] or not holders:
        raise _Refused(
            "this rack has no mirror: mirror.enabled is false, or no node has the role storage"
        )
    if "master" not in nodes[holders[0]]["roles"]:
        raise _Refused(
            f"the mirror is on {holders[0]}, and this can only fill one on the master's own node"
        )
    if not target.is_absolute():
        raise _Refused(
            f"folder: {str(target)!a} is a relative path; write it from the root, like {FOLDER}"
        )
    missing = [name for name in ("skopeo", "docker-registry") if not shutil.which(name)]
    if missing:
        raise _Refused(
            f"{', '.join(missing)} is missing here; run: salt {holders[0]} state.apply mirror"
        )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    state = Path((__opts__.get("saltberry") or {}).get("state_dir", STATE_DIR))
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locks.held(state / "mirror.lock", wait=False) as got:
        if not got:
            raise _Refused("another mirror.sync is at work; wait for it")
        yield


def _sync(pillar: Mapping[str, Any], target: Path) -> dict[str, Any]:
    target.mkdir(parents=True, exist_ok=True)
    _require_room(target, 0)
    _aptmirror.run(
        ["bash", str(REPO / "install/wheelhouse.sh"), str(target / "wheels")], "Salt's wheels"
    )
    fetched, note = _fetch_packages(pillar, target)
    images, _ = _images(pillar, target)
    copied = _copy_images(images, target, _endpoints(pillar))
    done = {"ok": True, "packages": fetched, "images": copied, "folder": str(target)}
    return {**done, "note": note} if note else done


def _require_room(target: Path, more: int) -> None:
    free = shutil.disk_usage(target).free
    if free < _SPARE + more:
        need, have = (round(size / (1 << 30), 1) for size in (_SPARE + more, free))
        raise _Refused(
            f"{target} has {have} GiB free and {need} are needed; make room, or put the mirror on another"
            " disk (install/master.sh --mirror-dir)"
        )


# ---- packages ------------------------------------------------------------------------------------


def _groups(pillar: Mapping[str, Any]) -> list[list[str]]:
    """What nodes install, by what is installed at once; Kubernetes in its exact version."""
    exact = "{version}-{package_revision}".format(**pillar["kubernetes"])
    kubernetes = [f"{name}={exact}" for name in ("kubelet", "kubeadm", "kubectl")]
    kubernetes += ["cri-tools", "kubernetes-cni"]
    systems = [
        pillar["system"],
        *((body or {}).get("system") or {} for body in pillar["nodes"].values()),
    ]
    own = sorted({name for system in systems for name in system.get("packages") or ()})
    return [kubernetes, *map(list, PACKAGES), *([own] if own else [])]


def _apt(pillar: Mapping[str, Any], target: Path) -> Any:
    """apt for the upstream repositories of the pillar."""
    upstream = pillar["mirror"]["upstream"]
    minor = pillar["kubernetes"]["version"].rpartition(".")[0]
    url, key_url = (
        upstream[key].replace("{minor}", minor) for key in ("kubernetes", "kubernetes_key")
    )
    key = _key(target, key_url, upstream["kubernetes_key_sha256"])
    suite = upstream["kubernetes_suite"]
    line = f"deb [signed-by={key}] {url} {suite}{'' if suite.endswith('/') else ' main'}"
    return _aptmirror.Apt(target / ".sync/apt", upstream["debian"], [line])


def _key(target: Path, url: str, sha256: str | None) -> Path:
    """The key of Kubernetes' repository, where nodes fetch it; checked as a node checks it."""
    path = target / "keys/kubernetes.asc"
    try:
        if _debs.key_problem(str(path), url, sha256):
            _debs.fetch_key(str(path), url, sha256)
    except CommandExecutionError as exc:
        said = str(exc).replace("kubernetes.repo.key", "mirror.upstream.kubernetes_key")
        raise _Refused(said) from exc
    return path


def _fetch_packages(pillar: Mapping[str, Any], target: Path) -> tuple[int, str]:
    """Fetch the packages; return how many are new, and what a person has to know of them."""
    apt = _apt(pillar, target)
    apt.update()
    groups = apt.known(_groups(pillar))
    debs = apt.needed(groups)
    have = {path.name for path in (apt.work / "archives").glob("*.deb")}
    _require_room(target, sum(deb.size for deb in debs.values() if deb.name not in have))
    apt.fetch(groups)
    note = (
        f"the repositories lack parts of what {', '.join(apt.partial)} need; what they have of it is there,"
        " the rest has to be on every node"
    )
    return apt.publish(target / "apt", debs), note if apt.partial else ""


# ---- images --------------------------------------------------------------------------------------


def _images(pillar: Mapping[str, Any], target: Path) -> tuple[list[str], str]:
    """All images that the rack runs, under their full names, and what is not known of them yet."""
    kubernetes, note = _kubernetes_images(pillar, target)
    return sorted({*kubernetes, *_chosen(pillar)}), note


def _kubernetes_images(pillar: Mapping[str, Any], target: Path) -> tuple[list[str], str]:
    """Those of the control plane, as this version's own kubeadm lists them."""
    version = pillar["kubernetes"]["version"]
    repository = pillar["mirror"]["upstream"]["image_repository"]
    kubeadm = _kubeadm(pillar, target)
    if kubeadm is None:
        programs = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
        note = (
            f"etcd, coredns and pause are not listed yet: which of them belong to {version} is known to its"
            " kubeadm, whose package is not in the mirror"
        )
        return [f"{repository}/{name}:v{version}" for name in programs], note
    argv = [str(kubeadm), "config", "images", "list", f"--kubernetes-version=v{version}",
            f"--image-repository={repository}"]  # fmt: skip
    said = _aptmirror.run(argv, "kubeadm config images list")
    return [line for line in said.split() if line.startswith(f"{repository}/")], ""


def _kubeadm(pillar: Mapping[str, Any], target: Path) -> Path | None:
    """kubeadm of this version, out of the mirror's package."""
    exact = "{version}-{package_revision}".format(**pillar["kubernetes"])
    debs = sorted((target / "apt").rglob(f"kubeadm_{exact}_*.deb"))
    if not debs:
        return None
    folder = target / ".sync" / f"kubeadm-{exact}"
    program = folder / "usr/bin/kubeadm"
    if not program.exists():
        fresh = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            fresh.mkdir(parents=True)
        except OSError:
            # A mirror that this may only read, as when the list is asked for
            return None
        _aptmirror.run(["dpkg-deb", "--extract", str(debs[-1]), str(fresh)], "unpacking kubeadm")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return program


def _chosen(pillar: Mapping[str, Any]) -> list[str]:
    """The images among the settings, but for those of what is not enabled, or of another pod network."""
    keys = [each["key"] for each in __utils__["rackspec.settings"]() if each["kind"] == "image"]
    if _value(pillar, ["kubernetes", "cni"]) != "flannel":
        keys = [key for key in keys if not key.startswith("kubernetes.flannel.")]
    found = [_value(pillar, key.split(".")) for key in keys]
    return [image for image in found if image]


def _value(pillar: Mapping[str, Any], keys: list[str]) -> str | None:
    part: Any = pillar
    for key in keys:
        if not isinstance(part, Mapping) or part.get("enabled") is False:
            return None
        part = part.get(key)
    return part if isinstance(part, str) else None


def _endpoints(pillar: Mapping[str, Any]) -> dict[str, str]:
    upstream = pillar["mirror"]["upstream"]["registries"] or {}
    return {host: body["endpoint"] for host, body in upstream.items()}


def _copy_images(images: list[str], target: Path, endpoints: Mapping[str, str]) -> list[str]:
    """Copy the images that the mirror has not; return their names."""
    storage = target / "registry"
    missing = [image for image in images if not _imagemirror.there(storage, image)]
    if not missing:
        return []
    with _imagemirror.registry(storage) as address:
        for image in missing:
            _require_room(target, 0)
            _aptmirror.run(_imagemirror.copy(image, address, endpoints), f"copying {image}")
    return missing


def _foretold(pillar: Mapping[str, Any], target: Path) -> dict[str, Any]:
    """What a sync would fetch, without the internet and without a trace."""
    images, note = _images(pillar, target)
    storage = target / "registry"
    names = sorted({name for group in _groups(pillar) for name in group})
    there = {path.name.partition("_")[0] for path in (target / "apt").rglob("*.deb")}
    exact = {
        path.name.rsplit("_", 1)[0].replace("_", "=", 1) for path in (target / "apt").rglob("*.deb")
    }
    lacking = [name for name in names if name not in (exact if "=" in name else there)]
    found = {
        "ok": True,
        "test": True,
        "packages": lacking,
        "images": [image for image in images if not _imagemirror.there(storage, image)],
        "wheels": not (target / "wheels/salt.lock").is_file(),
    }
    return {**found, "note": note} if note else found
