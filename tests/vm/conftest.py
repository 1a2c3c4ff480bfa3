"""Three virtual machines for the whole suite: nfs1 serves, pi-01 and pi-02 have containers.

They start once; what the tests look at is done to all three at the same time, as far as it can be (the
machines are emulated where KVM does not run, and a salt-call takes twenty seconds). A test names what
it needs as a fixture and judges it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from lab import vm
from lab.cli import CACHE
from lab.host import StepFailed
from lab.progress import Progress
from lab.vm import SPARE_DISK, Net
from lab.vmsalt import ADDRESSES, ENGINES, Applied, Pi

CONSOLES = CACHE / "log" / "vm-consoles"
IMAGE = "/srv/share/node/containers.img"
# A container with a volume, as a person has one before anything moves; and a busy one for later.
CONTAINERS = """
systemctl start docker
mkdir -p /tmp/image/bin /tmp/image/data
cp /bin/busybox /tmp/image/bin/
for name in sh cat head sha256sum sleep sync mv wc; do ln -sf busybox /tmp/image/bin/$name; done
tar -C /tmp/image -c . | docker import - lab/busybox >/dev/null
docker volume create kept >/dev/null
docker run -d --name old --restart=always --network=none -v kept:/data lab/busybox \
    sh -c 'test -e /layer || cat /proc/sys/kernel/random/boot_id >/layer
           test -e /data/blob || head -c 3000000 /dev/urandom >/data/blob
           trap exit TERM; while :; do sleep 1; done' >/dev/null
until docker exec old sh -c 'test $(wc -c </data/blob) -eq 3000000'; do sleep 0.5; done
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.vm)


# -- the machines -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def image() -> vm.Image:
    try:
        return vm.prepare(CACHE, Progress())
    except (vm.VMError, StepFailed) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def net(image: vm.Image, request: pytest.FixtureRequest) -> Iterator[Net]:
    with vm.net(image) as made:
        for name, number in ADDRESSES.items():
            made.add(name, number)
        made.start()
        yield made
        if request.session.testsfailed:
            made.keep_consoles(CONSOLES)
            print(f"\nwhat the machines said on their consoles: {CONSOLES}")


@pytest.fixture(scope="session")
def nfs1(net: Net) -> Pi:
    return Pi(net.vms["nfs1"])


@pytest.fixture(scope="session")
def pi_01(net: Net) -> Pi:
    return Pi(net.vms["pi-01"])


@pytest.fixture(scope="session")
def pi_02(net: Net) -> Pi:
    return Pi(net.vms["pi-02"])


# -- what is done to them ---------------------------------------------------------------------


def traces(pi: Pi) -> str:
    """What a run in test mode could have touched: files (enabled units are links there), mounts, disks."""
    return pi.said(
        "find /etc /srv /var/lib/docker -xdev -not -path '/srv/saltberry/*' -not -path '/etc/salt/*'"
        " -printf '%p %T@ %s %m %U\\n' 2>/dev/null | grep -v -e '^/etc ' -e machine-id | sort;"
        " findmnt --raw -o TARGET,SOURCE,OPTIONS || true;"
        f" blkid -p -s LABEL -o value {SPARE_DISK} || true"
    )


@dataclass
class Before:
    """A node's containers before the move."""

    blob: str
    layer: str
    container: str


def with_containers(pi: Pi) -> Before:
    pi.sh(CONTAINERS)
    return look(pi)


def look(pi: Pi) -> Before:
    """Checksum of the volume, what the container wrote to its layer, its id."""
    return Before(
        blob=pi.said(
            "docker run --rm --network=none -v kept:/data lab/busybox sha256sum /data/blob"
        ),
        layer=pi.said("docker cp old:/layer - | tar -xO | sha256sum"),
        container=pi.said("docker inspect -f '{{.Id}}' old"),
    )


@dataclass
class Served:
    """nfs1: a disk with a file system refused; the same disk, blank, taken."""

    refused: Applied
    kept: str
    traces_before: str
    tested: Applied
    traces_after: str
    applied: Applied
    again: Applied


def serve(pi: Pi) -> Served:
    # After a crash the server waits so long for its clients to claim their locks; by default 90 s.
    pi.vm.write("/etc/nfs.conf.d/zz-test.conf", "[nfsd]\ngrace-time=30\n")
    pi.configure({}, nfs={"disk": "LABEL=share", "format": SPARE_DISK})
    pi.sh(f"mkfs.ext4 -q -L precious {SPARE_DISK}; sync")
    refused = pi.apply("nfs.server")
    kept = pi.said(f"blkid -p -s LABEL -o value {SPARE_DISK}")
    # Not just the signature: data in the first MiB are refused too.
    pi.sh(f"blkdiscard --force {SPARE_DISK}; udevadm settle")
    before = traces(pi)
    tested = pi.apply("nfs.server", test=True)
    after = traces(pi)
    applied = pi.apply("nfs.server")
    return Served(refused, kept, before, tested, after, applied, applied)


@dataclass
class Moved:
    """A node before, in test mode, after, and applied once more."""

    before: Before
    traces_before: str
    tested: Applied
    traces_after: str
    applied: Applied
    after: Before
    again: Applied


def move(pi: Pi, before: Before) -> Moved:
    traces_before = traces(pi)
    tested = pi.apply(*ENGINES, test=True)
    traces_after = traces(pi)
    applied = pi.apply(*ENGINES)
    after = look(pi) if not applied.failed else before
    return Moved(before, traces_before, tested, traces_after, applied, after, pi.apply(*ENGINES))


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Tell of a failure when it happens, not when a test asks for the result."""
    try:
        yield
    except Exception as error:
        print(f"{name}: {error}", file=sys.__stderr__)
        raise


@dataclass
class Stories:
    """What runs at the same time on the three machines."""

    served: Future[Served]
    image: Future[Moved]
    disk: Future[Moved]


@pytest.fixture(scope="session")
def stories(nfs1: Pi, pi_01: Pi, pi_02: Pi) -> Iterator[Stories]:
    def served() -> Served:
        with told("nfs1"):
            return serve(nfs1)

    def after(first: Future[Served] | None, pi: Pi, prepare: Callable[[], None]) -> Moved:
        with told(pi.vm.name):
            return _after(first, pi, prepare)

    def _after(first: Future[Served] | None, pi: Pi, prepare: Callable[[], None]) -> Moved:
        prepare()
        before = with_containers(pi)
        if first is not None:
            first.result()
        return move(pi, before)

    on_share = {"backend": "nfs-image", "size": "800M"}
    on_disk = {"backend": "disk", "disk": "LABEL=containers"}

    def configure_image() -> None:
        pi_01.configure({"pi-01": {"container_storage": on_share}}, docker={"enabled": True})

    def configure_disk() -> None:
        pi_02.configure({"pi-02": {"container_storage": on_disk}}, docker={"enabled": True})
        pi_02.sh(f"mkfs.ext4 -q -L containers {SPARE_DISK}; udevadm settle")

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(served)
        yield Stories(
            served=first,
            image=pool.submit(after, first, pi_01, configure_image),
            disk=pool.submit(after, None, pi_02, configure_disk),
        )


@pytest.fixture(scope="session")
def served(stories: Stories) -> Served:
    return stories.served.result()


@pytest.fixture(scope="session")
def on_image(stories: Stories) -> Moved:
    return stories.image.result()


@pytest.fixture(scope="session")
def on_disk(stories: Stories) -> Moved:
    return stories.disk.result()
