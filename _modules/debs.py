"""Debian packages: what is installed and held, a repository's key, one apt run that mends itself.

Salt's own ``pkg`` states judge a pinned version by apt's lists, so on a node whose repository the
same run would add, ``test=True`` ends in an error. What is here looks at dpkg alone, asks the
network for nothing until something has to be installed, and recovers from a power cut in the
middle of dpkg.
"""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__virtualname__ = "debs"

__salt__: dict[str, Callable[..., Any]]
__utils__: dict[str, Callable[..., Any]]

# The first boot's own apt jobs may hold dpkg's lock for minutes.
_LOCK_SECONDS = 300
_FETCH_SECONDS = 30
_KEY_BYTES_MAX = 1 << 20

_APT = (
    "apt-get", "-q", "-y",
    "-o", f"DPkg::Lock::Timeout={_LOCK_SECONDS}",
    # 100 MB of archives that nobody needs again are much on an SD card.
    "-o", "APT::Keep-Downloaded-Packages=false",
    # A file that a state wrote before its package came stays as the state wrote it.
    "-o", "DPkg::Options::=--force-confdef",
    "-o", "DPkg::Options::=--force-confold",
)  # fmt: skip
_ENV = {"DEBIAN_FRONTEND": "noninteractive", "APT_LISTCHANGES_FRONTEND": "none"}

_UPDATES = Path("/var/lib/dpkg/updates")
_REMOVED = re.compile(r"^Removing ([a-z0-9][a-z0-9+.-]+)", re.MULTILINE)


def __virtual__() -> bool | tuple[bool, str]:
    """Load where there is dpkg."""
    if Path("/usr/bin/dpkg-query").exists():
        return True
    return False, "debs: this system has no dpkg"


def _run(argv: Sequence[str]) -> dict[str, Any]:
    return __salt__["cmd.run_all"](
        list(argv), python_shell=False, ignore_retcode=True, env=_ENV, output_loglevel="debug"
    )


