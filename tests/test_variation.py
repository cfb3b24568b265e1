"""What differs from episode to episode: it is drawn, seen, recorded and put back, and looks never change the motion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import BOTH, GPU, OVERVIEW, TASK, collect_dataset

import replay_episode
import vpl_dataset
from flags.collect import SHIPPED_CHECKPOINT
from policies.rsl_rl import load_policy
from simulators import SimulatorCfg, load
from simulators.looks import PATTERNS, draw_looks, pictures
from simulators.variation import DEFAULT_KINDS, KINDS, Setting, VariationCfg, draw
from vpl.checks import validate
from vpl.checks.format import read_contents
from vpl.checks.rows import check_rows
from vpl.variation import flat, variation_of
from vpl_dataset import episode_folders, load_episode

SETTING = Setting(movable=("cabinet",), cameras=BOTH)
SMALL = "--num_envs 2 --num_episodes 1 --steps 12 --width 64 --height 48 --enable_wrist_camera"


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of twelve steps in which everything varies."""
    return collect_dataset(tmp_path_factory.mktemp("varied"), *SMALL.split(), "--randomize", "all")


def read(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with load_episode(folder) as episode:
        names = ("color", "intrinsics", *episode.declared)
        return variation_of(episode.h5), {name: episode[name][()] for name in names}


def test_a_kind_is_drawn_alike_whichever_others_are():
    alone = {kind: draw(VariationCfg((kind,)), SETTING, 7, 3)[kind] for kind in KINDS}
    assert draw(VariationCfg(KINDS), SETTING, 7, 3) == alone
    assert draw(VariationCfg(KINDS), SETTING, 8, 3) != alone != draw(VariationCfg(KINDS), SETTING, 7, 4)


def test_what_is_drawn_is_json_and_within_its_range():
    cfg = VariationCfg(KINDS, pose_range=(0.1, 0.2, 0.0, 0.3))
    poses = []
    for env in range(50):
        drawn = draw(cfg, SETTING, 1, env)
        assert json.loads(json.dumps(drawn)) == drawn
        poses.append(drawn["pose"]["cabinet"])
        assert list(drawn["camera"]) == ["overview"]  # the other one is on the hand
        assert np.abs(np.subtract(drawn["camera"]["overview"]["eye"], BOTH[0].eye)).max() <= 0.03
        assert np.linalg.norm(drawn["light"]["direction"]) == pytest.approx(1)
        assert drawn["light"]["direction"][2] < 0 < drawn["light"]["direction"][0]
    assert (np.abs(poses) <= cfg.pose_range).all() and (
        np.abs(poses).max(axis=0) >= np.multiply(0.9, cfg.pose_range)
    ).all()


def test_a_pose_that_does_not_fit_is_drawn_again():
    asked = []

    def fits(drawn: dict) -> bool:
        asked.append(drawn["pose"]["cabinet"])
        return len(asked) == 3

    drawn = draw(VariationCfg(("pose",)), SETTING, 5, 0, fits)
    assert drawn["pose"]["cabinet"] == asked[2] and len({tuple(pose) for pose in asked}) == 3


def test_no_robot_starts_inside_of_what_it_is_to_open(make_env):
    env = make_env(num_envs=8, variation=VariationCfg(("pose",), (0.1, 0.2, 0.05, 0.2)))
    for seed in range(4):
        env.reset(seed)
        start = env._starts.joint_pos(seed).cpu().numpy()
        assert not any(
            env._fields.touches(info, env._model_qpos, start[i]) for i, info in enumerate(env.episode_info())
        )


def test_there_are_32_patterns_or_more_and_all_are_seen():
    assert len(pictures()) == sum(pattern.count for pattern in PATTERNS.values()) >= 32
    assert all(picture.std() > 1 for picture in pictures().values())
    seen = {look.get("material") for seed in range(300) for look in draw_looks(np.random.default_rng(seed)).values()}
    assert pictures().keys() <= seen


def test_motion_is_the_same_bit_by_bit_whichever_looks_are_drawn(make_env):
    policy = load_policy(SHIPPED_CHECKPOINT, 31, 8)
    states = []
    for kinds in (("pose",), DEFAULT_KINDS, KINDS):
        env = make_env(num_envs=2, variation=VariationCfg(kinds))
        obs = env.reset(3)
        with torch.inference_mode():
            for _ in range(4):
                obs, *_ = env.step(policy.to(env.device).act(None, obs))
        states.append(env.get_state())
    assert np.array_equal(states[0], states[1]) and np.array_equal(states[0], states[2])


def test_the_observation_follows_the_pose(make_env):
    env = make_env(num_envs=4, variation=VariationCfg(("pose",)))
    env.reset(0)
    handle = env._state.site_pos["handle"].cpu().numpy()
    for info, place in zip(env.episode_info(), handle, strict=True):
        x, y, z, yaw = info["pose"]["cabinet"]
        about = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        expected = [*(about @ (0.4435 - 0.8, 0) + (0.8 + x, y)), 0.7272 + z]
        assert place == pytest.approx(expected, abs=1e-5)


def test_tool_velocity_is_how_the_tool_moves(make_env):
    env = make_env(num_envs=2)
    env.reset(0)
    action = torch.zeros(2, 8, device=env.device)
    action[:, 0], action[:, 3] = 0.4, 0.3
    places, velocities = [], []
    for _ in range(20):
        env.step(action)
        places.append(env._state.tcp_pos.cpu().numpy())
        velocities.append(env._state.tcp_vel.cpu().numpy())
    moved = np.diff(places, axis=0) / env.step_dt
    middle = (np.array(velocities)[1:] + np.array(velocities)[:-1]) / 2
    assert np.abs(moved).max() > 0.2 and np.abs(moved - middle).max() < 0.05


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=[pytest.mark.gpu, GPU])])
def test_both_engines_show_the_same_scene(device):
    """What hangs on the world without a joint, such as the cabinet's sides, is easily left where it was."""
    variation = VariationCfg(KINDS, pose_range=(0.05, 0.3, 0.1, 0.3))
    pictures = []
    for simulator, on in (("mujoco", "cpu"), ("mujoco_warp", device)):
        cfg = SimulatorCfg(TASK, 3, cameras=(OVERVIEW,), device=on, variation=variation)
        with load(simulator, cfg) as env:
            env.reset(4)
            pictures.append(env.capture(["color"])["color"].astype(int))
    off = np.abs(pictures[0] - pictures[1])
    assert off.mean() < 4 and (off.max(axis=-1) > 40).mean() < 0.02


