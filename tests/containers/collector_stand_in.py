#!/usr/bin/env python3
"""In the place of Python with the collector: notes arguments and folder in $COLLECTOR_LOG, makes the dataset $DATASET.

Ends with $COLLECTOR_CODE, or with 128 + a signal's number where $COLLECTOR_WAITS is set.
"""

import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

if sys.argv[1:2] == ["-c"]:  # setup_venv.sh asks whether Python runs
    sys.exit()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: sys.exit(128 + number))
words, code = sys.argv[1:], int(os.environ.get("COLLECTOR_CODE", "0"))
pairs = pairwise(["--data_root", "vpl_tiled", *(part for word in words for part in word.split("=", 1))])
data_root = [value for flag, value in pairs if flag == "--data_root"]
if code != 2:
    Path(data_root[-1], os.environ.get("DATASET", "dataset"), "episode_000").mkdir(parents=True, exist_ok=True)
Path(os.environ["COLLECTOR_LOG"]).write_text(json.dumps({"words": words, "folder": os.getcwd()}))
if "COLLECTOR_WAITS" in os.environ:
    time.sleep(60)
sys.exit(code)
