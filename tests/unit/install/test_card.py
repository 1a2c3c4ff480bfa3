"""install/card.py on folders and on real FAT file systems, as a laptop would run it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.unit.install import boot_partition as stock
from tests.unit.install.conftest import INSTALL

SECRET = "-----BEGIN RSA PRIVATE KEY-----\nMIIEsecretsecretsecret\n-----END RSA PRIVATE KEY-----"
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0dJ me@laptop"
WIFI = {"ssid": "Berry's home $net", "psk": "ab" * 32, "country": "DE", "hidden": True}


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("saltberry_card", INSTALL / "card.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


card = _module()


def bundle(**settings: Any) -> dict[str, Any]:
    return {
        "saltberry": 1,
        "id": "pi-07",
        "made": "20261123T170000Z",
        "files": {
            "card.env": "ID=pi-07\n",
            "minion.pem": SECRET,
            "start.sh": "#!/bin/bash\n",
            "minion.sh": "x" * 100_000,
        },
        "settings": {
            "user": "pi", "ssh_keys": [SSH_KEY], "timezone": "Europe/Berlin", "address": None,
            "gateway": None, "dns": [], "wifi": None, **settings,
        },
    }  # fmt: skip


def run(
    tmp_path: Path, target: Path, *options: str, given: Mapping[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """As on a laptop: Python alone, no site packages."""
    file = tmp_path / "pi-07.card"
    file.write_text(json.dumps(given or bundle()))
    command = [sys.executable, "-I", "-S", INSTALL / "card.py", file, target, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def written(tmp_path: Path, files: Mapping[str, str], **settings: Any) -> Path:
    """Write a card onto a folder with these files; return the folder."""
    target = stock.fill(tmp_path / "bootfs", files)
    done = run(tmp_path, target, given=bundle(**settings))
    assert done.returncode == 0, done.stderr
    return target


def assert_card(folder: Path) -> None:
    """The card's own folder is whole."""
    for name, text in bundle()["files"].items():
        assert (folder / "saltberry" / name).read_text() == text


def test_trixie_is_started_by_cloud_init(tmp_path: Path) -> None:
    boot = written(tmp_path, stock.TRIXIE)
    assert_card(boot)
    text = (boot / "user-data").read_text()
    assert text.startswith("#cloud-config\n")
    data = yaml.safe_load(text)
    assert data["hostname"] == "pi-07"
    assert data["timezone"] == "Europe/Berlin"
    (user,) = data["users"]
    assert user["name"] == "pi" and user["ssh_authorized_keys"] == [SSH_KEY]
    assert user["lock_passwd"] is True
    assert "/boot/firmware/saltberry/start.sh" in data["bootcmd"][0][-1]
    meta = yaml.safe_load((boot / "meta-data").read_text())
    assert meta["instance-id"] == "saltberry-pi-07-20261123T170000Z"
    network = yaml.safe_load((boot / "network-config").read_text())["network"]
    assert network["ethernets"]["eth0"] == {"dhcp4": True, "optional": True}
    line = (boot / "cmdline.txt").read_text()
    assert line.startswith(stock.CMDLINE + " resize ") and line.count("\n") == 1
    assert f" ds=nocloud;i={meta['instance-id']}" in line
    assert " cgroup_enable=memory cgroup_memory=1" in line
    assert (boot / "config.txt").read_text() == stock.TRIXIE["config.txt"]


def test_the_key_is_in_our_folder_alone(tmp_path: Path) -> None:
    for name, files in (("t", stock.TRIXIE), ("b", stock.BOOKWORM)):
        (tmp_path / name).mkdir()
        boot = written(tmp_path / name, files)
        having = [p for p in boot.rglob("*") if p.is_file() and "secretsecret" in p.read_text()]
        assert having == [boot / "saltberry/minion.pem"]


