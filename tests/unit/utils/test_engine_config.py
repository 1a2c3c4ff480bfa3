"""Where engines keep their data, in the files as people and packages write them."""

from __future__ import annotations

import json
import tomllib

import pytest
from saltberry_ext.utils import engine_config as config

UNIT = """\
[Unit]
Description=Docker
# ExecStart=/usr/bin/dockerd --data-root /commented
[Service]
EnvironmentFile=-/etc/default/docker
Environment=A=1
ExecStart=/usr/sbin/dockerd -H fd:// \\
    --containerd=/run/containerd/containerd.sock $DOCKER_OPTS
"""


def test_the_last_command_of_unit_and_drop_ins_counts() -> None:
    drop_in = "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd --data-root=/mnt/docker\n"
    found = config.parse_unit([["/lib/docker.service", UNIT]])
    assert found["path"] == "/lib/docker.service"
    assert found["command"].split() == [
        "/usr/sbin/dockerd", "-H", "fd://", "--containerd=/run/containerd/containerd.sock", "$DOCKER_OPTS",
    ]  # fmt: skip
    assert (found["environment_files"], found["environment"]) == (["/etc/default/docker"], " A=1")
    found = config.parse_unit([["/lib/docker.service", UNIT], ["/etc/o.conf", drop_in]])
    assert (found["command"], found["path"]) == (
        "/usr/sbin/dockerd --data-root=/mnt/docker",
        "/etc/o.conf",
    )


@pytest.mark.parametrize(
    ("command", "root", "without"),
    [
        ("/usr/bin/dockerd -H fd://", None, "/usr/bin/dockerd -H fd://"),
        ("/usr/bin/dockerd --data-root /a -H fd://", "/a", "/usr/bin/dockerd -H fd://"),
        ("/usr/bin/dockerd -H fd:// --data-root=/a b", "/a", "/usr/bin/dockerd -H fd:// b"),
        ('/usr/bin/dockerd  --data-root="/a b"  -H fd://', "/a b", "/usr/bin/dockerd  -H fd://"),
        ("-/usr/bin/dockerd -g /a --graph=/b $OPTS", "/b", "-/usr/bin/dockerd $OPTS"),
        ("/usr/bin/dockerd --data-root-like /a", None, "/usr/bin/dockerd --data-root-like /a"),
        ("/usr/bin/dockerd -g/a -H fd://", "/a", "/usr/bin/dockerd -H fd://"),
        ("/usr/bin/dockerd -H fd:// -g=/a", "/a", "/usr/bin/dockerd -H fd://"),
        ("/usr/bin/dockerd -G staff", None, "/usr/bin/dockerd -G staff"),
    ],
)
def test_the_folder_is_taken_out_of_a_command_line_and_nothing_else(
    command: str, root: str | None, without: str
) -> None:
    assert config.command_root("docker", command) == root
    assert config.command_without_root("docker", command) == without


def test_containerd_takes_its_flags_with_one_hyphen_too() -> None:
    command = "/usr/bin/containerd -config /b.toml -root /a --log-level warn"
    assert config.command_root("containerd", command) == "/a"
    assert config.config_path("containerd", command) == "/b.toml"
    left = "/usr/bin/containerd -config /b.toml --log-level warn"
    assert config.command_without_root("containerd", command) == left


def test_a_folder_inside_a_shells_script_is_refused() -> None:
    with pytest.raises(ValueError, match="does not run dockerd itself"):
        config.command_without_root("docker", "/bin/sh -c 'dockerd --data-root /a'")


def test_a_folder_in_an_environment_variable_is_seen_but_not_in_a_comment() -> None:
    assert config.names_root("docker", 'DOCKER_OPTS="--data-root /a"\n')
    assert config.names_root("docker", "DOCKER_OPTS=-g /a\n")
    assert config.names_root("docker", "DOCKER_OPTS=-g/a\n")
    assert not config.names_root("docker", "DOCKER_OPTS=--group docker\n")
    assert not config.names_root(
        "docker", '# DOCKER_OPTS="--data-root /a"\nDOCKER_OPTS="--log-level debug"\n'
    )


def test_paths_of_configuration_files_follow_the_command_line() -> None:
    assert config.config_path("docker", "/usr/bin/dockerd") == "/etc/docker/daemon.json"
    assert config.config_path("docker", "/usr/bin/dockerd --config-file=/a.json") == "/a.json"
    assert config.config_path("containerd", "/usr/bin/containerd -c /b.toml") == "/b.toml"


