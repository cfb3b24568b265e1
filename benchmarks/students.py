"""What a student learns from how much of what: by demonstrations, noise, cameras, size, source and expert.

    python benchmarks/students.py 50 500 wrist                 these cells, one after the other, on one GPU
    CUDA_VISIBLE_DEVICES=1 python benchmarks/students.py 224x168 --root runs/students      another GPU, at the same time
    python benchmarks/students.py --results benchmarks/students.json --chart docs/students.png       what there is

Each cell collects its dataset with MuJoCo Warp if that is not there, trains a student on it, and evaluates it in 500
unseen scenes; the cell physx does so in Isaac Lab 3, by .venv-isaac/bin/python. What a folder of --root holds already
is not made again; the commands are printed as they start.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

PROJECT = Path(__file__).parent.parent
VERSION_1 = "636f4a7^"
"""The last commit whose policy hooked the handle and jerked."""
SCENES = ("--steps", "120", "--stop_after_success", "10", "--only_success", "--enable_wrist_camera")
WARP = ("--simulator", "mujoco_warp", "--num_envs", "420", *SCENES)
SMALL, NOISY = ("--width", "128", "--height", "96"), ("--action_noise", "0.4")
DATASETS: dict[str, tuple[str, ...]] = {
    "noisy": (*WARP, *SMALL, *NOISY, "--num_episodes", "3"),
    "more": (*WARP, *SMALL, *NOISY, "--num_episodes", "4", "--seed", "43"),
    "clean": (*WARP, *SMALL, "--num_episodes", "3"),
    "96x72": (*WARP, "--width", "96", "--height", "72", *NOISY, "--num_episodes", "3"),
    "224x168": (*WARP, "--width", "224", "--height", "168", *NOISY, "--num_episodes", "3"),
    "version_1": (*WARP, *SMALL, "--num_episodes", "4", "--checkpoint", "version_1/model.pt"),
    "mujoco": ("--simulator", "mujoco", "--num_envs", "105", *SCENES, *SMALL, *NOISY, "--num_episodes", "12"),
    "physx": ("--simulator", "isaac", "--num_envs", "256", *SCENES, *SMALL, *NOISY, "--num_episodes", "5"),
}
"""The collector's flags; `version_1/` is a folder of --root."""
EVALUATED: dict[str, tuple[str, ...]] = {
    "mujoco_warp": ("--num_envs", "500"),
    "mujoco": ("--num_envs", "100", "--device", "cuda:0"),  # where the student thinks
    "isaac": ("--num_envs", "250"),
}
"""evaluate_policy.py's flags by simulator."""


@dataclass(frozen=True)
class Cell:
    """One place of the table."""

    datasets: tuple[str, ...] = ("noisy",)
    train: tuple[str, ...] = ()
    simulators: tuple[str, ...] = ("mujoco_warp",)
    """Where the student is evaluated."""
    label: str = ""
    """In the chart; a number of demonstrations needs none."""