def test_looks_are_seen_and_put_back(make_env):
    env = make_env(num_envs=2, cameras=BOTH, variation=VariationCfg(KINDS))
    env.reset(1)
    first, info, state = env.capture(["color"]), env.episode_info(), env.get_state()
    lenses = env.intrinsics()
    env.reset(2)
    second = env.capture(["color"])
    off = np.abs(first["color"].astype(int) - second["color"]).mean(axis=(2, 3, 4))
    assert (off > 8).all()
    env.set_state(state, info)
    again = env.capture(["color"])
    assert np.array_equal(again["color"], first["color"]) and np.array_equal(again["extrinsics"], first["extrinsics"])
    assert np.array_equal(env.intrinsics(), lenses) and env.episode_info() == info


def test_a_drawn_camera_is_the_camera_that_it_says(make_env):
    varied = make_env(num_envs=2, cameras=BOTH, variation=VariationCfg(("camera",)))
    varied.reset(1)
    drawn = varied.episode_info()[0]["camera"]["overview"]
    place = {key: tuple(drawn[key]) for key in ("eye", "target")}
    overview = replace(BOTH[0], **place, vertical_fov_deg=drawn["vertical_fov_deg"])
    fixed = make_env(num_envs=2, cameras=(overview, BOTH[1]))
    fixed.reset(1)
    pictures = [env.capture(["color"])["color"][0].astype(int) for env in (varied, fixed)]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.3
    elsewhere = varied.capture(["color"])["color"][1].astype(int)
    assert np.abs(pictures[1][0] - elsewhere[0]).mean() > 1
    assert varied.intrinsics()[0] == pytest.approx(fixed.intrinsics()[0])


