"""The container images that kubeadm wants, made from Debian's and our own binaries.

Each image is one layer with a few files, written byte for byte the same from the same files,
and ends up in the storage of a Docker registry that nfs1 serves as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import host
from lab.builder import Box
from lab.store import Store

TEST_IMAGE = "busybox:lab"
"""A shell and a small web server, for pods that test the cluster."""

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_EPOCH = "1970-01-01T00:00:00Z"
_PORT = 5000


@dataclass(frozen=True)
class Image:
    """What goes into an image.

    ``programs`` maps paths in the image to compiled Kubernetes binaries; ``debian`` lists paths
    that are taken from a Debian root as they are, each with the libraries it needs; ``links`` are
    symbolic links; ``files`` are small text files, executable if they begin with ``#!``; ``folders`` are
    writable for all; ``check`` is run in the finished tree and must succeed. ``services`` says that the
    Debian is that of service_images.py, not the builder.
    """

    name: str
    programs: Mapping[str, str]
    debian: tuple[str, ...] = ()
    links: Mapping[str, str] | None = None
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    files: Mapping[str, str] | None = None
    folders: tuple[str, ...] = ()
    services: bool = False


_IPTABLES = ("iptables", "iptables-save", "iptables-restore")
_PROXY_LINKS = {
    # kubelet on a Debian 12 node speaks nft; rules written through both backends would miss
    # each other, so kube-proxy gets the same one.
    **{
        f"/usr/sbin/{prefix}{rest}": "xtables-nft-multi"
        for prefix in ("iptables", "ip6tables")
        for rest in ("", "-save", "-restore")
    },
    "/usr/sbin/modprobe": "/usr/bin/kmod",
}


def definitions(wanted: Iterable[str]) -> list[Image]:
    """The images for the NAME:TAG that kubeadm asks for, and the one for tests.

    Raises StepFailed for a name that the lab does not know how to make.
    """
    return [_definition(name) for name in wanted] + [_definition(TEST_IMAGE)]


def _definition(name: str) -> Image:
    match name.partition(":")[0]:
        case "kube-apiserver" | "kube-controller-manager" | "kube-scheduler" as program:
            path = f"/usr/local/bin/{program}"
            return Image(name, {path: program}, entrypoint=(path,), check=(path, "--version"))
        case "kube-proxy":
            path = "/usr/local/bin/kube-proxy"
            return Image(
                name,
                {path: "kube-proxy"},
                debian=(
                    "/usr/sbin/xtables-nft-multi",
                    "/usr/lib/*/xtables/*.so",
                    "/usr/sbin/conntrack",
                    "/usr/sbin/ipset",
                    "/usr/bin/kmod",
                    "/etc/protocols",
                ),
                links=_PROXY_LINKS,
                entrypoint=(path,),
                check=("/usr/sbin/iptables-restore", "--version"),
            )
        case "etcd":
            return Image(
                name,
                {},
                debian=("/usr/bin/etcd", "/usr/bin/etcdctl"),
                links={
                    f"/usr/local/bin/{tool}": f"/usr/bin/{tool}" for tool in ("etcd", "etcdctl")
                },
                entrypoint=("/usr/local/bin/etcd",),
                check=("/usr/local/bin/etcd", "--version"),
            )
        case "coredns":
            return Image(
                name, {"/coredns": "labdns"}, entrypoint=("/coredns",), check=("/coredns", "-h")
            )
        case "pause":
            return Image(name, {"/pause": "pause"}, entrypoint=("/pause",))
        case "busybox":
            return Image(
                name,
                {},
                debian=("/bin/busybox",),
                command=("sh",),
                check=("/bin/busybox", "true"),
            )
    raise host.StepFailed(
        f"kubeadm wants the image {name}, and the lab does not know how to make it"
    )


def registry(
    store: Store, box: Box, programs: Path, wanted: list[str], *, services: Box, more: list[Image]
) -> Path:
    """Storage directory of a registry that holds the images of ``definitions(wanted)``, and ``more``.

    ``programs`` is the directory of compiled Kubernetes binaries, ``services`` what ``more`` is made from.
    """
    made = [*definitions(wanted), *more]
    inputs = {
        "images": [repr(image) for image in made],
        "programs": programs.parent.name,
        "builder": box.root.parent.name,
        "services": services.root.parent.name,
        "layout": 2,
    }

    def build(partial: Path) -> None:
        storage, archives = partial / "registry", partial / "archives"
        storage.mkdir()
        archives.mkdir()
        for image in made:
            store.progress.note(image.name)
            tree = partial / "tree"
            _assemble(services if image.services else box, image, programs, tree)
            _check(Box(store, tree), image)
            write_archive(image, tree, archives / f"{_file_name(image)}.tar")
            shutil.rmtree(tree)
        store.progress.note("filling the registry")
        _push(box, made, archives, storage)
        shutil.rmtree(archives)

    text = "making the container images"
    return store.ensure("registry", inputs, build, text) / "registry"


def _file_name(image: Image) -> str:
    return image.name.replace(":", "-").replace("/", "-")


def _assemble(box: Box, image: Image, programs: Path, tree: Path) -> None:
    """Lay out the files of an image below ``tree``."""
    for directory in ("dev", "etc", "proc", "sys", "tmp"):
        (tree / directory).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    for path, program in image.programs.items():
        _copy(programs / program, tree, path)
    found = [
        f"/{file.relative_to(box.root)}"
        for pattern in image.debian
        for file in sorted(box.root.glob(pattern.lstrip("/")))
    ]
    inside = [path for path in found if not (box.root / path.lstrip("/")).is_dir()]
    for folder in (path for path in found if path not in inside):
        below = sorted((box.root / folder.lstrip("/")).rglob("*"))
        inside += [f"/{each.relative_to(box.root)}" for each in below if _is_program(each)]
    if image.debian and not found:
        raise host.StepFailed(f"image {image.name}: there is none of {image.debian} to take")
    for path in found + _libraries(box, inside):
        _copy(box.root / path.lstrip("/"), tree, path)
    for folder in image.folders:
        (tree / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        (tree / folder.lstrip("/")).chmod(0o1777)
    for path, text in (image.files or {}).items():
        file = tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if text.startswith("#!") else 0o644)
    for path, target in {**(image.links or {}), **_applets(box, image)}.items():
        link = tree / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def _is_program(file: Path) -> bool:
    """Whether it may need libraries."""
    return file.is_file() and (os.access(file, os.X_OK) or ".so" in file.name)


def _copy(source: Path, tree: Path, path: str) -> None:
    target = tree / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def _libraries(box: Box, files: list[str]) -> list[str]:
    """Paths of the shared libraries that these files of the builder load, the loader included."""
    if not files:
        return []
    # ldd fails for what is static or no program at all; that is no error here.
    command = ["sh", "-c", 'ldd "$@" 2>/dev/null || true', "ldd", *files]
    said = box.run("registry", command, step="looking up libraries", network="none")
    words = {word for line in said.splitlines() if "(0x" in line for word in line.split()}
    return sorted(word for word in words if word.startswith("/"))


def _applets(box: Box, image: Image) -> dict[str, str]:
    """Links that make a busybox image's shell find its commands."""
    if "/bin/busybox" not in image.debian:
        return {}
    said = box.run("registry", ["/bin/busybox", "--list"], step="asking busybox for its commands")
    return {f"/bin/{applet}": "busybox" for applet in said.split() if applet != "busybox"}


