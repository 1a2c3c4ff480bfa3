#!/bin/bash
# Turn a stock 64-bit Raspberry Pi OS (or Debian) into a Salt minion of the rack.
#
#   minion.sh --id ID --master ADDRESS (--mirror URL | --wheels DIR) [--lock FILE]
#             [--master-pub FILE] [--keys DIR] [--wait SECONDS] [--no-start]
#
#   --id ID            host name of this Pi: lower-case letters, digits, hyphens
#   --master ADDRESS   name or IP address of the salt-master
#   --mirror URL       nfs1's web server, with the wheels in URL/wheels/; waits until it is up
#   --wheels DIR       the wheels are in a folder instead
#   --lock FILE        which wheels, by sha256; default: salt.lock in --wheels DIR, else beside this
#                      script (on a card)
#   --master-pub FILE  the master's public key: no other master is believed
#   --keys DIR         minion.pem and minion.pub that the master made for this id; without it the
#                      minion makes its own, and someone has to accept it
#   --wait SECONDS     how long to wait for the mirror; default 600
#   --no-start         install only
#
# Needs nothing but Python 3.11 or newer: no apt, no internet. Changes nothing when all is as it should
# be, so it can be run again, also after a power cut in the middle. Self-contained on a card: looks for
# minion.conf.in, salt-minion.service and salt_patch.py beside itself, else in the checkout. Errors go to standard
# error with exit code 1; 2 means that the arguments are wrong.
set -euo pipefail

OPT=${SALTBERRY_OPT:-/opt/saltberry}       # the tests install elsewhere
ROOT=${SALTBERRY_ROOT:-}                   # before /etc and /usr/local
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ME=$(basename "$0" .sh)

say() { printf '%s: %s\n' "$ME" "$*"; }
die() { printf '%s: %s\n' "$ME" "$*" >&2; exit 1; }
misuse() { printf '%s: %s (see %s --help)\n' "$ME" "$*" "$0" >&2; exit 2; }
usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

# ---- checks, before anything is touched ----

# The same rule as ID_PATTERN in _utils/rackspec.py.
valid_id() {
    [[ $1 =~ ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$ && ! $1 =~ ^[0-9]+$ && $1 != localhost ]]
}

check_system() {
    ((EUID == 0)) || die "must run as root: sudo $0"
    local arch
    arch=$(dpkg --print-architecture 2>/dev/null) || die "this is no Debian-like system (no dpkg)"
    [[ $arch == arm64 || $arch == amd64 ]] ||
        die "this system is $arch; Kubernetes needs a 64-bit one:" \
            "write the 64-bit Raspberry Pi OS Lite to the card"
    python3 -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "Python 3.11 or newer is needed, this system has: $(python3 --version 2>&1 || true);" \
            "Raspberry Pi OS Bookworm or Trixie has it"
}

# Two key files that belong together. Where there is no openssl to ask, Salt will find out.
# Args: private, public
is_pair() {
    command -v openssl >/dev/null || return 0
    [[ $(openssl pkey -in "$1" -passin pass: -pubout 2>/dev/null) == "$(cat "$2")" ]]
}

# The file of that name on the card beside this script, else the one in the checkout. Args: card name, path
shipped() {
    if [[ -r $HERE/$1 ]]; then echo "$HERE/$1"; return; fi
    if [[ -r $HERE/../$2 ]]; then echo "$HERE/../$2"; return; fi
    die "cannot find $1 beside $0, nor $2 in the checkout: the card is not complete, make it again"
}

# ---- files ----

# Something was changed that the daemons read when they start. A file, so that a run that was cut off
# before the restart leaves word for the next one.
changed() { mkdir -p "$OPT" && : >"$OPT/.changed"; }

