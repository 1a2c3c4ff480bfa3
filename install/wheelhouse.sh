#!/bin/bash
# Fill a folder with every wheel that the rack's nodes need for Salt.
#
#   install/wheelhouse.sh DIR [--python 3.11]... [--arch aarch64|x86_64|auto]... [--lock FILE]
#
# Downloads by the hashes in install/salt.lock (pip's own configuration says from where), builds Salt's
# wheel once from its hashed source archive (PyPI has no wheel of Salt), and writes beside the wheels
#   salt.lock    what a node installs: the same lock with the hash of the wheel built here
#   index.html   the list of files for pip, so that any plain web server will do
#   SHA256SUMS   to see at a glance that all is there
# salt.lock comes last and by rename: while it is missing or names another source, DIR is not complete,
# and another run goes on. A complete DIR is left alone, with no network. Files of older locks stay,
# since a card written earlier may still ask for them. Without options: what DIR is for already, else
# Python 3.11 and 3.13 (Raspberry Pi OS Bookworm and Trixie) and this system's, for machines like this.
set -euo pipefail
shopt -s nullglob

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MARK="# saltberry wheelhouse" # begins the line of DIR/salt.lock that says what it was made from
BUILD_TOOLS=(setuptools packaging looseversion)
# Zip entries carry a time; with a fixed one the same tools build the same wheel.
export SOURCE_DATE_EPOCH=1704067200
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

say() { printf 'wheelhouse: %s\n' "$*"; }
die() { printf 'wheelhouse: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '4p' "${BASH_SOURCE[0]}" | sed 's/^# *//'; }

# One requirement a line, continuation lines joined, comments gone. Args: lock file
requirements() { sed -e '/^#/d' -e ':join' -e '/\\$/{N;s/ *\\\n */ /;b join' -e '}' "$1"; }

# The requirements of the lock whose names are given. Args: names
only() { local name; for name in "$@"; do requirements "$LOCK" | grep "^$name=="; done; }

arch_here() {
    case $(uname -m) in
        aarch64 | arm64) echo aarch64 ;;
        x86_64 | amd64) echo x86_64 ;;
        *) die "this machine is $(uname -m); wheels are for 64-bit only (aarch64, x86_64)" ;;
    esac
}

parse_args() {
    DIR='' LOCK=$HERE/salt.lock PYTHONS=() ARCHES=()
    while (($#)); do
        case $1 in
            --python | --arch | --lock)
                (($# > 1)) || die "$1 needs a value"
                case $1 in
                    --python)
                        [[ $2 =~ ^3\.1[1-3]$ ]] || die "--python $2: salt.lock knows 3.11, 3.12 and 3.13"
                        PYTHONS+=("$2") ;;
                    --arch)
                        [[ $2 =~ ^(aarch64|x86_64|auto)$ ]] ||
                            die "--arch $2: must be aarch64, x86_64 or auto"
                        ARCHES+=("${2/auto/$(arch_here)}") ;;
                    --lock) LOCK=$2 ;;
                esac
                shift 2 ;;
            -h | --help) usage; exit 0 ;;
            -*) die "unknown option $1; usage: $(usage)" ;;
            *) [[ -z $DIR ]] || die "one folder only, got '$DIR' and '$1'"; DIR=$1; shift ;;
        esac
    done
    [[ -n $DIR ]] || die "which folder? usage: $(usage)"
    [[ -r $LOCK ]] || die "cannot read the lock $LOCK"
}

# What DIR/salt.lock was made from and for: "<sha256 of the lock> 3.11-aarch64 …", or nothing.
made_from() { sed -n "s/^$MARK: //p" "$DIR/salt.lock" 2>/dev/null || true; }

# Bookworm's and Trixie's, and this machine's own: nfs1 installs from DIR too.
default_pythons() {
    local python
    PYTHONS=(3.11 3.13)
    python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [[ ! $python =~ ^3\.1[1-3]$ ]] || PYTHONS+=("$python")
}

