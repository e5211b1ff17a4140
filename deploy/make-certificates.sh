#!/usr/bin/env bash
# Makes certificates for a Dask cluster that stands (--cluster tls://HOST:PORT): one
# authority, and one certificate that client, scheduler and workers share.
#
#   deploy/make-certificates.sh DIRECTORY [DAYS]
#
# Whoever has cluster.key can run anything on the cluster: DIRECTORY is made readable for
# you alone. Dask asks that the authority has signed, not for a host's name.

set -euo pipefail

if [ "$#" -lt 1 ]; then
  echo "usage: make-certificates.sh DIRECTORY [DAYS]" >&2
  exit 2
fi
directory=$1
days=${2:-365}
if [ -e "$directory/cluster.key" ]; then
  echo "$directory/cluster.key exists already; give another directory" >&2
  exit 1
fi
umask 077
mkdir -p "$directory"
cd "$directory"

# What it says matters only where it fails.
openssl() {
  local said
  said=$(command openssl "$@" 2>&1) || { echo "$said" >&2; exit 1; }
}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$days" \
  -subj "/CN=zml-dask authority" -keyout authority.key -out authority.crt
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
  -subj "/CN=zml-dask cluster" -keyout cluster.key -out cluster.csr
openssl x509 -req -in cluster.csr -CA authority.crt -CAkey authority.key -CAcreateserial \
  -days "$days" -out cluster.crt
# Nobody needs to sign a second one: a cluster that is renewed gets a new authority.
rm -f cluster.csr authority.key authority.srl

here=$(pwd)
cat > dask.yaml <<YAML
# For --cluster-config, or ~/.config/dask, of the driver; and for scheduler and workers.
distributed:
  comm:
    require-encryption: true
    tls:
      ca-file: $here/authority.crt
      client: {cert: $here/cluster.crt, key: $here/cluster.key}
      scheduler: {cert: $here/cluster.crt, key: $here/cluster.key}
      worker: {cert: $here/cluster.crt, key: $here/cluster.key}
YAML
echo "$here/dask.yaml"
