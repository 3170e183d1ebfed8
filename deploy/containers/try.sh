#!/usr/bin/env bash
# Builds the images on stand-in bases, runs compose.yaml, records and plays through it, and takes it down.
# Where there is no Docker engine it says so and ends with 0; with REQUIRE_ENGINE=1 that is an error.
#
#   PYTHON=.venv/bin/python deploy/containers/try.sh
#
# START_ENGINE=1 installs Debian's docker.io and starts dockerd when there is none (as root, for CI machines);
# it is stopped again at the end.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../.."
python="${PYTHON:-python3}"
lucid() { "$python" -m lucid_events "$@"; }
work="$(mktemp -d)"
project="lucid-try-$$"
up=""

# shellcheck source=deploy/containers/engine.sh
. "$here/engine.sh"

finish() {
    local status=$?
    if [ -n "$up" ]; then
        [ "$status" = 0 ] || compose logs --tail 40 || true
        compose down --volumes --timeout 20 >/dev/null 2>&1 || true
    fi
    engine_end
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

not_run() {
    echo "containers: NOT RUN, $1"
    [ -z "${REQUIRE_ENGINE:-}" ]
    exit
}
engine_there && compose_there ||
    not_run "there is no Docker engine with compose here (START_ENGINE=1 installs one on Debian, as root)"
[ -z "${START_ENGINE:-}" ] || engine_install debootstrap debootstrap || true
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    not_run "the stand-in images have Python 3.11, and the wheels come from $("$python" --version): set PYTHON"
compose() { $compose_command --project-name "$project" --env-file "$work/env" --file "$here/compose.yaml" "$@"; }

PYTHON="$python" "$here/base-images.sh" || not_run "the base images can not be made here: see above"
WHEELS="${WHEELS:-1}" PYTHON="$python" "$here/build.sh"

# Keys and tokens as an operator makes them; the containers run as 65532.
"$python" deploy/nats/role_keys.py "$work/keys" >"$work/env"
LUCID_ACCESS_FILE="$work/tokens.json" lucid tokens add try --role operator >"$work/token"
chown 65532:65532 "$work/tokens.json" "$work/keys/service.nk" "$work/keys/operator.nk"
read -r nats pipeline recorder < <("$python" -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in held))')
cat >>"$work/env" <<END
KEYS=$work/keys
TOKENS=$work/tokens.json
NATS_PORT=$nats
PIPELINE_PORT=$pipeline
RECORDER_PORT=$recorder
LUCID_CAPTURE_MAX_MB=256
END

up=1
compose up --detach --quiet-pull
healthy() {
    local id
    for service in worker pipeline recorder; do
        id="$(compose ps --quiet "$service")"
        [ -n "$id" ] && [ "$(docker inspect --format '{{.State.Health.Status}}' "$id")" = healthy ] || return 1
    done
}
deadline=$((SECONDS + 120))
until healthy; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "containers: not healthy within two minutes" >&2; compose ps; exit 1; }
    sleep 1
done
echo "containers: worker, pipeline and recorder are healthy"

# Through the published port, as roles outside the pipeline's account.
head -c 3000000 /dev/urandom >"$work/source"
as() {
    local role="$1"
    shift
    env -u NATS_CONTEXT NATS_URL="nats://127.0.0.1:$nats" NATS_NKEY_SEED="$work/keys/$role.nk" \
        NATS_INBOX_PREFIX="_INBOX_$role" NATS_JS_API_PREFIX=JS.lucid.API "$python" -m lucid_events "$@"
}
as recorder record tried "$work/source" --chunk-bytes 1000000 --json
as viewer play tried -o "$work/played"
cmp "$work/source" "$work/played"
echo "containers: what was recorded plays back, byte for byte"
"$python" - "http://127.0.0.1:$pipeline/pipelines/tried/status" "$(tail -n 1 "$work/token")" <<'END'
import json, sys, urllib.request

asked = urllib.request.Request(sys.argv[1], headers={"Authorization": f"Bearer {sys.argv[2].strip()}"})
with urllib.request.urlopen(asked, timeout=10) as answer:
    state = json.load(answer)["state"]
assert state == "stopped", state
print(f"containers: the pipeline service says that the session is {state}")
END
