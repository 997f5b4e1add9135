#!/usr/bin/env bash
# arm_root.sh DEST: an ARM Python for qemu-user, made of Debian's packages and of wheels.
#   DEST/root  the interpreter and its libraries; DEST/site  NumPy and what the tests import
# A complete DEST is left as it is.
set -euo pipefail
dest=$1
[ -e "$dest/complete" ] && exit 0

packages=(python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev libc6
  libgcc-s1 libstdc++6 zlib1g libssl3 libffi8 libexpat1 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1
  libcrypt1)
wheels=(numpy hypothesis pytest pytest-timeout)

mkdir -p "$dest/debs" "$dest/wheels" "$dest/root" "$dest/site"
dpkg --add-architecture arm64
apt-get update -q
(cd "$dest/debs" && apt-get download -q "${packages[@]/%/:arm64}")
for deb in "$dest"/debs/*.deb; do dpkg -x "$deb" "$dest/root"; done

"${PYTHON:-python3}" -m pip download -q --dest "$dest/wheels" --only-binary=:all: \
  --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform any "${wheels[@]}"
for wheel in "$dest"/wheels/*.whl; do
  "${PYTHON:-python3}" -m zipfile -e "$wheel" "$dest/site"
done
touch "$dest/complete"
