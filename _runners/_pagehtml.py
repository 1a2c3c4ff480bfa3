"""The rack as one web page: no scripts, nothing from elsewhere, every text escaped.

Pure Python, no Salt. Elements are made by :func:`el`, which escapes whatever is not markup made by it,
so that a text which forgets to be escaped can not be written here.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VOID = ("meta", "link", "rect", "line")
# Checks in the sparkline
BARS = 60
WARM, HOT = 70.0, 80.0
FULL = 0.9

_CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--text:#1c2330;--soft:#5c6675;--line:#dfe3e9;
--ok:#1a7f4b;--ok-bg:#e2f4ea;--warn:#8f5a00;--warn-bg:#fdf0d5;--bad:#b3261e;--bad-bg:#fbe4e2;
--idle:#475569;--idle-bg:#e9edf2;--accent:#b4124f;--code:#f1f3f6;--plus:#116a3b;--minus:#a3211a}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b2129;--text:#e4e8ee;--soft:#9aa6b5;
--line:#2d3642;--ok:#6fd39c;--ok-bg:#16372a;--warn:#f0be62;--warn-bg:#3b2d10;--bad:#ff9a90;
--bad-bg:#451d1b;--idle:#b6c2d1;--idle-bg:#2a323d;--accent:#ff6f9f;--code:#141920;--plus:#7fdba8;
--minus:#ff9d94}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--text);font:16px/1.45 system-ui,-apple-system,"Segoe UI",
"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main,header,footer{max-width:72rem;margin:0 auto;padding:0 1rem}
header{padding-top:1.25rem;display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center}
h1{font-size:1.5rem;margin:0}h1 span{color:var(--accent)}
h2{font-size:1.05rem;margin:1.75rem 0 .6rem}
.sub{color:var(--soft);font-size:.9rem;flex-basis:100%;margin:0}
.badge{display:inline-block;padding:.12rem .55rem;border-radius:1rem;font-size:.8rem;font-weight:600;
max-width:100%}
.ok{color:var(--ok);background:var(--ok-bg)}.warn{color:var(--warn);background:var(--warn-bg)}
.bad{color:var(--bad);background:var(--bad-bg)}.idle{color:var(--idle);background:var(--idle-bg)}
.note{margin:1rem 0 0;padding:.7rem .9rem;border-radius:.5rem;border-left:4px solid currentColor}
.grid{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20.5rem),1fr));}
.card{background:var(--card);border:1px solid var(--line);border-radius:.7rem;padding:.85rem 1rem;min-width:0}
.top{display:flex;flex-wrap:wrap;gap:.35rem .5rem;align-items:center}
.top h3{margin:0;font-size:1.1rem;flex:1 1 auto}
.role{color:var(--soft);font-size:.85rem;margin:.1rem 0 .5rem}
dl{display:grid;grid-template-columns:auto 1fr;gap:.15rem .8rem;margin:.4rem 0 0;font-size:.9rem}
dt{color:var(--soft)}dd{margin:0;min-width:0}
dd .badge{font-size:.75rem}
.bar{height:.4rem;border-radius:.2rem;background:var(--idle-bg);overflow:hidden;margin-top:.25rem}
.bar i{display:block;height:100%;background:var(--ok)}.bar i.warn{background:var(--warn)}
.why{margin:.55rem 0 0;font-size:.9rem;color:var(--soft);white-space:pre-line}
details{margin-top:.55rem;border-top:1px solid var(--line);padding-top:.5rem}
details details{margin-left:.1rem}
summary{cursor:pointer;font-weight:600;font-size:.92rem}summary small{font-weight:400;color:var(--soft)}
pre{background:var(--code);border:1px solid var(--line);border-radius:.4rem;padding:.5rem .65rem;
overflow-x:auto;font:.8rem/1.4 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;margin:.4rem 0;
overflow-wrap:normal}
pre .p{color:var(--plus)}pre .m{color:var(--minus)}pre .h{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th{text-align:left;color:var(--soft);font-weight:600}
td,th{padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}.num{white-space:nowrap}
.scroll{overflow-x:auto}
svg{display:block;width:100%;height:4rem}
.b0{fill:var(--ok)}.b1{fill:var(--warn)}.b2{fill:var(--bad)}.bm{fill:none;stroke:var(--bad);stroke-width:1.5;
stroke-dasharray:2 2}
a{color:inherit}h3 small{font-weight:400;color:var(--soft);font-size:.85rem}
.differs+.differs{margin-top:.8rem}.differs h3{margin:0}
code{font:.85em ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
footer{color:var(--soft);font-size:.8rem;padding-top:1.5rem;padding-bottom:2rem}
"""

