"""The contract of the seam: what every simulator must keep, whoever simulates."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import spec_from_file_location
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from conftest import BOTH, OVERVIEW, TASK, WRIST

import simulators
from simulators import SimulatorCfg, is_installed, load, scene
from simulators.cameras import CameraCfg
from simulators.scene import JOINT_VEL_LIMIT, TCP_OFFSET
from simulators.seeds import episode_rng, round_seed
from simulators.tasks import load_task, open_drawer
from simulators.textures import smooth_textures


def roll(env, steps: int, seed: int = 0) -> np.ndarray:
    """Step with fixed random actions; returns the final state."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        env.step(torch.randn(env.num_envs, env.num_actions, generator=generator).to(env.device))
    return env.get_state()


def test_members_of_a_vec_env(make_env):
    env = make_env(num_envs=3)
    obs, reward, dones, extras = env.step(torch.zeros(3, 8, device=env.device))
    assert (env.num_envs, env.num_actions, env.max_episode_length) == (3, 8, 480)
    assert obs["policy"].shape == (3, 31) and obs["policy"].dtype == torch.float32
    assert reward.shape == dones.shape == extras["time_outs"].shape == (3,)
    assert extras["joint_pos_target"].shape == (3, 9)
    assert env.step_dt == pytest.approx(1 / 60)
    assert sum(env.obs_terms.values()) == env.task.num_obs == 31
    assert env.describe()["simulator"]


def test_sample_has_the_promised_shapes(make_env):
    env = make_env(cameras=BOTH)
    sample = env.capture(["color"])
    *_, reward, _, extras = env.step(torch.zeros(2, 8, device=env.device))
    of_step = {"action": np.zeros((2, 8), np.float32), "reward": reward, "joint_pos_target": extras["joint_pos_target"]}
    arrays = {**sample.columns, **{name: np.asarray(torch.as_tensor(array).cpu()) for name, array in of_step.items()}}
    assert arrays.keys() == env.columns.keys()
    for name, column in env.columns.items():
        assert (arrays[name].shape, arrays[name].dtype) == ((2, *column.shape), column.dtype), name
    assert {name: arrays[name].shape[1:] for name in ("proprio", "joint_effort", "ee_rotation", "extrinsics")} == {
        "proprio": (31,),
        "joint_effort": (9,),
        "ee_rotation": (4,),
        "extrinsics": (2, 4, 4),
    }
    assert sample["color"].shape == (2, 2, 120, 160, 3) and set(sample.images) == {"color"} <= set(env.streams)
    assert env.capture().images == {}
    assert sample["color"].std() > 10, "the images are blank"


def test_effort_is_what_the_drives_hold_the_arm_up_with(make_env):
    """In still poses gravity is what they work against: the shoulder's second joint most."""
    env = make_env()
    env.reset(3)
    for _ in range(60):
        env.step(torch.zeros(2, 8, device=env.device))
    effort = env.capture()["joint_effort"]
    model = env.model
    expected = np.empty((2, 9), np.float32)
    for i, state in enumerate(env.get_state()):
        data = mujoco.MjData(model)
        size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_setState(model, data, state[:size], mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, data)
        expected[i] = data.actuator_force
    assert effort == pytest.approx(expected, abs=1e-3)
    assert np.abs(effort[:, 1]).min() > 3


def test_action_for_target_is_the_inverse_of_the_target_of_an_action(make_env):
    env = make_env()
    action = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).to(env.device)
    action[:, 7] = action[:, 7].sign()
    *_, extras = env.step(action)
    assert torch.allclose(env.action_for_target(extras["joint_pos_target"]), action, atol=1e-6)


def test_samples_are_copies(make_env):
    env = make_env(cameras=(OVERVIEW,))
    before = env.capture(["color"])
    kept = {name: array.copy() for name, array in {**before.columns, **before.images}.items()}
    roll(env, 5)
    env.capture(["color"])
    for name, value in kept.items():
        assert np.array_equal(before[name], value), name