def test_a_scene_that_cannot_be_put_back_is_refused(make_env):
    env = make_env(num_envs=1)
    with pytest.raises(ValueError, match="variation has looks, but the simulator was built to vary nothing"):
        env.set_state(env.get_state(), [{"looks": {}}])


def test_a_file_says_what_was_drawn_and_its_calibration_is_its_own(varied):
    infos, rows = zip(*map(read, episode_folders(varied)), strict=True)
    assert all(list(info) == list(KINDS) for info in infos) and infos[0] != infos[1]
    assert not np.array_equal(rows[0]["intrinsics"][0], rows[1]["intrinsics"][0])
    assert not np.allclose(rows[0]["extrinsics"][0, 0], rows[1]["extrinsics"][0, 0], atol=1e-3)
    for info, row in zip(infos, rows, strict=True):
        focal = 0.5 * 48 / np.tan(np.radians(info["camera"]["overview"]["vertical_fov_deg"]) / 2)
        assert row["intrinsics"][0, 0, 0] == pytest.approx(focal)
        assert row["extrinsics"][0, 0, :3, 3] == pytest.approx(info["camera"]["overview"]["eye"])
    assert validate(varied) == []


def test_validate_goes_by_the_episodes_own_camera(varied, monkeypatch):
    monkeypatch.setattr("vpl.checks.rows.About.moved", lambda self, camera: camera)
    episode = episode_folders(varied)[0]
    cameras = json.loads((varied / "metadata.json").read_text())["cameras"]
    with h5py.File(episode / f"{episode.name}.h5", locking=False) as h5:
        contents, found = read_contents(h5, cameras)
        reasons = [reason for _, reason in check_rows(contents.rows, contents.about)]
    assert found == [] and any("off 'overview' of metadata.json" in reason for reason in reasons)


def test_info_and_stats_know_what_varies(varied, capsys):
    assert vpl_dataset.main(["info", str(varied)]) == 0
    assert "varies  camera, distractors, light, looks, pose" in capsys.readouterr().out
    assert vpl_dataset.main(["stats", str(varied), "--json"]) == 0
    drawn = json.loads(capsys.readouterr().out)["variation"]
    assert drawn["pose.cabinet.0"]["count"] == 2 and sum(drawn["looks.floor.material"]["words"].values()) == 2
    assert vpl_dataset.main(["stats", str(varied)]) == 0
    assert "drawn pose.cabinet.3: " in capsys.readouterr().out


def test_flat_names_every_number():
    assert flat({"a": {"b": [1, {"c": "x"}]}, "d": 2}) == {"a.b.0": 1, "a.b.1.c": "x", "d": 2}


def test_film_again_in_other_rooms(varied, tmp_path, capsys):
    flags = f"--randomize looks,light --copies 2 --data_root {tmp_path}"
    assert replay_episode.main([str(varied), *flags.split()]) == 0
    assert " frames/s" in capsys.readouterr().out
    (filmed,) = tmp_path.iterdir()
    assert validate(filmed) == []
    before = [read(folder) for folder in episode_folders(varied)]
    after = [read(folder) for folder in episode_folders(filmed)]
    assert len(after) == 4
    for copy, (drawn, rows) in enumerate(after):
        recorded, old = before[copy % 2]
        assert np.array_equal(rows["sim_state"], old["sim_state"]) and np.array_equal(rows["action"], old["action"])
        assert {kind for kind in KINDS if drawn[kind] != recorded[kind]} == {"looks", "light"}
        assert not np.array_equal(rows["color"], old["color"])
    assert after[0][0] != after[2][0]


