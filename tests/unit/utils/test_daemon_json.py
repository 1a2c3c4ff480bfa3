"""Docker's log limits go into daemon.json; everything else stays."""

from __future__ import annotations

import json

import pytest
from saltberry_ext.utils import daemon_json

LIMITS = {"max-size": "10m", "max-file": "3"}


@pytest.mark.parametrize("text", ["", "\n", "{}"])
def test_a_new_file_has_just_the_limits(text: str) -> None:
    new = daemon_json.with_log_limits(text, "10m", 3)
    assert json.loads(new) == {"log-driver": "json-file", "log-opts": LIMITS}
    assert daemon_json.with_log_limits(new, "10m", 3) == new


def test_everything_else_stays_in_its_order_and_indentation() -> None:
    text = '{\n    "data-root": "/srv/ü",\n    "log-opts": {\n        "labels": "x"\n    },\n    "dns": []\n}\n'
    new = daemon_json.with_log_limits(text, "1g", 5)
    settings = json.loads(new)
    assert settings["data-root"] == "/srv/ü"
    assert settings["log-opts"] == {"labels": "x", "max-size": "1g", "max-file": "5"}
    assert [key for key in settings if key != "log-driver"] == ["data-root", "log-opts", "dns"]
    assert '\n    "data-root": "/srv/ü",\n' in new


def test_a_file_that_is_right_stays_as_it_is_written() -> None:
    text = '{"log-opts":{"max-file":"3","max-size":"10m"},   "log-driver":"json-file"}'
    assert daemon_json.with_log_limits(text, "10m", 3) == text


def test_the_driver_local_is_a_file_too() -> None:
    new = daemon_json.with_log_limits('{"log-driver": "local"}', "10m", 3)
    assert json.loads(new) == {"log-driver": "local", "log-opts": LIMITS}


def test_another_log_driver_would_not_take_the_options() -> None:
    text = '{"log-driver": "journald"}'
    assert daemon_json.with_log_limits(text, "10m", 3) == text


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"log-opts": []}', '{"a": 1,}'])
def test_a_broken_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON"):
        daemon_json.with_log_limits(text, "10m", 3)
