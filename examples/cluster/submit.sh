#!/usr/bin/env bash
# Submits a collection to a running Ray cluster; flags go to collect_on_ray.py:
#   examples/cluster/submit.sh http://head:8265 --data_root /shared/data --num_envs 256 --num_episodes 40
# --data_root must be a path that all nodes see, or give --gather or --store. `ray job stop` ends it as Ctrl-C does.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
address=${1:?the address of the cluster\'s dashboard, such as http://head:8265}
shift
# the project travels to the nodes, but for what they need not: Ray takes at most 100 MiB
# and kills a stopped job after 3 s, in which not all that has ended is on disk
runtime_env='{
  "excludes": [".git", ".venv*", "benchmarks", "docs", "runs", "tests", "vpl_tiled"],
  "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
}'
exec ray job submit --address "$address" --working-dir "$project" --runtime-env-json "$runtime_env" -- \
  python collect_on_ray.py "$@"
