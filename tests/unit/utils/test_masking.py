"""What is masked, and what stays to be read."""

from __future__ import annotations

import time

import pytest
from saltberry_ext.utils import masking

SECRETS = [
    "password: hunter22",
    '+  "password": "a hunter22 b", "log": "x"',
    "--token=hunter22 --v=2",
    "ExecStart=/usr/bin/x --password hunter22 --verbose",
    "psk=hunter22",
    "wpa_psk = hunter22",
    "client-key-data: hunter22",
    "a: b: token: hunter22",
    "env: API_KEY=hunter22",
    'secret = "hunter22',
    "https://me:hunter22@example.org/",
    "Authorization: Bearer hunter22hunter22",
    "-----BEGIN RSA PRIVATE KEY-----\nhunter22\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nhunter22 and no end",
    "root:$6$hunter22$hunter22hunter22:19000:0",
    "join with hunter.hunter22hunter22",
    "eyJhunter22aaaa.eyJhunter22aaaa.hunter22",
]


@pytest.mark.parametrize("line", SECRETS)
def test_a_secret_does_not_get_through(line: str) -> None:
    assert "hunter22" not in masking.text(line)


@pytest.mark.parametrize(
    "line",
    [
        "PasswordAuthentication no",
        "-PermitEmptyPasswords yes",
        "--authentication-token-webhook=true",
        "password_file: /etc/x",
        "token_ttl: 600",
        "-net.ipv4.ip_forward = 1",
        '+  "log-opts": {"max-size": "10m"}',
        "kernel.keys.maxkeys = 200",
        "Signed-By: /etc/apt/keyrings/saltberry-kubernetes.gpg",
        "key_sha256: 0123456789abcdef",
        "192.168.1.21 pi-01 pi-01.rack.lan",
        "kubelet: 1.20.2-1.1",
    ],
)
def test_what_is_no_secret_stays_to_be_read(line: str) -> None:
    assert masking.text(line) == line


@pytest.mark.parametrize(
    "path",
    [
        "/etc/kubernetes/admin.conf",
        "/etc/kubernetes/pki/ca.crt",
        "/root/.kube/config",
        "/etc/wpa_supplicant/wpa_supplicant.conf",
        "/etc/NetworkManager/system-connections/home.nmconnection",
        "/etc/shadow",
        "/var/lib/saltberry/wifi-password",
        "/srv/tls/server.key",
        "/etc/nginx/saltberry-page.htpasswd",
        "/home/pi/.ssh/id_ed25519",
    ],
)
def test_files_that_hold_secrets_are_known_by_name(path: str) -> None:
    assert masking.secret_file(path)
    assert masking.secret_file(path, 0o100644)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hosts",
        "/etc/docker/daemon.json",
        "/var/lib/kubelet/config.yaml",
        "/etc/apt/keyrings/k.gpg",
    ],
)
def test_others_only_when_nobody_else_may_read_them(path: str) -> None:
    assert not masking.secret_file(path)
    assert not masking.secret_file(path, 0o100640)
    assert masking.secret_file(path, 0o100600)


def test_of_a_secret_file_only_owner_and_mode_are_told() -> None:
    changes = {"diff": "--- a\n+++ b\n-old\n+new\n+newer", "mode": "0644", "user": "root"}
    assert masking.tree(changes, hidden=True) == {
        "diff": "<masked> (2 lines more, 1 lines less)", "mode": "0644", "user": "root",
    }  # fmt: skip
    assert masking.tree({"/root/.kube/config": changes, "/etc/hosts": {"diff": "+new"}}) == {
        "/root/.kube/config": masking.tree(changes, hidden=True), "/etc/hosts": {"diff": "+new"},
    }  # fmt: skip


def test_values_under_secret_names_are_masked_at_any_depth() -> None:
    tree = {"a": [{"password": "x", "token": None, "n": 1}], "auth": {"user": "b"}, "fine": True}
    assert masking.tree(tree) == {
        "a": [{"password": masking.MASK, "token": None, "n": 1}], "auth": masking.MASK, "fine": True,
    }  # fmt: skip


def test_values_of_the_pillar_that_are_marked_by_their_names_are_masked_wherever_they_are() -> None:
    pillar = {
        "smtp": {"password": "correct horse"},
        "tokens": ["abc", "longer one"],
        "user": "somebody",
    }
    known = masking.values_of(pillar)
    assert known == {"correct horse", "longer one"}, "short ones would mask by accident"
    assert masking.text("a correct horse and somebody", known) == "a <masked> and somebody"
    assert masking.tree({"correct horse": 1}, known) == {"<masked>": 1}


def test_masking_twice_is_masking_once() -> None:
    for line in SECRETS:
        assert masking.text(masking.text(line)) == masking.text(line)


@pytest.mark.parametrize(
    "piece", ["a", "a:", "token:", "-a", "--a ", "://a:", "-----BEGIN X-----", '"', " =", "a."]
)
def test_a_long_line_takes_no_long_time_and_breaks_nothing(piece: str) -> None:
    began = time.process_time()
    masking.text(piece * 5000)
    assert time.process_time() - began < 2