# Write standard input to a file if it says something else. Args: path, mode
put() {
    local path=$1 mode=$2 new
    mkdir -p "$(dirname "$path")"
    new=$(mktemp "$path.XXXXXX")
    cat >"$new"
    chmod "$mode" "$new"
    if cmp -s "$new" "$path" && [[ $(stat -c %a "$path") == "$((10#$mode))" ]]; then
        rm "$new"
    else
        changed
        sync "$new"
        mv "$new" "$path"
        say "wrote $path"
    fi
}

# Fill in a template's @NAMES@. Args: file, then NAME=value…
render() {
    local file=$1 pair script=''
    shift
    for pair in "$@"; do script+="s|@${pair%%=*}@|${pair#*=}|g;"; done
    sed "$script" "$file"
}

# Make or move a symbolic link in one step. Args: target, link
link() {
    [[ $(readlink "$2" 2>/dev/null) == "$1" ]] && return
    changed
    mkdir -p "$(dirname "$2")"
    ln -sfn "$1" "$2.new"
    mv -T "$2.new" "$2"
}

# ---- Salt ----

# Version of a package in the lock. Args: name
locked() { sed -n "s/^$1==\([^ ]*\) .*/\1/p" "$LOCK"; }

# Get one file from the wheel source, with a sha256 that the lock has for its package.
# Args: file, package, target
fetch() {
    local sha
    if [[ -n $WHEELS ]]; then
        cp "$WHEELS/$1" "$3" || return
    else
        python3 - "$MIRROR/wheels/$1" "$3" <<'PY' || return
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=60) as answer, open(sys.argv[2], "wb") as file:
    file.write(answer.read())
PY
    fi
    sha=$(sha256sum <"$3" | cut -d' ' -f1)
    grep -q "^$2==.*--hash=sha256:$sha" "$LOCK" ||
        { say "$1 is not the file that the lock names (sha256 $sha)"; return 1; }
}

# Until the mirror answers. At power-on of a whole rack it is often the last to be up.
wait_for_mirror() {
    local start=$SECONDS next=$SECONDS
    until python3 - "$MIRROR/wheels/index.html" 2>/dev/null <<'PY'; do
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=10).read()
PY
        ((SECONDS - start < WAIT)) ||
            die "$MIRROR/wheels/ did not answer for $WAIT seconds: is nfs1 on, and in this network?" \
                "This can be run again"
        if ((SECONDS >= next)); then
            say "waiting for $MIRROR/wheels/ ($((SECONDS - start)) s)"
            next=$((SECONDS + 30))
        fi
        sleep 3
    done
}

# Make a Python environment with Salt. pip is run from its wheel, so that it takes no place in there.
# Args: where, folder for temporary files
build_venv() {
    local venv=$1 work=$2 pip
    pip=pip-$(locked pip)-py3-none-any.whl
    fetch "$pip" pip "$work/$pip" || return
    grep -v '^pip==' "$LOCK" >"$work/salt.txt"
    rm -rf "$venv"
    python3 -m venv --without-pip "$venv"
    # No compiling: Python does that for the tenth of the files that are ever used, on first use.
    # No configuration: an index, a cache or an option of this system has no say in what the lock fixes.
    PYTHONPATH=$work/$pip PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1 \
        PIP_ROOT_USER_ACTION=ignore "$venv/bin/python" -m pip install --quiet \
        --no-index --find-links "${WHEELS:-$MIRROR/wheels/index.html}" \
        ${MIRROR:+--trusted-host "$(sed -E 's|^https?://([^/:]*).*|\1|' <<<"$MIRROR")"} \
        --no-deps --require-hashes --no-compile --no-cache-dir -r "$work/salt.txt"
}

