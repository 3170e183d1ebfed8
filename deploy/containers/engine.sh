# Sourced: finds a Docker engine and compose, or installs and starts them where START_ENGINE=1 asks for it
# (Debian, as root; for machines of CI). `engine_end` stops what was started here.
# shellcheck shell=bash

engine=""        # process id of an engine that was started here
engine_folder="" # its data
compose_command=""

# True when an engine answers.
engine_there() {
    command -v docker >/dev/null 2>&1 && docker version >/dev/null 2>&1 && return
    if [ -n "${START_ENGINE:-}" ] && [ "$(id -u)" = 0 ]; then
        engine_install dockerd docker.io && engine_start
    else
        return 1
    fi
}

# True when there is a compose; `compose_command` says how it is called.
compose_there() {
    if docker compose version >/dev/null 2>&1; then
        compose_command="docker compose"
    elif command -v docker-compose >/dev/null 2>&1 ||
        { [ -n "${START_ENGINE:-}" ] && engine_install docker-compose docker-compose; }; then
        compose_command="docker-compose"
    else
        return 1
    fi
}

# engine_install PROGRAM PACKAGE: true when the program is there, or could be installed.
engine_install() {
    command -v "$1" >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2"; } >/dev/null 2>&1
}

engine_start() {
    engine_folder="$(mktemp -d)"
    export DOCKER_HOST="unix://$engine_folder/docker.sock"
    dockerd --data-root "$engine_folder/data" --exec-root "$engine_folder/exec" --pidfile "$engine_folder/pid" \
        --host "$DOCKER_HOST" >"$engine_folder/log" 2>&1 &
    engine=$!
    for _ in $(seq 120); do
        if docker version >/dev/null 2>&1; then
            engine_works && return 0
            engine_end
            return 1
        fi
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.5
    done
    echo "dockerd does not start: $(tail -1 "$engine_folder/log")" >&2
    engine_end
    return 1
}

# True when a container runs and has a network: an engine may start where the kernel allows neither.
engine_works() {
    local server
    server="$(dirname "$(command -v "${PYTHON:-python3}")")/nats-server" # static, so it needs no image below it
    [ -x "$server" ] || return 0
    tar -cf - -C "$(dirname "$(realpath "$server")")" "$(basename "$(realpath "$server")")" |
        docker import --change 'ENTRYPOINT ["/nats-server"]' - lucid-probe >/dev/null 2>"$engine_folder/probe" &&
        docker run --rm --publish 127.0.0.1::4222 lucid-probe --version >/dev/null 2>>"$engine_folder/probe" &&
        return 0
    echo "dockerd starts, but runs no container: $(tail -1 "$engine_folder/probe")" >&2
    return 1
}

engine_end() {
    [ -n "$engine" ] || return 0
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
    rm -rf "${engine_folder:?}" 2>/dev/null || true
    engine=""
}