def _check(tree: Box, image: Image) -> None:
    """Run the image's check in its own tree: a missing library shows here, not in the rack."""
    if image.check:
        step = f"trying {' '.join(image.check)} in the image {image.name}"
        tree.run("registry", image.check, step=step, network="none")


def write_archive(image: Image, tree: Path, archive: Path) -> None:
    """Write a docker-archive (what ``docker load`` takes) of one layer from a directory."""
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        for path in sorted(tree.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(tree)), recursive=False, filter=_anonymous)
    with layer.open("rb") as file:
        layer_digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = json.dumps(configuration(image, layer_digest), sort_keys=True).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [
        {"Config": config_name, "RepoTags": [image.name], "Layers": [f"{layer_digest}.tar"]}
    ]
    with tarfile.open(archive, "w") as tar:
        for name, content in (
            (config_name, config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        tar.add(layer, arcname=f"{layer_digest}.tar", filter=_anonymous)
    layer.unlink()


def configuration(image: Image, layer_digest: str) -> dict[str, Any]:
    """The image's configuration object (docker image specification 1.2)."""
    config: dict[str, Any] = {"Env": [_PATH]}
    if image.entrypoint:
        config["Entrypoint"] = list(image.entrypoint)
    if image.command:
        config["Cmd"] = list(image.command)
    return {
        "architecture": host.architecture(),
        "os": "linux",
        "created": _EPOCH,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": _EPOCH, "created_by": "saltberry lab"}],
    }


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out of a tar entry whatever changes from build to build."""
    entry.mtime = 0
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _push(box: Box, made: list[Image], archives: Path, storage: Path) -> None:
    """Run a registry over ``storage`` for as long as it takes to push the archives into it."""
    config = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": "/storage"}},
        "http": {"addr": f"127.0.0.1:{_PORT}"},
    }
    script = f"""
        set -e
        cat >/tmp/registry.yml
        docker-registry serve /tmp/registry.yml </dev/null &
        trap 'kill %1' EXIT
        curl --silent --fail --retry 30 --retry-delay 1 --retry-connrefused \
            http://127.0.0.1:{_PORT}/v2/ >/dev/null
        while [ $# -gt 0 ]; do
            echo "image: $1"
            skopeo copy --quiet --insecure-policy --dest-tls-verify=false \
                "docker-archive:/archives/$2.tar" "docker://127.0.0.1:{_PORT}/$1"
            shift 2
        done
    """
    pairs = [word for image in made for word in (image.name, _file_name(image))]
    box.run(
        "registry",
        ["bash", "-c", script, "push", *pairs],
        step="filling the image registry",
        mounts={archives: "/archives:ro", storage: "/storage"},
        network="none",
        # JSON is YAML, which the registry reads.
        stdin=json.dumps(config),
    )
