#!/usr/bin/env bash
# Builds deploy/Dockerfile without Docker and without a registry, and runs the demo in it as
# the image's own user with a read-only root file system. Runs the steps of deploy/zml-dask.def
# on the same base, as apptainer would.
#
#   deploy/build-image.sh [FOLDER]        needs root, and buildah and debootstrap from Debian
#
# FOLDER (default: a temporary one, removed in the end) keeps the base for the next time, and as
# FOLDER/root the root file system of the image, which tests/cluster/test_containers.py runs.
# The base is Debian's; ZML_SUITE and ZML_MIRROR name another suite or mirror.
set -euo pipefail
folder=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/.."

temporary=
definition=
if [ -z "$folder" ]; then
  folder=$(mktemp -d)
  temporary=$folder
fi
# What a trap fails at would be the script's own failure.
trap 'kill $definition 2>/dev/null || true; [ -z "$temporary" ] || rm -rf "$temporary" || true' EXIT
mkdir -p "$folder"
suite=${ZML_SUITE:-bookworm}
mirror=${ZML_MIRROR:-http://deb.debian.org/debian}
most_mib=${ZML_MOST_MIB:-1600}
storage=(--storage-driver vfs --root "$folder/storage" --runroot "$folder/run")

say() { printf '%s %s\n' "$(date +%T)" "$*"; }

if [ ! -e "$folder/base/usr/bin/tini" ]; then
  say "base: $suite from $mirror"
  debootstrap --variant=minbase --include=ca-certificates,git,libarchive13,python3,python3-venv,tini \
    "$suite" "$folder/base" "$mirror" >"$folder/debootstrap.log"
  rm -rf "$folder"/base/var/cache/apt/* "$folder"/base/var/lib/apt/lists/*
fi
buildah "${storage[@]}" rm --all >/dev/null # of the last time
base=$(buildah "${storage[@]}" from scratch)
buildah "${storage[@]}" add --quiet "$base" "$folder/base" / >/dev/null
buildah "${storage[@]}" commit --quiet "$base" localhost/zml-base >/dev/null
buildah "${storage[@]}" rm "$base" >/dev/null

# Such as --volume /etc/ssl/certs:/etc/ssl/certs:ro, behind a proxy with its own authority.
read -ra more <<<"${ZML_BUILD_OPTIONS:-}"
say "image: deploy/Dockerfile on it"
buildah "${storage[@]}" build --isolation chroot --quiet \
  --build-arg BASE=localhost/zml-base "${more[@]}" \
  --file deploy/Dockerfile --ignorefile deploy/Dockerfile.dockerignore \
  --tag localhost/zml-dask . >/dev/null

# Its %files, %post and %test, as the definition has them, while the demo runs.
section() { sed -n "/^%$1\$/,/^%/{/^%/!p}" deploy/zml-dask.def; }
definition() {
  steps=$(buildah "${storage[@]}" from localhost/zml-base)
  section files | while read -r source target; do
    [ -z "$source" ] || buildah "${storage[@]}" copy --quiet "$steps" "$source" "$target" >/dev/null
  done
  for name in post test; do
    buildah "${storage[@]}" run --isolation chroot "${more[@]}" "$steps" -- /bin/sh -c "$(section $name)"
  done
  buildah "${storage[@]}" rm "$steps" >/dev/null
}
definition >"$folder/definition.log" 2>&1 &
definition=$!

container=$(buildah "${storage[@]}" from localhost/zml-dask)
root=$(buildah "${storage[@]}" mount "$container")
size=$(du -sm --exclude=proc "$root" | cut -f1)
say "size: $size MiB"
[ "$size" -le "$most_mib" ] || { echo "more than $most_mib MiB" >&2; exit 1; }
page=$(echo "$root"/opt/zml/lib/python3*/site-packages/zml_dask/publish/page)
for left in "$root"/src "$root"/root/.cache "$root"/opt/zml/bin/pip "$page"/src "$page"/node_modules; do
  [ ! -e "$left" ] || { echo "left of the build: $left" >&2; exit 1; }
done

say "demo: as the image's user, nothing but /tmp and the home to write to"
# shellcheck disable=SC2016 # the inner shell fills in $root
unshare --mount --pid --fork bash -euo pipefail -c '
  root=$1
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  for writable in tmp home/zml; do
    mount -t tmpfs -o mode=1777 tmpfs "$root/$writable"
  done
  mount -o remount,ro,bind "$root"
  if chroot --userspec=10001:10001 "$root" touch /opt/zml/x 2>/dev/null; then
    echo "the root file system can be written" >&2
    exit 1
  fi
  exec chroot --userspec=10001:10001 "$root" /usr/bin/env -i HOME=/home/zml LANG=C.UTF-8 \
    PATH=/opt/zml/bin:/usr/bin:/bin tini -s -- \
    bash -euc "cd && zml-dask demo zenodo-ml && zml-dask verify zenodo-ml && python -c \"import libarchive\""
' demo "$root"
ln -sfn "$root" "$folder/root"

say "steps of deploy/zml-dask.def"
wait "$definition" || { tail -n 30 "$folder/definition.log" >&2; exit 1; }
tail -n 1 "$folder/definition.log"
say "done"
