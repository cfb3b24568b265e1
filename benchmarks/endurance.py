"""A long collection: time, size, memory on host and GPU once a second, and whether every episode is valid.

    python benchmarks/endurance.py --results endurance.json -- --simulator mujoco_warp --num_envs 500 --num_episodes 20

What comes after `--` goes to the collector. Host memory is that of all its processes, shared pages counted once (Pss).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from vpl.checks import validate

EVERY_S = 1.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--data_root", type=Path, default=None, help="folder for files, removed afterwards")
    parser.add_argument("--results", type=Path, default=None, help="JSON to write")
    parser.add_argument("collector", nargs="+", help="the collector's flags, after --")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.data_root) as folder:
        results = {"collector": args.collector, **collect(Path(folder), args.collector)}
        dataset = next(Path(folder).iterdir())
        start = time.monotonic()
        problems = validate(dataset)
        results |= {"validation_s": round(time.monotonic() - start, 1), "problems": [str(p) for p in problems[:20]]}
        rows = json.loads((dataset / "metadata.json").read_text())
        results |= {"episodes": rows["num_episodes"], "successes": rows["num_successes"], "versions": rows["versions"]}
        results |= {"writer_wait_s": rows["writer_wait_s"], "bytes": size_of(dataset)}
    print(json.dumps({name: value for name, value in results.items() if name != "samples"}, indent=1))
    if args.results:
        args.results.write_text(json.dumps(results, indent=1))
    return 1 if problems else 0


def collect(folder: Path, flags: list[str]) -> dict[str, Any]:
    """Run the collector; seconds, its last lines, and the memory in MB over time."""
    script = Path(__file__).parent.parent / "collect_tiled_with_checkpoint.py"
    command = [sys.executable, str(script), *flags, "--data_root", str(folder)]
    samples, start = [], time.monotonic()
    with tempfile.TemporaryFile("w+") as output, subprocess.Popen(command, stdout=output) as process:
        while process.poll() is None:
            samples.append((round(time.monotonic() - start, 1), round(host_mb(process.pid)), gpu_mb()))
            time.sleep(EVERY_S)
        output.seek(0)
        said = output.read().splitlines()
    assert process.returncode == 0, said
    _, host, gpu = np.array(samples, float).T
    quarters = [slice(len(host) * i // 4, max(1, len(host) * (i + 1) // 4)) for i in range(4)]
    return {
        "seconds": round(time.monotonic() - start, 1),
        "said": said[-3:],
        "host_mb_by_quarter": [float(np.median(host[quarter])) for quarter in quarters],
        "gpu_mb_by_quarter": [float(np.median(gpu[quarter])) for quarter in quarters],
        "samples": samples[:: max(1, len(samples) // 100)],
    }


def host_mb(pid: int) -> float:
    """Pss of a process and its descendants."""
    total = 0.0
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1]) / 1e3
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, StopIteration):  # it has just ended
        return total
    return total + sum(host_mb(int(child)) for child in children)


def gpu_mb() -> float:
    """Memory in use on the first GPU; 0 without one."""
    if shutil.which("nvidia-smi") is None:
        return 0.0
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return float(subprocess.run(query, capture_output=True, text=True, check=True).stdout)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
