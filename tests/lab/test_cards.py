"""A card and nothing else: the image's own way to start things runs it on a blank Pi, with nobody typing.

The node's root file system is the lab's blank one with Debian's own cloud-init, configured as Raspberry
Pi OS configures it, and without the unit that starts cards in the lab. The boot partition is written
as on a laptop: ``install/card.py`` onto a FAT image of the stock layout. What differs from a Pi: the
kernel here may not know FAT, so the image's files are copied to the folder that stands for the
mounted partition, and the network is the container's, so cloud-init's is off. For Bookworm's first
run systemd's own generator reads the same words from its command line as from the kernel's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab import host, lifecycle, podman, rootfs
from lab.podman import Node
from lab.rack import BOOT, CHECKOUT, PILLAR, Rack, RackError, describe
from tests.lab.conftest import Lab
from tests.unit.install import boot_partition as stock

SSH_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJl3+/1YiGbmZ4kGBrITWs1Gjy0gVuoFliU3j31yQ/As me@laptop"
)
CARDS = f"""\
cards:
  timezone: Europe/Berlin
  ssh_keys: ["{SSH_KEY}"]
"""
# As the image has it (stage2/04-cloud-init of pi-gen), but for the network, see above, and the locale: a
# blank node has none but C.
CLOUD_CONFIG = """\
datasource_list: [NoCloud, None]
datasource: {NoCloud: {seedfrom: "file:///boot/firmware/"}}
ssh_deletekeys: false
ssh_genkeytypes: []
network: {config: disabled}
locale: C.UTF-8
"""
BUILD = """\
set -e
cat >/etc/apt/sources.list
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends cloud-init tzdata
: >/etc/apt/sources.list
: >/etc/machine-id
rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
rm /etc/systemd/system/saltberry-firstboot.service
rm /etc/systemd/system/multi-user.target.wants/saltberry-firstboot.service
"""


@pytest.fixture(scope="session")
def pi_os(rack: Rack) -> str:
    """Name of an image like the blank node's, with cloud-init as Raspberry Pi OS Trixie has it."""
    name = f"localhost/saltberry-cloud-init:{rack.image.rpartition(':')[2]}"
    if podman.exists("image", name):
        return name
    made = f"saltberry-cloud-init-{rack.name}"
    podman.podman("rm", "--force", made, check=False)
    sources = rootfs.Debian().sources(signed_by="/usr/share/keyrings/debian-archive-keyring.gpg")
    flags = ("--interactive", "--name", made, "--network", "host", *host.ulimit_flags())
    try:
        podman.podman(
            "run", *flags, rack.image, "bash", "-c", BUILD,
            stdin=sources.encode(), timeout=900,
        )  # fmt: skip
        podman.podman("commit", "--quiet", made, name)
    finally:
        podman.podman("rm", "--force", made, check=False)
    return name


@pytest.fixture(scope="module")
def pillar(lab: Lab) -> Iterator[None]:
    """The rack's pillar says what people want of cards."""
    lab.master.write(PILLAR, describe(lab.rack) + CARDS)
    yield
    lab.master.write(PILLAR, describe(lab.rack))


@pytest.fixture(scope="module")
def name(lab: Lab) -> Iterator[str]:
    node = "pi-77"
    try:
        yield node
    finally:
        with contextlib.suppress(RackError):
            lab.take_away(node)


def blank(lab: Lab, name: str, image: str) -> Node:
    """A Pi with a fresh system and an empty boot partition, without power."""
    rack = lab.rack
    if name in rack.nodes:
        rack.discard(name)
    boot = rack.boot_partition(name)
    subprocess.run(["find", boot, "-mindepth", "1", "-delete"], check=True)
    rack.nodes[name] = {"ip": rack._next_address(name), "mounts": {str(boot): BOOT}}
    rack.save()
    node = dataclasses.replace(rack.node(name), image=image)
    node.create()
    lifecycle._set_apt_source(rack, node, f"http://{rack.master_ip}")
    node.write("/etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg", CLOUD_CONFIG)
    return node


