#!/usr/bin/env bash
# Sets up what is missing and runs the tests; arguments go to pytest:  ./tests/run.sh -k saver
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
./setup_venv.sh test
exec "${VENV:-.venv}/bin/python" -m pytest "$@"
