"""Keep secrets out of what is reported: names that speak of one, files that hold one, known values.

Pure Python without any import of Salt. A node uses it before anything leaves it, the master once more
on what arrives, since a node may say anything. In doubt something is masked that need not be.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

__virtualname__ = "masking"

MASK = "<masked>"

# Words in a key's name whose value is nobody's business; a word of _HARMLESS after it takes that back
# (token_ttl, password_file: the file is named, not shown)
_WORDS = (
    r"password|passwd|passphrase|secret|token|credential|htpasswd|api[_-]?key"
    r"|(?:private|client|secret|access|encryption|sign(?:ing)?)[_-]?key|key[_-]data"
    r"|\bpsk\b|wpa[_-]psk|\bpass\b|\bpwd\b|\bauth\b|[_-]ticket\b"
)
_HARMLESS = r"file|path|dir|folder|ttl|timeout|seconds|hours|webhook|reviewer|url|controller|name"
_NAME = re.compile(rf"(?i)(?:{_WORDS})(?!\w*[_-]?(?:{_HARMLESS}))")
# name = value, name: value, "name": "value", up to the value
_NAMED = re.compile(
    r"""(?x) (?<![A-Za-z0-9_.-]) (?P<name>[A-Za-z0-9_.-]*[A-Za-z0-9]) (?P<between>["']?[ \t]*[:=]+[ \t]*)"""
)
# A quoted value ends at its quote, any other at the line's end
_VALUE = re.compile(r"""(?x) "(?:[^"\\\n]|\\.)*" | '[^'\n]*' | [^\n]+ """)
_OPTION = re.compile(
    r"(?<![\w-])(?P<name>--?[A-Za-z0-9][A-Za-z0-9-]*)(?P<between>[= ]+)(?P<value>[^\s-]\S*)"
)
_NO_SECRET = re.compile(
    r"""(?i)["']?(?:true|false|yes|no|on|off|none|null|\{|\[|\d{1,4})?["']?[,;]?\s*"""
)
_SHAPES = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL), "<key>"),
    (re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"), "<token>"),  # kubeadm's
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), "<token>"),  # JSON web tokens
    (re.compile(r"\$(?:[156y]|2[aby]|apr1|gy|7)\$[./A-Za-z0-9$=,]{8,}"), "<hash>"),  # crypt(3)
    (re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{8,}|(?<=basic )[A-Za-z0-9+/=]{8,}"), MASK),
    (re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"), MASK),
)  # fmt: skip

# Files whose text is never shown: by their names, wherever they are
_FILE = re.compile(
    r"""(?ix)
    (?:^|[/._-])(?:secrets?|tokens?|passw(?:or)?ds?|passphrase|g?shadow|htpasswd|credentials?|keytab
        |netrc|id_(?:rsa|dsa|ecdsa|ed25519)|kubeconfig|wpa_supplicant|psk|priv(?:ate|key)?)(?:$|[/._-])
    | \.(?:key|pem|p12|pfx|jks|nmconnection)$
    | ^/etc/kubernetes/(?:[\w.-]+\.conf$|pki/) | /\.kube/config$ | /\.docker/config\.json$
    | /pki/ | ^/root/\.ssh/id_ | ^/etc/ssh/ssh_host_\w+_key$
    """
)
# What may be said of such a file
_ABOUT_FILES = ("mode", "user", "group", "owner", "uid", "gid", "size", "enabled")
# A shorter value of the pillar would turn up everywhere by accident
_SHORTEST = 6


def secret_name(name: object) -> bool:
    """Say whether a key of this name has a value that must not be shown.

    name
        A key of a mapping, or the name before a ``=``.
    """
    return isinstance(name, str) and _NAME.search(name) is not None


def secret_file(path: str, mode: int | None = None) -> bool:
    """Say whether a file's text must not be shown.

    path
        Its name; relative ones and such that name no file count, too.
    mode
        Its permissions where they are known: what only its owner may read is not shown.
    """
    if mode is not None and not mode & 0o044:
        return True
    return _FILE.search(path) is not None


def values_of(tree: Any) -> set[str]:
    """Return the texts that stand under secret names anywhere in a pillar, or a state's arguments.

    tree
        Nested mappings and lists.
    """
    return {text for text in _values(tree, False) if len(text) >= _SHORTEST}


def _values(tree: Any, secret: bool) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _values(value, secret or secret_name(key))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _values(value, secret)
    elif secret and isinstance(tree, str):
        yield tree


def text(words: str, known: Collection[str] = ()) -> str:
    """Return a text without the secrets in it.

    words
        Lines of any kind: a diff, a comment, a command line.
    known
        Values that are replaced wherever they are (:func:`values_of`).
    """
    for value in sorted(known, key=len, reverse=True):
        words = words.replace(value, MASK)
    for shape, instead in _SHAPES:
        words = shape.sub(instead, words)
    return _assigned(_OPTION.sub(_option, words))


def _option(found: re.Match[str]) -> str:
    """Replace the value of an option of a command line whose name is a secret's."""
    if secret_name(found["name"]) and not _NO_SECRET.fullmatch(found["value"]):
        return f"{found['name']}{found['between']}{MASK}"
    return found[0]


def _assigned(words: str) -> str:
    """Replace the values of assignments whose names are a secret's, wherever they stand in a line."""
    parts, at = [], 0
    while found := _NAMED.search(words, at):
        parts.append(words[at : found.end()])
        at = found.end()
        value = _VALUE.match(words, at) if secret_name(found["name"]) else None
        if value and not _NO_SECRET.fullmatch(value[0]):
            quote = value[0][0] if value[0][0] in "\"'" else ""
            parts.append(f"{quote}{MASK}{quote}")
            at = value.end()
    return "".join([*parts, words[at:]])


def tree(value: Any, known: Collection[str] = (), hidden: bool = False) -> Any:
    """Return nested data, as a state's changes, without the secrets in it.

    value
        Mappings, lists, texts and plain values; anything else becomes text.
    known
        As for :func:`text`.
    hidden
        Whether it is about a secret file: then of its texts only mode, owner and the like are kept.
    """
    if isinstance(value, Mapping):
        return {
            text(str(key), known): _of_key(str(key), item, known, hidden)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set):
        return [tree(item, known, hidden) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _hidden(str(value)) if hidden else text(str(value), known)


def _of_key(key: str, item: Any, known: Collection[str], hidden: bool) -> Any:
    if key in _ABOUT_FILES:
        return tree(item, known)
    if secret_name(key) and not _NO_SECRET.fullmatch(str(item if item is not None else "")):
        return MASK
    is_file = key.startswith("/") and PurePosixPath(key).name != ""
    return tree(item, known, hidden or (is_file and secret_file(key)))


def _hidden(words: str) -> str:
    """Say how much of a secret file differs, and nothing of what."""
    lines = words.splitlines()
    more = sum(line.startswith("+") and not line.startswith("+++") for line in lines)
    less = sum(line.startswith("-") and not line.startswith("---") for line in lines)
    return f"{MASK} ({more} lines more, {less} lines less)" if more or less else MASK
