"""Kubernetes' own programs, compiled once from Debian's source package."""

from __future__ import annotations

from pathlib import Path

from lab import host, rootfs
from lab.builder import Box
from lab.store import Store, contents, digest, remove_tree

VERSION = "1.20.2"
"""The newest version whose whole source is in a Debian release."""

_SOURCE = Path(__file__).resolve().parent / "kubernetes"
_REPORTS_VERSION = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
)


def ensure(store: Store, box: Box, version: str = VERSION) -> Path:
    """Directory with the compiled programs (see build.sh for the list), each tried once.

    A build that was interrupted goes on where it stopped. Raises StepFailed, also for a version
    other than the one there is.
    """
    if version != VERSION:
        raise host.StepFailed(
            f"the lab can build Kubernetes {VERSION} only (Debian's source package), "
            f"not {version}: use --upstream for another one"
        )
    inputs = {
        "version": version,
        "suite": rootfs.SUITE,
        "architecture": host.architecture(),
        "files": contents(*(_SOURCE / name for name in ("build.sh", "crictl.go", "dns.go"))),
    }
    work = store.cache / f".kubernetes-{digest(inputs)}.work"

    def build(partial: Path) -> None:
        work.mkdir(exist_ok=True)
        try:
            box.run(
                "kubernetes",
                ["/lab/build.sh"],
                step=f"compiling Kubernetes {version}",
                mounts={_SOURCE: "/lab:ro", work: "/build", partial: "/out"},
                on_line=lambda line: store.note(line, "stage: "),
            )
        except host.StepFailed:
            # It may fail over a file that an interrupted run left half written.
            remove_tree(work / "source")
            raise
        _try(box, partial / "bin", version)

    text = f"compiling Kubernetes {version} (once; about 10 minutes and 4 GB on 2 cores)"
    result = store.ensure("kubernetes", inputs, build, text) / "bin"
    remove_tree(work)
    return result


def _try(box: Box, programs: Path, version: str) -> None:
    """Start every program: a wrong library compiles, and panics only when it runs."""
    expected = f"v{version}"
    tries = [[f"/out/{name}", "--version"] for name in _REPORTS_VERSION]
    tries.append(["/out/kubeadm", "version", "-o", "short"])
    tries.append(["/out/kubectl", "version", "--client", "--short"])
    for command in tries:
        step = f"trying {' '.join(command)}"
        said = box.run("kubernetes", command, step=step, mounts={programs: "/out:ro"})
        if expected not in said:
            raise host.StepFailed(f"{step}: it says {said.strip()!r}, not {expected}")


def images(store: Store, box: Box, programs: Path, version: str) -> list[str]:
    """Images that kubeadm of this version wants, as NAME:TAG without the registry."""

    def build(partial: Path) -> None:
        listing = ("/out/kubeadm", "config", "images", "list")
        said = box.run(
            "image-list",
            [*listing, "--image-repository", "lab", "--kubernetes-version", f"v{version}"],
            step="asking kubeadm for its images",
            mounts={programs: "/out:ro"},
            network="none",
        )
        wanted = [line for line in said.splitlines() if line.startswith("lab/")]
        (partial / "images").write_text("\n".join(wanted).replace("lab/", ""))

    inputs = {"programs": programs.parent.name}
    listed = store.ensure("image-list", inputs, build, "asking kubeadm for its images")
    return (listed / "images").read_text().split()
