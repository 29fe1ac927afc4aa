#!/usr/bin/env bash
# On a host: mounts a Cloud Storage bucket by gcsfuse. Usage: launch/worker/mount.sh BUCKET FOLDER
# The bucket needs a hierarchical namespace: a folder is renamed at once there, and so Orbax finishes a checkpoint.
# DRY_RUN=1 shows what it would do on a host that has nothing yet.
set -euo pipefail
cd "$(dirname "$0")/../.."
source launch/arguments.sh
bucket=${1:-} folder=${2:-}
[[ -n $bucket && -n $folder ]] || fail "bucket and folder are missing. Pass e.g. $0 my-bucket /bucket"
keys=/usr/share/keyrings/cloud.google.asc

if [[ ${DRY_RUN:-} == 1 ]] || ! command -v gcsfuse > /dev/null; then
  # shellcheck source=/dev/null
  source /etc/os-release
  run sudo curl --fail --silent --show-error --output "$keys" https://packages.cloud.google.com/apt/doc/apt-key.gpg
  run sudo sh -c "echo 'deb [signed-by=$keys] https://packages.cloud.google.com/apt gcsfuse-$VERSION_CODENAME main' > /etc/apt/sources.list.d/gcsfuse.list"
  apt_install gcsfuse
fi
if [[ ${DRY_RUN:-} == 1 ]] || ! mountpoint --quiet "$folder"; then
  run sudo install --directory --owner="$(id --user)" "$folder"
  # Nothing is remembered of what other hosts may have written since.
  run gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$bucket" "$folder"
fi
