#!/usr/bin/env bash
# Builds both images and collects in them through run_collection.sh, with real containers:  ./tests/containers/run.sh
# Needs root on Debian 12. There is no registry: a bare Debian root (debootstrap) takes the place of Python's image, and
# with a stand-in for Isaac Sim's python.sh, Isaac Lab 2.2's pinned packages and a listed GPU that of Isaac Lab's.
# podman takes the place of docker; each command is the guide's.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d /var/tmp/containers.XXXXXX)
mkdir "$work"/{bin,home,out,project}
step() { echo "== $*"; }

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends debootstrap podman buildah runc catatonit >/dev/null

cat >"$work/containers.conf" <<END
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "host"
volumes = [$(for folder in /opt/wheels /opt/pypi /opt/pypi-more; do [[ ! -d $folder ]] || echo "\"$folder:$folder:ro\","; done)]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
END
echo 'unqualified-search-registries = ["docker.io"]' >"$work/registries.conf"

# The engine is root's, as docker's is; `docker` reaches it as whoever calls
podman() {
  CONTAINERS_CONF=$work/containers.conf CONTAINERS_REGISTRIES_CONF=$work/registries.conf BUILDAH_FORMAT=docker \
    BUILDAH_ISOLATION=chroot command podman --root "$work/store" --runroot "$work/state" "$@"
}
podman system service --time 0 "unix://$work/engine.sock" 2>"$work/engine.log" &  # it misses systemd for health checks
engine=$!
leave() {
  podman rm --force --all >/dev/null 2>&1 || true
  kill "$engine"
  umount "$work/store/overlay" 2>/dev/null || true
  rm -rf "$work"
}
trap leave EXIT
cat >"$work/bin/docker" <<END
#!/bin/sh
export XDG_RUNTIME_DIR=$work/home HOME=$work/home
exec /usr/bin/podman --remote --url unix://$work/engine.sock "\$@"
END
chmod 755 "$work" "$work/bin/docker"
git -C "$project" ls-files -z --cached --others --exclude-standard | tar -C "$project" --null -T - -c | tar -C "$work/project" -x
chown -R nobody "$work/home" "$work/out"
as_user() { setpriv --reuid nobody --regid nogroup --clear-groups env "PATH=$work/bin:$PATH" "$@"; }
expect() {  # CODE COMMAND...
  local wanted=$1 code=0
  shift
  "$@" || code=$?
  (( code == wanted )) || { echo "exit code $code, expected $wanted: $*"; exit 1; }
}

step "a bare Debian root in the place of Python's image"
debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates bookworm "$work/root" \
  http://deb.debian.org/debian >"$work/debootstrap.log" || { tail "$work/debootstrap.log"; exit 1; }
rm "$work"/root/usr/lib/python3*/EXTERNALLY-MANAGED
ln -s python3 "$work/root/usr/bin/python"
cp -L /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
{
  echo "[global]"
  echo "retries = 0"
  python3 -m pip config list | sed -n "s/^global\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p"
} >"$work/root/etc/pip.conf"
tar -C "$work/root" -c . | podman import --quiet - docker.io/library/python:3.11-slim-bookworm
rm -rf "$work/root"
chmod 666 "$work/engine.sock"

step "docker build, embedded"
cd "$work/project"
podman build --quiet -t isaac-data-gen:embedded --target embedded -f isaaclab-tiledcam-starter/Dockerfile1.isaaclab-ray . \
  2>&1 | grep -v '^WARNING: Location'

step "--in run: a dataset under the caller's own user"
cd "$work/out"
flags=(--num_envs 2 --num_episodes 1 --steps 60 --enable_wrist_camera --data_root "a folder, with \"quotes\"")
expect 0 as_user env IMAGE=isaac-data-gen:embedded "$work/project/run_collection.sh" --in run "${flags[@]}"
expect 2 as_user env IMAGE=isaac-data-gen:embedded "$work/project/run_collection.sh" --in run --num_envs 0

