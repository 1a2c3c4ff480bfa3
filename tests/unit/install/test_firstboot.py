"""install/firstboot.sh with a card as the master makes it, into a root of its own."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from salt.utils.crypt import pem_finger

from tests.unit.install.conftest import INSTALL, Index, Pi, make_keys
from tests.unit.install.test_minion import QuietHandler

REPO = INSTALL.parent


@pytest.fixture
def card(tmp_path: Path, pi: Pi, keys: Path) -> Iterator[Path]:
    """The folder saltberry/ of a boot partition, and the mirror that it names."""
    folder = tmp_path / "boot/saltberry"
    folder.mkdir(parents=True)
    for name in ("minion.sh", "firstboot.sh"):
        shutil.copy(INSTALL / name, folder)
    shutil.copy(REPO / "etc/minion.d/saltberry.conf.in", folder / "minion.conf.in")
    shutil.copy(REPO / "etc/systemd/salt-minion.service", folder)
    shutil.copy(REPO / "install/salt_patch.py", folder)
    shutil.copy(pi.wheels / "salt.lock", folder)
    for name in ("minion.pem", "minion.pub"):
        shutil.copy(keys / name, folder)
    shutil.copy(make_keys(tmp_path / "master") / "minion.pub", folder / "master.pub")
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/wheels").symlink_to(pi.wheels)
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        (folder / "card.env").write_text(
            f"# written by enrol.card\nID=pi-07\nMASTER=10.0.0.1\nMIRROR=http://127.0.0.1:{port}\n"
        )
        yield folder
        server.shutdown()


def boot(pi: Pi, card: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", card / "firstboot.sh"],
        env=pi.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_first_boot(pi: Pi, card: Path, keys: Path) -> None:
    (pi.root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n")
    done = boot(pi, card)
    assert done.returncode == 0, done.stdout + done.stderr
    pki = pi.root / "etc/salt/pki/minion"
    assert (pki / "minion.pem").read_bytes() == (keys / "minion.pem").read_bytes()
    assert (pki / "minion_master.pub").read_bytes() == (card / "master.pub").read_bytes()
    assert (pi.root / "etc/salt/minion_id").read_text() == "pi-07\n"
    assert (pi.root / "etc/hostname").read_text() == "pi-07\n"
    assert (pi.root / "etc/hosts").read_text() == "127.0.0.1\tlocalhost\n127.0.1.1\tpi-07\n"
    assert not (card / "minion.pem").exists()
    assert not (card / "card.env").exists()
    assert (card / "card.done").exists()


def test_log_tells_and_keeps_the_secret(pi: Pi, card: Path, keys: Path) -> None:
    done = boot(pi, card)
    log = (card / "firstboot.log").read_text()
    assert log == done.stdout, "the journal gets the same"
    assert "done: pi-07 is a minion of 10.0.0.1" in log
    assert (keys / "minion.pem").read_text().splitlines()[1] not in log


def test_second_boot_does_nothing(pi: Pi, card: Path) -> None:
    boot(pi, card)
    before = pi.files()
    done = boot(pi, card)
    assert done.returncode == 0
    assert "nothing to do" in done.stdout
    assert pi.files() == before


def test_cut_off_after_the_key_left_the_card(pi: Pi, card: Path) -> None:
    boot(pi, card)
    (card / "card.done").rename(card / "card.env")
    done = boot(pi, card)
    assert done.returncode == 0, done.stdout
    assert (card / "card.done").exists()


def test_used_card_in_a_blank_pi(pi: Pi, card: Path) -> None:
    (card / "minion.pem").unlink()
    done = boot(pi, card)
    assert done.returncode == 1
    assert "make a new card for pi-07" in done.stdout
    assert (card / "card.env").exists()


def test_new_card_replaces_the_key(pi: Pi, card: Path, tmp_path: Path) -> None:
    boot(pi, card)
    (card / "card.done").rename(card / "card.env")
    new = make_keys(tmp_path / "new")
    for name in ("minion.pem", "minion.pub"):
        shutil.copy(new / name, card)
    assert boot(pi, card).returncode == 0
    pki = pi.root / "etc/salt/pki/minion"
    assert (pki / "minion.pem").read_bytes() == (new / "minion.pem").read_bytes()


def test_failure_keeps_the_card_and_says_why(pi: Pi, card: Path) -> None:
    (card / "salt.lock").write_text("broken")
    done = boot(pi, card)
    assert done.returncode != 0
    assert "not a lock for nodes" in (card / "firstboot.log").read_text()
    assert (card / "minion.pem").exists()
    assert (card / "card.env").exists()


def test_card_is_read_not_run(pi: Pi, card: Path, tmp_path: Path) -> None:
    text = (card / "card.env").read_text()
    (card / "card.env").write_text(text.replace("ID=pi-07", f"ID=$(touch {tmp_path}/owned)"))
    assert boot(pi, card).returncode != 0
    assert not (tmp_path / "owned").exists()


def test_card_written_by_windows(pi: Pi, card: Path) -> None:
    text = (card / "card.env").read_text()
    (card / "card.env").write_bytes(text.replace("\n", "\r\n").encode())
    assert boot(pi, card).returncode == 0
    assert (pi.root / "etc/salt/minion_id").read_text() == "pi-07\n"


def test_a_copy_of_the_key_that_cloud_init_keeps_goes_too(pi: Pi, card: Path, keys: Path) -> None:
    copies = pi.root / "var/lib/cloud/instances/saltberry-pi-07"
    copies.mkdir(parents=True)
    (copies / "user-data.txt").write_text("#cloud-config\n" + (keys / "minion.pem").read_text())
    (copies / "vendor-data.txt").write_text("#cloud-config\n")
    assert boot(pi, card).returncode == 0
    assert [path.name for path in copies.iterdir()] == ["vendor-data.txt"]


def test_a_card_without_a_key_tells_the_fingerprint_to_accept(pi: Pi, card: Path) -> None:
    for name in ("minion.pem", "minion.pub"):
        (card / name).unlink()
    pub = make_keys(pi.root / "etc/salt/pki/minion") / "minion.pub"  # as the minion does
    done = boot(pi, card)
    assert done.returncode == 0, done.stdout
    said = pem_finger(path=str(pub), sum_type="sha256")
    assert f"salt-run enrol.accept pi-07 fingerprint={said}" in (card / "firstboot.log").read_text()


@pytest.fixture
def no_mirror(card: Path) -> Path:
    """The card, with a mirror that is not there."""
    text = (card / "card.env").read_text()
    mirror = next(line for line in text.splitlines() if line.startswith("MIRROR="))
    (card / "card.env").write_text(text.replace(mirror, "MIRROR=http://127.0.0.1:9"))
    return card


def test_without_a_mirror_salt_comes_from_the_index_by_hash(
    blank_pi: Pi, no_mirror: Path, index: Index, tmp_path: Path
) -> None:
    shutil.copy(INSTALL / "wheelhouse.sh", no_mirror)
    shutil.copy(index.lock, no_mirror / "upstream.lock")
    (tmp_path / "simple/pip").mkdir(parents=True)
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "simple"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = blank_pi.environment().items()
        environment = {
            **{key: value for key, value in here if not key.startswith("PIP_")},
            **{key: value for key, value in index.environment().items() if key.startswith("PIP_")},
            "SALTBERRY_INDEX": f"http://127.0.0.1:{server.server_address[1]}",
            "SALTBERRY_MIRROR_PATIENCE": "1",
            "SALTBERRY_MIRROR_WAIT": "1",
        }
        done = subprocess.run(
            ["bash", no_mirror / "firstboot.sh"], env=environment, capture_output=True, text=True
        )
        server.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fetching Salt from" in done.stdout
    assert (blank_pi.opt / "salt/bin/salt-call").exists()
    assert not (no_mirror / "minion.pem").exists()
    assert not (blank_pi.root / "var/lib/saltberry/wheels").exists()


def test_without_any_source_the_card_stays_whole_and_the_log_says_why(
    blank_pi: Pi, no_mirror: Path
) -> None:
    environment = blank_pi.environment(
        SALTBERRY_INDEX="http://127.0.0.1:9",
        SALTBERRY_MIRROR_PATIENCE="1",
        SALTBERRY_MIRROR_WAIT="1",
    )
    shutil.copy(INSTALL / "salt.lock", no_mirror / "upstream.lock")
    done = subprocess.run(
        ["bash", no_mirror / "firstboot.sh"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    log = (no_mirror / "firstboot.log").read_text()
    assert "is nfs1 on, and in this network?" in log and "tried again" in log
    assert (no_mirror / "minion.pem").exists() and (no_mirror / "card.env").exists()
