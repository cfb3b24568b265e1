"""Replaying: what was recorded comes out again, and what was changed is noticed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
from conftest import collect_dataset

import replay_episode
import vpl_dataset
import vpl_export
from vpl.checks import validate
from vpl.compare import CURVE_PX
from vpl_dataset import iter_episodes, load_episode
from vpl_saver import VPLSaver


def replay(*arguments: str | Path) -> int:
    return replay_episode.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def sparse(tmp_path_factory) -> Path:
    """Two episodes of which every third row is kept."""
    flags = "--num_envs 2 --num_episodes 1 --steps 30 --video_interval 3 --width 64 --height 48"
    return collect_dataset(tmp_path_factory.mktemp("sparse"), *flags.split())


def same(a: h5py.Group, b: h5py.Group) -> bool:
    if isinstance(a, h5py.Dataset):
        return bool((a[:] == b[:]).all())
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def merged(tmp_path_factory) -> Path:
    """Two datasets of two episodes with other seeds, as one."""
    folder = tmp_path_factory.mktemp("merged")
    flags = "--num_envs 2 --num_episodes 1 --steps 10 --width 32 --height 32 --seed".split()
    parts = [collect_dataset(folder / seed, *flags, seed) for seed in ("42", "5")]
    assert vpl_dataset.main(["merge", *map(str, parts), "--output", str(folder / "merged")]) == 0
    return folder / "merged"


@pytest.mark.parametrize("which", ["dataset", "sparse", "merged"])
def test_states_filmed_again_give_the_same_files(which, request, tmp_path):
    recorded = request.getfixturevalue(which)
    assert replay(recorded, "--data_root", tmp_path) == 0
    (filmed,) = tmp_path.iterdir()
    for before, after in zip(iter_episodes(recorded), iter_episodes(filmed), strict=True):
        assert before.attrs == after.attrs and same(before.h5, after.h5)
    assert validate(filmed) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_filming_that_is_ended_leaves_whole_episodes_only(merged, tmp_path, monkeypatch, number, code):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stored, store = [], VPLSaver.store

    def end_in_the_second_round(saver: VPLSaver, *arrays: object) -> None:
        store(saver, *arrays)
        stored.append(arrays)
        if len(stored) == 13:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(VPLSaver, "store", end_in_the_second_round)
    assert replay(merged, "--data_root", tmp_path) == code
    (filmed,) = tmp_path.iterdir()
    assert len(stored) == 13 and not (filmed / ".partial").exists()
    assert validate(filmed) == []


@pytest.mark.parametrize("which", ["dataset", "sparse"])
def test_actions_lead_through_the_same_states(which, request, capsys):
    recorded = request.getfixturevalue(which)
    assert replay(recorded, "--mode", "actions") == 0
    count = len(list(recorded.glob("episode_*")))
    assert f"{count} of {count} episodes came out exactly" in capsys.readouterr().out


def test_drift_is_reported_from_the_row_where_it_begins(sparse, tmp_path, capsys):
    shutil.copytree(sparse, tmp_path / "set")
    with h5py.File(tmp_path / "set" / "episode_001" / "episode_001.h5", "a") as file:
        file["full_rate/action"][12] += 0.5
    assert replay(tmp_path / "set", "--mode", "actions") == 0
    out = capsys.readouterr().out
    assert "1 of 2 episodes came out exactly" in out
    line = next(line for line in out.splitlines() if line.startswith("episode_001"))
    assert line.split()[2] == "no" and line.split()[-1] == "13"


def test_other_size_cameras_and_light(sparse, tmp_path):
    flags = ["--width", "96", "--height", "64", "--enable_wrist_camera", "--light", "0.5", "--data_root", tmp_path]
    assert replay(sparse / "episode_001", *flags) == 0
    (filmed,) = tmp_path.iterdir()
    assert validate(filmed) == []
    with load_episode(filmed / "episode_001") as episode, load_episode(sparse / "episode_001") as before:
        assert episode["color"].shape == (10, 2, 64, 96, 3) and episode.camera_names == ["overview", "wrist"]
        assert episode["color"][:, 0].mean() < 0.7 * before["color"][:, 0].mean()
        assert (episode["action"][:] == before["action"][:]).all()
    metadata = json.loads((filmed / "metadata.json").read_text())
    assert metadata["replayed"]["from"] == str(sparse / "episode_001") and metadata["replayed"]["light"] == 0.5
    assert (metadata["arguments"]["width"], metadata["arguments"]["enable_wrist_camera"]) == (96, True)
    assert replay(filmed, "--data_root", tmp_path / "again") == 0  # camera flags default to those of what is filmed
    (again,) = (tmp_path / "again").iterdir()
    with load_episode(again / "episode_001") as episode:
        assert episode["color"].shape == (10, 2, 64, 96, 3)


def test_filmed_dataset_is_not_resumed(sparse, tmp_path, capsys):
    assert replay(sparse, "--data_root", tmp_path) == 0
    (filmed,) = tmp_path.iterdir()
    with pytest.raises(SystemExit):
        collect_dataset(tmp_path, "--resume", str(filmed))
    assert "was filmed by replay_episode.py" in capsys.readouterr().err


def test_pictures_of_a_gpu_are_filmed_without_one(sparse, tmp_path):
    """Its flags for pictures are not asked of MuJoCo, and the new dataset does not claim them."""
    shutil.copytree(sparse, tmp_path / "gpu")
    path = tmp_path / "gpu" / "metadata.json"
    document = json.loads(path.read_text())
    document["arguments"] |= {"shadows": True, "samples_per_pixel": 4}
    path.write_text(json.dumps(document | {"simulator": "mujoco_warp"}))
    assert replay(tmp_path / "gpu", "--simulator", "mujoco", "--data_root", tmp_path / "out") == 0
    (filmed,) = (tmp_path / "out").iterdir()
    arguments = json.loads((filmed / "metadata.json").read_text())["arguments"]
    assert (arguments["shadows"], arguments["samples_per_pixel"]) == (False, 1)


def rewritten(recorded: Path, target: Path, column: str, **attributes) -> Path:
    """A copy of the dataset whose second episode says something else of a column; None: says nothing."""
    shutil.copytree(recorded, target)
    with h5py.File(target / "episode_001" / "episode_001.h5", "a") as file:
        for name, value in attributes.items():
            del file[column].attrs[name]
            if value is not None:
                file[column].attrs[name] = value
    return target


@pytest.mark.parametrize("flags", [[], ["--mode", "actions"]])
@pytest.mark.parametrize(
    ("column", "attributes", "words"),
    [
        ("sim_state", {"spec": "qvel[9], qpos[9]"}, "its columns of sim_state are qvel[9], qpos[9] (174)"),
        ("sim_state", {"spec": None}, "its columns of sim_state are unknown (174)"),
        ("sim_state", {"scene": "0" * 64}, "its physics of the scene are 000000000000"),
        ("joint_pos", {"names": [f"joint{i}" for i in range(9)]}, "its joints are joint0, joint1"),
        ("proprio", {"terms": '{"all": [0, 31]}'}, "its observations are ['all']"),
    ],
)
def test_states_of_something_else_are_refused_before_anything_is_filmed(
    sparse, tmp_path, capsys, column, attributes, words, flags
):
    foreign = rewritten(sparse, tmp_path / "set", column, **attributes)
    with pytest.raises(SystemExit, match="2"):
        replay(foreign, "--data_root", tmp_path / "out", *flags)
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.out == "" and not (tmp_path / "out").exists()
    assert "episode_001: " in said.err and words in said.err and "--simulator mujoco" in said.err


def test_states_of_an_older_version_are_filmed_with_a_note(sparse, tmp_path, capsys):
    older = rewritten(sparse, tmp_path / "set", "sim_state", scene=None)
    assert replay(older, "--data_root", tmp_path / "out") == 0
    assert "note        1 of 2 episodes do not say which scene they are of" in capsys.readouterr().out
    assert validate(older) == []


@pytest.mark.parametrize(("mode", "unit"), [("states", "0 levels of 255"), ("actions", "0 rad")])
def test_compare_shows_both_and_no_error(sparse, tmp_path, capsys, mode, unit):
    film = tmp_path / "compare.mp4"
    assert replay(sparse / "episode_000", "--mode", mode, "--compare", film) == 0
    assert f"largest error {unit}" in capsys.readouterr().out
    frames = iio.imread(film, plugin="pyav")
    assert frames.shape == (10, 48 + CURVE_PX, 128, 3)
    difference = frames[:, :48, :64].astype(float) - frames[:, :48, 64:]
    assert np.abs(difference).mean() < 5  # the video is lossy


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is no dataset and no episode"),
        (["{sparse}", "--compare", "a.mp4"], "name one episode"),
        (["{sparse}/episode_000", "--compare", "{sparse}/metadata.json"], "exists already"),
        (["{sparse}", "--light", "0"], "--light must be from 0.05 to 10, got 0.0"),
        (["{sparse}", "--width", "15"], "--width must be even"),
        (["{sparse}", "--device", "cuda:7"], "--device cuda:7"),
        (["{sparse}", "--shadows"], "--shadows are of --simulator mujoco_warp, this is --simulator mujoco"),
    ],
)
def test_bad_input_is_one_line(sparse, capsys, arguments, words):
    with pytest.raises(SystemExit) as error:
        replay(*(argument.format(sparse=sparse) for argument in arguments))
    message = capsys.readouterr().err
    assert error.value.code == 2 and words in message and message.count("\n") == 1


def test_failed_episodes_can_be_filmed_again_and_exported(tmp_path, capsys):
    flags = "--num_envs 2 --num_episodes 1 --steps 4 --width 32 --height 32 --only_success"
    dataset = collect_dataset(tmp_path / "data", *flags.split())
    assert replay(dataset / "failed" / "episode_001", "--mode", "actions") == 0
    assert "1 of 1 episodes came out exactly" in capsys.readouterr().out
    export = ["act", str(dataset), "--output", str(tmp_path / "act")]
    with pytest.raises(SystemExit):
        vpl_export.main(export)
    assert vpl_export.main([*export, "--failed"]) == 0
    assert sorted(path.name for path in (tmp_path / "act").iterdir()) == ["episode_0.hdf5", "episode_1.hdf5"]
