#!/bin/sh
# What the official image's entrypoint does, as far as docs/examples/postgresql.yaml needs it: a new database
# with the given password in an empty folder, then the server.
set -eu
: "${PGDATA:=/var/lib/postgresql/data}" "${POSTGRES_USER:=postgres}"
export PGDATA
if [ "${1:-}" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    file=${POSTGRES_PASSWORD_FILE:-}
    if [ -z "$file" ]; then
        file=/tmp/password
        (umask 077 && printf '%s' "${POSTGRES_PASSWORD:?a new database needs a password}" >"$file")
    fi
    initdb --username="$POSTGRES_USER" --pwfile="$file" --auth-local=trust --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
if [ "${1:-}" = postgres ]; then
    set -- "$@" -c listen_addresses='*'
fi
exec "$@"
