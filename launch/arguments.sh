# Sourced by the other scripts: arguments by name, and commands that are shown and then run, or only shown if DRY_RUN=1.
# shellcheck shell=bash disable=SC2034,SC2154 # variables are for the scripts that source this one, or theirs

fail() {
  echo "error: $*" >&2
  exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash $BASH_VERSION is too old. Install 4.4 or newer."

# require_action "action ..." given
require_action() {
  [[ -n $2 && " $1 " == *" $2 "* ]] || fail "'$2' is not an action. Use one of: $1"
}

# parse_arguments "name ..." "$@": sets the variables of these names from --name=value or --name value, and the array
# `more` to what stands after --.
parse_arguments() {
  local known=" $1 " key
  shift
  more=()
  while (($#)); do
    if [[ $1 == -- ]]; then
      more=("${@:2}")
      return
    fi
    [[ $1 == --?* ]] || fail "$1: pass arguments as --name=value, and those of nami_jax.train after --."
    key=${1#--} key=${key%%=*}
    [[ $known == *" $key "* ]] || fail "--$key is not an argument. Known:${known% }. Those of nami_jax.train go after --."
    if [[ $1 == *=* ]]; then
      printf -v "$key" %s "${1#*=}"
    else
      (($# > 1)) || fail "--$key has no value."
      printf -v "$key" %s "$2"
      shift
    fi
    shift
  done
}

# need name example: the argument must have been given.
need() {
  [[ -n ${!1} ]] || fail "--$1 is missing. Pass e.g. --$1=$2"
}

# quoted word...: prints the words as a shell reads them back.
quoted() {
  local word name value line="" quote="'\\''"
  for word; do
    [[ $word =~ ^(--[A-Za-z0-9_.-]+=)?(.*)$ ]]
    name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    [[ $value =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || value="'${value//"'"/"$quote"}'"
    line+="$name$value "
  done
  printf %s "${line% }"
}

run() {
  quoted "$@"
  echo
  [[ ${DRY_RUN:-} == 1 ]] || "$@"
}

# wait_through pid: waits for the end of a child, whatever signals come, and returns its code. Traps set `signalled`.
wait_through() {
  local code
  while :; do
    signalled="" code=0
    wait "$1" || code=$?
    [[ -n $signalled ]] || return "$code" # else the signal may have ended the waiting alone
  done
}

# archive_code: writes the files of the current commit to a file of the temporary folder, whose name it puts in `archive`.
archive_code() {
  local root commit
  root=$(git rev-parse --show-toplevel) commit=$(git rev-parse --short=12 HEAD)
  [[ -z $(git status --porcelain) ]] || echo "note: uncommitted changes are not sent" >&2
  archive=${TMPDIR:-/tmp}/nami_jax-$commit.tar.gz
  run git -C "$root" archive --format=tar.gz --output="$archive" "$commit"
}

# know_chips: sets `chips`, of the pod that accelerator_type names. Some types are named by their cores, two of which jax
# sees as one device.
know_chips() {
  need accelerator_type v5litepod-256
  local size=${accelerator_type##*-}
  if [[ $accelerator_type == @(v5litepod|v6e)-+([0-9]) ]]; then
    chips=$size
  elif [[ $accelerator_type == @(v5p|v4)-+([0-9]) ]]; then
    chips=$((size / 2))
  else
    fail "--accelerator_type=$accelerator_type is not known. Use e.g. v5litepod-256, v6e-64, v5p-128 or v4-64."
  fi
}

# apt_install package...: also on a fresh machine, whose own upgrades hold apt's locks.
apt_install() {
  run sudo sh -c 'systemctl stop apt-daily.service 2> /dev/null || true' # its lock of the lists is not waited for
  run sudo apt-get -o DPkg::Lock::Timeout=600 update
  run sudo apt-get -o DPkg::Lock::Timeout=600 install --yes "$@"
}

require_below_bucket() {
  [[ $1 != /* && $1 != *:* ]] || fail "--workdir=$1 must be a folder below the bucket. Pass e.g. --workdir=runs/nami_2b"
}
