"""Command lines: what is recorded of them, cameras of one's own, and unknown flags."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import collect_dataset

import collect_tiled_with_checkpoint as collector
import train_policy
import vpl_dataset
import vpl_export
from flags.collect import CollectFlags, parse_flags
from vpl.checks import validate
from vpl_dataset import load_episode

SMALL = "--num_envs 1 --num_episodes 1 --steps 4 --width 64 --height 48".split()


def test_cameras_of_ones_own_are_filmed_calibrated_and_checked(tmp_path):
    own = ["--camera", "side:1,-1,1:0.4,0,0.4", "--camera", "palm:0,0,0.1:0.3,0,0:gripper:70"]
    dataset = collect_dataset(tmp_path, *SMALL, *own, "--overview_cam_fov", "60", "--language_instruction", "pull")
    assert validate(dataset) == []
    cameras = json.loads((dataset / "metadata.json").read_text())["cameras"]
    assert [(row["name"], row["frame"], row["vertical_fov_deg"]) for row in cameras] == [
        ("overview", "env", 60),
        ("side", "env", 45),
        ("palm", "gripper", 70),
    ]
    with load_episode(dataset / "episode_000") as episode:
        assert episode.camera_names == ["overview", "side", "palm"]
        assert episode.attrs["language_instruction"] == "pull"
        assert episode["intrinsics"][2, 1, 1] == pytest.approx(24 / np.tan(np.radians(35)))
        assert all(episode["color"][0, camera].std() > 5 for camera in range(3))


@pytest.mark.parametrize(
    "camera", ["side", "side:1,1:0,0,0", "a b:1,1,1:0,0,0", "side:1,1,1:0,0,0:hand", "side:1,1,1:0,0,0:env:200"]
)
def test_camera_that_cannot_be_read_is_refused_with_its_form(camera, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        collector.main(["--camera", camera, "--simulator", "mujoco", "--data_root", str(tmp_path)])
    said = capsys.readouterr().err
    assert f"--camera {camera}: give NAME:EYE:TARGET[:FRAME[:FOV]]" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("main", "arguments", "nearest"),
    [
        (collector.main, ["--num_env", "3"], "--num_envs"),
        (train_policy.main, ["--iterations", "3"], "--max_iterations"),
        (vpl_dataset.main, ["split", "vpl_tiled/NAME", "--vall", "0.1"], "--val"),
        (vpl_export.main, ["act", "vpl_tiled/NAME", "--output", "out", "--only_succes"], "--only_success"),
    ],
)
def test_unknown_flag_suggests_the_nearest(main, arguments, nearest, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert f"did you mean {nearest}?" in capsys.readouterr().err


def test_parsing_neither_loads_nor_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = parse_flags(["--checkpoint", "no.pt", "--data_root", "there"])
    assert isinstance(flags, CollectFlags) and str(flags.checkpoint) == "no.pt"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("main", [collector.main, train_policy.main])
def test_help_shows_each_default_once_and_no_path_of_the_machine(main, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "default" in said and "/" + "work" not in said and "None" not in said
    for entry in said.split(" --")[2:]:
        assert entry.count("default") <= 1, entry
