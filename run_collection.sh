#!/usr/bin/env bash
# Collects a dataset, in a container or on this machine: ./run_collection.sh --help
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
container=${CONTAINER:-isaaclab-test}
image=${IMAGE:-isaaclab:2.2-ray}
dockerfile=isaaclab-tiledcam-starter/Dockerfile1.isaaclab-ray
collector=/workspace/collect_tiled_with_checkpoint.py
no_rt_cores=$project/checks/gpus_without_rt_cores.txt   # patterns of names; checks/self_check.py reads it too

say() { echo "run_collection: $*" >&2; }
fail() { say "$*"; exit 2; }

usage() {
  cat <<END
Collects a dataset. Without flags the reference run: 20 envs x 2 episodes x 60 steps with both cameras into vpl_tiled/.

  ./run_collection.sh [--in exec|run|embedded] [flags of collect_tiled_with_checkpoint.py]

  --in exec       in the running container (CONTAINER, now $container): a checkpoint of this machine is copied in,
                  the dataset is copied out
  --in run        in a fresh container (IMAGE, now $image) that sees checkpoint, --data_root and --resume
  --in embedded   on this machine with MuJoCo; sets up .venv on the first call. With --simulator isaac in Isaac Lab 3.0,
                  which needs neither Docker nor a GPU; sets up .venv-isaac
  without --in    the first of these that this machine can do (--resume passes exec over)

All other arguments reach the collector as they are, and its exit code comes back. FULL_GUIDE.md lists the flags.
Ctrl-C, SIGTERM and SIGHUP end a collection after the present step; what is on disk is whole.
END
}

value_of() {  # FLAG: the value that the collector takes, which is the last; empty where FLAG is not given
  local word value='' wanted=''
  for word in "${args[@]}"; do
    if [[ $wanted ]]; then value=$word wanted=''
    elif [[ $word == "$1" ]]; then wanted=1
    elif [[ $word == "$1="* ]]; then value=${word#*=}
    fi
  done
  printf %s "$value"
}

docker_problem() {  # prints why docker is of no use here and what to do; fails where there is no problem
  local output
  command -v docker >/dev/null || { echo "there is no docker command; install Docker Engine"; return; }
  output=$(docker ps --quiet 2>&1) && return 1
  case $output in
    *'permission denied'*) echo "docker refuses this user; sudo usermod -aG docker $(id -un) and log in again" ;;
    *) echo "docker does not answer (${output##*$'\n'}); sudo systemctl start docker" ;;
  esac
}

has_image() { docker image inspect "$image" >/dev/null 2>&1; }
is_running() { [[ $(docker container inspect -f '{{.State.Running}}' "$container" 2>/dev/null) == true ]]; }
simulator_of() { docker "$1" inspect -f '{{index .Config.Labels "isaac-data-gen.simulator"}}' "$2"; }  # isaac, isaac3 or mujoco
has_rt_cores() { grep '^GPU' <<<"$1" | grep -qvwEf "$no_rt_cores"; }

pick() {
  if why=$(docker_problem); then
    mode=embedded
  elif is_running && [[ ! $(value_of --resume) ]]; then
    mode=exec why="container $container is running"
  elif ! has_image; then
    mode=embedded why="there is neither a running container $container nor an image $image"
  elif [[ $(simulator_of image "$image") == isaac ]] && ! has_rt_cores "$(nvidia-smi -L 2>/dev/null)"; then
    mode=embedded why="$image needs a GPU with RT cores and this machine has none"
  else
    mode=run why="image $image is here"
  fi
}

check_rt_cores() {  # GPUS: what nvidia-smi lists
  has_rt_cores "$1" || fail "no GPU with RT cores ($(head -n1 <<<"$1")), Isaac Sim cannot draw; use --in embedded"
}

# Runs COMMAND and returns its exit code. Ctrl-C and SIGTERM go to the collector, through the command `tell`; COMMAND,
# docker's client, gets a session of its own, or it would leave first. With a terminal Ctrl-C is a key that it sends on.
supervise() {  # COMMAND...
  local interrupted code
  [[ ${tty[*]} ]] || set -- setsid "$@"
  "$@" <&0 &
  trap 'interrupted=1; "${tell[@]}" INT >/dev/null || true' INT
  trap 'interrupted=1; "${tell[@]}" TERM >/dev/null || true' TERM HUP
  while interrupted=''; wait $! && code=0 || code=$?; [[ $interrupted ]]; do :; done
  trap - INT TERM HUP
  return "$code"
}

