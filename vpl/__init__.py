"""What is behind `vpl_saver.py`, `vpl_dataset.py` and `vpl_export.py`: format, files, checks, exports, report."""

import sys

if sys.platform == "win32":
    raise SystemExit(
        "Isaac Data Gen does not run on Windows itself: use WSL 2, or read the datasets there with h5py alone"
    )