def test_reset_depends_on_seed_and_env_only(make_env):
    few, many = make_env(num_envs=2), make_env(num_envs=4)
    few.reset(7)
    many.reset(7)
    assert np.array_equal(few.capture()["joint_pos"], many.capture()["joint_pos"][:2])
    roll(few, 3)
    few.reset(7)
    assert np.array_equal(few.capture()["joint_pos"], many.capture()["joint_pos"][:2])
    few.reset(8)
    assert not np.array_equal(few.capture()["joint_pos"], many.capture()["joint_pos"][:2])


def test_episodes_of_a_run_start_differently():
    draws = [episode_rng(round_seed(42, r), i).uniform() for r in range(20) for i in range(20)]
    assert len(set(draws)) == 400


def test_set_state_continues_exactly(make_env):
    env = make_env(num_envs=3)
    env.reset(1)
    middle = roll(env, 20)
    expected = roll(env, 30, seed=5)
    other = make_env(num_envs=3, seed=99)
    roll(other, 7, seed=3)
    other.set_state(middle)
    assert np.array_equal(other.capture()["sim_state"], middle)
    assert np.array_equal(roll(other, 30, seed=5), expected)


def test_env_that_times_out_resets_alone(make_env):
    env = make_env(num_envs=3)
    env.reset(4)
    roll(env, 30)
    env.episode_length_buf[1] = env.max_episode_length - 1
    *_, dones, extras = env.step(torch.zeros(3, 8, device=env.device))
    assert dones.tolist() == extras["time_outs"].tolist() == [False, True, False]
    assert env.episode_length_buf.tolist() == [31, 0, 31]
    obs = env.get_observations()["policy"]
    assert obs[1, 23:].abs().sum() == 0, "last_action survived the reset"
    assert obs[1, :9].abs().max() <= 0.1 + 1e-6
    assert obs[1, 9:18].abs().sum() == 0


def test_image_after_a_reset_in_mid_round_shows_the_new_state(make_env):
    env = make_env(num_envs=3, cameras=BOTH)
    env.reset(4)
    roll(env, 30)
    env.episode_length_buf[1] = env.max_episode_length - 1
    env.step(torch.zeros(3, 8, device=env.device))
    sample = env.capture(["color"])
    fresh = make_env(num_envs=3, cameras=BOTH, seed=5)
    fresh.set_state(sample["sim_state"])
    again = fresh.capture(["color"])
    assert np.array_equal(again["color"], sample["color"])
    assert np.array_equal(again["extrinsics"], sample["extrinsics"])
    assert np.array_equal(again["proprio"], sample["proprio"])


def test_wrist_camera_is_rigid_on_the_hand(make_env):
    env = make_env(cameras=(WRIST,))
    in_hand = []
    for _ in range(5):
        sample = env.capture()
        x, y, z, w = sample["ee_rotation"][0].astype(np.float64)
        world_r_hand = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        hand = sample["ee_position"][0] - 0.1034 * world_r_hand[:, 2]
        eye = world_r_hand.T @ (sample["extrinsics"][0, 0, :3, 3] - hand)
        view = world_r_hand.T @ sample["extrinsics"][0, 0, :3, 2]
        in_hand.append((eye, view))
        roll(env, 6)
    gripper = WRIST.pose  # gripper axes in the hand: x = hand z, y = -hand y, z = hand x
    expected_eye = (gripper[2, 3], -gripper[1, 3], gripper[0, 3])
    expected_view = (gripper[2, 2], -gripper[1, 2], gripper[0, 2])
    for eye, view in in_hand:
        assert eye == pytest.approx(expected_eye, abs=1e-5)
        assert view == pytest.approx(expected_view, abs=1e-5)