# Whether workers side by side, which take some seconds to start, are sooner done than one program. OpenGL without a GPU
# hardly gains from a second core; a GPU draws fast enough for one.
several_pay() {
  local simulator envs rounds steps
  simulator=$(value_of --simulator) envs=$(value_of --num_envs) rounds=$(value_of --num_episodes) steps=$(value_of --steps)
  [[ ${RAY:-1} != 0 && ${simulator:-auto} =~ ^(auto|mujoco)$ && " ${args[*]} " != *" --self_check "* ]] || return
  ! command -v nvidia-smi >/dev/null && (( $(nproc) > 1 )) || return
  [[ ${envs:-20}${rounds:-2}${steps:-60} =~ ^[0-9]+$ ]] || return   # the collector says what is wrong
  (( 10#${rounds:-2} > 1 && 10#${envs:-20} * 10#${rounds:-2} * 10#${steps:-60} >= 2000 ))
}

# Each of these leaves the collector's exit code in `code`
in_exec() {
  local problem stage checkpoint agent_yaml overrides
  problem=$(docker_problem) && fail "--in exec: $problem"
  is_running || fail "--in exec: no container $container is running; docker start $container, or set CONTAINER"
  [[ ! $(value_of --resume) ]] || fail "--resume: $container does not see this machine's folders; use --in run"
  case $(simulator_of container "$container") in
    isaac) check_rt_cores "$(docker exec "$container" nvidia-smi -L 2>&1 || true)" ;;
    isaac3 | mujoco) ;;
    *) fail "--in exec: container $container is not of an image of $dockerfile; see FULL_GUIDE.md" ;;
  esac
  stage=$(docker exec "$container" mktemp -d /tmp/isaac-data-gen.XXXXXX)
  overrides=(--data_root "$stage/data")
  checkpoint=$(value_of --checkpoint)
  if [[ -f $checkpoint ]]; then
    agent_yaml=$(agent_yaml_of "$checkpoint")
    checkpoint=$(realpath "$checkpoint")
    copy "$checkpoint" "$container:$stage/"
    if [[ $agent_yaml ]]; then
      docker exec "$container" mkdir "$stage/params"
      copy "$agent_yaml" "$container:$stage/params/"
    fi
    overrides+=(--checkpoint "$stage/${checkpoint##*/}")
  fi
  say "collecting into $container:$stage/data; it is copied to $data_root at the end"
  # shellcheck disable=SC2016 # for the container's shell
  tell=(docker exec "$container" sh -c 'kill -s "$1" "$(cat "$0/pid")"' "$stage")
  # shellcheck disable=SC2016
  supervise docker exec "${tty[@]}" --env RUN_COLLECTION=1 --workdir /workspace "$container" \
    sh -c 'echo $$ >"$0/pid"; exec "$@"' "$stage" python "$collector" "${args[@]}" "${overrides[@]}" || code=$?
  ! docker exec "$container" test -d "$stage/data" || fetch "$stage/data"
  docker exec "$container" rm -r "$stage"
}

agent_yaml_of() {  # CHECKPOINT: the configuration of its run, as policies/checkpoint_settings.py finds it; empty: there is none
  local path
  for path in "$(realpath -s "$1")" "$(realpath "$1")"; do
    path=${path%/*}/params/agent.yaml
    [[ ! -f $path ]] || { printf %s "$path"; return; }
  done
}

copy() {  # FROM TO: docker cp, which is not always quiet
  local output
  output=$(docker cp "$1" "$2" 2>&1) || { say "$output"; say "$1 could not be copied; it is still there"; exit 1; }
}

fetch() {  # FOLDER of the container: its contents into data_root, beside what is there
  local incoming item target
  mkdir -p "$data_root"
  incoming=$(mktemp -d "$data_root/.incoming-XXXXXX")
  copy "$container:$1/." "$incoming"
  for item in "$incoming"/*; do
    target=$data_root/${item##*/}
    mv --no-clobber --no-target-directory "$item" "$target"
    if [[ -e $item ]]; then say "$target exists already; the new one is $item"; else say "copied to $target"; fi
  done
  rmdir --ignore-fail-on-non-empty "$incoming"
}

