#!/usr/bin/env bash
# On a TPU VM: keeps launch/worker/run.sh running as the systemd unit nami_jax.
# Usage: launch/worker/service.sh start ARGUMENTS-OF-RUN.SH (restarts it if it is running) | stop
# Variables, secrets among them, are read from ~/nami_jax.env, if there is one. DRY_RUN=1 shows the commands.
set -euo pipefail
cd "$(dirname "$0")/../.."
source launch/arguments.sh

case ${1:-} in
  start)
    run sudo sh -c 'systemctl stop nami_jax 2> /dev/null || true' # so that a new start takes new code and arguments
    # Failures that a restart would not fix exit with 1. When another host dies, jax aborts this one: 134.
    run sudo systemd-run --unit=nami_jax --collect --uid="$(id --user)" --working-directory="$PWD" \
      --setenv=HOME="$HOME" --property=EnvironmentFile=-"$HOME/nami_jax.env" --property=KillMode=mixed \
      --property=TimeoutStopSec=120 --property=Restart=on-failure --property=RestartPreventExitStatus=1 \
      --property=RestartSec=10 bash launch/worker/run.sh "${@:2}"
    ;;
  stop) run sudo systemctl stop nami_jax ;;
  *) fail "'${1:-}' is not an action of $0. Use start or stop" ;;
esac