def write_card(
    lab: Lab, name: str, folder: Path, *words: str, system: Mapping[str, str] = stock.TRIXIE
) -> dict[str, Any]:
    """One command on the master, one on a laptop; the laptop's FAT image becomes the boot partition."""
    folder.mkdir()
    remote = f"/run/{name}.card"
    made: dict[str, Any] = lab.run("enrol.card", name, f"bundle={remote}", "force=True", *words)
    assert made["ok"], made
    bundle = folder / "pi.card"
    bundle.write_text(lab.master.run("cat", remote).stdout)
    lab.master.run("rm", remote)
    image = stock.image(folder / "raspios.img", system, folder / "stock")
    command = [
        sys.executable,
        "-I",
        "-S",
        str(CHECKOUT / "install/card.py"),
        str(bundle),
        str(image),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = stock.unpack(image, folder / "found")
    boot = lab.rack.boot_partition(name)
    subprocess.run(["cp", "-r", f"{found}/.", str(boot)], check=True)
    # Mounted FAT shows all files as programs
    subprocess.run(["chmod", "-R", "755", str(boot)], check=True)
    return {**made, "files": json.loads(bundle.read_text())["files"]}


def uid(lab: Lab, name: str) -> str:
    return lab.kubectl("get", "node", name, "-o", "jsonpath={.metadata.uid}")


def test_a_blank_pi_becomes_ready_with_nobody_typing(
    lab: Lab, pi_os: str, pillar: None, name: str, tmp_path: Path
) -> None:
    node = blank(lab, name, pi_os)
    made = write_card(lab, name, tmp_path / "laptop")
    secret = made["files"]["minion.pem"].splitlines()[5]
    node.power_on()
    lab.wait_ready(name)

    boot = lab.rack.boot_partition(name)
    log = (boot / "saltberry/firstboot.log").read_text()
    assert f"this Pi becomes {name}" in log
    assert f"done: {name} is a minion of {lab.rack.master_ip}" in log
    assert secret not in log
    assert not (boot / "saltberry/minion.pem").exists()
    assert not (boot / "saltberry/card.env").exists()
    # The private key is where Salt has it, and nowhere else; cloud-init has no copy.
    places = ("/boot", "/etc", "/root", "/run/cloud-init", "/var/lib/cloud", "/var/log", "/tmp")
    having = node.run("grep", "-rlF", "-e", secret, *places, check=False).stdout.split()
    assert having == ["/etc/salt/pki/minion/minion.pem"]

    lab.wait(
        "cloud-init's end", lambda: "status: done" in node.run("cloud-init", "status").stdout, 120
    )
    assert "Valid" in node.run("cloud-init", "schema", "--config-file", f"{BOOT}/user-data").stdout
    assert node.run("readlink", "/etc/localtime").stdout.strip().endswith("/Europe/Berlin")
    assert node.run("cat", "/etc/hostname").stdout.strip() == name
    assert SSH_KEY in node.run("cat", "/home/pi/.ssh/authorized_keys").stdout
    assert node.run("systemctl", "is-enabled", "ssh.service").stdout.strip() == "enabled"
    cards = json.loads(lab.master.run("cat", "/var/lib/saltberry/cards.json").stdout)["cards"]
    assert cards[name]["used"] and cards[name]["fingerprint"] == made["fingerprint"]
    assert name not in [row["id"] for row in lab.run("enrol.pending")]
    assert lab.run("enrol.expire") == []


def test_after_a_power_cut_nothing_of_the_card_runs_again(
    lab: Lab, pi_os: str, pillar: None, name: str
) -> None:
    node = lab.node(name)
    boot = lab.rack.boot_partition(name)
    before = (boot / "saltberry/firstboot.log").read_text()
    node.power_cut()
    node.power_on()
    lab.wait(f"{name} answering", lambda: lab.answers(name), 300)
    unit = node.run("systemctl", "is-enabled", "saltberry-firstboot.service", check=False)
    assert unit.returncode != 0, unit.stdout
    assert (boot / "saltberry/firstboot.log").read_text() == before


def test_a_pi_imaged_anew_waits_at_the_door_and_is_let_in_by_one_command(
    lab: Lab, pi_os: str, pillar: None, name: str, tmp_path: Path
) -> None:
    before = uid(lab, name)
    assert before
    node = blank(lab, name, pi_os)
    made = write_card(lab, name, tmp_path / "laptop", "key=False")
    assert "minion.pem" not in made["files"]
    node.power_on()

    def waiting() -> dict[str, Any]:
        return next((row for row in lab.run("enrol.pending") if row["id"] == name), {})

    row = lab.wait(f"{name} at the door", waiting, 300, every=5)
    assert row["state"] == "denied" and "a second key" in row["why"]
    assert lab.rack.nodes[name]["ip"] in row["address"]
    log = lab.rack.boot_partition(name) / "saltberry/firstboot.log"
    lab.wait("the log on the card", lambda: "done: " in log.read_text(), 60)
    assert f"enrol.accept {name} fingerprint={row['fingerprint']}" in log.read_text()

    done = lab.run("enrol.reissue", name, f"fingerprint={row['fingerprint']}")
    assert done["ok"] and "its node object" in done["cluster"], done
    lab.wait_ready(name)
    assert uid(lab, name) not in ("", before)
    assert not waiting()


# Programs of the image that the blank node has not; these note what they were told.
STAND_INS = """\
for program in /usr/lib/raspberrypi-sys-mods/imager_custom /usr/lib/userconf-pi/userconf; do
    mkdir -p "${program%/*}"
    printf '#!/bin/sh\\necho "${0##*/} $*" >>/root/told\\n' >"$program"
    chmod 755 "$program"
done
touch /etc/cloud/cloud-init.disabled
"""


def first_boot(lab: Lab, name: str, image: str) -> str:
    """Boot a system as Bookworm's cmdline.txt says, up to the restart; return the system as it then is.

    Where it would restart it loses its power: a container that ends is not started again.
    """
    boot = lab.rack.boot_partition(name)
    flags = (boot / "cmdline.txt").read_text().split()
    words = [
        word.replace("_action=reboot", "_action=none")
        for word in flags
        if word.startswith("systemd.")
    ]
    made, result = f"saltberry-first-run-{lab.rack.name}", f"localhost/saltberry-first-run:{name}"
    podman.podman("rm", "--force", "--time", "0", made, check=False)
    common = ("--name", made, *host.ulimit_flags())
    try:
        podman.podman("run", *common, image, "bash", "-c", STAND_INS)
        podman.podman("commit", "--quiet", made, result)
        podman.podman("rm", made)
        podman.podman(
            "create", *common, "--privileged", "--cgroupns", "private", "--systemd=always",
            "--network", "none", "-v", f"{boot}:{BOOT}", result, *podman.INIT, *words,
        )  # fmt: skip
        podman.podman("start", made)
        show = ("systemctl", "show", "--property=ExecMainExitTimestampMonotonic,Result")
        unit = (*show, "kernel-command-line.service")

        def over() -> bool:
            said = podman.podman("exec", made, *unit, check=False).split()
            return "Result=success" in said and "ExecMainExitTimestampMonotonic=0" not in said

        lab.wait("the end of the first run", over, 120)
        podman.podman("kill", "--signal", "KILL", made)
        podman.podman("wait", made)
        podman.podman("commit", "--quiet", made, result)
    finally:
        podman.podman("rm", "--force", "--time", "0", made, check=False)
    return result


def test_bookworms_first_run_starts_the_card_as_well(
    lab: Lab, pi_os: str, pillar: None, pi: str, tmp_path: Path
) -> None:
    blank(lab, pi, pi_os)
    write_card(lab, pi, tmp_path / "laptop", system=stock.BOOKWORM)
    boot = lab.rack.boot_partition(pi)
    image = first_boot(lab, pi, pi_os)
    assert not (boot / "firstrun.sh").exists()
    assert "systemd." not in (boot / "cmdline.txt").read_text()
    assert (boot / "saltberry/card.env").exists(), "the rest is for the boot after that"
    lab.rack.node(pi).remove()
    node = dataclasses.replace(lab.rack.node(pi), image=image)
    node.create()
    lifecycle._set_apt_source(lab.rack, node, f"http://{lab.rack.master_ip}")
    node.power_on()
    lab.wait(f"{pi} answering", lambda: lab.answers(pi), 300)
    assert node.run("cat", "/root/told").stdout.splitlines() == [
        f"imager_custom set_hostname {pi}",
        "userconf pi !",
        f"imager_custom enable_ssh -k {SSH_KEY}",
        "imager_custom set_timezone Europe/Berlin",
    ]
    assert f"done: {pi} is a minion of" in (boot / "saltberry/firstboot.log").read_text()
    assert not (boot / "saltberry/minion.pem").exists()
