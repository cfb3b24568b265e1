"""Names, folders and flushing where several runs meet, on file systems that lack what others have."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import collect_dataset
from test_vpl_saver import ENVS, make_cfg, store_round

import collect_tiled_with_checkpoint as collector
from vpl import files as vpl_files
from vpl.checks import validate
from vpl.episode import SaverError
from vpl.files import Claim, ClaimError, at_free_name, fsync, publish
from vpl_dataset import all_episode_folders, episode_folders
from vpl_saver import VPLSaver

PROJECT = Path(collector.__file__).parent
SMALL = "--num_envs 2 --num_episodes 1 --steps 5 --width 64 --height 64".split()
HERE = vpl_files._this_place()
ELSEWHERE = "0123abcd-4026531836"


def make_attempt(partial: Path, place: str, pid: int, start: str, age_s: float = 0) -> Path:
    """What a run leaves that wrote one episode; its last heartbeat was `age_s` ago."""
    folder = partial / f"some-host_{place}_{pid}_{start}_0123abcd"
    (folder / "episode_003").mkdir(parents=True)
    heartbeat = folder.stat().st_mtime - age_s
    os.utime(folder, (heartbeat, heartbeat))
    return folder


def test_name_that_another_run_takes_first_is_left_to_it(tmp_path, monkeypatch):
    taken: list[Path] = []

    def beaten(cfg, **kwargs) -> VPLSaver:
        if not taken:
            taken.append(cfg.root)
            cfg.root.mkdir(parents=True)
        return VPLSaver(cfg, **kwargs)

    monkeypatch.setattr(collector, "VPLSaver", beaten)
    dataset = collect_dataset(tmp_path, *SMALL)
    assert list(taken[0].iterdir()) == [] and len(list(tmp_path.iterdir())) == 2
    assert len(episode_folders(dataset)) == 2
    assert re.fullmatch(r"Isaac-Open-Drawer-Franka-v0_sim_franka_\d{8}_\d{6}", dataset.name)


def test_runs_of_the_same_second_get_names_of_their_own(tmp_path):
    made: list[Path] = []

    def make(path: Path) -> None:
        path.mkdir()
        made.append(path)

    threads = [threading.Thread(target=at_free_name, args=(tmp_path, "set", make)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(tmp_path.iterdir()) and len(set(made)) == 3


def test_run_that_cannot_begin_leaves_no_folder(tmp_path, monkeypatch):
    def full_disk(_self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(VPLSaver, "write_metadata", full_disk)
    with pytest.raises(SaverError, match="No space left on device"):
        VPLSaver(make_cfg(tmp_path / "set"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "pid", "start", "age_s"),
    [
        (HERE, os.getpid(), vpl_files._start_of(os.getpid()), 1e6),  # it lives, however long it was suspended
        (ELSEWHERE, os.getpid(), "1", vpl_files.STALE_S / 2),
    ],
    ids=["suspended_here", "seen_lately_elsewhere"],
)
def test_dataset_of_a_living_run_is_refused_and_its_parts_stay(tmp_path, place, pid, start, age_s):
    attempt = make_attempt(tmp_path, place, pid, start, age_s)
    with pytest.raises(ClaimError, match=f"another process writes into .*: process {pid} on some-host"):
        Claim(tmp_path)
    assert list(tmp_path.iterdir()) == [attempt] and (attempt / "episode_003").is_dir()


@pytest.mark.parametrize(
    ("place", "pid", "start", "age_s"),
    [
        (HERE, os.getpid(), "1", 0),  # its number is another process's by now
        (HERE, 2**22 + 1, "1", 0),  # no process has this number
        (ELSEWHERE, os.getpid(), "1", vpl_files.STALE_S * 2),
    ],
    ids=["number_reused", "no_such_process", "silent_elsewhere"],
)
def test_parts_of_a_dead_run_are_dropped_at_once(tmp_path, place, pid, start, age_s):
    make_attempt(tmp_path, place, pid, start, age_s)
    (tmp_path / "episode_003").mkdir()  # as earlier versions left it
    (tmp_path / "metadata.json").touch()
    claim = Claim(tmp_path)
    assert list(tmp_path.iterdir()) == [claim.folder] and list(claim.folder.iterdir()) == []
    claim.release()
    assert not tmp_path.exists()


def test_killed_run_that_nobody_has_waited_for_is_dead(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    make_attempt(tmp_path, HERE, process.pid, vpl_files._start_of(process.pid))
    with pytest.raises(ClaimError):
        Claim(tmp_path)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    Claim(tmp_path).release()
    process.wait()


def test_of_runs_that_start_together_one_goes_on(tmp_path):
    claims: list[Claim] = []
    refused: list[ClaimError] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        barrier.wait()
        try:
            claims.append(Claim(tmp_path))
        except ClaimError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == 1 and len(refused) == 3
    assert list(tmp_path.iterdir()) == [claims[0].folder]


def test_heartbeat_keeps_a_run_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(vpl_files, "HEARTBEAT_S", 0.05)
    claim = Claim(tmp_path)
    os.utime(claim.folder, (0, 0))
    deadline = time.monotonic() + 20
    while claim.folder.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    claim.release()


def test_run_that_seemed_dead_destroys_nothing_of_the_one_that_took_over(tmp_path):
    first = VPLSaver(make_cfg(tmp_path / "set"))
    shutil.rmtree(first._catalog.folder)  # as a run on another machine does after STALE_S
    with VPLSaver(make_cfg(tmp_path / "set"), resume=True) as second:
        store_round(second)
        with pytest.raises(SaverError, match="another run has taken"):
            store_round(first)
            first.close()
        assert second._catalog.folder.is_dir()
    assert len(episode_folders(tmp_path / "set")) == ENVS and not (tmp_path / "set" / ".partial").exists()
    with VPLSaver(make_cfg(tmp_path / "set"), resume=True) as third:
        assert not third.begin_round(0).any()


def test_episode_that_another_run_published_first_stays_and_is_listed(tmp_path):
    cfg = make_cfg(tmp_path / "set")
    with VPLSaver(cfg) as saver:
        other = make_cfg(tmp_path / "other")
        with VPLSaver(other) as first:
            store_round(first)
        (tmp_path / "other" / "episode_001").rename(tmp_path / "set" / "episode_001")
        before = (tmp_path / "set" / "episode_001" / "episode_001.h5").stat().st_ino
        store_round(saver)
    assert (tmp_path / "set" / "episode_001" / "episode_001.h5").stat().st_ino == before
    assert [row["path"] for row in sorted(saver.episodes, key=lambda row: row["episode_index"])] == [
        folder.name for folder in all_episode_folders(tmp_path / "set")
    ]


@pytest.mark.parametrize("kind", ["file", "empty folder", "folder", "dangling link"])
def test_publishing_never_replaces_anything(tmp_path, kind):
    part, target = tmp_path / "part", tmp_path / "episode_000"
    part.mkdir()
    if kind == "file":
        target.write_text("mine")
    elif kind == "dangling link":
        target.symlink_to("nowhere")
    else:
        target.mkdir()
    if kind == "folder":
        (target / "mine").touch()
    before = os.lstat(target).st_ino
    assert not publish(part, target)
    assert os.lstat(target).st_ino == before and part.is_dir()


@pytest.mark.parametrize(
    ("is_folder", "number", "refused"),
    [
        (True, errno.EINVAL, False),
        (True, errno.ENOTSUP, False),
        (True, errno.EIO, True),
        (False, errno.EINVAL, True),
    ],
)
def test_only_folders_need_not_be_flushed_where_the_file_system_cannot(
    tmp_path, monkeypatch, is_folder, number, refused
):
    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", fail)
    path = tmp_path if is_folder else tmp_path / "file"
    if refused:
        with pytest.raises(OSError, match=os.strerror(number)):
            fsync(path)
    else:
        fsync(path)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("odd_filesystems.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


USE = """
import collect_tiled_with_checkpoint, vpl_dataset, vpl_export, replay_episode, runpy, sys
from pathlib import Path
root = Path(sys.argv[1])
assert collect_tiled_with_checkpoint.main(["--data_root", str(root / "data"), *sys.argv[2:]]) == 0
(data,) = map(str, (root / "data").iterdir())
assert collect_tiled_with_checkpoint.main(["--resume", data, "--num_episodes", "2"]) == 0
for command in ("info", "validate", "stats", "view", "split --val 0.5"):
    assert vpl_dataset.main([*command.split(), data]) == 0, command