def status(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what dpkg knows of packages: ``{name: {"version": "1.2-3" or None, "held": bool}}``.

    names
        For instance ``["kubelet", "containerd"]``. ``version`` is None for a package that is not
        there, or not completely.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' debs.status '[kubelet, containerd]'
    """
    found: dict[str, dict[str, Any]] = {name: {"version": None, "held": False} for name in names}
    shown = "${Package} ${db:Status-Want} ${db:Status-Status} ${Version}\\n"
    # dpkg-query fails for names it has never heard of, and still shows the others.
    for row in _run(["dpkg-query", "-W", f"-f={shown}", "--", *names])["stdout"].splitlines():
        name, want, state, *version = row.split()
        if name in found:
            found[name]["held"] = want == "hold"
            found[name]["version"] = version[0] if state == "installed" and version else None
    return found


def install(packages: Mapping[str, str | None]) -> None:
    """Install packages, and the exact version where one is given, in one run of apt.

    packages
        ``{name: version or None}``; None takes what apt would take. Holds are set aside and
        downgrades allowed: the caller has decided.

    apt's lists are refreshed only when the first try fails, which covers a repository just added,
    an image whose lists were never fetched and packages that the mirror has replaced since.
    Raises CommandExecutionError with the last lines that apt said.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' debs.install '{containerd: null}'
    """
    wanted = [f"{name}={version}" if version else name for name, version in packages.items()]
    argv = [*_APT, "install", "--no-install-recommends", "--allow-downgrades",
            "--allow-change-held-packages", "--", *wanted]  # fmt: skip
    mend()
    ret = _run(argv)
    if ret["retcode"]:
        update = _run([*_APT, "update"])
        ret = _run(argv)
        if ret["retcode"]:
            said = _last_lines(ret) + _last_lines(update)
            raise CommandExecutionError(f"apt cannot install {', '.join(wanted)}:\n{said}")


def _last_lines(ret: Mapping[str, Any], count: int = 6) -> str:
    """Return the lines of an apt run that name errors, else its last ones."""
    lines = f"{ret['stdout']}\n{ret['stderr']}".strip().splitlines()
    errors = [line for line in lines if line.startswith(("E:", "Err:", "dpkg:"))]
    return "".join(f"{line}\n" for line in (errors or lines)[-count:])


def mend() -> bool:
    """Finish what dpkg was doing when the power went; return whether there was anything.

    Raises CommandExecutionError when dpkg cannot finish.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' debs.mend
    """
    journal = _UPDATES.is_dir() and any(_UPDATES.iterdir())
    if not journal and not _run(["dpkg", "--audit"])["stdout"].strip():
        return False
    ret = _run(["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"])
    # A package that was only half unpacked cannot be configured; apt fetches it again.
    fixed = _run([*_APT, "--fix-broken", "install"])
    if fixed["retcode"]:
        raise CommandExecutionError(
            "dpkg was interrupted and cannot finish; look at it with 'dpkg --audit':\n"
            + _last_lines(ret) + _last_lines(fixed)
        )  # fmt: skip
    return True


def hold(names: Sequence[str]) -> None:
    """Keep packages from being upgraded along with the system. Raises CommandExecutionError.

    names
        For instance ``["kubelet", "kubeadm"]``.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' debs.hold '[kubelet, kubeadm]'
    """
    ret = _run(["apt-mark", "hold", *names])
    if ret["retcode"]:
        raise CommandExecutionError(f"apt-mark hold {' '.join(names)}: {_last_lines(ret)}")


def remove(names: Sequence[str]) -> list[str]:
    """Remove packages, and leave their settings and data. What needs them goes too, and is returned.

    names
        For instance ``["docker.io"]``; held ones too, for the caller has decided. Raises
        CommandExecutionError with the last lines that apt said.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' debs.remove '[docker.io]'
    """
    mend()
    ret = _run([*_APT, "remove", "--allow-change-held-packages", "--", *names])
    if ret["retcode"]:
        raise CommandExecutionError(f"apt cannot remove {', '.join(names)}:\n{_last_lines(ret)}")
    return sorted(set(_REMOVED.findall(ret["stdout"])))


def key_problem(path: str, url: str, sha256: str | None) -> str:
    """Return why a repository's key has to be fetched, empty when the one that is there is right.

    path
        Where the key is kept, for instance ``/etc/apt/keyrings/saltberry-kubernetes.asc``.
    url
        Where it comes from.
    sha256
        Hex digest of the file, or None. Without one the first key fetched is trusted from then on,
        and only over https: upstream publishes its key that way and no digest beside it, so the
        web server's certificate is what vouches for it. Raises CommandExecutionError for plain http
        without a digest, where nothing would.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' debs.key_problem /etc/apt/keyrings/k.asc https://pkgs.k8s.io/… null
    """
    if not sha256 and not url.startswith("https://"):
        raise CommandExecutionError(
            f"the repository key {url} would come unverified; set kubernetes.repo.key_sha256 to its "
            "SHA-256 (sha256sum of the file), or give an https address"
        )
    key = Path(path)
    if not key.exists():
        return f"{path} is missing"
    if sha256 and hashlib.sha256(key.read_bytes()).hexdigest() != sha256.lower():
        return f"{path} is another key than kubernetes.repo.key_sha256"
    return ""


def fetch_key(path: str, url: str, sha256: str | None) -> None:
    """Fetch a repository's key and keep it where apt reads it.

    path, url, sha256
        As for :func:`key_problem`. Raises CommandExecutionError when it cannot be had or is not the
        one that was meant.

    CLI Example:

    .. code-block:: bash

        salt 'pi-01' debs.fetch_key /etc/apt/keyrings/k.asc https://pkgs.k8s.io/… null
    """
    try:
        with urllib.request.urlopen(url, timeout=_FETCH_SECONDS) as answer:
            key = answer.read(_KEY_BYTES_MAX)
    except (urllib.error.URLError, OSError, ValueError) as exc:
        raise CommandExecutionError(f"the repository key {url} cannot be fetched: {exc}") from exc
    digest = hashlib.sha256(key).hexdigest()
    if sha256 and digest != sha256.lower():
        raise CommandExecutionError(
            f"the key at {url} has the SHA-256 {digest}, the pillar says {sha256}; either "
            "kubernetes.repo.key_sha256 is outdated, or somebody answers in the repository's place"
        )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    spare = target.with_name(f"{target.name}.new")
    spare.write_bytes(key)
    # apt reads it as the user _apt.
    spare.chmod(0o644)
    spare.replace(target)