def test_a_fixed_address_and_wifi_for_cloud_init(tmp_path: Path) -> None:
    fixed = {"address": "192.168.1.27/24", "gateway": "192.168.1.1", "dns": ["9.9.9.9"]}
    boot = written(tmp_path, stock.TRIXIE, **fixed)
    wired = yaml.safe_load((boot / "network-config").read_text())["network"]["ethernets"]["eth0"]
    assert wired["addresses"] == ["192.168.1.27/24"] and wired["dhcp4"] is False
    assert wired["routes"] == [{"to": "default", "via": "192.168.1.1"}]
    assert wired["nameservers"] == {"addresses": ["9.9.9.9"]}
    (tmp_path / "w").mkdir()
    boot = written(tmp_path / "w", stock.TRIXIE, wifi=WIFI, **fixed)
    network = yaml.safe_load((boot / "network-config").read_text())["network"]
    wireless = network["wifis"]["wlan0"]
    assert wireless["access-points"] == {WIFI["ssid"]: {"password": "ab" * 32, "hidden": True}}
    assert wireless["regulatory-domain"] == "DE"
    assert wireless["addresses"] == ["192.168.1.27/24"]
    assert network["ethernets"]["eth0"]["dhcp4"] is True, "the address is given once"


def test_bookworm_is_started_by_a_first_run_script(tmp_path: Path) -> None:
    boot = written(tmp_path, stock.BOOKWORM)
    assert_card(boot)
    line = (boot / "cmdline.txt").read_text()
    assert line.count("\n") == 1
    assert line.rstrip().endswith(
        " systemd.run=/boot/firmware/firstrun.sh systemd.run_success_action=reboot"
        " systemd.unit=kernel-command-line.target"
    )
    assert "init=/usr/lib/raspberrypi-sys-mods/firstboot" in line
    assert not (boot / "user-data").exists()
    assert_shell(boot / "firstrun.sh")