_STATUS = {
    "clean": "ok", "drifted": "warn", "unreachable": "bad", "render error": "bad",
    "apply in progress": "idle",
}  # fmt: skip
_KINDS = {"missed": "bm", "cut off": "b2", "hung": "b2"}


class Markup(str):
    """Text that is HTML already. Made by :func:`el` and by nothing else."""

    __slots__ = ()


def el(name: str, /, *inside: Any, **attributes: Any) -> Markup:
    """Return an element.

    Args:
        name: of the element.
        inside: markup, or anything else, which is escaped; None is left out, lists are laid flat.
        attributes: escaped, too; ``class_`` is class, and one that is None or False is left out.
    """
    parts = [
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escaped(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    ]
    opening = f"<{name}{''.join(parts)}>"
    if name in VOID:
        return Markup(opening)
    return Markup(f"{opening}{''.join(_flat(inside))}</{name}>")


def _flat(inside: Iterable[Any]) -> Iterable[str]:
    for item in inside:
        if isinstance(item, Markup):
            yield item
        elif isinstance(item, list | tuple):
            yield from _flat(item)
        elif item is not None:
            yield escaped(item)


def escaped(value: Any) -> str:
    """Return any value as text of a page: no markup, no control characters, nothing that turns the
    direction of writing."""
    text = "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for char in str(value)
    )
    return html.escape(text, quote=True)


