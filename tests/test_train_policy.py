"""Training through the seam, on the smallest run that still does everything."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys

import pytest
import torch

import train_policy
from checkpoint_policy import load_policy

SMALL = "--num_envs 4 --max_iterations 3 --save_interval 2 --log_dir"


def test_training_leaves_checkpoints_configuration_and_a_curve(tmp_path):
    assert train_policy.main([*SMALL.split(), str(tmp_path / "run")]) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"model_0.pt", "model_2.pt", "params", "progress.csv", "learning_curve.png"}
    with open(tmp_path / "run" / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["env_steps"]) for row in rows] == [192, 384, 576]
    policy = load_policy(tmp_path / "run" / "model_2.pt", 31, 8)
    assert (policy.activation, policy.layout, policy.iteration) == ("elu", "rsl-rl 5.x", 2)
    assert policy(torch.zeros(5, 31)).shape == (5, 8)


def test_seed_fixes_the_run(tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        train_policy.main([*SMALL.split(), str(tmp_path / name), "--seed", seed])
    obs = torch.ones(1, 31)
    a, b, c = (load_policy(tmp_path / name / "model_2.pt", 31, 8)(obs) for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    "flags", ["--num_envs 0", "--max_iterations 0", "--seed -1", "--log_dir .", "--save 3", "--simulator mujoco_warp"]
)
def test_bad_input_is_refused_with_exit_code_2(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as refusal:
        train_policy.main(["--log_dir", str(tmp_path / "run"), *flags.split()])
    assert refusal.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_what_it_has_learned(tmp_path, number, code):
    command = [sys.executable, train_policy.__file__, "--num_envs", "4", "--max_iterations", "100000"]
    command += ["--save_interval", "100000", "--log_dir", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "iteration    3/" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in error
    (last,) = (path for path in (tmp_path / "run").glob("model_*.pt") if path.stem != "model_0")
    assert f"stopped: {last}" in out
    with open(tmp_path / "run" / "progress.csv") as file:
        assert len(list(csv.DictReader(file))) == int(last.stem.removeprefix("model_")) + 1
