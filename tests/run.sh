#!/usr/bin/env bash
# Sets up what is missing and runs the tests, two at a time; arguments go to pytest:  ./tests/run.sh -k saver
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$("$project/setup_venv.sh" test)
cd "$project"
# halves of the list, so that most files prepare their things once; who has done his half takes of the other's
exec "$venv/bin/python" -m pytest --numprocesses 2 --dist worksteal "$@"