JSON = '{\n\t"log-driver": "json-file",\n\t"log-opts": {"max-size": "10m",  "max-file":"3"},\n\t"é": [1, 2]\n}\n'


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("", '{\n  "data-root": "/x"\n}\n'),
        ("{}\n", '{\n  "data-root": "/x"\n}\n'),
        ('{"a": 1}', '{"a": 1, "data-root": "/x"}'),
        ('{ "data-root" : "/old" , "a": 1 }', '{ "data-root" : "/x" , "a": 1 }'),
        ('{\n  "graph": "/old",\n  "a": 1\n}', '{\n  "a": 1,\n  "data-root": "/x"\n}'),
        (JSON, JSON.replace("2]\n", '2],\n\t"data-root": "/x"\n')),
    ],
)
def test_daemon_json_keeps_every_other_byte(text: str, new: str) -> None:
    assert config.json_with_root(text, "/x") == new
    assert config.json_root(new) == "/x"
    assert config.json_with_root(new, "/x") == new
    back = config.json_with_root(new, None)
    assert config.json_root(back) is None
    kept = {
        key: value
        for key, value in json.loads(text or "{}").items()
        if key not in ("data-root", "graph")
    }
    assert json.loads(back) == kept


def test_taking_the_setting_out_again_gives_the_very_same_file() -> None:
    assert config.json_with_root(config.json_with_root(JSON, "/x"), None) == JSON


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1,}', "nonsense", '{"a": 1} x'])
def test_a_daemon_json_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        config.json_root(text)
    with pytest.raises(ValueError, match="JSON"):
        config.json_with_root(text, "/x")


TOML = """\
# a comment
version = 2
state = "/run/containerd"  # root = "/not/this"

[plugins]
  [plugins."io.containerd.internal.v1.opt"]
    root = "/neither/this"
"""


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("", 'version = 2\nroot = "/x"\n'),
        ("version = 3", 'version = 3\nroot = "/x"\n'),
        (TOML, TOML.replace("version = 2\n", 'version = 2\nroot = "/x"\n')),
        ("root = '/old' # mine\n[a]\nb = 1\n", 'root = "/x" # mine\n[a]\nb = 1\n'),
        ('"root"="/old"', '"root"="/x"'),
        ("[a]\nb = 1\n", 'root = "/x"\n[a]\nb = 1\n'),
        (
            '# A licence\n\ndisabled_plugins = ["cri"]\n#root = "/old"\n',
            '# A licence\n\nroot = "/x"\ndisabled_plugins = ["cri"]\n#root = "/old"\n',
        ),
    ],
)
def test_config_toml_keeps_every_other_byte(text: str, new: str) -> None:
    assert config.toml_with_root(text, "/x") == new
    assert config.toml_root(new) == "/x"
    assert config.toml_with_root(new, "/x") == new
    assert config.toml_root(config.toml_with_root(new, None)) is None


def test_taking_the_line_out_again_gives_the_very_same_file() -> None:
    assert config.toml_with_root(config.toml_with_root(TOML, "/x"), None) == TOML


def test_a_setting_that_no_line_edit_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot edit"):
        config.toml_with_root('root = """/old"""\n', "/x")
    with pytest.raises(ValueError, match="TOML"):
        config.toml_with_root("version = ", "/x")


def test_saltberrys_own_configuration_of_containerd_renders_what_the_move_writes() -> None:
    """So that a state.apply after a move changes nothing."""
    head = "# Written by Salt (salt/containerd). Registries are in certs.d.\nversion = 2\n"
    rest = '\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "pause"\n'
    assert config.toml_with_root(head + rest, "/x") == head + 'root = "/x"\n' + rest
    assert tomllib.loads(head + rest)


def test_an_engine_never_starts_beside_a_disk_that_is_missing() -> None:
    text = config.drop_in("/srv/containers", None)
    assert text is not None
    assert "RequiresMountsFor=/srv/containers\n" in text
    assert "AssertPathExists=/srv/containers/.saltberry-storage\n" in text
    assert "ExecStart" not in text
    assert config.drop_in(None, None) is None
    taken = config.drop_in(None, "/usr/sbin/dockerd -H fd://")
    assert taken is not None
    assert taken.endswith("[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd://\n")