def assert_shell(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def first_run(tmp_path: Path, boot: Path) -> list[list[str]]:
    """Run firstrun.sh with programs of the image that note their arguments; return those."""
    root = tmp_path / "root"
    connections = root / "etc/NetworkManager/system-connections"
    connections.mkdir(parents=True)
    recorder = tmp_path / "record"
    recorder.write_text(
        f'#!/bin/bash\nprintf "%s\\0" "${{0##*/}}" "$@" >>{tmp_path}/calls\necho >>{tmp_path}/calls\n'
        f'[[ $1 != set_wlan ]] || printf "[ipv4]\\nmethod=auto\\n[ipv6]\\nmethod=auto\\n"'
        f" >{connections}/preconfigured.nmconnection\n"
    )
    recorder.chmod(0o755)
    for name in ("imager_custom", "userconf"):
        shutil.copy(recorder, tmp_path / name)
    text = (boot / "firstrun.sh").read_text()
    for path, ours in (
        ("/usr/lib/raspberrypi-sys-mods/imager_custom", tmp_path / "imager_custom"),
        ("/usr/lib/userconf-pi/userconf", tmp_path / "userconf"),
        ("/boot/firmware", boot),
        ("/etc/NetworkManager", root / "etc/NetworkManager"),
    ):
        text = text.replace(path, str(ours))
    script = tmp_path / "firstrun.sh"
    script.write_text(text)
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().split("\0\n")
    return [call.split("\0") for call in calls if call]


def test_first_run_sets_the_pi_up_and_takes_itself_away(tmp_path: Path) -> None:
    boot = written(tmp_path, stock.BOOKWORM, wifi=WIFI)
    (boot / "saltberry/start.sh").write_text(f'echo "$@" >{tmp_path}/started\n')
    assert first_run(tmp_path, boot) == [
        ["imager_custom", "set_hostname", "pi-07"],
        ["userconf", "pi", "!"],
        ["imager_custom", "enable_ssh", "-k", SSH_KEY],
        ["imager_custom", "set_wlan", "-h", WIFI["ssid"], "ab" * 32, "DE"],
        ["imager_custom", "set_timezone", "Europe/Berlin"],
    ]
    assert (tmp_path / "started").read_text() == "--no-start\n"
    assert not (boot / "firstrun.sh").exists()
    line = (boot / "cmdline.txt").read_text()
    assert "systemd." not in line and line.startswith(stock.CMDLINE)


def test_first_run_gives_a_fixed_address(tmp_path: Path) -> None:
    fixed = {"address": "192.168.1.27/24", "gateway": "192.168.1.1", "dns": ["9.9.9.9", "1.1.1.1"]}
    boot = written(tmp_path, stock.BOOKWORM, ssh_keys=[], **fixed)
    calls = first_run(tmp_path, boot)
    assert not any("userconf" in call[0] or "enable_ssh" in call for call in calls)
    made = tmp_path / "root/etc/NetworkManager/system-connections/saltberry.nmconnection"
    assert oct(made.stat().st_mode & 0o777) == "0o600"
    text = made.read_text()
    assert "type=ethernet\n[ipv4]\nmethod=manual\naddress1=192.168.1.27/24,192.168.1.1\n" in text
    assert "dns=9.9.9.9;1.1.1.1;\n" in text
    (tmp_path / "w").mkdir()
    boot = written(tmp_path / "w", stock.BOOKWORM, wifi=WIFI, **fixed)
    first_run(tmp_path / "w", boot)
    folder = tmp_path / "w/root/etc/NetworkManager/system-connections"
    assert (folder / "preconfigured.nmconnection").read_text() == (
        "[ipv4]\naddress1=192.168.1.27/24,192.168.1.1\ndns=9.9.9.9;1.1.1.1;\nmethod=manual\n"
        "[ipv6]\nmethod=auto\n"
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (stock.BITS32, "32-bit"),
        (stock.BULLSEYE, "neither of Raspberry Pi OS Trixie"),
        (stock.UBUNTU, "no kernel8.img"),
        ({"photo.jpg": "x"}, "no cmdline.txt and no config.txt"),
        ({**stock.BOOKWORM, "user-data": "#cloud-config"}, "only one of user-data and meta-data"),
    ],
)
def test_what_is_not_known_is_refused_and_untouched(
    tmp_path: Path, files: Mapping[str, str], said: str
) -> None:
    target = stock.fill(tmp_path / "bootfs", files)
    done = run(tmp_path, target)
    assert done.returncode == 1
    assert said in done.stderr and len(done.stderr.splitlines()) == 1
    assert {path.name: path.read_text() for path in target.iterdir()} == dict(files)


def test_an_empty_folder_gets_the_cards_folder_alone(tmp_path: Path) -> None:
    boot = written(tmp_path, {})
    assert_card(boot)
    assert [path.name for path in boot.iterdir()] == ["saltberry"]


def test_a_card_that_is_there_is_replaced_by_force_alone(tmp_path: Path) -> None:
    boot = written(tmp_path, stock.TRIXIE)
    (boot / "saltberry/old").write_text("x")
    before = (boot / "cmdline.txt").read_text()
    done = run(tmp_path, boot)
    assert done.returncode == 1 and "has a card already" in done.stderr
    assert (boot / "saltberry/old").exists()
    newer = {**bundle(), "made": "20261124T000000Z"}
    assert run(tmp_path, boot, "--force", given=newer).returncode == 0
    assert not (boot / "saltberry/old").exists()
    line = (boot / "cmdline.txt").read_text()
    assert line == before.replace("20261123T170000Z", "20261124T000000Z"), "flags are there once"