# Have the Salt of $LOCK in $OPT/salt. An environment that is finished carries a mark, and is not
# touched again.
install_salt() {
    local version hash venv work python tries
    version=$(locked salt)
    hash=$(sha256sum <"$LOCK")
    venv=$OPT/salt-$version-${hash:0:8}
    python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    # The mark names the Python: an upgrade of the system leaves the environment without its library.
    if [[ $(cat "$venv/.complete" 2>/dev/null) != "$python" ]]; then
        [[ -n $WHEELS ]] || wait_for_mirror
        say "installing Salt $version"
        mkdir -p "$OPT"
        work=$(mktemp -d)
        # shellcheck disable=SC2064 # the folder's name now, not at exit
        trap "rm -rf '$work'" EXIT
        # Once from a folder: it will not get better. A mirror may go away and come back.
        tries=$((${#WHEELS} ? 1 : 3))
        until build_venv "$venv" "$work"; do
            ((--tries)) ||
                die "Salt could not be installed from ${WHEELS:-$MIRROR/wheels/} for Python $python (see above)." \
                    "Is the lock $LOCK as old as the wheels there? A card can be made again"
            say "once more"
            sleep "${SALTBERRY_RETRY_SECONDS:-5}"
        done
        "$venv/bin/salt-call" --version >/dev/null ||
            die "Salt was installed in $venv, but does not start (see above)"
        # On disk before the mark: after a power cut the mark must not stand beside empty files.
        sync -f "$venv"
        echo "$python" >"$venv/.complete"
        prune "${venv##*/}" "$(readlink "$OPT/salt" || true)"
    fi
    # -B: nothing is compiled for the sake of asking.
    [[ $("$venv/bin/python" -IB "$(shipped salt_patch.py install/salt_patch.py)") != patched ]] || changed
    link "$(basename "$venv")" "$OPT/salt"
}

# Remove older environments (60 MB each), but not the one in use: its daemons and jobs still read from
# it. Args: names to keep
prune() {
    local venv
    for venv in "$OPT"/salt-*; do
        [[ " $* " == *" ${venv##*/} "* ]] || rm -rf "$venv"
    done
}

# Commands for people. Args: names
link_commands() {
    local name
    for name in "$@"; do link "$OPT/salt/bin/$name" "$ROOT/usr/local/bin/$name"; done
}

# Enable a unit and have it run; restarted only if something about it changed. Args: name
start_unit() {
    systemctl ${ROOT:+--root "$ROOT"} enable --quiet "$1"
    [[ -n $START ]] || return 0
    [[ ! -e $OPT/.changed ]] || systemctl daemon-reload
    if [[ -e $OPT/.changed ]] && systemctl is-active --quiet "$1"; then
        systemctl restart "$1"
        say "restarted $1"
    elif ! systemctl is-active --quiet "$1"; then
        systemctl start "$1"
        say "started $1"
    fi
}

# ---- minion ----

parse_args() {
    ID='' MASTER='' MIRROR='' WHEELS='' LOCK='' MASTER_PUB='' KEYS='' WAIT=600 START=yes
    [[ -z $ROOT ]] || START='' # nothing runs in another root
    while (($#)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --no-start) START=''; shift; continue ;;
            --id | --master | --mirror | --wheels | --lock | --master-pub | --keys | --wait)
                (($# > 1)) && [[ -n $2 ]] || misuse "$1 needs a value" ;;
            *) misuse "unknown argument '$1'" ;;
        esac
        case $1 in
            --id) ID=$2 ;;
            --master) MASTER=$2 ;;
            --mirror) MIRROR=${2%/} ;;
            --wheels) WHEELS=$2 ;;
            --lock) LOCK=$2 ;;
            --master-pub) MASTER_PUB=$2 ;;
            --keys) KEYS=$2 ;;
            --wait) WAIT=$2 ;;
        esac
        shift 2
    done
}

