#!/usr/bin/env bash
# Sets up what is missing and runs the tests; arguments go to pytest:  ./tests/run.sh -k saver
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$("$project/setup_venv.sh" test)
cd "$project"
exec "$venv/bin/python" -m pytest "$@"
