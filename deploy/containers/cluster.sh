#!/usr/bin/env bash
# Runs the tests marked `cluster`: three servers in containers, with cables that are really cut. The same tests
# run on plain processes with all the others.
#
#   PYTHON=.venv/bin/python deploy/containers/cluster.sh [arguments of pytest]
#
# Where there is no Docker engine it says so and ends with 0; with REQUIRE_ENGINE=1 that is an error.
# START_ENGINE=1 installs and starts one on Debian, as root, for the time of the tests.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../.."
# shellcheck source=deploy/containers/engine.sh
. "$here/engine.sh"
trap engine_end EXIT

if ! engine_there; then
    echo "cluster: NOT RUN, there is no Docker engine here (START_ENGINE=1 installs one on Debian, as root)"
    [ -z "${REQUIRE_ENGINE:-}" ]
    exit
fi
"${PYTHON:-python3}" -m pytest -q -m cluster tests/cluster "$@"