check_args() {
    [[ -n $ID ]] || misuse "--id is missing: which host name shall this Pi have?"
    valid_id "$ID" ||
        misuse "--id '$ID' is no host name: lower-case letters, digits, hyphens, at most 63, not only digits"
    [[ -n $MASTER ]] || misuse "--master is missing: where is the salt-master?"
    [[ $MASTER =~ ^[A-Za-z0-9.:_-]+$ ]] ||
        misuse "--master '$MASTER' is neither a host name nor an IP address"
    [[ $WAIT =~ ^[0-9]+$ ]] || misuse "--wait '$WAIT' must be a number of seconds"
    [[ -n $MIRROR || -n $WHEELS ]] ||
        misuse "--mirror URL or --wheels DIR is needed: where are Salt's wheels?"
    [[ -z $MIRROR || -z $WHEELS ]] || misuse "--mirror and --wheels: only one of them"
    [[ -z $MIRROR || $MIRROR =~ ^https?://[A-Za-z0-9.:_/-]+$ ]] ||
        misuse "--mirror '$MIRROR' must look like http://nfs1"
    [[ -z $WHEELS || -d $WHEELS ]] || misuse "--wheels '$WHEELS' is no folder"
    if [[ -z $LOCK ]]; then
        # In the checkout, salt.lock beside this script is what wheelhouse.sh starts from, not a node's.
        LOCK=$HERE/salt.lock
        [[ -n $WHEELS ]] && LOCK=$WHEELS/salt.lock
    fi
    grep -qs '^# saltberry wheelhouse:' "$LOCK" ||
        misuse "--lock '$LOCK' is not a lock for nodes: wheelhouse.sh writes one beside the wheels"
    [[ -z $MASTER_PUB ]] || grep -qs 'BEGIN.*PUBLIC KEY' "$MASTER_PUB" ||
        misuse "--master-pub '$MASTER_PUB' is no public key"
    if [[ -n $KEYS ]]; then
        grep -qs 'BEGIN.*PRIVATE KEY' "$KEYS/minion.pem" ||
            misuse "--keys: no private key in '$KEYS/minion.pem'"
        grep -qs 'BEGIN.*PUBLIC KEY' "$KEYS/minion.pub" ||
            misuse "--keys: no public key in '$KEYS/minion.pub'"
        is_pair "$KEYS/minion.pem" "$KEYS/minion.pub" ||
            misuse "--keys: minion.pem and minion.pub in '$KEYS' are no pair of keys: make the card again"
    fi
}

install_keys() {
    local pki=$ROOT/etc/salt/pki/minion
    install -d -m 0700 "$ROOT/etc/salt/pki" "$pki"
    if [[ -n $KEYS ]]; then
        put "$pki/minion.pem" 600 <"$KEYS/minion.pem"
        put "$pki/minion.pub" 644 <"$KEYS/minion.pub"
    fi
    [[ -z $MASTER_PUB ]] || put "$pki/minion_master.pub" 644 <"$MASTER_PUB"
}

configure_minion() {
    local etc=$ROOT/etc/salt
    [[ -e $etc/minion ]] || echo '# Settings are in minion.d/' | put "$etc/minion" 644
    render "$(shipped minion.conf.in etc/minion.d/saltberry.conf.in)" "ID=$ID" "MASTER=$MASTER" |
        put "$etc/minion.d/saltberry.conf" 644
    echo "$ID" | put "$etc/minion_id" 644
}

# Everything but the checks: master.sh calls it for nfs1's own minion too.
setup_minion() {
    install_salt
    link_commands salt-call salt-minion
    install_keys
    configure_minion
    put "$ROOT/etc/systemd/system/salt-minion.service" 644 \
        <"$(shipped salt-minion.service etc/systemd/salt-minion.service)"
    start_unit salt-minion.service
}

main() {
    parse_args "$@"
    check_args
    check_system
    shipped minion.conf.in etc/minion.d/saltberry.conf.in >/dev/null
    shipped salt-minion.service etc/systemd/salt-minion.service >/dev/null
    shipped salt_patch.py install/salt_patch.py >/dev/null
    setup_minion
    if [[ -e $OPT/.changed ]]; then rm "$OPT/.changed"; else say "nothing to change"; fi
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main "$@"; fi
