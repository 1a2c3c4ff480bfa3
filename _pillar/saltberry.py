"""External pillar: judge the rack, and tell each minion who it is.

Runs on the master whenever a minion's pillar is compiled, so at each ``state.apply`` of each node.

* The whole rack is checked by ``_utils/rackspec.py``. A bad one raises: Salt then puts the text into
  the pillar's ``_errors``, and every ``state.apply`` refuses with it before it touches anything.
* A good one adds ``node`` (this minion's id, roles, address) and ``cluster`` (the public facts of the
  cluster, which ``rack.reconcile`` keeps in ``cluster.json``).

Master configuration::

    pillar_dirs: [<checkout>/_pillar]
    ext_pillar:
      - saltberry: {}
    saltberry:
      state_dir: /var/lib/saltberry      # the default
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

__opts__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

STATE_DIR = "/var/lib/saltberry"
REPO = Path(__file__).resolve().parents[1]
# The facts that every minion may know. What else is in the file stays on the master.
CLUSTER_KEYS = ("endpoint", "ca_hash", "version", "cni")
CLUSTER_NODE_KEYS = ("ip", "pod_cidr")


def ext_pillar(minion_id: str, pillar: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the pillar keys ``node`` and ``cluster`` of a minion.

    minion_id
        The minion that asks. Salt has checked that it holds this id's key.
    pillar
        What ``pillar/top.sls`` gave it: defaults and rack.

    Raises ValueError (in plain words, for the user's eyes) when the rack, the id or ``cluster.json``
    is not as it must be.
    """
    rackspec = _rackspec()
    # Salt gives the master's own runs (orchestration) an id that no host can have. Such a run needs
    # the rack, but is no node.
    own_run = minion_id.endswith("_master")
    if not own_run and not rackspec.valid_id(minion_id):
        raise ValueError(
            f"the minion id {minion_id!r} is not a host name; set another id in /etc/salt/minion"
            " (lower-case letters, digits, hyphens) and restart the minion"
        )
    _require_files(pillar)
    rack = rackspec.load(pillar)
    extra = {} if own_run else {"node": rack.node(minion_id)}
    state_dir = (__opts__.get("saltberry") or {}).get("state_dir", STATE_DIR)
    return {**extra, "cluster": cluster_facts(Path(state_dir) / "cluster.json")}


def cluster_facts(path: Path) -> dict[str, Any]:
    """Return the public facts of the cluster that ``rack.reconcile`` wrote to ``path``.

    Returns an empty dict as long as there is no cluster. Raises ValueError for a file that cannot be
    read or understood: to go on without it could make a node believe that it has no cluster.
    """
    remedy = "; move it away and run `salt-run rack.reconcile`, which writes it anew"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ValueError(f"{path} cannot be read by the salt-master: {exc.strerror}") from exc
    except ValueError as exc:
        raise ValueError(f"{path} is damaged ({exc}){remedy}") from exc
    nodes = facts.get("nodes", {}) if isinstance(facts, dict) else None
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise ValueError(f"{path} is damaged (not the facts of a cluster){remedy}")
    if not facts:
        return {}
    return {
        **_pick(facts, CLUSTER_KEYS),
        "nodes": {node_id: _pick(node, CLUSTER_NODE_KEYS) for node_id, node in nodes.items()},
    }


def _pick(mapping: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: mapping[key] for key in keys if key in mapping}


def _rackspec() -> ModuleType:
    """Load ``_utils/rackspec.py`` of this checkout, whatever else is called rackspec on sys.path."""
    path = REPO / "_utils" / "rackspec.py"
    spec = importlib.util.spec_from_file_location("saltberry_rackspec", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is missing; is the checkout complete?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _require_files(pillar: dict[str, Any]) -> None:
    """Refuse a pillar to which the defaults or the user's file contributed nothing, and say why.

    Salt itself only says "Please see master log for details".
    """
    if not isinstance(pillar.get("kubernetes"), dict):
        raise ValueError(
            _why_absent("defaults", "restore it from the release (git checkout pillar)")
        )
    rack = pillar.get("rack")
    named = isinstance(rack, dict) and rack.get("network")
    if not named and not pillar.get("nodes"):
        raise ValueError(
            _why_absent(
                "rack", "copy pillar/rack.example.sls to pillar/rack.sls and describe your rack"
            )
        )


def _why_absent(sls: str, remedy: str) -> str:
    """Say why a pillar file contributed nothing: it is missing, broken or empty."""
    roots = [Path(root) for root in (__opts__.get("pillar_roots") or {}).get("base", [])]
    found = [
        path
        for root in roots
        for path in (root / f"{sls}.sls", root / sls / "init.sls")
        if path.is_file()
    ]
    if not found:
        where = roots[0] / f"{sls}.sls" if roots else f"pillar/{sls}.sls"
        return f"{where} is missing; {remedy}"
    try:
        content = __salt__["slsutil.renderer"](path=str(found[0]))
    except Exception as exc:  # whatever Salt's renderers raise; the text is what matters
        return f"{found[0]} cannot be read: {_render_error(exc)}"
    if not content:
        return f"{found[0]} is empty; {remedy}"
    return f"{found[0]} sets none of the keys that it must set; {remedy}"


def _render_error(exc: Exception) -> str:
    """Shorten a renderer's exception to its reason and line, in the user's words.

    The lines of the file that Salt shows around the place stay out: each minion can read this text.
    """
    text = str(exc).partition("\n---")[0]
    duplicate = re.search(r"found conflicting ID '(.*)'\s+in .*, line (\d+)", text)
    if duplicate:
        key, line = duplicate.groups()
        return f"the key {key!r} is there twice (line {line}); keep one of them"
    return " ".join(text.split())
