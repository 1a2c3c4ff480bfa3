"""The rack's page in a real browser, and page.write on a real master."""

from __future__ import annotations

import html
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from saltfactories.daemons.master import SaltMaster
from saltfactories.daemons.minion import SaltMinion

from tests.integration import browser
from tests.integration.conftest import REPO
from tests.integration.test_reconcile import accept, remove_key
from tests.unit.page import rack

WIDTHS = {"phone": 360, "desktop": 1280}


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pagehtml", REPO / "_runners" / "_pagehtml.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rack as good.html and, with names that mean harm, as hostile.html."""
    folder = tmp_path_factory.mktemp("page")
    for name, facts in (("good", rack.facts()), ("hostile", rack.hostile())):
        (folder / f"{name}.html").write_text(_generator().page(facts), encoding="utf-8")
    return folder


def test_hostile_names_are_text_to_a_browser(pages: Path) -> None:
    seen = browser.dom(pages, f"file://{pages}/hostile.html")
    assert "<title>pwned" not in seen
    assert "<script" not in seen and "<img" not in seen
    assert html.escape(rack.SCRIPT, quote=False) in seen


@pytest.mark.parametrize("name", ["good", "hostile"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_nobody_has_to_scroll_sideways(pages: Path, name: str, width: int) -> None:
    frame = pages / f"frame-{name}-{width}.html"
    frame.write_text(
        f'<iframe src={name}.html width={width} height=800 onload="document.title=[this.contentDocument'
        '.documentElement.scrollWidth,this.contentDocument.readyState].join()"></iframe>',
        encoding="utf-8",
    )
    seen = browser.dom(
        pages, f"file://{frame}", "--allow-file-access-from-files", "--virtual-time-budget=5000"
    )
    wide, _, state = seen.partition("<title>")[2].partition("</title>")[0].partition(",")
    assert state == "complete", seen[:300]
    assert 0 < int(wide) <= width


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_is_light_by_day_and_dark_by_night(pages: Path, width: int) -> None:
    url = f"file://{pages}/good.html"
    assert min(browser.corner(pages, url, width)) > 200
    assert max(browser.corner(pages, url, width, dark=True)) < 60


def test_the_page_of_a_real_master_shows_a_hostile_id_as_text(
    master: SaltMaster, cp1: SaltMinion, tmp_path: Path
) -> None:
    accept(master, rack.SCRIPT.replace("/", "|"))
    program = str(Path(sys.executable).with_name("salt-run"))
    command = [
        program,
        "-c",
        master.config_dir,
        "--out=json",
        "page.write",
        f"folder={tmp_path}/made",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    finally:
        remove_key(master, rack.SCRIPT.replace("/", "|"))
    assert json.loads(done.stdout) == {"ok": True, "file": f"{tmp_path}/made/index.html"}
    page = tmp_path / "made" / "index.html"
    assert page.stat().st_mode & 0o777 == 0o644
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;document.title=" in text
    assert 'id="node-cp1"' in text
