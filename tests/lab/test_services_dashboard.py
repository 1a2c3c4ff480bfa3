"""The dashboard's accounts and tokens on a real cluster. Headlamp itself has no image here."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.conftest import Lab

MANIFESTS = "salt://services/dashboard/manifests.yaml"
BUS = "/root/bus-dashboard.log"


@pytest.fixture(scope="module")
def accounts(lab: Lab) -> Iterator[Lab]:
    """The dashboard's objects are there; its pod is not waited for, and never comes."""
    lab.wait(
        "the admin's kubeconfig, which the master brings when the cluster is there",
        lambda: lab.master.run("test", "-s", "/root/.kube/config", check=False).returncode == 0,
    )
    values = json.dumps({"image": "ghcr.io/headlamp-k8s/headlamp:v0", "node_port": None})
    done = lab.salt(
        "cp1", "state.single", "manifests.applied", "dashboard", f"source={MANIFESTS}",
        f"values={values}", "timeout=0", "queue=True",
    )  # fmt: skip
    (state,) = done["cp1"].values()
    assert state["result"] is True, state
    try:
        yield lab
    finally:
        lab.salt("cp1", "state.apply", "services.dashboard.absent", "queue=True")


def mint(lab: Lab, *argv: str) -> str:
    """`salt-run rack.dashboard_token …`: what it prints."""
    return lab.master.run("salt-run", "rack.dashboard_token", *argv).stdout.strip()


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def api(lab: Lab, token: str, path: str, *argv: str) -> int:
    """Ask the API server with a token; the status."""
    config = f'header = "Authorization: Bearer {token}"\n'
    done = lab.control_plane.run(
        "curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-K", "-",
        "--cacert", "/etc/kubernetes/pki/ca.crt", *argv,
        f"https://{lab.control_plane.ip}:6443{path}", stdin=config.encode(),
    )  # fmt: skip
    return int(done.stdout)


PODS, SECRETS = "/api/v1/pods", "/api/v1/namespaces/kube-system/secrets"


def test_a_token_opens_everything_and_ends_by_itself(accounts: Lab) -> None:
    before = time.time()
    token = mint(accounts, "ttl=600")
    assert token.count(".") == 2, token
    assert 590 < claims(token)["exp"] - before < 700
    assert [api(accounts, token, path) for path in (PODS, SECRETS)] == [200, 200]


def test_a_token_to_look_shows_no_secrets_and_changes_nothing(accounts: Lab) -> None:
    token = mint(accounts, "view=True")
    assert [api(accounts, token, path) for path in (PODS, "/api/v1/nodes")] == [200, 200]
    assert api(accounts, token, SECRETS) == 403
    gone = "/api/v1/namespaces/default/pods/none"
    assert api(accounts, token, gone, "-X", "DELETE") == 403


def test_a_token_is_printed_and_stays_nowhere(accounts: Lab) -> None:
    master = accounts.master
    listener = subprocess.Popen(
        master.command(["sh", "-c", f"exec salt-run state.event pretty=False >{BUS}"]),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(4)
        token = mint(accounts, "--log-level=quiet")
        accounts.wait(
            "the run on the bus",
            lambda: "rack.dashboard_token" in master.run("cat", BUS).stdout,
            30,
        )
    finally:
        master.run("pkill", "-f", "state.event", check=False)
        listener.wait(30)
    secret = token.rpartition(".")[2]
    places = (
        f"{BUS} /var/cache/salt /var/log/salt /var/lib/saltberry /run/log/journal /var/log/journal"
    )
    for name in ("nfs1", "cp1"):
        found = accounts.node(name).run(
            "sh", "-c", f"grep -rlF -f - {places} 2>/dev/null || true", stdin=secret.encode()
        )
        assert found.stdout == "", name
    # On the API server there is nothing of it, but what Kubernetes of this age gives each account.
    assert token not in accounts.kubectl("get", "secrets", "-A", "-o", "json")


@pytest.mark.parametrize(
    ("argv", "words"),
    [(("ttl=60",), "600 to 86400"), (("ttl=soon",), "'soon' is no number of seconds")],
)
def test_a_wrong_time_is_refused_in_plain_words(
    accounts: Lab, argv: tuple[str, ...], words: str
) -> None:
    done = accounts.master.run("salt-run", "rack.dashboard_token", *argv, check=False)
    assert done.returncode == 1
    assert words in done.stdout


def test_without_the_dashboard_a_token_is_good_for_nothing(accounts: Lab) -> None:
    token = mint(accounts)
    assert api(accounts, token, PODS) == 200
    done = accounts.salt("cp1", "state.apply", "services.dashboard.absent", "queue=True")
    (state,) = done["cp1"].values()
    assert state["result"] is True, state
    accounts.wait("the token to be void", lambda: api(accounts, token, PODS) == 401, 60)
    refused = accounts.master.run("salt-run", "rack.dashboard_token", check=False)
    assert refused.returncode == 1
    assert "is services.dashboard on?" in refused.stdout
