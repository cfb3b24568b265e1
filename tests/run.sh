#!/usr/bin/env bash
# Sets up what is missing and runs the tests, two files at a time; arguments go to pytest:  ./tests/run.sh -k saver
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$("$project/setup_venv.sh" test)
cd "$project"
# whole files: what a file prepares, such as an environment with LeRobot, is prepared once
exec "$venv/bin/python" -m pytest --numprocesses 2 --dist loadfile "$@"
