#!/usr/bin/env bash
# The reference run: sets up what is missing, then collects 20 envs x 2 episodes x 60 steps with both cameras.
#   ./run_collection.sh                             the reference run into data/
#   ./run_collection.sh --num_envs 4 --steps 120    these flags instead; see collect_tiled_with_checkpoint.py --help
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$project/setup_venv.sh"
if (( $# == 0 )); then
  set -- --num_envs 20 --num_episodes 2 --steps 60 --enable_wrist_camera --headless --data_root "$project/data"
fi
exec "$(realpath -ms "${VENV:-$project/.venv}")/bin/python" "$project/collect_tiled_with_checkpoint.py" "$@"