def page(facts: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        facts: ``rack`` (its name), ``now``, ``every`` (seconds between checks, 0 for none), ``nodes``
            (rows of ``rack.status``), ``problems``, ``pending`` (of ``enrol.pending``), ``latest``
            and ``history`` (of the checks).

    Returns:
        A whole HTML document.
    """
    name = facts["rack"] or "rack"
    body = el(
        "body",
        el("header", el("h1", "rack ", el("span", name)), _verdict(facts), _when(facts)),
        el("main", _alarms(facts), _sparkline(facts), _differing(facts), _nodes(facts), _pending(facts["pending"]),
           _past(facts)),
        el("footer", "Saltberry. Made anew by salt-run page.write; no scripts, nothing from elsewhere."),
    )  # fmt: skip
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="refresh", content="120"),
        el("meta", name="robots", content="noindex"),
        el("title", f"rack {name}: {_verdict_text(facts)[0]}"),
        el("style", Markup(_CSS)),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


# --- the whole ---------------------------------------------------------------------------------------


def _verdict_text(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return how the rack is, in a few words and as a colour."""
    if _stale(facts):
        return "not checked lately", "bad"
    rows = facts["latest"]["nodes"]
    if not rows:
        return "not checked yet", "idle"
    number: dict[str, int] = {}
    for entry in rows.values():
        number[entry["status"]] = number.get(entry["status"], 0) + 1
    if set(number) == {"clean"}:
        return "all clean", "ok"
    order = [status for status in _STATUS if status in number and status != "clean"]
    worst = "bad" if {"unreachable", "render error"} & set(number) else _STATUS[order[0]]
    return ", ".join(f"{number[status]} {status}" for status in order), worst


def _verdict(facts: Mapping[str, Any]) -> Markup:
    text, colour = _verdict_text(facts)
    return el("span", text, class_=f"badge {colour}", id="verdict")


def _when(facts: Mapping[str, Any]) -> Markup:
    check = facts["latest"].get("check")
    if check:
        said = f"Checked {_ago(facts['now'] - check['ended'])} ago, in {_ago(check['seconds'])}. "
    else:
        said = "No check of the whole rack yet. "
    due = f"Due every {_ago(facts['every'])}. " if facts["every"] else "Checks are switched off. "
    return el("p", said, due, f"Page of {_moment(facts['now'])}.", class_="sub")


def _stale(facts: Mapping[str, Any]) -> bool:
    """Say whether checks that are due have stopped."""
    check = facts["latest"].get("check")
    return bool(check and facts["every"] and facts["now"] - check["began"] > 2 * facts["every"])


def _alarms(facts: Mapping[str, Any]) -> list[Markup]:
    """Return what a person must know first."""
    said = []
    if _stale(facts):
        since = _moment(facts["latest"]["check"]["began"])
        said.append((f"No check of the whole rack since {since}: look at saltberry-drift.timer and "
                     "saltberry-drift.service on the master.", "bad"))  # fmt: skip
    for entry in facts["history"][-1:]:
        if entry["kind"] in ("hung", "cut off"):
            said.append(
                (
                    f"The check of {_moment(entry['began'])}: {entry['kind']}, {entry['reason']}.",
                    "bad",
                )
            )
    problems = [*facts["problems"], *((facts["latest"].get("check") or {}).get("problems") or ())]
    said += [(problem, "bad") for problem in dict.fromkeys(problems)]
    return [el("p", text, class_=f"note {colour}") for text, colour in said]


def _sparkline(facts: Mapping[str, Any]) -> Markup | None:
    """Return the last checks as bars: as high as states differ, green, amber or red by outcome."""
    told = [e for e in facts["history"] if e["kind"] in ("check", *_KINDS) and not e.get("tgt")]
    entries = told[-BARS:]
    if not entries:
        return None
    sizes = [sum(len(ids) for ids in (entry.get("drift") or {}).values()) for entry in entries]
    most = max(4, *sizes)
    bars = []
    for number, (entry, size) in enumerate(zip(entries, sizes, strict=True)):
        kind = _KINDS.get(entry["kind"]) or f"b{entry['exit'] if entry['exit'] in (0, 1, 2) else 2}"
        high = (
            10.0
            if kind == "bm"
            else 6 + 34 * size / most
            if kind != "b2"
            else max(20.0, 6 + 34 * size / most)
        )
        told_as = f"{_moment(entry['began'])}: {_told(entry)}"
        bars.append(el("rect", x=number * 10 + 1, y=f"{40 - high:.1f}", width=8, height=f"{high:.1f}",
                       rx=1.5, class_=kind))  # fmt: skip
        bars[-1] = Markup(bars[-1][:-1] + ">" + el("title", told_as) + "</rect>")
    wide = max(len(entries), 24) * 10
    picture = el("svg", bars, viewBox=f"0 0 {wide} 40", preserveAspectRatio="none", role="img",
                 aria_label=f"The last {len(entries)} checks")  # fmt: skip
    return el("section", el("h2", f"The last {len(entries)} checks"),
              el("div", picture, class_="card"), id="past")  # fmt: skip


def _told(entry: Mapping[str, Any]) -> str:
    if entry["kind"] != "check":
        return f"{entry['kind']}: {entry.get('reason', '')}"
    number = {status: count for status, count in (entry.get("counts") or {}).items() if count}
    return ", ".join(f"{count} {status}" for status, count in number.items()) or "nothing checked"


# --- nodes -------------------------------------------------------------------------------------------


def _nodes(facts: Mapping[str, Any]) -> Markup:
    rows = {row["id"]: row for row in facts["nodes"]}
    names = sorted(
        {*rows, *facts["latest"]["nodes"]}, key=lambda name: _order(rows.get(name), name)
    )
    cards = [_card(name, rows.get(name), facts["latest"]["nodes"].get(name), facts["now"])
             for name in names]  # fmt: skip
    none = el("p", "No nodes are known.", class_="why")
    head = el("h2", "One node" if len(names) == 1 else f"{len(names)} nodes")
    return el("section", head, el("div", cards or none, class_="grid"), id="nodes")


def _order(row: Mapping[str, Any] | None, name: str) -> tuple[int, str]:
    """Sort the master first, then the control plane, then the others by name."""
    roles = str((row or {}).get("role") or "").split(",")
    rank = 0 if "master" in roles else 1 if "control_plane" in roles else 2
    return rank, name


def _card(
    name: str, row: Mapping[str, Any] | None, found: Mapping[str, Any] | None, now: float
) -> Markup:
    known = row or {}
    reasons = [known.get("reason"), (found or {}).get("reason")]
    return el(
        "article",
        el("div", el("h3", name), _ready(known), _drift_badge(name, found), class_="top"),
        el("p", _roles(known), class_="role"),
        _facts_of(known, found, now),
        [el("p", _first(reason), class_="why") for reason in dict.fromkeys(filter(None, reasons))],
        class_="card",
        id=f"node-{name}",
    )


def _first(reason: Any, lines: int = 6) -> str:
    return "\n".join(str(reason).splitlines()[:lines])[:900]


def _ready(row: Mapping[str, Any]) -> Markup | None:
    """Return whether Kubernetes has the node; None where that does not apply."""
    key = row.get("key")
    if key not in (None, "accepted"):
        return el("span", "no key" if key == "none" else f"key {key}", class_="badge idle")
    if row.get("ready"):
        return el("span", "Ready", class_="badge ok")
    if row.get("joined") is None and row.get("ready") is None:
        return None
    return el("span", "not Ready" if row.get("joined") else "not joined", class_="badge bad")


def _roles(row: Mapping[str, Any]) -> str:
    return str(row.get("role") or "role unknown").replace("_", " ").replace(",", ", ")


def _drift_badge(name: str, found: Mapping[str, Any] | None) -> Markup:
    if found is None:
        return el("span", "never checked", class_="badge idle")
    count = len(found["drift"]) + found["more"]
    text = f"{count} drifted" if found["status"] == "drifted" else found["status"]
    badge = el("span", text, class_=f"badge {_STATUS.get(found['status'], 'bad')}")
    return el("a", badge, href=f"#drift-{name}") if found["drift"] else badge


def _facts_of(row: Mapping[str, Any], found: Mapping[str, Any] | None, now: float) -> Markup:
    vitals = (found or {}).get("vitals") or {}
    pairs: list[tuple[str, Any]] = [
        ("Version", row.get("version")),
        ("Address", row.get("ip")),
        ("Model", vitals.get("model")),
        ("Temperature", _heat(vitals)),
        ("Storage", _storage(vitals.get("storage"))),
        ("Up", _ago(vitals["uptime"]) if vitals.get("uptime") else None),
        ("Last seen", _seen(found, now)),
    ]
    shown = [(el("dt", name), el("dd", value)) for name, value in pairs if value]
    return el("dl", [list(pair) for pair in shown])


def _seen(found: Mapping[str, Any] | None, now: float) -> str | None:
    if found is None:
        return None
    seen = found.get("seen")
    return f"{_ago(now - seen)} ago" if seen else "never by a check"


def _heat(vitals: Mapping[str, Any]) -> list[Any] | None:
    """Return the temperature, coloured when it is high, and what the firmware complains of."""
    said: list[Any] = []
    heat = vitals.get("temperature")
    if heat is not None:
        colour = "bad" if heat >= HOT else "warn" if heat >= WARM else ""
        text = f"{heat:.0f} °C"
        said.append(el("span", text, class_=f"badge {colour}") if colour else text)
    for word in vitals.get("throttled") or ():
        said += [" ", el("span", word, class_="badge warn")]
    return said or None


def _storage(storage: Mapping[str, Any] | None) -> list[Any] | None:
    """Return where the data is, how much is free, and that as a bar."""
    if not storage or not storage.get("size"):
        return None
    used = 1 - storage["free"] / storage["size"]
    width = f"width:{100 * min(1.0, max(0.0, used)):.0f}%"
    return [
        f"{storage['backend']}: {_bytes(storage['free'])} of {_bytes(storage['size'])} free",
        el("div", el("i", class_="warn" if used > FULL else None, style=width), class_="bar"),
    ]


def _differing(facts: Mapping[str, Any]) -> Markup | None:
    """Return what differs, node by node, each state to be folded out."""
    rows = facts["latest"]["nodes"]
    cards = [_differences(name, rows[name]) for name in sorted(rows) if rows[name]["drift"]]
    return el("section", el("h2", "What differs"), cards, id="drift") if cards else None


def _differences(name: str, found: Mapping[str, Any]) -> Markup:
    """Return the drifted states of a node. One alone is there to be read at once."""
    count = len(found["drift"]) + found["more"]
    several = f"{count} states, as of {_moment(found['checked'])}"
    one = f"one state, as of {_moment(found['checked'])}"
    return el(
        "article",
        el("h3", name, " ", el("small", one if count == 1 else several)),
        [_state(entry, unfolded=count == 1) for entry in found["drift"]],
        el("p", f"… and {found['more']} more", class_="why") if found["more"] else None,
        el("p", "To mend it: ", el("code", f"salt-run drift.fix {name}"), class_="why"),
        class_="card differs",
        id=f"drift-{name}",
    )


def _state(entry: Mapping[str, Any], *, unfolded: bool) -> Markup:
    name = "" if entry["name"] in ("", entry["id"]) else f"  {entry['name']}"
    badge = el("span", "cannot be", class_="badge bad") if entry["failed"] else None
    follows = (
        el("p", f"follows from: {', '.join(entry['follows'])}", class_="why")
        if entry["follows"]
        else None
    )
    lines = entry["lines"]
    return el(
        "details",
        el("summary", entry["id"], " ", badge, el("small", f" {entry['function']}{name}")),
        el("p", _first(entry["comment"]), class_="why") if entry["comment"] else None,
        follows,
        el("pre", [_diff_line(line) for line in lines]) if lines else None,
        open=unfolded,
    )


def _diff_line(line: str) -> Markup:
    kind = {"+": "p", "-": "m", "@": "h"}.get(line[:1])
    return el("span", f"{line}\n", class_=kind)


# --- the rest ----------------------------------------------------------------------------------------


def _pending(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return who waits to be let in. Only the fingerprint tells one from another."""
    if not rows:
        return None
    lines = [
        el("tr", el("td", row["id"]), el("td", el("code", row["fingerprint"])),
           el("td", row["since"], class_="num"), el("td", row["why"]))
        for row in rows[:50]
    ]  # fmt: skip
    head = el(
        "tr", [el("th", text) for text in ("Calls itself", "Fingerprint", "Since", "Why it waits")]
    )
    return el(
        "section", el("h2", f"{len(rows)} waiting to be let in"),
        el("div", el("table", el("thead", head), el("tbody", lines)), class_="card scroll"), id="pending",
    )  # fmt: skip


def _past(facts: Mapping[str, Any]) -> Markup | None:
    if not facts["history"]:
        return None
    lines = [
        el("tr", el("td", _moment(entry["began"]), class_="num"),
           el("td", "" if entry.get("seconds") is None else _ago(entry["seconds"]), class_="num"),
           el("td", entry["told"]))
        for entry in reversed(facts["history"][-25:])
    ]  # fmt: skip
    table = el("table", el("tbody", lines))
    return el("section", el("div", el("details", el("summary", "History"), el("div", table, class_="scroll")),
                            class_="card"), id="history", style="margin-top:1.5rem")  # fmt: skip


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _ago(seconds: float) -> str:
    """Return a duration as a person says it."""
    seconds = max(0.0, seconds)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
