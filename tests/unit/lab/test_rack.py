"""What the lab writes for a rack: a pillar that the master takes, and mounts that the states expect."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from lab import rack as lab_rack
from lab.rack import Rack, RackError, describe, with_role

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def rackspec() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rackspec", REPO / "_utils/rackspec.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rack:
    monkeypatch.setattr(lab_rack, "STATE", tmp_path)
    built = {"version": "1.20.2", "package_revision": "1.1", "key_sha256": "0" * 64}
    return Rack("test", "10.78.3.0/24", "image", kubernetes=built, roles={"pi-01": "worker"})


def merged(base: Any, over: Any) -> Any:
    """Lay one tree over another, as the master does (pillar_source_merging_strategy)."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}


@pytest.mark.parametrize("upstream", [False, True])
def test_the_pillar_of_a_rack_is_one_that_the_master_takes(
    rack: Rack, rackspec: ModuleType, upstream: bool
) -> None:
    rack.upstream = upstream
    defaults = yaml.safe_load((REPO / "pillar/defaults.sls").read_text())
    written = yaml.safe_load(describe(rack))
    node = rackspec.load(merged(defaults, written)).node("pi-01")
    assert node["roles"] == ["worker"]
    assert written["nfs"] == {"manage_mounts": False}
    assert ("version" in written["kubernetes"]) is not upstream


def test_a_role_is_written_into_the_pillar_and_the_rest_of_it_stays(rack: Rack) -> None:
    mine = describe(rack) + "# mine\nservices: {registry: {enabled: true}}\n"
    written = with_role(mine, "pi-05", "storage")
    assert yaml.safe_load(written)["nodes"]["pi-05"] == {"roles": ["storage"]}
    assert [line for line in written.splitlines() if "pi-05" not in line] == mine.splitlines()


def test_a_role_that_the_pillar_says_already_is_not_written_twice(rack: Rack) -> None:
    with pytest.raises(RackError, match="what pi-01 is"):
        with_role(describe(rack), "pi-01", "worker")


def test_the_share_lies_where_the_pillar_has_it_and_no_node_sees_anothers_folder(
    rack: Rack,
) -> None:
    share = yaml.safe_load((REPO / "pillar/defaults.sls").read_text())["nfs"]
    ((whole, where),) = rack.share("nfs1").items()
    assert where == share["path"]
    for node in ("pi-01", "pi-02"):
        assert rack.share(node) == {
            whole / "nodes" / node: f"{share['mount']}/node",
            whole / "volumes": f"{share['mount']}/volumes",
        }
        assert (whole / "nodes" / node).is_dir()
