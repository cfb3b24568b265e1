#!/usr/bin/env bash
# Sets up everything that this machine lacks: Debian packages for rendering without a display, and .venv with the project.
#   ./setup_venv.sh          what running needs
#   ./setup_venv.sh test     and what testing needs
#   ./setup_venv.sh isaac    .venv-isaac beside it, with Isaac Lab 3.0 (PhysX without Kit; no GPU is needed, one is used)
# Prints the environment's folder. run_collection.sh and tests/run.sh call it; a second call finds all in place.
# PYTHON picks the interpreter (3.10 to 3.13; with Isaac Lab 3.11 or 3.12, its own), VENV the folder. An environment that was not made here is left alone.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
extra=${1:-}
python=$(command -v "${PYTHON:-python3}" || true)
[[ $python != */* ]] || python=$(realpath -s "$python")
isaac=isaaclab-tiledcam-starter/isaaclab3.txt
case $extra in
  isaac) requirement=. folder=.venv-isaac oldest=11 newest=12 pins=$isaac ;;
  '' | test) requirement=.[ray${extra:+,$extra}] folder=.venv oldest=10 newest=13 pins='' ;;   # run_collection.sh collects on several cores with Ray
  *) echo "set-up: ./setup_venv.sh takes test or isaac, got '$extra'" >&2; exit 2 ;;
esac

say() { echo "set-up: $*" >&2; }
fail() { say "$*"; exit 2; }

is_ours() { [[ -e $1/$marker ]] || compgen -G "$1/.installed-*" >/dev/null; }   # earlier versions left stamps only
is_free() { is_ours "$1" || [[ ! -e $1 && ! -L $1 ]] || [[ -d $1 && -z $(ls -A "$1") ]]; }

marker=.made-by-isaac-data-gen
venv=$(realpath -ms "${VENV:-$project/$folder}")
if ! is_free "$venv"; then
  [[ ! ${VENV:-} ]] || fail "VENV=$venv was not made by this script and is left alone; name a new folder"
  venv=$venv-isaac-data-gen
  say "$folder was not made by this script and is left alone; using $venv"
  is_free "$venv" || fail "$venv was not made by this script either; set VENV to a new folder"
fi
cd "$project"
stamp=$venv/.installed-$(cat pyproject.toml setup_venv.sh $pins | cksum | cut -d' ' -f1)

# libegl1 and libopengl0 load OpenGL without a display, libgl1-mesa-dri draws where there is no NVIDIA driver
install_debian_packages() {
  command -v dpkg-query >/dev/null || return 0   # not Debian or Ubuntu: MuJoCo says what it misses
  local package missing=()
  for package in "$@"; do
    [[ $(dpkg-query -Wf '${Status}' "$package" 2>/dev/null) == 'install ok installed' ]] || missing+=("$package")
  done
  (( ${#missing[@]} )) || return 0
  local as_root=()
  (( EUID == 0 )) || as_root=(sudo)
  if (( EUID != 0 )) && ! { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; }; then
    fail "missing Debian packages; have an administrator run: apt-get install --no-install-recommends ${missing[*]}"
  fi
  say "installing Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq >/dev/null || say "apt-get update failed in part; going on"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

is_complete() { [[ -e $stamp-$extra || ( -z $extra && -e $stamp-test ) ]] && "$venv/bin/python" -c '' 2>/dev/null; }
finish() { echo "$venv"; exit; }

! is_complete || finish
"$python" -c "import sys; sys.exit(not (3, $oldest) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null ||
  fail "needs Python 3.$oldest to 3.$newest, ${PYTHON:-python3} is ${python:-not found} $("$python" --version 2>&1 || true); set PYTHON"
packages=()
has_library() { ldconfig -p 2>/dev/null | grep -q "$1"; }
has_driver() { compgen -G '/usr/share/glvnd/egl_vendor.d/*.json' >/dev/null; }
if [[ ${MUJOCO_GL:-egl} == egl ]] && ! { has_library libEGL.so.1 && has_library libOpenGL.so.0 && has_driver; }; then
  packages+=(libegl1 libgl1-mesa-dri libopengl0)
fi
[[ $extra != isaac ]] || has_library libGL.so.1 || packages+=(libgl1)   # ovstage, which holds PhysX' scene, loads it
[[ $extra != test ]] || command -v chromium >/dev/null || packages+=(chromium)   # drives the report's tests
[[ $extra != test ]] || command -v ffmpeg >/dev/null || packages+=(ffmpeg)   # LeRobot's loader decodes with its libraries
[[ $extra != test ]] || command -v gcc >/dev/null || packages+=(gcc libc6-dev)   # builds tests/odd_filesystems.c
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip' 2>/dev/null || packages+=("python$version-venv")
(( ${#packages[@]} == 0 )) || install_debian_packages "${packages[@]}"

# Only what carries the marker is ever cleared, so the marker comes first: an interrupted set-up can then start anew
is_ours "$venv" || { mkdir -p "$venv" && touch "$venv/$marker"; }
exec {lock}<"$venv"
flock "$lock" || say "$venv cannot be locked; start no second set-up beside this one"
! is_complete || finish   # a set-up beside this one made it

say "creating $venv and installing the project's packages (a few minutes)"
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  if [[ -e $venv/$marker ]]; then
    find "$venv" -mindepth 1 -maxdepth 1 ! -name "$marker" -exec rm -rf {} +   # it is ours, and torn
  else
    old=$(mktemp -d "$venv-old-XXXXXX")
    say "$venv has no working pip, and an earlier version may not have made all that it holds: moved to $old"
    find "$venv" -mindepth 1 -maxdepth 1 -exec mv -t "$old" {} +
    touch "$venv/$marker"
  fi
  "$python" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet)
"${pip[@]}" 'pip>=23.1' >&2   # earlier ones, such as Python 3.10's, take half an hour to choose versions
cpu_builds=https://download.pytorch.org/whl/cpu
index=()
# PyTorch's CPU build saves gigabytes of CUDA where there is no GPU
if ! command -v nvidia-smi >/dev/null &&
  "$python" -c "import urllib.request as r; r.urlopen('$cpu_builds/torch/', timeout=5)" 2>/dev/null; then
  index=(--extra-index-url "$cpu_builds")
fi
torch=torch==2.13.0
"${pip[@]}" "${index[@]}" $torch >&2
"${pip[@]}" --editable "$requirement" $torch >&2   # said again: pip would rather take another one than look long
if command -v nvidia-smi >/dev/null; then
  "${pip[@]}" --editable '.[gpu]' >&2
fi
if [[ $extra == isaac ]]; then
  "${pip[@]}" --no-deps --ignore-requires-python --requirement $isaac >&2
fi
rm -f "$venv"/.installed-*
touch "$stamp-$extra"
say "done"
finish