@pytest.mark.parametrize(
    ("camera", "radius"),
    [(replace(OVERVIEW, width=320, height=240), 0.03), (replace(WRIST, width=320, height=240), 0.006)],
)
def test_what_is_drawn_at_the_tool_centre_point_is_where_calibration_puts_it(make_env, monkeypatch, camera, radius):
    """Only a ball is drawn, at the tool centre point; its picture's centre against the projected ee_position."""
    add_camera = scene._add_camera

    def add_ball_and_hide_the_rest(spec: mujoco.MjSpec, cfg: CameraCfg) -> None:
        add_camera(spec, cfg)
        for geom in spec.geoms:
            geom.group = 4
        spec.body("hand").add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            pos=TCP_OFFSET,
            size=(radius, 0, 0),
            rgba=(1, 1, 1, 1),
            mass=0,
            contype=0,
            conaffinity=0,
        )

    monkeypatch.setattr(scene, "_add_camera", add_ball_and_hide_the_rest)
    env = make_env(num_envs=16, cameras=(camera,))
    env.reset(0)
    off = []
    for _ in range(3):
        roll(env, 8)
        sample = env.capture(["color"])
        for image, point, pose in zip(
            sample["color"][:, 0], sample["ee_position"], sample["extrinsics"][:, 0], strict=True
        ):
            at = camera.intrinsics @ pose[:3, :3].T @ (point - pose[:3, 3])
            y, x = np.nonzero(image.max(axis=-1) > 20)
            off.append(np.hypot(x.mean() + 0.5 - at[0] / at[2], y.mean() + 0.5 - at[1] / at[2]))
    assert np.median(off) < 0.2 and max(off) < 0.5, off


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": OVERVIEW.eye}, "camera 'overview' looks at its own eye"),
        ({"eye": (0, 0, 2), "target": (0, 0, 0)}, "camera 'overview' looks along its own up direction"),
        ({"frame": "hand"}, "camera 'overview' has the frame 'hand'; give one of env, gripper"),
        ({"frame": "Gripper"}, "camera 'overview' has the frame 'Gripper'"),
        ({"eye": (0, 0, float("nan"))}, "camera 'overview' has eye .*not finite"),
        ({"vertical_fov_deg": 180}, "camera 'overview' has 180 degrees"),
        ({"height": 0}, "camera 'overview' has 40 degrees over 160 x 0 px"),
    ],
)
def test_camera_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(OVERVIEW, **changes)


def test_cameras_of_several_sizes_or_of_one_name_are_refused():
    """A renderer draws all in one size: the calibration of the others would be wrong."""
    with pytest.raises(ValueError, match="'overview' 160 x 120 px, 'wrist' 320 x 240 px; give all the same"):
        SimulatorCfg(task=TASK, num_envs=1, cameras=(OVERVIEW, replace(WRIST, width=320, height=240)))
    with pytest.raises(ValueError, match="cameras are called overview, overview"):
        SimulatorCfg(task=TASK, num_envs=1, cameras=(OVERVIEW, replace(WRIST, name="overview")))


def test_fingers_and_joint_speeds_stay_within_their_limits_under_wild_actions(make_env):
    env = make_env(num_envs=16)
    generator = torch.Generator().manual_seed(0)
    before = env.capture()
    for step in range(240):
        if step % 12 == 0:
            action = 2 * torch.randn(16, 8, generator=generator)
        env.step(action.to(env.device))
        sample = env.capture()
        assert (np.abs(sample["joint_vel"]) <= 1.001 * JOINT_VEL_LIMIT).all()
        # the motion, not only what is recorded of it
        assert (np.abs(sample["joint_pos"] - before["joint_pos"]) <= 1.001 * JOINT_VEL_LIMIT * env.step_dt + 1e-6).all()
        before = sample
        assert sample["joint_pos"][:, 7:].min() > -0.001 and sample["joint_pos"][:, 7:].max() < 0.041


def model_hash(cameras: tuple[CameraCfg, ...] = (), light: float = 1.0) -> str:
    return scene.scene_hash(scene.build_model(load_task(TASK).things(), cameras, light))


