"""config.txt: only our block changes, and the node then wants a reboot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from saltberry_ext.modules import firmware
from saltberry_ext.states import firmware as state
from saltberry_ext.utils import conffiles

STOCK = "# For more options see\ndtparam=audio=on\n\n[cm4]\notg_mode=1\n"


@pytest.fixture
def wishes() -> dict[str, str]:
    return {}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(firmware, "_ROOT", tmp_path)
    path = tmp_path / "boot/firmware/config.txt"
    path.parent.mkdir(parents=True)
    path.write_text(STOCK)
    return path


@pytest.fixture
def configure_loader_modules(wishes: dict[str, str]) -> dict[Any, Any]:
    utils = {
        f"conffiles.{name}": getattr(conffiles, name)
        for name in ("read", "write", "diff", "config_txt_with")
    }
    functions = {f"firmware.{n}": getattr(firmware, n) for n in ("path", "current", "write")}
    return {
        firmware: {"__salt__": {"node.want_reboot": wishes.__setitem__}, "__utils__": utils},
        state: {"__salt__": functions, "__utils__": utils, "__opts__": {"test": False}},
    }


def test_the_block_holds_for_every_model_and_comes_last(
    config: Path, wishes: dict[str, str]
) -> None:
    ret = state.config_txt("firmware", {"gpu_mem": 16, "dtparam": ["spi=on", "i2c_arm=on"]})
    assert ret["result"] is True
    lines = config.read_text().removeprefix(STOCK).splitlines()
    assert lines[1:-1] == ["[all]", "gpu_mem=16", "dtparam=spi=on", "dtparam=i2c_arm=on"]
    assert list(wishes) == ["firmware"]
    wishes.clear()
    again = state.config_txt("firmware", {"gpu_mem": 16, "dtparam": ["spi=on", "i2c_arm=on"]})
    assert (again["changes"], wishes) == ({}, {})


def test_other_values_replace_the_block_and_none_takes_it_away(config: Path) -> None:
    state.config_txt("firmware", {"gpu_mem": 16})
    state.config_txt("firmware", {"gpu_mem": 64})
    assert config.read_text().count("gpu_mem") == 1
    assert state.config_txt("firmware", {})["changes"]
    assert config.read_text() == STOCK
    assert state.config_txt("firmware", {})["changes"] == {}


def test_what_is_not_ours_stays_byte_for_byte(config: Path) -> None:
    config.write_bytes(STOCK.encode().rstrip(b"\n"))
    assert state.config_txt("firmware", {})["changes"] == {}
    assert config.read_bytes() == STOCK.encode().rstrip(b"\n")


def test_no_pi_no_config(config: Path, wishes: dict[str, str]) -> None:
    config.unlink()
    ret = state.config_txt("firmware", {"gpu_mem": 16})
    assert (ret["result"], ret["changes"], wishes) == (True, {}, {})
    assert not config.exists()


def test_a_test_run_writes_nothing(
    config: Path, wishes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(state.__opts__, "test", True)
    ret = state.config_txt("firmware", {"gpu_mem": 16})
    assert ret["result"] is None
    assert "+gpu_mem=16" in ret["changes"]["diff"]
    assert (config.read_text(), wishes) == (STOCK, {})