assert vpl_dataset.main(["merge", data, "--output", str(root / "merged")]) == 0
assert vpl_export.main(["robomimic", data, "--output", str(root / "out.hdf5")]) == 0
assert vpl_export.main(["act", data, "--output", str(root / "act")]) == 0
assert replay_episode.main([data, "--data_root", str(root / "filmed")]) == 0
"""


@pytest.mark.parametrize("lacks", [["NODIRSYNC", "NOLINK"], ["NOLOCK", "NOLOCKDIR"]], ids="-".join)
def test_every_command_works_without_locks_links_and_flushing_of_folders(tmp_path, shim, lacks):
    environment = {**os.environ, "LD_PRELOAD": str(shim), **dict.fromkeys(lacks, "1")}
    command = [sys.executable, "-c", USE, str(tmp_path), "--simulator", "mujoco", *SMALL]
    run = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (data,) = (tmp_path / "data").iterdir()
    assert validate(data) == []


def test_no_hdf5_file_is_opened_with_a_lock():
    for path in [*PROJECT.glob("*.py"), *PROJECT.glob("examples/*.py"), *PROJECT.glob("benchmarks/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "h5py.File":
                locking = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "locking"]
                assert locking == ["False"], f"{path.name}:{node.lineno}"


BROKEN_SOCKET = """
import socket
from vpl.files import run

def main():
    ours, theirs = socket.socketpair()
    theirs.close()
    try:
        ours.send(b"to a writer that was killed, or to a browser that has gone")
    except BrokenPipeError:
        print("told")
    return 0

run(main)
"""


def test_only_output_that_nobody_reads_ends_a_command():
    done = subprocess.run([sys.executable, "-c", BROKEN_SOCKET], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\n", "")


def test_command_whose_output_nobody_reads_ends_quietly():
    script = "from vpl.files import run; run(lambda: print('x' * 10**6) or 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""
