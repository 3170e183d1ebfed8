#!/usr/bin/env bash
# Builds the images lucid-pipeline and lucid-recorder, and prints the sizes.
#
#   BUILD_IMAGE=… RUNTIME_IMAGE=… deploy/containers/build.sh
#
# With WHEELS=1 the packages are fetched by the pip of PYTHON, which knows its registries, mirrors and
# certificates, and the build itself needs no network.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${PYTHON:-python3}"
extras="${EXTRAS:-[http]}"
tag="${TAG:-latest}"
context="$(mktemp -d)"
trap 'rm -rf "$context"' EXIT

# Only what the package is built from: a checkout also holds data, environments and secrets.
cp -R LICENSE README.md constraints.txt deploy lucid_events pyproject.toml schemas "$context/"
find "$context" -name __pycache__ -type d -prune -exec rm -rf {} +
mkdir "$context/wheels"
options="${PIP_OPTIONS:-}"
network=default
if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip wheel --quiet --disable-pip-version-check --wheel-dir "$context/wheels" \
        --constraint constraints.txt ".$extras" imageio-ffmpeg hatchling editables
    options="--no-index"
    network=none
fi

for target in pipeline recorder; do
    docker build --quiet --network "$network" --target "$target" --tag "lucid-$target:$tag" \
        --build-arg BUILD_IMAGE="${BUILD_IMAGE:-lucid-build}" --build-arg RUNTIME_IMAGE="${RUNTIME_IMAGE:-lucid-python}" \
        --build-arg EXTRAS="$extras" --build-arg PIP_OPTIONS="$options" \
        --file "$context/deploy/containers/Dockerfile" "$context"
done

for image in "${RUNTIME_IMAGE:-lucid-python}" "lucid-pipeline:$tag" "lucid-recorder:$tag"; do
    docker image inspect --format '{{.Size}}' "$image" | awk -v name="$image" '{ printf "%-32s %8.1f MiB\n", name, $1 / 1048576 }'
done