@pytest.mark.parametrize("files", [stock.TRIXIE, stock.BOOKWORM], ids=["trixie", "bookworm"])
def test_an_image_gets_what_a_mounted_partition_gets(
    tmp_path: Path, files: Mapping[str, str]
) -> None:
    mounted = written(tmp_path, files)
    image = stock.image(tmp_path / "raspios.img", files, tmp_path / "work")
    table = image.read_bytes()[:512]
    done = run(tmp_path, image)
    assert done.returncode == 0, done.stderr
    assert "is on the boot partition in" in done.stdout
    assert image.read_bytes()[:512] == table
    found = stock.unpack(image, tmp_path / "found")
    expected = {p.relative_to(mounted): p.read_bytes() for p in mounted.rglob("*") if p.is_file()}
    assert {
        p.relative_to(found): p.read_bytes() for p in found.rglob("*") if p.is_file()
    } == expected
    check = subprocess.run(
        ["fsck.vfat", "-n", partition_of(image, tmp_path)], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout
    again = run(tmp_path, image)
    assert again.returncode == 1 and "has a card already" in again.stderr
    assert run(tmp_path, image, "--force").returncode == 0
    newer = stock.unpack(image, tmp_path / "newer")
    assert {
        p.relative_to(newer): p.read_bytes() for p in newer.rglob("*") if p.is_file()
    } == expected


def partition_of(image: Path, tmp_path: Path) -> Path:
    """Cut the FAT partition out of an image, for programs that know no offset."""
    path = tmp_path / "fat"
    start = stock.START * 512
    path.write_bytes(image.read_bytes()[start : start + stock.SIZE * 2**20])
    return path


def test_a_partition_alone_will_do(tmp_path: Path) -> None:
    image = stock.image(tmp_path / "raspios.img", stock.TRIXIE, tmp_path / "work")
    alone = partition_of(image, tmp_path)
    assert run(tmp_path, alone).returncode == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xfd7zXZ\x00" + b"x" * 600, "compressed (xz)"),
        (b"PK\x03\x04" + b"x" * 600, "compressed (zip)"),
        (b"x" * 600, "no partition table"),
        (b"", "no partition table"),
        (b"\0" * 510 + b"\x55\xaa", "no FAT partition"),
    ],
)
def test_files_that_are_no_image_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    image = tmp_path / "raspios.img"
    image.write_bytes(content)
    done = run(tmp_path, image)
    assert done.returncode == 1 and said in done.stderr
    assert image.read_bytes() == content


def test_without_mtools_an_image_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = stock.image(tmp_path / "raspios.img", stock.TRIXIE, tmp_path / "work")
    monkeypatch.setenv("PATH", "/nonexistent")
    done = run(tmp_path, image)
    assert done.returncode == 1 and "apt-get install mtools" in done.stderr


def test_a_file_of_another_origin_is_refused(tmp_path: Path) -> None:
    target = stock.fill(tmp_path / "bootfs", stock.TRIXIE)
    for given, said in (
        ({"a": 1}, "no file made by"),
        ({**bundle(), "saltberry": 2}, "has format 2"),
        ({**bundle(), "files": {"../x": "y"}}, "names a file that no card has"),
    ):
        done = run(tmp_path, target, given=given)
        assert done.returncode == 1 and said in done.stderr
    assert not (target / "saltberry").exists()


# --- devices ---------------------------------------------------------------------------------------


def test_this_machines_own_disks_are_refused() -> None:
    """Real devices of this machine, none of which is a card in a reader."""
    devices = [
        Path("/dev") / path.name
        for path in Path("/sys/class/block").iterdir()
        if (Path("/dev") / path.name).is_block_device()
    ]
    if not devices:
        pytest.skip("this machine shows no block device")
    for device in devices:
        with pytest.raises(card.CardError):
            card.check_device(device)


