#!/usr/bin/env bash
# On a host: installs what the code in its folder needs, into .venv there or into the folder VENV.
# Usage: launch/worker/install.sh tpu|cuda|cpu. DRY_RUN=1 shows what it would do on a host that has nothing yet.
set -euo pipefail
cd "$(dirname "$0")/../.."
source launch/arguments.sh
accelerator=${1:-}
[[ $accelerator == @(tpu|cuda|cpu) ]] || fail "'$accelerator' is not an accelerator. Use tpu, cuda or cpu: $0 tpu"

there() { # word...: a command that works here
  [[ ${DRY_RUN:-} != 1 ]] && "$@" > /dev/null 2>&1
}

python=""
for candidate in python3.12 python3.13 python3.11 python3; do
  if [[ -z $python ]] && there "$candidate" -c 'import ensurepip, sys, venv; assert (3, 11) <= sys.version_info < (3, 14)'; then
    python=$candidate
  fi
done
if ! there make --version || { [[ -z $python ]] && ! there python3 -m pip --version; }; then
  apt_install make python3-pip
fi
if [[ -z $python ]]; then # the images of TPU VMs have Python 3.10
  # Debian's newer pips refuse, for fear of its own packages, which uv does not touch.
  run env PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user uv
  python="python3 -m uv run --no-project --python=3.12 python"
fi
venv=${VENV:-.venv}
run make PYTHON="$python" VENV="$venv" ACCELERATOR="$accelerator" "$venv/.ready-$accelerator"
