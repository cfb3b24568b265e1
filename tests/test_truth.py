"""What decides about trust: image, state and action of a row belong together, and calibration is right."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import av
import h5py
import mujoco
import numpy as np
import pytest
import torch
from conftest import TASK, collect_dataset

from flags.collect import SHIPPED_CHECKPOINT
from policies.rsl_rl import load_policy
from simulators import CameraEnv, SimulatorCfg, load
from simulators.cameras import CameraCfg
from simulators.variation import KINDS, VariationCfg
from vpl.variation import variation_of
from vpl_dataset import episode_folders, load_episode


def recorded_cameras(dataset: Path) -> tuple[CameraCfg, ...]:
    """The cameras as metadata.json describes them."""
    rows = json.loads((dataset / "metadata.json").read_text())["cameras"]
    as_tuples = [
        {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k != "intrinsics"} for row in rows
    ]
    return tuple(CameraCfg(**row) for row in as_tuples)


def open_env(dataset: Path, num_envs: int) -> CameraEnv:
    cfg = SimulatorCfg(TASK, num_envs, recorded_cameras(dataset), seed=1234, variation=VariationCfg(KINDS))
    return load("mujoco", cfg)


def test_rendering_a_recorded_state_again_gives_the_recorded_image(dataset):
    folders = episode_folders(dataset)
    assert len(folders) == 10
    with open_env(dataset, num_envs=1) as env:
        for folder in folders:
            with load_episode(folder) as episode:
                for row in (0, len(episode["action"]) // 2, len(episode["action"]) - 1):
                    env.set_state(episode["sim_state"][row : row + 1], [variation_of(episode.h5)])
                    sample = env.capture(["color"])
                    assert np.array_equal(sample["color"][0], episode["color"][row]), (folder.name, row)
                    assert np.array_equal(sample["extrinsics"][0], episode["extrinsics"][row])
                    assert np.array_equal(sample["ee_position"][0], episode["ee_position"][row])


def test_proprio_action_reward_and_next_state_recompute_from_the_recorded_state(dataset):
    policy = load_policy(SHIPPED_CHECKPOINT, 31, 8)
    episodes = [load_episode(folder) for folder in episode_folders(dataset)[:5]]
    stacked = {name: np.stack([episode[name][:] for episode in episodes], axis=1) for name in episodes[0].declared}
    info = [variation_of(episode.h5) for episode in episodes]
    with open_env(dataset, num_envs=5) as env, torch.inference_mode():
        for row in (0, 7, 31, 58):
            env.set_state(stacked["sim_state"][row], info)
            obs = env.get_observations()["policy"]
            action = policy(obs)
            assert np.array_equal(obs.numpy(), stacked["proprio"][row])
            assert np.array_equal(action.numpy(), stacked["action"][row])
            _, reward, _, extras = env.step(action)
            assert np.array_equal(reward.numpy(), stacked["reward"][row])
            assert np.array_equal(extras["joint_pos_target"].numpy(), stacked["joint_pos_target"][row])
            assert np.array_equal(env.get_state(), stacked["sim_state"][row + 1])
    assert np.array_equal(stacked["proprio"][1:, :, 23:], stacked["action"][:-1])
    for episode in episodes:
        episode.h5.close()


def marker_center(renderer: mujoco.Renderer, data: mujoco.MjData, camera: str, site: int) -> np.ndarray | None:
    """The centre in px of a site that is drawn alone; None where it is not wholly in the image."""
    show_sites_only = mujoco.MjvOption()
    show_sites_only.geomgroup[:] = 0
    show_sites_only.sitegroup[:] = 1
    renderer.update_scene(data, camera, show_sites_only)
    kind, index = mujoco.mjtObj.mjOBJ_SITE, renderer.render()
    rows, columns = np.nonzero((index[..., 0] == site) & (index[..., 1] == kind))
    height, width = index.shape[:2]
    inside = (
        len(rows) and rows.min() > 0 and columns.min() > 0 and rows.max() < height - 1 and columns.max() < width - 1
    )
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5]) if inside else None


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes in which everything varies, cameras and lenses too."""
    flags = "--num_envs 3 --num_episodes 1 --steps 50 --randomize all --enable_wrist_camera --width 160 --height 120"
    return collect_dataset(tmp_path_factory.mktemp("varied"), *flags.split())