def test_film_again_as_it_was(varied, tmp_path):
    assert replay_episode.main([str(varied), "--data_root", str(tmp_path)]) == 0
    (filmed,) = tmp_path.iterdir()
    for old, new in zip(episode_folders(varied), episode_folders(filmed), strict=True):
        (info, rows), (again, repeated) = read(old), read(new)
        assert info == again
        assert all(np.array_equal(rows[name], repeated[name]) for name in rows)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--randomize pose", "--randomize pose: pose is part of the motion; give looks,light,camera,distractors"),
        ("--copies 2", "--copies 2 of the same picture; give --randomize"),
        ("--randomize paint", "--randomize paint: 'paint' is unknown; give none, all, or pose,looks"),
    ],
)
def test_film_again_refuses(varied, flags, said, capsys):
    with pytest.raises(SystemExit):
        replay_episode.main([str(varied), *flags.split()])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--randomize pose,paint", "--randomize pose,paint: 'paint' is unknown"),
        ("--pose_range 0.1 -1 0 0", "--pose_range must be four numbers from 0 to pi, got 0.1 -1.0 0.0 0.0"),
        ("--action_noise -1", "--action_noise must be 0 or above, got -1.0"),
        ("--stop_after_success 0", "--stop_after_success must be at least 1, got 0"),
    ],
)
def test_collector_refuses(flags, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        collect_dataset(tmp_path, *SMALL.split(), *flags.split())
    assert said in capsys.readouterr().err


def test_nothing_varies_on_demand(tmp_path):
    dataset = collect_dataset(tmp_path, *SMALL.split(), "--randomize", "none")
    assert all(read(folder)[0] == {} for folder in episode_folders(dataset))


def test_noise_is_executed_and_not_taught(tmp_path):
    noisy = collect_dataset(tmp_path / "noisy", *SMALL.split(), "--action_noise", "0.4")
    clean = collect_dataset(tmp_path / "clean", *SMALL.split())
    policy = load_policy(SHIPPED_CHECKPOINT, 31, 8)
    scales = []
    for folder, other in zip(episode_folders(noisy), episode_folders(clean), strict=True):
        (drawn, rows), (same, without) = read(folder), read(other)
        assert drawn == same and np.array_equal(rows["joint_pos"][0], without["joint_pos"][0])
        with torch.inference_mode():
            wanted = policy(torch.as_tensor(rows["proprio"])).numpy()
        assert np.allclose(rows["action"], wanted, atol=1e-5)
        added = rows["action_executed"] - rows["action"]
        assert (added[:, 7] == 0).all() and (np.abs(added[:, :7]) > 0).all()
        targets = rows["joint_pos_target_executed"] - rows["joint_pos_target"]
        assert np.allclose(targets[:, :7], added[:, :7], atol=1e-6)
        scales.append(added[:, :7].std())
    assert max(scales) < 0.6 and scales[0] != scales[1]
    assert validate(noisy) == []
    assert replay_episode.main([str(noisy), "--mode", "actions"]) == 0


def test_an_episode_ends_soon_after_it_has_succeeded(tmp_path):
    flags = "--num_envs 3 --num_episodes 1 --steps 90 --width 32 --height 32 --stop_after_success 5"
    dataset = collect_dataset(tmp_path, *flags.split())
    lengths = set()
    for folder in episode_folders(dataset):
        success = read(folder)[1]["success"]
        assert success[-1] and success.sum() >= 1 and len(success) == np.argmax(success) + 6 < 90
        lengths.add(len(success))
    assert len(lengths) > 1 and validate(dataset) == []


def test_training_is_gentle_only_once_it_has_learned(make_env):
    env = make_env(num_envs=1)
    env.reset(0)
    state = replace(env._state, tcp_vel=torch.full_like(env._state.tcp_vel, 2.0))
    action = torch.zeros(1, 8, device=env.device)
    rewards = {}
    for learned in (True, False):
        env.task.is_learned = learned
        rewards[learned] = env.task.reward(state, action, action).item()
    assert rewards[False] > rewards[True]
