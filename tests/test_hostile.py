"""Odd file systems, users, paths, files and environments: a line says what is wrong, and nothing there is changed.

Each row is a shell script that sets the condition, a command, its exit code, and words that it says. They are run in a
folder that holds two datasets, D and OTHER, of three episodes each; `collect`, `resume`, `dataset`, `exports`, `replay`
and `train` are the project's scripts.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import collect_dataset

import collect_tiled_with_checkpoint as collector

PROJECT = Path(collector.__file__).parent
SMALL = "--num_envs 3 --num_episodes 1 --steps 6 --enable_wrist_camera --width 32 --height 32"
SCRIPTS = {
    "collect": f"collect_tiled_with_checkpoint.py --simulator mujoco {SMALL}",
    "resume": "collect_tiled_with_checkpoint.py --resume",
    "dataset": "vpl_dataset.py",
    "exports": "vpl_export.py",
    "replay": "replay_episode.py",
    "train": "train_policy.py",
}
SHIM = PROJECT / "tests" / "odd_filesystems.c"

EPISODE = "D/episode_001/episode_001.h5"
VIDEO = "D/episode_001/camera_0/episode_001.mp4"
ODD_DISK = "LD_PRELOAD=$SHIM NOLOCK=1 NODIRSYNC=1 NOLINK=1 NOLOCKDIR=1"
STRANGER = "unshare --user --map-user=12345 --map-group=12345 env -u HOME"
"""A user that has neither a home nor a name, as in `docker run --user 12345`, and owns what this user owns."""

FILE_SYSTEMS = [
    ("", f"{disk} {command}", 0, words)
    for disk in ("LD_PRELOAD=$SHIM NOLOCK=1", "LD_PRELOAD=$SHIM NODIRSYNC=1", ODD_DISK)
    for command, words in (("collect", "collected   3 episodes"), ("dataset merge D OTHER --output new", "6 episodes"))
] + [
    ("", f"{ODD_DISK} {command}", 0, words)
    for command, words in (
        ("dataset info D", "3 episodes"),
        ("dataset validate D", "no problems"),
        ("dataset stats D", "joint_pos"),
        ("dataset view D", "report.html"),
        ("dataset split D --val 0.4", "splits.json"),
        ("exports act D --output new", ""),
        ("replay D", "filmed      3 episodes"),
        ("resume D --num_episodes 2", "collected   6 episodes"),
    )
]
USERS = [
    ("chmod -R a+rwX .", f"{STRANGER} {command}", 0, words)
    for command, words in (
        ("collect", "collected   3 episodes"),
        ("dataset validate D", "no problems"),
        ("dataset view D", "report.html"),
        ("exports act D --output new", ""),
        ("replay D/episode_001 --mode actions", "1 of 1 episodes"),
    )
] + [
    ("chmod -R a-w .", f"{STRANGER} collect", 2, "--data_root vpl_tiled cannot be written"),
    ("chmod -R a-w .", f"{STRANGER} dataset view D", 1, "D"),
    ("chmod -R a+rX .; chmod a-rwx D/episode_001/*.h5", f"{STRANGER} dataset info D", 1, "episode_001"),
]
PATHS = [
    ("", "collect --data_root 'a:b'", 0, "a:b"),
    ("", "collect --data_root 'mit leerzeichen/und ümläut %20 #1'", 0, "ümläut"),
    ("", "collect --data_root ./-x", 0, "-x"),
    ("", "collect --data_root \"$(printf 'new\\nline')\"", 0, "collected"),
    ("", "collect --data_root $(printf 'x%.0s' {1..300})", 2, "--data_root"),
    ("touch file", "collect --data_root file", 2, "--data_root file: .*file is not a folder"),
    ("ln -s nowhere link", "collect --data_root link", 2, "--data_root link: .* is not a folder"),
    ("mkdir there; ln -s there link", "collect --data_root link", 0, "collected"),
    ("mv D 'a:b'", "dataset validate a:b", 0, "no problems"),
    ("mv D 'a:b'", "dataset merge a:b OTHER --output 'c:d'", 0, "6 episodes"),
    ("mv D 'a:b'", "replay a:b/episode_000 --compare 'x:y.mp4'", 0, "x:y.mp4"),
    ("mv D 'ä # % ?'", "dataset view 'ä # % ?'", 0, "report.html"),
    ("", "dataset info D/", 0, "3 episodes"),
    ("", "dataset info D/episode_001", 2, "D/episode_001 holds no episode_"),
    ("", f"dataset info {EPISODE}", 2, EPISODE),
    ("", "dataset info nowhere", 2, "nowhere"),
    ("mkdir empty", "dataset validate empty", 2, "empty"),
    ("", "dataset merge D D --output new", 2, "repeats"),
    ("", "dataset merge D OTHER --output D/new", 2, "--output D/new"),
    ("", "dataset merge D OTHER --output OTHER", 2, "--output OTHER exists"),
    ("", "exports act D --output D/new", 2, "--output D/new"),
    ("touch new", "exports robomimic D --output new", 2, "--output new exists"),
    ("echo mine >D/report.html", "dataset view D", 2, "report.html"),
    ("echo mine >D/splits.json", "dataset split D", 2, "splits.json exists"),
    ("", "resume nowhere", 2, "--resume nowhere"),
    ("", "train --log_dir D", 2, "--log_dir D exists"),
    ("touch new.mp4", "replay D/episode_000 --compare new.mp4", 2, "--compare new.mp4"),
]
FOREIGN_FILES = [
    (given, command, 0, words)
    for given in (
        f"cp {VIDEO} D/episode_001/camera_0/._episode_001.mp4; cp {EPISODE} D/episode_001/._episode_001.h5",
        f"cp {VIDEO} D/episode_001/camera_0/annotated.mp4; touch D/.DS_Store D/episode_001/Thumbs.db D/notes.txt",
        "cp -r D/episode_001 'D/episode_001 (copy)'; mkdir D/episode_abc; touch D/episode_7; cp -r OTHER D/nested",
    )
    for command, words in (
        ("dataset info D", "3 episodes"),
        ("dataset validate D", "no problems"),
        ("dataset merge D OTHER --output new", "6 episodes"),
        ("exports act D --output new", ""),
    )
]
DAMAGED_FILES = [
    (given, command, code, "episode_001")
    for given, command, code in (
        *(
            (f"truncate -s -3000 {EPISODE}", command, 1)
            for command in (
                "dataset info D",
                "dataset validate D",
                "dataset stats D",
                "dataset view D",
                "replay D",
                "exports act D --output new",
                "dataset merge D OTHER --output new",
                "resume D --num_episodes 2",
            )
        ),
        (f": >{EPISODE}", "dataset info D", 1),
        (f"echo text >{EPISODE}", "dataset validate D", 1),
        (f"rm {EPISODE}", "dataset info D", 1),
        (f"rm {EPISODE}; mkdir {EPISODE}", "dataset validate D", 1),
        (f"rm {VIDEO}", "dataset validate D", 1),
        (f"truncate -s -500 {VIDEO}", "dataset validate D", 1),
        (f"rm {VIDEO}", "dataset merge D OTHER --output new", 1),
        (f"truncate -s -3000 {EPISODE}", "replay D/episode_001", 2),
    )
] + [
    ("rm D/metadata.json", "dataset info D", 0, "3 episodes"),
    ("rm D/metadata.json", "dataset validate D", 1, "metadata.json is missing"),
    ("echo '{}' >D/metadata.json", "dataset validate D", 1, "metadata.json"),
    ("echo '[]' >D/metadata.json", "dataset validate D", 1, "metadata.json"),
    ("truncate -s 100 D/metadata.json", "dataset view D", 2, "metadata.json is no JSON"),
    ("truncate -s 100 D/metadata.json", "replay D", 2, "metadata.json is no JSON"),
    ("truncate -s 100 D/metadata.json", "resume D", 2, "metadata.json is no JSON"),
    ("echo '{}' >D/metadata.json", "resume D", 2, "metadata.json"),
    ("echo '{}' >D/metadata.json", "replay D", 2, "metadata.json"),
    ("echo '{}' >D/metadata.json", "dataset merge D OTHER --output new", 2, "metadata.json"),
    ('echo \'{"train": ["episode_009"]}\' >D/splits.json', "dataset stats D --split train", 2, "splits.json"),
    ("echo nonsense >D/splits.json", "exports act D --output new", 2, "splits.json"),
]
CHECKPOINTS = [
    (given, f"collect --checkpoint model.pt {flags}", 2, f"--checkpoint: .*model.pt.*{words}")
    for given, flags, words in (
        ("", "", "no such file"),
        ("mkdir model.pt", "", "is a directory"),
        ("ln -s /dev/null model.pt", "", "is no regular file"),
        (": >model.pt", "", "is empty"),
        ("printf '\\x08\\x07\\x12\\x07pytorch onnx' >model.pt", "", "is an ONNX export"),
        ("printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:0\\n' >model.pt", "", "Git LFS"),
        ("echo '<!DOCTYPE html><html></html>' >model.pt", "", "HTML"),
        ("echo x >policy.pth; $PYTHON -m zipfile -c model.pt policy.pth", "", "another program's zip"),
    )
]
ENVIRONMENTS = [
    ("", "dataset info D | head -1", 0, "episode"),
    ("", "dataset validate D --json | head -c 1", 0, ""),
    ("", "collect --help | head -1", 0, "Collect"),
    ("", "dataset info D >&-", 0, ""),
    ("", "collect <&-", 0, "collected"),
    ("", "MUJOCO_GL=nonsense collect", 1, "MUJOCO_GL=nonsense"),
    ("", "MUJOCO_GL=glfw collect", 1, "MUJOCO_GL=glfw"),
    ("", "env -u DISPLAY MUJOCO_GL=glx collect", 1, "MUJOCO_GL=glx draws with GLFW, which needs a display"),
    ("", "MUJOCO_GL=off collect", 1, "MUJOCO_GL=off forbids MuJoCo to draw; unset MUJOCO_GL"),
    ("", "env -u DISPLAY MUJOCO_GL= collect", 0, "collected"),
    ("", "PYTHONIOENCODING=ascii dataset stats D", 0, "camera wrist"),
    ("", "TMPDIR=/nowhere collect", 0, "collected"),
    ("", "XDG_CACHE_HOME=/proc collect", 0, "collected"),
    ("", "PATH=$BIN:/bin collect", 0, "collected"),
    ("", "(ulimit -n 60; collect --num_envs 40)", 2, "--num_envs 40"),
    ("", "(ulimit -f 20; collect)", 1, "File too large"),
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the datasets D and OTHER, the scripts in bin/ and the shim of odd file systems."""
    folder = tmp_path_factory.mktemp("datasets")
    for name, seed in (("D", "1"), ("OTHER", "2")):
        collect_dataset(folder / "data", *SMALL.split(), "--seed", seed).rename(folder / name)
    (folder / "data").rmdir()
    return folder


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the rows are run."""
    folder = tmp_path_factory.mktemp("tools")
    for name, script in SCRIPTS.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {PROJECT}/{script} "$@"\n')
        (folder / name).chmod(0o755)
    shim = folder / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, SHIM, "-ldl"], check=True)
    places = {"PATH": f"{folder}:{os.environ['PATH']}", "BIN": folder, "SHIM": shim, "PYTHON": sys.executable}
    return {**os.environ, **{name: str(place) for name, place in places.items()}}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by path of every file under `folder`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


ROWS = [*FILE_SYSTEMS, *USERS, *PATHS, *FOREIGN_FILES, *DAMAGED_FILES, *CHECKPOINTS, *ENVIRONMENTS]


def test_there_are_many_conditions():
    assert len(ROWS) >= 60


@pytest.mark.parametrize(("given", "command", "code", "words"), ROWS)
def test_condition_is_met_or_told_in_a_line_and_nothing_is_changed(
    given, command, code, words, tmp_path, datasets, tools
):
    shutil.copytree(datasets, tmp_path, dirs_exist_ok=True)
    subprocess.run(["bash", "-ec", given], cwd=tmp_path, env=tools, check=True)
    if "unshare" in command and subprocess.run(["unshare", "--user", "true"]).returncode:
        pytest.skip("needs the right to make user namespaces")
    before = digests(tmp_path)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=tools, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == code and re.search(words, output), output
    assert "Traceback" not in output
    if "resume" not in command:
        after = digests(tmp_path)
        assert {path for path in before if after.get(path) != before[path]} == set()