def test_a_link_to_a_device_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "sdb"
    link.symlink_to("/dev/null")
    with pytest.raises(card.CardError, match="name it exactly"):
        card.check_device(link)


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """What Linux shows of a reader with a card (sdb) and of a Pi's own card (mmcblk0)."""
    root = tmp_path / "system"
    for disk, parts in (("sdb", ("sdb1", "sdb2")), ("mmcblk0", ("mmcblk0p1",))):
        base = root / "sys/devices" / disk
        base.mkdir(parents=True)
        minor = 16 if disk == "sdb" else 0
        (base / "removable").write_text("1\n" if disk == "sdb" else "0\n")
        (base / "dev").write_text(f"8:{minor}\n")
        (base / "holders").mkdir()
        (base / "device").mkdir()
        (base / "device/type").write_text("SD\n" if disk == "mmcblk0" else "0\n")
        for number, part in enumerate(parts, 1):
            (base / part / "holders").mkdir(parents=True)
            (base / part / "partition").write_text(f"{number}\n")
            (base / part / "dev").write_text(f"8:{minor + number}\n")
    (root / "sys/class/block").mkdir(parents=True)
    for path in ("sdb", "sdb/sdb1", "sdb/sdb2", "mmcblk0", "mmcblk0/mmcblk0p1"):
        (root / "sys/class/block" / Path(path).name).symlink_to(root / "sys/devices" / path)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("24 1 253:0 / / rw - ext4 /dev/vda rw\n")
    (root / "proc/swaps").write_text("Filename Type\n")
    return root


def test_a_card_in_a_reader_is_taken(system: Path) -> None:
    for name in ("sdb", "sdb1", "mmcblk0"):
        card.check_device(Path("/dev") / name, system)


@pytest.mark.parametrize("name", ["sdb", "sdb1", "sdb2"])
def test_a_disk_with_a_mounted_partition_is_refused(system: Path, name: str) -> None:
    mounts = system / "proc/self/mountinfo"
    mounts.write_text("30 1 8:18 / /media/me/rootfs rw - ext4 /dev/sdb2 rw\n")
    with pytest.raises(card.CardError, match="sdb2 of the same disk is in use"):
        card.check_device(Path("/dev") / name, system)


def test_a_disk_that_is_in_use_otherwise_is_refused(system: Path) -> None:
    (system / "proc/swaps").write_text("Filename Type\n/dev/sdb1 partition 1 0 -2\n")
    with pytest.raises(card.CardError, match="sdb1 of the same disk"):
        card.check_device(Path("/dev/sdb"), system)
    (system / "proc/swaps").write_text("Filename Type\n")
    (system / "sys/devices/sdb/sdb2/holders/dm-0").mkdir()
    with pytest.raises(card.CardError, match="in use by dm-0"):
        card.check_device(Path("/dev/sdb"), system)


def test_a_disk_that_is_not_removable_is_refused(system: Path) -> None:
    (system / "sys/devices/sdb/removable").write_text("0\n")
    with pytest.raises(card.CardError, match="no removable disk"):
        card.check_device(Path("/dev/sdb1"), system)


# --- start.sh --------------------------------------------------------------------------------------


def test_start_has_systemd_run_the_card_until_it_is_done(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "boot/saltberry"
    (root / "etc").mkdir(parents=True)
    folder.mkdir(parents=True)
    unit = INSTALL.parent / "etc/systemd/saltberry-firstboot.service"
    shutil.copy(unit, folder)
    shutil.copy(INSTALL / "start.sh", folder)
    (folder / "card.env").write_text("ID=pi-07\nSSH=yes\n")
    ssh = root / "usr/lib/systemd/system/ssh.service"
    ssh.parent.mkdir(parents=True)
    ssh.write_text("[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n")
    environment = {**os.environ, "SALTBERRY_ROOT": str(root)}

    def start() -> None:
        done = subprocess.run(
            ["bash", folder / "start.sh"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    start()
    start()
    installed = root / "etc/systemd/system/saltberry-firstboot.service"
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert installed.read_text() == unit.read_text()
    assert {path.name for path in wants.iterdir()} == {"saltberry-firstboot.service", "ssh.service"}
    (folder / "card.env").rename(folder / "card.done")
    start()
    assert not installed.exists()
    assert {path.name for path in wants.iterdir()} == {"ssh.service"}