COUNTS = (50, 100, 200, 500, 1000, 2000)
CELLS: dict[str, Cell] = {
    **{str(n): Cell(train=("--episodes", str(n))) for n in COUNTS[:4]},
    "1000": Cell(simulators=("mujoco_warp", "mujoco"), label="both cameras, 128x96 px,\nnoise, lossless"),
    "2000": Cell(("noisy", "more"), ("--episodes", "2000")),
    "clean": Cell(("clean",), ("--episodes", "976"), label="no action noise"),
    "overview": Cell(train=("--cameras", "overview"), label="overview camera only"),
    "wrist": Cell(train=("--cameras", "wrist"), label="wrist camera only"),
    "96x72": Cell(("96x72",), ("--shift_px", "3"), label="96x72 px"),
    # torch 2.11 with cuDNN 9 fails at 512 rows of this size
    "224x168": Cell(("224x168",), ("--shift_px", "7", "--batch", "256"), label="224x168 px,\n256 rows per step"),
    "mp4": Cell(train=("--source", "mp4"), label="from the MP4s"),
    "mujoco": Cell(("mujoco",), ("--episodes", "976"), ("mujoco_warp", "mujoco"), "MuJoCo's pictures"),
    "physx": Cell(("physx",), ("--episodes", "976"), ("isaac",)),
    "version_1": Cell(("version_1",), ("--episodes", "976"), label="version 1's policy"),
}
"""Beside the numbers of demonstrations: 976 of them, noisy, both cameras, 128x96, lossless, one thing another."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told = f"what to measure: {', '.join(CELLS)}"
    parser.add_argument("cells", nargs="*", choices=[[], *CELLS], metavar="CELL", help=told)
    parser.add_argument("--datasets", nargs="*", default=[], choices=[*DATASETS], help="what to collect beforehand")
    parser.add_argument("--root", type=Path, default=PROJECT / "runs" / "students", help="where all of it goes")
    parser.add_argument("--results", type=Path, help="gather what was measured, beside what stands there")
    parser.add_argument("--chart", type=Path, help="draw the file of --results")
    args = parser.parse_args(argv)
    root = args.root.absolute()
    for name in args.datasets:
        dataset(root, name)
    for name in args.cells:
        measure(root, name)
    if args.results:
        gather(root, args.results)
        if args.chart:
            draw(json.loads(args.results.read_text()), args.chart)
    return 0


def measure(root: Path, name: str) -> None:
    """Train and evaluate the student of a cell."""
    cell, folder = CELLS[name], root / "students" / name
    datasets = [dataset(root, each) for each in cell.datasets]
    if not (folder / "student.pt").exists():
        run("examples/train_student.py", *datasets, "--output", folder, *cell.train)
    for simulator in cell.simulators:
        if not (result := folder / f"{simulator}.json").exists():
            where = ("--simulator", simulator, *EVALUATED[simulator], "--output", str(result))
            run("evaluate_policy.py", "--policy", f"student:{folder / 'student.pt'}", *where)


def dataset(root: Path, name: str) -> Path:
    """The folder of a dataset, which is collected where it is missing."""
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{name}.lock"):  # a process on another GPU may be about to collect it too
        if not (made := root / f"{name}.txt").exists():
            if name == "version_1" and not (root / name).exists():
                old_policy(root / name)
            flags = [str(root / flag) if flag.startswith("version_1/") else flag for flag in DATASETS[name]]
            run("collect_tiled_with_checkpoint.py", "--data_root", root / "vpl_tiled" / name, *flags)
            [folder] = (root / "vpl_tiled" / name).iterdir()
            made.write_text(str(folder))
        return Path(made.read_text())


def old_policy(folder: Path) -> None:
    """Take the policy of version 1 out of the project's history."""
    where = "checkpoints/open_drawer_franka"
    archive = subprocess.run(["git", "archive", f"{VERSION_1}:{where}"], cwd=PROJECT, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")


def run(script: str, *flags: str | Path) -> None:
    """Run a command of this project, or with `-m` of a library's, in the project's folder; says it first."""
    command = ["python", script, *map(str, flags)]
    print("$", shlex.join(command), flush=True)
    subprocess.run([sys.executable, *command[1:]], cwd=PROJECT, check=True)


def gather(root: Path, path: Path) -> None:
    """Put what was measured in --root into a file, in the place of what it says of the same cells."""
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for result in sorted((root / "students").glob("*/*.json")):
        [row] = json.loads(result.read_text())
        row |= {"cell": result.parent.name, "policy": f"student, {result.parent.name}"}
        found = [each for each in found if (each.get("cell"), each["simulator"]) != (row["cell"], row["simulator"])]
        found.append(row)
    path.write_text(json.dumps(found, indent=1))


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Success by the number of demonstrations, and with one thing another; Wilson's 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    of_cell = {row["cell"]: row for row in results if "cell" in row and row["simulator"] == "mujoco_warp"}
    counted = [of_cell[str(count)] for count in COUNTS if str(count) in of_cell]
    others = [row for name, row in of_cell.items() if CELLS[name].label]
    others.sort(key=lambda row: row["successes"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=False, constrained_layout=True)
    shares = [100 * row["successes"] / row["scenes"] for row in counted]
    left.errorbar([row["about"]["episodes"] for row in counted], shares, yerr=around(counted), marker="o", capsize=3)
    left.set(xscale="log", xlabel="demonstrations", ylabel="success in 500 unseen scenes (%)", ylim=(0, 102))
    left.set_xticks([row["about"]["episodes"] for row in counted], [row["about"]["episodes"] for row in counted])
    left.minorticks_off()
    names = [CELLS[row["cell"]].label for row in others]
    shares = [100 * row["successes"] / row["scenes"] for row in others]
    right.errorbar(shares, names, xerr=around(others), fmt="o", capsize=3)
    right.set(xlabel="success in 500 unseen scenes (%)", xlim=(-2, 102))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def around(rows: list[dict[str, Any]]) -> list[list[float]]:
    """How far the intervals reach below and above, in per cent."""
    shares = [row["successes"] / row["scenes"] for row in rows]
    below = [100 * (share - row["interval"][0]) for share, row in zip(shares, rows, strict=True)]
    above = [100 * (row["interval"][1] - share) for share, row in zip(shares, rows, strict=True)]
    return [below, above]


if __name__ == "__main__":
    sys.exit(main())