in_run() {
  local problem simulator gpus checkpoint agent_yaml writable made='' options=() name=isaac-data-gen-$$
  problem=$(docker_problem) && fail "--in run: $problem"
  has_image || fail "--in run: no image $image; docker build -t $image -f $dockerfile . (in $project)"
  simulator=$(simulator_of image "$image")
  if gpus=$(docker run --rm --gpus all --entrypoint nvidia-smi "$image" -L 2>&1); then
    options+=(--gpus all)
  elif [[ $simulator == isaac ]]; then
    fail "--in run: docker gives no GPU (${gpus##*$'\n'}); install NVIDIA's driver and container toolkit, then" \
      "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
  fi
  case $simulator in
    isaac)
      check_rt_cores "$gpus"
      # what Kit compiles in its first minutes stays for the next run
      options+=(-v isaac-data-gen-kit:/isaac-sim/kit/cache -v isaac-data-gen-cache:/root/.cache)
      ;;
    isaac3 | mujoco) ;;
    *) fail "--in run: image $image is not built from $dockerfile; build it, or set IMAGE" ;;
  esac
  if [[ $(value_of --resume) ]]; then
    writable=$(realpath -ms "$(value_of --resume)")
  else
    writable=$data_root
    [[ -d $data_root ]] || made=1
    mkdir -p "$data_root" || fail "--data_root $data_root cannot be made; give another folder"
  fi
  case $writable in
    / | /etc | /isaac-sim | /opt | /root | /usr | /workspace | /workspace/isaaclab)
      fail "$writable would hide the container's own $writable; give another --data_root" ;;
  esac
  [[ ! -d $writable ]] || bind "$writable" ''
  checkpoint=$(value_of --checkpoint)
  if [[ -f $checkpoint ]]; then
    agent_yaml=$(agent_yaml_of "$checkpoint")
    checkpoint=$(realpath -s "$checkpoint")
    bind "$checkpoint" ,readonly
    [[ ! $agent_yaml ]] || bind "$agent_yaml" ,readonly "${checkpoint%/*}/params/agent.yaml"
  fi
  tell=(docker kill "$name" --signal)
  # relative paths mean the same in there
  # shellcheck disable=SC2016 # for the container's shell
  supervise docker run --rm --init --sig-proxy=false --name "$name" --shm-size 16g "${tty[@]}" "${options[@]}" \
    --env RUN_COLLECTION=1 "$image" sh -c 'mkdir -p "$0" && cd "$0" && exec "$@"' "$PWD" python "$collector" "${args[@]}" || code=$?
  # the container's root wrote it
  if [[ $(id -u) != 0 && $(find "$writable" -uid 0 -print -quit) ]]; then
    options=()
    bind "$writable" ''
    docker run --rm "${options[@]}" --entrypoint chown "$image" -R --from=0:0 "$(id -u):$(id -g)" "$writable"
  fi
  if [[ $made ]] && rmdir "$data_root" 2>/dev/null; then return; fi   # nothing came
  say "on this machine: $writable"
}

bind() {  # PATH ,readonly [TARGET]: to in_run's options; the container sees PATH as TARGET, or as PATH. Quoted as in CSV
  local path=${1//\"/\"\"} target=${3:-$1}
  options+=(--mount "type=bind,\"source=$path\",\"target=${target//\"/\"\"}\"$2")
}

mode='' args=() tty=() tell=() code=0
while (( $# )); do
  case $1 in
    -h | --help) usage; exit ;;
    --in) (( $# > 1 )) || fail "--in needs one of exec, run, embedded"; mode=$2; shift 2 ;;
    --in=*) mode=${1#--in=}; shift ;;
    *) args+=("$1"); shift ;;
  esac
done
if (( ! ${#args[@]} )); then
  args=(--num_envs 20 --num_episodes 2 --steps 60 --enable_wrist_camera --headless --data_root "$project/vpl_tiled")
fi
data_root=$(value_of --data_root)
data_root=$(realpath -ms "${data_root:-vpl_tiled}")
[[ ! -t 0 || ! -t 1 ]] || tty=(--interactive --tty)
if [[ ! $mode ]]; then
  pick
  say "--in $mode, because ${why%%;*}"
fi
case $mode in
  exec) in_exec ;;
  run) in_run ;;
  embedded)
    environment=()
    [[ $(value_of --simulator) != isaac ]] || environment=(isaac)   # Isaac Lab 3.0, which needs neither Kit nor Docker
    venv=$("$project/setup_venv.sh" "${environment[@]}")
    script=collect_tiled_with_checkpoint.py
    if several_pay; then
      script=collect_on_ray.py
      args=(--address local "${args[@]}")
      say "a worker on each of $(nproc) cores, which draw faster than one program (RAY=0: one program)"
    fi
    exec "$venv/bin/python" "$project/$script" "${args[@]}"
    ;;
  *) fail "--in must be exec, run or embedded, got '$mode'" ;;
esac
exit "$code"
