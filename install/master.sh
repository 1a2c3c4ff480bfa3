#!/bin/bash
# Turn this Pi (stock 64-bit Raspberry Pi OS Lite or Debian) into nfs1: salt-master, and minion of itself.
#
#   sudo install/master.sh [--mirror-dir DIR] [--no-apply]
#
#   --mirror-dir DIR   keep what the other Pis fetch from here (wheels, packages, images) in DIR, on the
#                      big disk for instance; default /srv/saltberry/mirror, which else links there
#   --no-apply         install and start Salt, but do not apply nfs1's own states
#
# Run from the checkout, which stays where it is: the master reads states and pillar from it. Wants
# pillar/rack.sls. Needs the internet once, for the wheels; with a complete wheels/ none. Every step
# looks first whether it is done: after a failure or a power cut run it again. Twice changes nothing.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=minion.sh
source "$(dirname "${BASH_SOURCE[0]}")/minion.sh"

REPO=$(cd "$HERE/.." && pwd)
STATE_DIR=/var/lib/saltberry
MIRROR_DIR=/srv/saltberry/mirror # where the states and cards expect it
BIN=$OPT/salt/bin
MASTER_PKI=/etc/salt/pki/master

parse_master_args() {
    DISK='' APPLY=yes
    while (($#)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --mirror-dir)
                (($# > 1)) && [[ $2 == /* ]] || misuse "--mirror-dir needs an absolute path"
                DISK=${2%/}
                shift 2 ;;
            --no-apply) APPLY=''; shift ;;
            *) misuse "unknown argument '$1'" ;;
        esac
    done
}

check_master() {
    check_system
    [[ $REPO =~ ^[A-Za-z0-9/._-]+$ ]] ||
        die "the checkout's path '$REPO' has characters that do not survive configuration files: move it"
    [[ -e $REPO/pillar/rack.sls ]] ||
        die "there is no $REPO/pillar/rack.sls, which describes your rack. Start from the example:" \
            "cp $REPO/pillar/rack.example.sls $REPO/pillar/rack.sls, and change it to your network and Pis"
    [[ -d /run/systemd/system ]] || die "systemd does not run here; it has to start the master and the minion"
}

# The mirror on another disk: everything else knows it by one path only.
place_mirror() {
    [[ -n $DISK && $DISK != "$MIRROR_DIR" ]] || return 0
    mkdir -p "$DISK"
    # An empty folder may go
    [[ -L $MIRROR_DIR || ! -e $MIRROR_DIR ]] || rmdir "$MIRROR_DIR" 2>/dev/null ||
        die "--mirror-dir $DISK: $MIRROR_DIR is in use already. Move what is in it to $DISK, remove it," \
            "and run this again"
    link "$DISK" "$MIRROR_DIR"
}

# Sets ID and ADDRESS: the node with the role master.
read_rack() {
    local answer
    say "checking pillar/rack.sls"
    answer=$("$BIN/python" "$HERE/check_rack.py") ||
        die "pillar/rack.sls has to be right first (see above); only Salt's files were installed so far"
    read -r ID ADDRESS <<<"$answer"
    if [[ $ADDRESS != - ]] && [[ -z $(ip -o addr show to "$ADDRESS" 2>/dev/null) ]]; then
        say "WARNING: pillar/rack.sls gives $ID the address $ADDRESS, which this machine does not have now." \
            "The other Pis will look for it there"
    fi
}

configure_master() {
    [[ -e /etc/salt/master ]] || echo '# Settings are in master.d/' | put /etc/salt/master 644
    render "$REPO/etc/master.d/saltberry.conf.in" "REPO=$REPO" "STATE_DIR=$STATE_DIR" "INTERFACE=0.0.0.0" |
        put /etc/salt/master.d/saltberry.conf 644
    put /etc/systemd/system/salt-master.service 644 <"$REPO/etc/systemd/salt-master.service"
    install -d -m 0700 "$STATE_DIR"
    link_commands salt salt-run salt-key salt-cp salt-master
}

# Args: what is waited for, seconds, command…
wait_until() {
    local what=$1 seconds=$2 start=$SECONDS
    shift 2
    until "$@" &>/dev/null; do
        ((SECONDS - start < seconds)) ||
            die "$what: not within $seconds seconds. See: journalctl -u salt-master -u salt-minion"
        sleep 0.5
    done
}

# The key pair of this machine's minion, made here so that the master knows it before the minion first calls.
own_key() {
    local pki=/etc/salt/pki/minion
    install -d -m 0700 /etc/salt/pki "$pki"
    if [[ ! -s $pki/minion.pem || ! -s $pki/minion.pub ]]; then
        "$BIN/python" - "$pki" <<'PY'
import os, sys
from salt.crypt import gen_keys

os.umask(0o077)
for name, text in zip(("minion.pem", "minion.pub"), gen_keys(2048)):
    path = os.path.join(sys.argv[1], name)
    with open(path + ".new", "w") as file:
        file.write(text)
        os.fsync(file.fileno())
    os.replace(path + ".new", path)
PY
    fi
    mkdir -p "$MASTER_PKI/minions"
    cmp -s "$pki/minion.pub" "$MASTER_PKI/minions/$ID" && return
    [[ ! -e $MASTER_PKI/minions/$ID ]] ||
        say "the key of $ID that the master had is not this machine's: replaced"
    rm -f "$MASTER_PKI"/minions_{pre,denied,rejected}/"$ID"
    put "$MASTER_PKI/minions/$ID" 644 <"$pki/minion.pub"
}

ping_self() { timeout 30 "$BIN/salt-call" --retcode-passthrough test.ping; }

apply_self() {
    say "applying the states of $ID"
    "$BIN/salt-call" --retcode-passthrough --state-output=mixed --state-verbose=false state.apply ||
        die "some states of $ID failed (see above). Salt itself runs: mend what they name and run this again"
}

next_steps() {
    say "$ID is ready: salt-master and salt-minion $(locked salt) run, with the states and pillar of $REPO"
    cat <<NEXT

Next:
  salt-run rack.status                                       the rack as the master sees it
  salt-run enrol.card cp1 target=/media/\$USER/bootfs         make a card for a Pi, then put it in and power it on
NEXT
}

main() {
    parse_master_args "$@"
    check_master
    MIRROR='' WHEELS=$MIRROR_DIR/wheels LOCK=$WHEELS/salt.lock START=yes KEYS='' MASTER_PUB=''
    place_mirror
    bash "$HERE/wheelhouse.sh" "$WHEELS"
    install_salt
    read_rack
    configure_master
    own_key
    start_unit salt-master.service
    wait_until "the master's public key" 60 test -s "$MASTER_PKI/master.pub"
    MASTER=127.0.0.1 MASTER_PUB=$MASTER_PKI/master.pub
    setup_minion
    rm -f "$OPT/.changed"
    say "waiting for the minion to reach the master"
    wait_until "the minion reaching the master" 120 ping_self
    "$BIN/salt-call" --retcode-passthrough saltutil.sync_all >/dev/null ||
        die "the modules could not be fetched from the master: journalctl -u salt-master"
    [[ -z $APPLY ]] || apply_self
    next_steps
}

main "$@"