# Set TARGETS to "<python>-<arch>" words: what was asked for, or what DIR has, or the default.
choose_targets() {
    local source have arch python
    source=$(sha256sum <"$LOCK" | cut -d' ' -f1)
    have=$(made_from)
    TARGETS=()
    if [[ $have == "$source "* ]]; then read -ra TARGETS <<<"${have#* }"; fi
    if ((${#TARGETS[@]} == 0 || ${#PYTHONS[@]} + ${#ARCHES[@]} > 0)); then
        ((${#PYTHONS[@]})) || default_pythons
        ((${#ARCHES[@]})) || ARCHES=("$(arch_here)")
        for arch in "${ARCHES[@]}"; do
            for python in "${PYTHONS[@]}"; do TARGETS+=("$python-$arch"); done
        done
    fi
    mapfile -t TARGETS < <(printf '%s\n' "${TARGETS[@]}" | sort -u)
    MADE_FROM="$source ${TARGETS[*]}"
}

complete() {
    [[ $(made_from) == "$MADE_FROM" ]] &&
        (cd "$DIR" && sha256sum --check --quiet --strict SHA256SUMS) &>/dev/null
}

# A pip of the locked version in a throw-away environment: its options do not depend on the system's.
make_tools() {
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        ((EUID == 0)) ||
            die "Python's ensurepip is missing: sudo apt-get install python3-venv, then run this again"
        say "installing python3-venv"
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv
    fi
    python3 -m venv "$WORK/tools"
    PIP=("$WORK/tools/bin/python" -m pip --quiet)
    only pip "${BUILD_TOOLS[@]}" >"$WORK/tools.txt"
    "${PIP[@]}" install --no-deps --require-hashes -r "$WORK/tools.txt"
}

# The wheels for one target. The tags: any C library up to Bookworm's (2.36).
# Args: Python version, machine
fetch_wheels() {
    local python=$1 arch=$2 tags=() minor
    for minor in {36..5}; do tags+=(--platform "manylinux_2_${minor}_$arch"); done
    for minor in manylinux2014 manylinux2010 manylinux1; do tags+=(--platform "${minor}_$arch"); done
    "${PIP[@]}" download --no-deps --require-hashes --only-binary=:all: --dest "$WORK/wheels" \
        --implementation cp --python-version "$python" "${tags[@]}" -r "$WORK/wheels.txt"
}

build_salt() {
    local built
    only salt >"$WORK/salt.txt"
    # --no-cache-dir: pip's cache could answer with a wheel that other tools built
    "${PIP[@]}" wheel --no-deps --no-build-isolation --no-binary salt --no-cache-dir \
        --require-hashes --wheel-dir "$WORK/built" -r "$WORK/salt.txt"
    built=("$WORK"/built/salt-*.whl)
    [[ ${#built[@]} == 1 && ${built[0]} == *-py3-none-any.whl ]] ||
        die "Salt's wheel should be for any Python 3 and any machine, but the build made: ${built[*]}"
    cp "${built[0]}" "$WORK/wheels/"
}

# The wheel of Salt that DIR has from an earlier run with the same lock, if it is whole: its hash is on
# cards already.
reuse_salt() {
    local version wheel sha
    [[ $(made_from) == "${MADE_FROM%% *} "* ]] || return 1
    version=$(requirements "$LOCK" | sed -n 's/^salt==\([^ ]*\).*/\1/p')
    wheel=$DIR/salt-$version-py3-none-any.whl
    [[ -e $wheel ]] || return 1
    sha=$(sha256sum <"$wheel" | cut -d' ' -f1)
    grep -q "^salt==.*$sha" "$DIR/salt.lock" && cp "$wheel" "$WORK/wheels/"
}

node_lock() {
    local sha
    sha=$(sha256sum "$WORK"/wheels/salt-*.whl | cut -d' ' -f1)
    printf '# What a node installs. Made by install/wheelhouse.sh from install/salt.lock: do not edit.\n'
    printf '%s: %s\n' "$MARK" "$MADE_FROM"
    requirements "$LOCK" | grep -v '^setuptools==' | sed "s/^\(salt==[^ ]*\) .*/\1 --hash=sha256:$sha/"
}

index() {
    local file
    printf '<!DOCTYPE html><title>Wheels for Saltberry nodes</title>\n'
    for file in *.whl; do
        printf '<a href="%s#sha256=%s">%s</a><br>\n' "$file" "$(sha256sum <"$file" | cut -d' ' -f1)" "$file"
    done
}

# Write standard input to a file in DIR; a reader sees the old one or the new one, whole. Args: name
put() {
    cat >"$DIR/.$1.new"
    chmod 644 "$DIR/.$1.new"
    sync "$DIR/.$1.new"
    mv "$DIR/.$1.new" "$DIR/$1"
}

publish() {
    local wheel name
    for wheel in "$WORK"/wheels/*.whl; do
        name=${wheel##*/}
        cmp -s "$wheel" "$DIR/$name" || put "$name" <"$wheel"
    done
    (cd "$DIR" && sha256sum -- *.whl) | put SHA256SUMS
    (cd "$DIR" && index) | put index.html
    node_lock | put salt.lock
}

main() {
    parse_args "$@"
    choose_targets
    if complete; then
        say "$DIR is complete for ${TARGETS[*]}"
        return
    fi
    mkdir -p "$DIR" 2>/dev/null && [[ -w $DIR ]] ||
        die "$DIR is not complete for ${TARGETS[*]}, and cannot be written"
    exec 9>"$DIR/.lock"
    flock 9
    if complete; then return; fi # another run filled it while this one waited
    rm -f "$DIR"/.*.new
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
    mkdir "$WORK/wheels"
    make_tools
    requirements "$LOCK" | grep -v -e '^salt==' -e '^setuptools==' >"$WORK/wheels.txt"
    local target
    for target in "${TARGETS[@]}"; do
        say "downloading wheels for Python ${target%-*} on ${target#*-}"
        fetch_wheels "${target%-*}" "${target#*-}"
    done
    if ! reuse_salt; then
        say "building Salt's wheel"
        build_salt
    fi
    publish
    say "$DIR is complete for ${TARGETS[*]} ($(du -sh "$DIR" | cut -f1))"
}

main "$@"
