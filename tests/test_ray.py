"""Collecting on Ray: the bytes of one process, whatever fails on the way, and a line for what is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import collect_dataset, wait_for
from moto.server import ThreadedMotoServer
from ray.cluster_utils import Cluster
from test_resume import assert_same_content

import collect_on_ray
import collect_tiled_with_checkpoint as collector
from cluster.check import Findings, checks
from cluster.devices import egl_index
from cluster.rounds import Rounds
from cluster.shares import share
from flags import FlagError
from flags.collect import parse_resumable
from flags.on_ray import RayFlags
from simulators import SimulatorError
from vpl.checks import validate
from vpl_dataset import episode_folders

TESTS = Path(__file__).parent
FLAGS = "--num_envs 2 --num_episodes 6 --steps 12 --enable_wrist_camera --width 64 --height 48".split()
FAULTY = ["--policy", "faulty_policy:Faulty"]


def start_on_ray(
    data_root: Path, *flags: str, faults: str = "", command: str = collect_on_ray.__file__
) -> subprocess.Popen:
    """Start it in a process of its own; each of the `faults` of tests/faulty_policy.py comes once."""
    done = data_root.parent / f"{data_root.name}_faults"
    done.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "FAULTS": faults, "FAULTS_DONE": str(done)}
    environment.pop("RAY_ADDRESS", None)
    workers = ["--workers", "2"] if command == collect_on_ray.__file__ else []
    return subprocess.Popen(
        [sys.executable, command, "--data_root", str(data_root), *workers, *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_on_ray(data_root: Path, *flags: str, faults: str = "", code: int = 0) -> tuple[str, str]:
    """What it prints on stdout and stderr."""
    process = start_on_ray(data_root, *flags, faults=faults)
    output, error = process.communicate(timeout=180)
    assert process.returncode == code, (output, error)
    return output, error


def the_dataset(data_root: Path) -> Path:
    (dataset,) = data_root.iterdir()
    return dataset


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS))
        return collect_dataset(tmp_path_factory.mktemp("reference"), *FLAGS, *FAULTY)


def test_workers_that_die_hang_or_fail_change_no_byte(tmp_path, reference):
    output, error = run_on_ray(
        tmp_path / "data", *FLAGS, *FAULTY, "--round_timeout_s", "15", faults="kill,hang,raise,stop"
    )
    dataset = the_dataset(tmp_path / "data")
    assert_same_content(dataset, reference)
    assert validate(dataset) == []
    reasons = [line for line in error.splitlines() if line.startswith("given up")]
    assert len(reasons) == 4, error
    for words in ("was killed", "ArithmeticError: planted", "no answer within --round_timeout_s 15"):
        assert any(words in reason for reason in reasons), (words, reasons)
    assert "12 episodes" in output


def test_round_that_always_fails_is_named_and_one_machine_completes_it(tmp_path, reference, monkeypatch):
    monkeypatch.setenv("FAULTY_ROUND", "2")
    output, _ = run_on_ray(tmp_path / "data", *FLAGS, *FAULTY, "--attempts", "2", code=1)
    dataset = the_dataset(tmp_path / "data")
    (missing,) = (line for line in output.splitlines() if line.startswith("missing"))
    assert "round 3, given up: worker" in missing and "ArithmeticError: planted" in missing
    assert [f"episode_{n:03d}" for n in range(12) if n not in (4, 5)] == [f.name for f in episode_folders(dataset)]
    assert validate(dataset) == [] and not (dataset / ".partial").exists()
    monkeypatch.delenv("FAULTY_ROUND")
    monkeypatch.syspath_prepend(str(TESTS))
    assert collector.main(["--resume", str(dataset)]) == 0
    assert_same_content(dataset, reference)


@pytest.mark.parametrize("begun_by", [collector, collect_on_ray], ids=["begun_on_one_machine", "begun_on_ray"])
def test_killed_run_is_completed_on_ray(tmp_path, reference, begun_by, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    process = start_on_ray(tmp_path / "data", *FLAGS, *FAULTY, command=begun_by.__file__)
    wait_for("*/episode_001", tmp_path / "data", process)
    process.kill()
    process.communicate()
    dataset = the_dataset(tmp_path / "data")
    assert 0 < len(episode_folders(dataset)) < 12
    run_on_ray(tmp_path / "data", "--resume", str(dataset))
    assert_same_content(dataset, reference)


def test_interrupt_publishes_what_has_ended_and_ends_with_its_code(tmp_path):
    process = start_on_ray(tmp_path / "data", *FLAGS, *FAULTY, "--num_episodes", "1000")
    wait_for("*/episode_002", tmp_path / "data", process)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error, error
    dataset = the_dataset(tmp_path / "data")
    assert validate(dataset) == [] and not (dataset / ".partial").exists()
    assert f"collected   {len(episode_folders(dataset))} episodes" in output


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes of one core each on this machine, whose workers find the faulty policy."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("SLOW_S", "0.2")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def test_node_that_is_lost_loses_no_episode(tmp_path, reference, two_nodes):
    process = start_on_ray(tmp_path / "data", *FLAGS, *FAULTY, "--address", two_nodes.address)
    wait_for("*/episode_001", tmp_path / "data", process)
    (node,) = two_nodes.worker_nodes
    raylet = node.all_processes["raylet"][0].process.pid
    for pid in (*Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split(), raylet):
        os.kill(int(pid), signal.SIGKILL)  # all that a machine takes with it
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, (output, error)
    assert "its process was killed, or its machine lost" in error
    assert_same_content(the_dataset(tmp_path / "data"), reference)


def test_episodes_written_on_the_nodes_own_disks_are_gathered(tmp_path, reference):
    run_on_ray(tmp_path / "data", *FLAGS, *FAULTY, "--gather", faults="kill")
    assert_same_content(the_dataset(tmp_path / "data"), reference)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of a server of moto's: its file system by fsspec."""
    for name, value in {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    system = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    system.mkdir("data")
    yield system
    server.stop()


def test_episodes_are_brought_into_an_object_store_and_completed_there(
    tmp_path, reference, bucket, monkeypatch, capsys
):
    monkeypatch.setenv("FAULTY_ROUND", "2")
    store = ["--store", "s3://data/sets"]
    run_on_ray(tmp_path / "scratch", *FLAGS, *FAULTY, *store, "--attempts", "1", code=1)
    monkeypatch.delenv("FAULTY_ROUND")
    scratch = the_dataset(tmp_path / "scratch")
    assert [path.name for path in scratch.iterdir()] == ["metadata.json"]
    assert len(bucket.glob(f"data/sets/{scratch.name}/*/*.h5")) == 10
    with pytest.raises(SystemExit):
        collector.main(["--resume", str(scratch)])
    assert "its episodes are in s3://data/sets" in capsys.readouterr().err
    (tmp_path / "renamed").symlink_to(scratch)
    for dataset, url in ((scratch, "s3://data/others"), (tmp_path / "renamed", "s3://data/sets")):
        with pytest.raises(SystemExit):
            collect_on_ray.main(["--resume", str(dataset), "--store", url])
    refusals = capsys.readouterr().err
    assert "are in s3://data/sets; leave --store out" in refusals
    assert "none of its 10 episodes is in s3://data/sets/renamed" in refusals
    bucket.get(f"data/sets/{scratch.name}", str(tmp_path / "part"), recursive=True)
    assert parse_resumable(RayFlags, ["--resume", str(scratch)], "").store == "s3://data/sets"
    run_on_ray(tmp_path / "scratch", "--resume", str(scratch), *store)
    bucket.get(f"data/sets/{scratch.name}", str(tmp_path / "fetched"), recursive=True)
    assert_same_content(tmp_path / "fetched", reference)
    assert validate(tmp_path / "fetched") == []
    run_on_ray(tmp_path, "--resume", str(tmp_path / "part"))  # what is fetched is gone on with where it is
    assert_same_content(tmp_path / "part", reference)


def test_cluster_is_checked(tmp_path):
    output, _ = run_on_ray(tmp_path, *FLAGS, "--check_cluster")
    assert [line.split()[:2] for line in output.splitlines()[-5:]] == [
        ["ok", name] for name in ("versions", "policy", "GPUs", "storage", "clocks")
    ]
    assert list(tmp_path.iterdir()) == []


def test_workers_that_differ_share_a_gpu_or_see_another_disk_are_told():
    one = Findings("a", 8, {"torch": "2.9"}, {"sha256": "1"}, ("uuid",), "H200", "3", token="word")
    other = replace(one, host="b", versions={"torch": "2.8"}, policy={"sha256": "2"}, token="", off_s=-90.0)
    assert all(check.passed for check in checks([one, replace(one, gpus=("another",))], "word", 1, shared=True))
    found = checks([one, other], "word", 1, shared=True)
    assert [check.passed for check in found] == [False] * 5
    figures = " ".join(check.figure for check in found)
    for words in ("torch differ", "another one on b", "1 for 2 workers", "seen by 1 of 2", "90.000 s off, on b"):
        assert words in figures
    assert checks([one, other], "word", 1, shared=False)[3].passed


def test_collecting_without_ray_does_not_import_it():
    code = "import sys, collect_tiled_with_checkpoint, collect_on_ray; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TESTS.parent)


def test_gpus_are_found_among_egls_devices_by_their_uuids():
    assert egl_index("b", ["a", "b", ""]) == 1
    assert egl_index("b", [""]) == 0
    with pytest.raises(SimulatorError, match="none of EGL's 2 devices says that it is this worker's GPU, b"):
        egl_index("b", ["a", ""])


def test_each_worker_has_its_share_of_a_node():
    shares = share({"a": {"CPU": 64, "GPU": 4}, "b": {"CPU": 8}}, None, 1, 100)
    assert (shares.workers, shares.slots) == (4, {"a": 4, "b": 0})
    usable = [*range(64)]
    assert [shares.cores("a", usable, place)[0] for place in range(4)] == [0, 16, 32, 48]
    assert share({"a": {"CPU": 3}, "b": {"CPU": 3}}, 3, 0, 100).cpus == 1
    few_rounds = share({"a": {"CPU": 64}}, None, 0, 4)
    assert (few_rounds.workers, few_rounds.cpus) == (4, 16)
    assert share({"a": {"GPU": 2}}, None, 0.6, 9).workers == 2  # a part is of one GPU
    assert str(share({"a": {"GPU": 5}}, None, 2, 9)) == "2, 2 GPUs each"
    for arguments, words in (((8, 0.5, 9), "has 2 GPUs, which is room for 4"), ((8, 0, 9), "has 4 CPU cores")):
        with pytest.raises(FlagError, match=words):
            share({"a": {"CPU": 4, "GPU": 2}}, *arguments)
    with pytest.raises(FlagError, match="no CPU cores to give"):
        share({"a": {}}, None, 0, 9)


def test_round_goes_to_a_worker_that_has_not_failed_at_it_and_is_left_out_in_the_end():
    rounds = Rounds([0, 1], attempts=3)
    assert rounds.take(0, {0, 1}) == 0
    rounds.fail(0, 0, "first")
    assert [rounds.take(0, {0, 1}), rounds.take(0, {0, 1}), rounds.take(1, {0, 1})] == [1, None, 0]
    rounds.fail(0, 1, "second")
    assert rounds.take(0, {0}) == 0
    rounds.fail(0, 0, "third")
    assert rounds.failed == {0: "third"} and not len(rounds)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--steps 0", ["--steps", "0"]),
        ("--attempts 0", ["--attempts", "0"]),
        ("--round_timeout_s -1", ["--round_timeout_s", "-1"]),
        ("--round_timeout_s 0", ["--round_timeout_s", "0"]),
        ("--gpus_per_worker 1.5", ["--gpus_per_worker", "1.5"]),
        ("--gpus_per_worker 0.00001", ["--gpus_per_worker", "1e-05"]),
        ("--gather --store s3://a", ["--gather", "--store s3://a"]),
        ("--self_check", ["--self_check", "collect_tiled_with_checkpoint.py"]),
        ("--data_root /proc/none", ["--data_root", "/proc/none"]),
    ],
)
def test_bad_flags_are_refused_before_ray_starts(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collect_on_ray, "connect", lambda _: pytest.fail("Ray was started"))
    with pytest.raises(SystemExit) as refusal:
        collect_on_ray.main(["--data_root", str(tmp_path), *flags.split()])
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert refusal.value.code == 2 and all(word in error for word in words), error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--address 127.0.0.1:1", ["--address 127.0.0.1:1: no cluster answers"]),
        ("--address foo", ["--address foo: Invalid address"]),
        ("--address a..b:1", ["--address a..b:1: no cluster answers"]),
        ("--checkpoint none.pt --check_cluster --address local", ["--checkpoint", "none.pt"]),
        ("--store nowhere://a --address local", ["--store nowhere://a", "nowhere"]),
    ],
)
def test_cluster_or_store_that_is_not_there_is_refused(flags, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        collect_on_ray.main(["--data_root", str(tmp_path), *flags.split()])
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert refusal.value.code == 2 and all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []


def test_dataset_in_the_folder_of_a_job_is_refused(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runtime_resources" / "working_dir_files"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        collect_on_ray.main([])
    assert "--data_root vpl_tiled would lie in the job's working folder" in capsys.readouterr().err