def test_scene_is_its_physics_and_not_how_it_looks(monkeypatch):
    before = model_hash()
    assert model_hash(BOTH, light=2.0) == before
    for module, name, value in (
        (open_drawer, "CABINET_POS", (0.8, 0.0, 0.41)),
        (scene, "FINGER_ARMATURE", 0.4),
        (scene, "PHYSICS_DT", 1 / 60),
        (scene, "KP", (90.0,) * 9),
        (scene, "_BOXES", scene._BOXES[:-1]),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            assert model_hash() != before, name


def test_scene_is_what_recorded_episodes_say_on_every_machine():
    """Whoever changes the scene changes this number too: episodes that were recorded before are no longer replayed."""
    assert model_hash().startswith("7576c442cc77")


def test_mujoco_and_mujoco_warp_have_the_same_states():
    cfg = SimulatorCfg(task=TASK, num_envs=1)
    with load("mujoco", cfg) as cpu, load("mujoco_warp", cfg) as gpu:
        assert (cpu.scene, cpu.state_spec) == (gpu.scene, gpu.state_spec)
        cpu.set_state(gpu.get_state())
        assert np.array_equal(cpu.get_state(), gpu.get_state())


def test_folder_beside_the_scripts_does_not_hide_an_editable_install(tmp_path, monkeypatch):
    (tmp_path / "workspace" / "hidden" / "source" / "hidden").mkdir(parents=True)
    package = tmp_path / "workspace" / "hidden" / "source" / "hidden" / "__init__.py"
    package.write_text("true = True")

    class EditableInstall:
        """As setuptools appends one to sys.meta_path."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            return spec_from_file_location(name, package) if name == "hidden" else None

    monkeypatch.setattr(sys, "path", [str(tmp_path / "workspace"), *sys.path])
    assert not is_installed("hidden")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, EditableInstall])
    assert is_installed("hidden") and importlib.import_module("hidden").true


def test_arm_and_cabinet_cast_shadows_and_the_room_does_not():
    pictures = []
    for shadows in (False, True):
        options = simulators.options("mujoco_warp", {"shadows": shadows, "samples_per_pixel": 4})
        with load("mujoco_warp", SimulatorCfg(task=TASK, num_envs=1, cameras=(OVERVIEW,), options=options)) as env:
            pictures.append(env.capture(["color"])["color"][0, 0].astype(int).mean(axis=-1))
    darker = (pictures[0] - pictures[1] > 20).mean()
    assert 0.03 < darker < 0.3, f"{darker:.0%} of the picture is in the shadow"


def test_textures_are_smoother_where_pixels_are_coarser():
    with load("mujoco", SimulatorCfg(task=TASK, num_envs=1)) as env:
        sharp, spreads = env.model.tex_data.copy(), [env.model.tex_data.std()]
        for cameras in ((), (replace(OVERVIEW, height=240),), (replace(OVERVIEW, height=96),)):
            env.model.tex_data[:] = sharp
            smooth_textures(env.model, cameras, samples_per_pixel=1)
            spreads.append(env.model.tex_data.std())
            assert env.model.tex_data.mean() == pytest.approx(sharp.mean(), abs=0.5)
    assert spreads[0] == spreads[1] > spreads[2] > spreads[3]
    with load("mujoco_warp", SimulatorCfg(task=TASK, num_envs=1, cameras=(OVERVIEW,))) as env:
        assert env.model.tex_data.std() < spreads[0]


def test_mujoco_warp_moves_and_looks_as_mujoco_does(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(simulators.__file__).parent.parent / "benchmarks")
    parity = importlib.import_module("parity")
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    results = tmp_path / "parity.json"
    assert parity.main(["--num_envs", "8", "--steps", "60", "--device", device, "--results", str(results)]) == 0
    said = json.loads(results.read_text())
    assert said["within_bounds"] == 1
    assert min(quantiles["q0"] for quantiles in said["psnr_db"].values()) > 30


def test_a_program_that_imported_mujoco_first_can_still_draw_without_a_display():
    script = (
        "import mujoco; from simulators import SimulatorCfg, load; from simulators.cameras import CameraCfg\n"
        f"cfg = SimulatorCfg(task='{TASK}', num_envs=1, cameras=(CameraCfg('a', (1, 1, 1), (0, 0, 0)),))\n"
        "with load('mujoco', cfg) as env: print(env.capture(['color'])['color'].std() > 10)"
    )
    hidden = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    project = Path(simulators.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=project, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
