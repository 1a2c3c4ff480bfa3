"""Stands in for _modules/routed_cni.py: the routes of a node are a file with their digest."""

from pathlib import Path

STANDIN = Path("@STANDIN@")


def digest():
    path = STANDIN / "routes" / __opts__["id"]
    return path.read_text(encoding="utf-8") if path.exists() else None


def lay():
    wanted = __utils__["routes.digest"](__pillar__["cluster"]["nodes"], __opts__["id"])
    (STANDIN / "routes" / __opts__["id"]).write_text(wanted, encoding="utf-8")
    with (STANDIN / "calls").open("a", encoding="utf-8") as stream:
        stream.write(f"cni {__opts__['id']}\n")
    return True