step "--in exec: the same, from a checkpoint of this machine"
as_user docker run -d --name isaaclab-test --init --shm-size 16g isaac-data-gen:embedded
as_user cp "$work/project/checkpoints/open_drawer_franka/model.pt" "my policy.pt"
expect 0 as_user "$work/project/run_collection.sh" --in exec --checkpoint "my policy.pt" "${flags[@]}"
expect 2 as_user "$work/project/run_collection.sh" --in exec --num_envs 0

step "--in exec, stopped: what ended is copied out"
expect 143 as_user timeout --preserve-status 30 "$work/project/run_collection.sh" --in exec "${flags[@]}" \
  --num_episodes 1000 --robot_name stopped

step "--in run, stopped and resumed"
expect 143 as_user env IMAGE=isaac-data-gen:embedded timeout --preserve-status 15 "$work/project/run_collection.sh" \
  --in run "${flags[@]}" --num_episodes 8 --robot_name resumed
expect 0 as_user env IMAGE=isaac-data-gen:embedded "$work/project/run_collection.sh" --resume "$(echo ./*/*resumed*)"

step "what came out"
[[ -z $(find "$work"/out/* ! -user nobody -print) ]] || { find "$work"/out/* ! -user nobody -ls; exit 1; }
for dataset in "$work"/out/*/Isaac-*; do
  python=(as_user docker run --rm --mount "type=bind,\"source=${dataset//\"/\"\"}\",target=/data" isaac-data-gen:embedded python)
  "${python[@]}" vpl_dataset.py info /data | tail -n 3
  "${python[@]}" vpl_dataset.py validate /data
done

step "docker build, Isaac Lab"
cd "$work/project"
mkdir "$work/isaac"
cat >"$work/isaac/python.sh" <<'END'
#!/bin/bash
set -e
error_exit() { echo "There was an error running python"; exit 1; }
python_exe=${PYTHONEXE:-/isaac-sim/kit/python/bin/python3}
$python_exe "$@" $args || error_exit
END
printf '#!/bin/sh\necho "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-0)"\n' >"$work/isaac/nvidia-smi"
chmod +x "$work"/isaac/*
# torchvision and onnx, which rsl-rl-lib asks for, have no part in this
cat >"$work/isaac/Dockerfile" <<'END'
FROM python:3.11-slim-bookworm
RUN mkdir -p /isaac-sim/kit/python/bin /workspace/isaaclab/source \
    && ln -s /usr/bin/python3 /isaac-sim/kit/python/bin/ && ln -s /isaac-sim /workspace/isaaclab/_isaac_sim \
    && pip install --quiet torch==2.13.0 numpy==1.26.4 gymnasium==1.2.0 pillow==11.2.1 starlette==0.45.3 \
        prettytable==3.3.0 hydra-core h5py moviepy \
    && pip install --quiet --no-deps rsl-rl-lib==2.3.3
COPY python.sh /isaac-sim/
COPY nvidia-smi /bin/
ENTRYPOINT ["/isaac-sim/runheadless.sh"]
END
podman build --quiet -t nvcr.io/nvidia/isaac-lab:2.2.0 "$work/isaac" 2>&1 | grep -v '^WARNING: Location'
podman build --quiet -t isaaclab:2.2-ray -f isaaclab-tiledcam-starter/Dockerfile1.isaaclab-ray . \
  2>&1 | grep -v '^WARNING: Location'

cd "$work/out"
step "Isaac Sim's python.sh lets exit codes and arguments through"
as_user docker run --rm isaaclab:2.2-ray python -c 'import av, isal, ray, torch, numpy, gymnasium
print(*(f"{m.__name__} {m.__version__}" for m in (torch, numpy, gymnasium, av, ray)), sep=", ")
assert (numpy.__version__, gymnasium.__version__) == ("1.26.4", "1.2.0")'
expect 143 as_user docker run --rm isaaclab:2.2-ray python -c 'raise SystemExit(143)'
expect 2 as_user "$work/project/run_collection.sh" --in run --simulator isaac --kit_args "two words"
expect 0 as_user docker run --rm isaaclab:2.2-ray pip --version
expect 0 as_user docker run --rm isaaclab:2.2-ray ray --version
step "all as it should be"
