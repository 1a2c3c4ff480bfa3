"""The page as text: everything escaped, nothing from elsewhere, the important things said."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from saltberry_ext.runners import _pagehtml as pagehtml

from tests.unit.page import rack

TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "article",
    "h1", "h2", "h3", "p", "span", "div", "dl", "dt", "dd", "i", "details", "summary", "small", "pre",
    "code", "a", "table", "thead", "tbody", "tr", "th", "td", "svg", "rect",
}  # fmt: skip


class Reader(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def read(**changed: Any) -> Reader:
    return Reader(pagehtml.page(rack.facts(**changed)))


@pytest.mark.parametrize("make", [rack.facts, rack.hostile])
def test_nothing_on_it_runs_or_comes_from_elsewhere(make: Any) -> None:
    text = pagehtml.page(make())
    seen = Reader(text)
    assert {tag for tag, _ in seen.tags} <= TAGS
    assert not seen.open
    for _tag, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert str(attributes.get("href", "#")).startswith("#")
        assert "url(" not in str(attributes.get("style"))
    assert "@import" not in text and "url(" not in text
    policy = [
        found["content"] for tag, found in seen.tags if tag == "meta" and "http-equiv" in found
    ]
    assert "default-src 'none'" in str(policy[0])


def test_what_hostile_names_say_is_to_be_read_as_it_is() -> None:
    seen = Reader(pagehtml.page(rack.hostile()))
    shown = rack.NASTY.replace("\u202e", "\ufffd")
    assert seen.text.count(shown) >= 12
    assert "\u202e" not in seen.text


@pytest.mark.parametrize("value", ["<b>", "&amp;", "a\x00b\x1b[1m", '"', "'", 7, None, ["<b>"]])
def test_only_elements_are_markup(value: Any) -> None:
    made = pagehtml.el("p", value, title=value)
    assert made.count("<") == 2
    assert not {char for char in made if not char.isprintable()}
    seen = Reader(made)
    if isinstance(value, str) and value.isprintable():
        assert seen.texts == [value] and seen.tags == [("p", {"title": value})]


def test_every_node_has_its_place_the_master_first() -> None:
    names = [found["id"] for tag, found in read().tags if tag == "article"]
    nodes = [name for name in names if str(name).startswith("node-")]
    assert nodes == [f"node-{name}" for name in
                     ("nfs1", "cp1", "pi-01", "pi-02", "pi-03", "pi-04", "pi-05", "pi-06")]  # fmt: skip
    assert "drift-pi-02" in names


def test_it_says_at_once_how_the_rack_is() -> None:
    assert "1 drifted, 1 unreachable, 1 render error, 1 apply in progress" in read().text
    clean = {"nodes": {"cp1": rack.row()}, "check": rack.facts()["latest"]["check"], "success": 1}
    assert "all clean" in read(latest=clean).text
    assert "What differs" not in read(latest=clean).text
    assert "not checked yet" in read(latest={"nodes": {}, "check": None, "success": None}).text


def test_checks_that_have_stopped_are_said_in_red() -> None:
    late = read(now=rack.NOW + 3 * rack.HOUR)
    assert "not checked lately" in late.text
    assert "saltberry-drift.timer" in late.text
    assert "saltberry-drift.timer" not in read(now=rack.NOW + 3 * rack.HOUR, every=0).text
    hung = {
        "kind": "hung",
        "began": rack.NOW,
        "reason": "since 90 min",
        "told": "",
        "seconds": None,
    }
    assert "since 90 min" in read(history=[hung]).text


def test_heat_throttling_and_room_are_shown() -> None:
    text = read().text
    for said in (
        "81 °C",
        "under-voltage since the boot",
        "local: 1 GB of 31 GB free",
        "share: 3.1 TB of 5.0 TB free",
    ):
        assert said in text
    assert "5 h ago" in text, "when pi-03 was seen last"


def test_differences_are_folded_but_one_alone_is_not() -> None:
    several = [found for tag, found in read().tags if tag == "details"]
    assert not any("open" in found for found in several)
    one = rack.row("drifted", drift=[rack.drifted("base-hosts", ["-127.0.1.1 pi"])])
    alone = read(latest={**rack.facts()["latest"], "nodes": {"pi-02": one}})
    assert [("open" in found) for tag, found in alone.tags if tag == "details"] == [True, False]
    assert "-127.0.1.1 pi" in alone.text


def test_who_waits_is_shown_with_the_fingerprint() -> None:
    assert "9f:3c:61:d2" in read().text
    assert "waiting to be let in" not in read(pending=[]).text


def test_the_sparkline_has_a_bar_for_every_check_of_the_rack() -> None:
    bars = [found["class"] for tag, found in read().tags if tag == "rect"]
    assert (len(bars), bars.count("b1"), bars.count("b2"), bars.count("bm")) == (48, 4, 3, 1)
    some = [{**entry, "tgt": "pi-01"} for entry in rack.checks()]
    assert not [tag for tag, _ in read(history=some).tags if tag == "rect"]