@pytest.mark.parametrize(("camera", "marker_radius"), [("overview", 0.02), ("wrist", 0.004)])
def test_projected_tcp_and_handle_fall_on_their_rendered_markers(varied, camera, marker_radius):
    errors: dict[str, list[float]] = {"tcp": [], "handle": []}
    with open_env(varied, num_envs=1) as env:
        model = copy.copy(env.model)
        renderer = mujoco.Renderer(model, 120, 160)
        renderer.enable_segmentation_rendering()
        data = mujoco.MjData(model)
        state_size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
        for folder in episode_folders(varied):
            with load_episode(folder) as episode:
                env.set_state(episode["sim_state"][:1], [variation_of(episode.h5)])
                for name, values in env._fields.values.items():
                    getattr(model, name)[:] = values[0]
                start, end = json.loads(episode["proprio"].attrs["terms"])["rel_ee_drawer_distance"]
                c = episode.camera_names.index(camera)
                for row in range(len(episode["action"])):
                    state = episode["sim_state"][row]
                    mujoco.mj_setState(model, data, state[:state_size], mujoco.mjtState.mjSTATE_INTEGRATION)
                    mujoco.mj_forward(model, data)
                    handle = episode["ee_position"][row] + episode["proprio"][row, start:end]
                    for site, point in (("tcp", episode["ee_position"][row]), ("handle", handle)):
                        model.site_size[:] = 1e-6
                        model.site_size[model.site(site).id] = marker_radius
                        center = marker_center(renderer, data, camera, model.site(site).id)
                        if center is not None:
                            cam_t_world = np.linalg.inv(episode["extrinsics"][row, c])
                            x, y, z = episode["intrinsics"][c] @ (cam_t_world @ [*point, 1])[:3]
                            errors[site].append(np.linalg.norm([x / z, y / z] - center))
        renderer.close()
    for site, values in errors.items():
        print(f"{camera}, {site}: {len(values)} markers, median {np.median(values):.2f}, maximum {max(values):.2f} px")
        assert len(values) >= 20  # the wrist camera sees the handle only until the gripper has it
        assert np.median(values) < 0.5 and max(values) < 1.5


def test_quaternion_is_the_tool_orientation_in_xyzw(dataset):
    with load_episode(episode_folders(dataset)[0]) as episode, open_env(dataset, num_envs=1) as env:
        env.set_state(episode["sim_state"][20:21], [variation_of(episode.h5)])
        x, y, z, w = episode["ee_rotation"][20]
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, np.array([w, x, y, z], np.float64))
        assert rotation.reshape(3, 3) == pytest.approx(env._state.tcp_rot[0].numpy(), abs=1e-6)
        assert list(episode["ee_rotation"].attrs["names"]) == list("xyzw")


def test_success_is_the_drawer_at_the_last_row(dataset):
    rows = json.loads((dataset / "metadata.json").read_text())["episodes"]
    for row in rows:
        with load_episode(dataset / row["path"]) as episode:
            measured = episode["drawer_pos"][-1] >= 0.30
            assert episode.attrs["success"] == row["success"] == measured
            assert (episode.attrs["success_metric"], episode.attrs["success_threshold"]) == ("drawer_pos", 0.30)


def test_videos_show_the_recorded_frames_in_real_time(dataset):
    with load_episode(episode_folders(dataset)[3]) as episode:
        for camera in (0, 1):
            with av.open(str(episode.video(camera))) as container:
                assert container.streams.video[0].average_rate == 60
                images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            error = np.mean((np.float32(images) - episode["color"][:, camera]) ** 2, axis=(1, 2, 3))
            assert len(images) == 60
            assert (10 * np.log10(255**2 / error)).min() > 30, "a frame differs from its row"


def test_video_interval_keeps_every_step_in_full_rate(tmp_path):
    flags = "--num_envs 2 --num_episodes 1 --steps 20 --width 64 --height 48".split()
    whole = collect_dataset(tmp_path / "whole", *flags)
    third = collect_dataset(tmp_path / "third", *flags, "--video_interval", "3")
    with load_episode(whole / "episode_001") as every, load_episode(third / "episode_001") as sparse:
        full_rate = sparse["full_rate"]
        assert full_rate["frame_step"][:].tolist() == [0, 3, 6, 9, 12, 15, 18]
        assert sparse.attrs["num_frames"] == 7 and sparse.attrs["fps"] == 20
        assert np.array_equal(sparse["color"][:], every["color"][::3])
        assert sparse.attrs["success"] == every.attrs["success"]
        assert len(every.declared) == 14
        for name in every.declared:
            assert np.array_equal(full_rate[name][:], every[name][:]), name
            assert np.array_equal(sparse[name][:], every[name][::3]), name
        with av.open(str(sparse.video(0))) as container:
            stream = container.streams.video[0]
            assert float(stream.duration * stream.time_base) == pytest.approx(7 / 20)


def test_same_command_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    flags = "--num_envs 3 --num_episodes 2 --steps 15 --width 64 --height 48".split()
    first, second = collect_dataset(tmp_path / "a", *flags), collect_dataset(tmp_path / "b", *flags)
    other = collect_dataset(tmp_path / "c", *flags, "--seed", "43")
    for folder in episode_folders(first):
        with h5py.File(folder / f"{folder.name}.h5") as one:
            assert len(one) == 16
            for name in one:
                with load_episode(second / folder.name) as two, load_episode(other / folder.name) as three:
                    assert np.array_equal(one[name][:], two[name][:]), name
                    if name in ("proprio", "action", "joint_pos", "sim_state", "color"):
                        assert not np.array_equal(one[name][:], three[name][:]), name
