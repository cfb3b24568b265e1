"""The saver on made-up arrays: what lands on disk, and what is left of a run that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch
from conftest import wait_for

import vpl.episode
import vpl_saver
from simulators.recorded import recorded_columns
from vpl.catalog import Catalog
from vpl.columns import Column, Role, SuccessRule
from vpl.episode import DatasetCfg, SaverError
from vpl_dataset import episode_folders, load_episode
from vpl_saver import VPLSaver

ENVS, CAMERAS, HEIGHT, WIDTH = 3, 2, 32, 48
EVERYONE, NOBODY = np.ones(ENVS, bool), np.zeros(ENVS, bool)
LIFT_M = Column((), "float32", Role.PRIVILEGED, "m", "how high the thing is", in_state=True)
COLUMNS = recorded_columns([f"joint{i}" for i in range(9)], {"a": 11, "b": 20}, 8, CAMERAS, 20, {"lift_m": LIFT_M})


def make_cfg(root: Path, **changes) -> DatasetCfg:
    settings = dict(
        root=root,
        task="Task-v0",
        simulator="none",
        num_envs=ENVS,
        steps=10,
        step_dt=1 / 60,
        width=WIDTH,
        height=HEIGHT,
        camera_names=("overview", "wrist"),
        intrinsics=np.tile(np.eye(3), (CAMERAS, 1, 1)),
        columns=COLUMNS,
        obs_terms={"a": 11, "b": 20},
        state_spec="made up",
        seed=1,
        success_rule=SuccessRule("lift_m", ">=", 0.3),
        language_instruction="lift the thing",
    )
    return DatasetCfg(**{**settings, **changes})


def make_step(rng: np.random.Generator, step: int) -> dict[str, np.ndarray]:
    """A control step's columns and "color", of every env: noise; the thing goes up fast in envs 0 and 2."""
    values = {
        name: rng.normal(size=(ENVS, *column.shape)).astype(column.dtype)
        for name, column in COLUMNS.items()
        if name not in ("lift_m", "success")
    }
    values["lift_m"] = np.float32([0.04 * step, 0.01 * step, 0.04 * step])
    values["success"] = values["lift_m"] >= 0.3
    return {**values, "color": rng.integers(0, 255, (ENVS, CAMERAS, HEIGHT, WIDTH, 3), np.uint8)}


def store(saver: VPLSaver, step: dict[str, np.ndarray], recording: np.ndarray) -> list[dict]:
    """Hand over what `make_step` made."""
    images = {"color": step["color"]} if "color" in step else {}
    return saver.store({name: array for name, array in step.items() if name != "color"}, images, recording)


def store_round(saver: VPLSaver, steps: int = 10, round_index: int = 0) -> list[dict[str, np.ndarray]]:
    """A round in which all envs end at the same step; returns what was stored."""
    rng = np.random.default_rng(round_index)
    saver.begin_round(round_index)
    stored = [make_step(rng, step) for step in range(steps)]
    for step in stored:
        store(saver, step, EVERYONE)
    saver.end_episodes(EVERYONE, NOBODY, EVERYONE)
    return stored


@pytest.mark.parametrize("steps", [1, 10, 64, 65, 130])
def test_every_row_lands_on_disk_as_it_was_given(tmp_path, steps):
    with VPLSaver(make_cfg(tmp_path / "set", steps=steps)) as saver:
        stored = store_round(saver, steps)
    for env, folder in enumerate(episode_folders(tmp_path / "set")):
        with load_episode(folder) as episode:
            for name in stored[0]:
                assert np.array_equal(episode[name][:], np.stack([step[name][env] for step in stored])), name
            assert episode["timestamps"][:] == pytest.approx(np.arange(steps) / 60)


def test_files_hold_what_is_declared_and_declare_what_they_hold(tmp_path):
    with VPLSaver(make_cfg(tmp_path / "set")) as saver:
        store_round(saver)
    with load_episode(tmp_path / "set" / "episode_000") as episode:
        assert set(episode.h5) == {*COLUMNS, "timestamps", "color", "intrinsics"}
        assert list(episode.declared) == [*COLUMNS, "timestamps"]
        for name, column in COLUMNS.items():
            assert episode.declared[name] == column
            assert (episode[name].dtype, episode[name].shape) == (column.dtype, (10, *column.shape)), name
        assert episode["color"].chunks == (1, 1, HEIGHT, WIDTH, 3)
        assert episode["color"].compression == "gzip"
        assert episode.camera_names == ["overview", "wrist"]
        assert json.loads(episode["proprio"].attrs["terms"]) == {"a": [0, 11], "b": [11, 31]}
        for video in (episode.video(0), episode.video(1)):
            with av.open(str(video)) as container:
                stream = container.streams.video[0]
                size = (stream.frames, stream.width, stream.height)
                assert (*size, stream.codec_context.name, stream.pix_fmt) == (10, WIDTH, HEIGHT, "h264", "yuv420p")
                assert stream.average_rate == 60
            assert video.read_bytes().index(b"moov") < video.read_bytes().index(b"mdat"), "browsers must start at once"


def test_envs_may_end_at_different_steps(tmp_path):
    rng = np.random.default_rng(0)
    lengths = np.array([3, 10, 6])
    with VPLSaver(make_cfg(tmp_path / "set")) as saver:
        saver.begin_round(0)
        for step in range(10):
            recording = step < lengths
            store(saver, make_step(rng, step), recording)
            ended = step == lengths - 1
            saver.end_episodes(ended, ended & (lengths == 3), ended & (lengths != 3))
    rows = json.loads((tmp_path / "set" / "metadata.json").read_text())["episodes"]
    assert [row["num_frames"] for row in rows] == [3, 10, 6]
    assert [(row["terminated"], row["truncated"]) for row in rows] == [(True, False), (False, True), (False, True)]


def test_metadata_repeats_what_the_episodes_say(tmp_path):
    with VPLSaver(make_cfg(tmp_path / "set", metadata={"arguments": {"seed": 1}})) as saver:
        for round_index in range(2):
            store_round(saver, round_index=round_index)
    metadata = json.loads((tmp_path / "set" / "metadata.json").read_text())
    assert metadata["arguments"] == {"seed": 1} and metadata["format_version"] == 2
    assert metadata["num_episodes"] == 6 and metadata["num_successes"] == 4
    for index, row in enumerate(metadata["episodes"]):
        with load_episode(tmp_path / "set" / row["path"]) as episode:
            for name in ("episode_index", "round", "env_index", "num_frames", "success", "terminated", "truncated"):
                assert episode.attrs[name] == row[name]
        assert (row["episode_index"], row["round"], row["env_index"]) == (index, index // ENVS, index % ENVS)


def store_the_same(root: Path, num_envs: int) -> Path:
    """Episodes of 35 steps of the first envs of `num_envs`, up to four; an env's are the same whatever their number."""
    recording = np.arange(num_envs) < 4
    with VPLSaver(make_cfg(root, num_envs=num_envs, steps=35)) as saver:
        saver.begin_round(0)
        for step in range(35):
            made = [make_step(np.random.default_rng((step, env)), step) for env in range(min(4, num_envs))]
            first = {name: np.stack([each[name][0] for each in made]) for name in made[0]}
            everyone = {name: np.zeros((num_envs, *array.shape[1:]), array.dtype) for name, array in first.items()}
            for name, array in first.items():
                everyone[name][: len(array)] = array
            store(saver, everyone, recording)
        saver.end_episodes(recording, ~recording, recording)
    return root


def test_files_of_an_episode_do_not_depend_on_the_number_of_envs(tmp_path):
    few, many = store_the_same(tmp_path / "few", 1), store_the_same(tmp_path / "many", 1024)
    assert len(episode_folders(many)) == 4
    files = [path.relative_to(few) for path in (few / "episode_000").rglob("*") if path.is_file()]
    assert len(files) == 3
    for file in files:
        assert (few / file).read_bytes() == (many / file).read_bytes(), file


def test_only_success_puts_the_others_aside(tmp_path):
    with VPLSaver(make_cfg(tmp_path / "set", only_success=True)) as saver:
        store_round(saver)
    assert [folder.name for folder in episode_folders(tmp_path / "set")] == ["episode_000", "episode_002"]
    assert (tmp_path / "set" / "failed" / "episode_001" / "episode_001.h5").is_file()
    rows = json.loads((tmp_path / "set" / "metadata.json").read_text())["episodes"]
    assert [row["path"] for row in rows] == ["episode_000", "failed/episode_001", "episode_002"]


def store_step(saver: VPLSaver, recording: np.ndarray = EVERYONE, **changes) -> None:
    """One control step, whose arrays are right but for `changes`; None leaves one out."""
    step = {**make_step(np.random.default_rng(0), 0), **changes}
    store(saver, {name: array for name, array in step.items() if array is not None}, recording)


def end(saver: VPLSaver, ended: np.ndarray = EVERYONE) -> None:
    saver.end_episodes(ended, NOBODY, ended)


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([store_step], "store: no round is open; begin_round comes first"),
        ([end], "end_episodes: no round is open"),
        (["begin", end], "end_episodes: round 0 has no open episode in env 0, 1, 2"),
        (["begin", store_step, "begin next"], r"begin_round\(1\): round 0 is still open in env 0, 1, 2; end_episodes"),
        (
            ["begin", store_step, lambda saver: end(saver, np.array([True, False, True])), "begin next"],
            "round 0 is still open in env 1;",
        ),
        (["begin", store_step, end, store_step], "store: round 0 is over or on disk already in env 0, 1, 2"),
        (["begin", store_step, end, end], "end_episodes: round 0 has no open episode in env 0, 1, 2"),
        (["begin", store_step, end, "begin"], r"begin_round\(0\): this round was begun before"),
        (["begin", store_step, end, VPLSaver.close, store_step], "store: no round is open; .* nothing after close"),
        (
            ["begin", store_step, lambda saver: saver.end_episodes(EVERYONE, NOBODY, NOBODY)],
            "env 0, 1, 2 must be either terminated or truncated",
        ),
    ],
)
def test_calls_in_another_order_are_refused_where_they_are_made(tmp_path, calls, words):
    saver = VPLSaver(make_cfg(tmp_path / "set"))
    *before, last = [
        {"begin": lambda saver: saver.begin_round(0), "begin next": lambda saver: saver.begin_round(1)}.get(call, call)
        for call in calls
    ]
    for call in before:
        call(saver)
    with pytest.raises((RuntimeError, ValueError), match=words) as refusal:
        last(saver)
    assert not isinstance(refusal.value, SaverError)
    if VPLSaver.close not in calls:
        saver.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"color": np.zeros((ENVS, CAMERAS, HEIGHT, WIDTH + 2, 3), np.uint8)}, r"color is uint8 .* 50, 3\), .* 48, 3"),
        ({"color": np.zeros((ENVS, CAMERAS, HEIGHT, WIDTH, 3), np.float32)}, "color is float32"),
        ({"color": np.zeros((ENVS, 1, HEIGHT, WIDTH, 3), np.uint8)}, "color is uint8"),
        ({"color": None}, "step 1 is a row and has no images"),
        ({"reward": np.zeros((ENVS, 1), np.float32)}, r"reward is float32 \(3, 1\), the dataset takes float32 \(3,\)"),
        ({"lift_m": np.zeros((ENVS, 1), np.float32)}, r"lift_m is float32 \(3, 1\)"),
        ({"action": np.zeros((ENVS, 8))}, "action is float64"),
        (
            {"action": np.zeros((ENVS, 7), np.float32)},
            r"action is float32 \(3, 7\), the dataset takes float32 \(3, 8\)",
        ),
        ({"action": np.zeros((1, 8), np.float32)}, r"action is float32 \(1, 8\)"),
        ({"proprio": np.zeros((ENVS, 30), np.float32)}, r"proprio is .* \(3, 31\)"),
        ({"joint_pos": None}, "joint_pos is missing; the dataset declares it"),
        ({"lift_m": None, "action": None}, "action, lift_m is missing"),
        ({"speed": np.zeros(ENVS, np.float32)}, "speed is not among the columns that the dataset declares"),
        ({"recording": np.ones(ENVS)}, r"recording is float64 \(3,\)"),
        ({"recording": np.ones((ENVS, 1), bool)}, r"recording is bool \(3, 1\)"),
    ],
)
def test_arrays_of_another_shape_or_dtype_are_refused_and_harm_nothing(tmp_path, changes, words):
    with VPLSaver(make_cfg(tmp_path / "set")) as saver:
        saver.begin_round(0)
        store_step(saver)
        with pytest.raises(ValueError, match=words):
            store_step(saver, **changes)
        store_step(saver)
        end(saver)
    for folder in episode_folders(tmp_path / "set"):
        with load_episode(folder) as episode:
            assert len(episode["color"]) == 2 and episode["timestamps"][1] == pytest.approx(1 / 60)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"camera_names": ("a", "a")}, "camera_names a, a: give each camera its own"),
        ({"camera_names": ("a",)}, r"intrinsics \(2, 3, 3\) must be \(1, 3, 3\)"),
        ({"width": 47}, "width 47 and height 32 must be even"),
        (
            {"only_success": True, "success_rule": None, "columns": {"action": COLUMNS["action"]}},
            "only_success: there is no column success",
        ),
        ({"success_rule": SuccessRule("height", ">=", 1)}, "success_rule: there is no column height"),
    ],
)
def test_dataset_that_no_episode_can_be_of_is_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        make_cfg(tmp_path / "set", **changes)


def test_exception_in_the_stepping_thread_keeps_whole_episodes_only(tmp_path):
    with pytest.raises(ZeroDivisionError), VPLSaver(make_cfg(tmp_path / "set")) as saver:
        store_round(saver)
        saver.begin_round(1)
        store_step(saver)
        raise ZeroDivisionError
    assert len(episode_folders(tmp_path / "set")) == 3
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "episode_000",
        "episode_001",
        "episode_002",
        "metadata.json",
    ]
    assert json.loads((tmp_path / "set" / "metadata.json").read_text())["num_episodes"] == 3


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("EpisodeFile.flush_to_disk", OSError(28, "No space left on device")),
        ("EpisodeFile.finish", OSError(5, "Input/output error")),
        ("VideoEncoder.encode", av.error.ExternalError(542398533, "Generic error in an external library")),
    ],
)
def test_failing_disk_or_encoder_is_reported_and_nothing_partial_is_published(tmp_path, monkeypatch, part, error):
    def fail(*_args) -> None:
        raise error

    monkeypatch.setattr(f"vpl.episode.{part}", fail)
    with pytest.raises(SaverError, match=error.strerror), VPLSaver(make_cfg(tmp_path / "set")) as saver:
        store_round(saver)
    assert episode_folders(tmp_path / "set") == []
    with VPLSaver(make_cfg(tmp_path / "set"), resume=True) as saver:
        assert not (tmp_path / "set" / ".partial" / "episode_000").exists()


def test_video_with_a_missing_frame_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(vpl.episode, "count_frames", lambda _path: 9)
    with pytest.raises(SaverError, match="holds 9 frames instead of 10"), VPLSaver(make_cfg(tmp_path / "set")) as saver:
        store_round(saver)
    assert episode_folders(tmp_path / "set") == []


def test_existing_dataset_is_never_written_into(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(FileExistsError):
        VPLSaver(make_cfg(tmp_path / "set"))


def test_frames_are_read_by_plain_h5py_without_the_fast_deflate(tmp_path):
    with VPLSaver(make_cfg(tmp_path / "set")) as saver:
        stored = store_round(saver)
    with h5py.File(tmp_path / "set" / "episode_002" / "episode_002.h5") as file:
        assert np.array_equal(file["color"][4, 1], stored[4]["color"][2, 1])


def test_saver_and_reader_never_import_torch_or_a_simulator():
    heavy = "{'torch', 'mujoco', 'isaaclab'} & set(sys.modules)"
    code = f"import sys, vpl_saver, vpl_dataset; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(vpl_saver.__file__).parent)


def test_writer_processes_do_not_load_torch_for_its_version(tmp_path):
    cfg = make_cfg(tmp_path / "set", use_processes=True, metadata={"versions": {"torch": torch.__version__}})
    with VPLSaver(cfg) as saver:
        store_round(saver)
        processes = saver._pool._workers._processes
        wait_for("episode_002", tmp_path / "set", processes[0])
        assert not [process.pid for process in processes if "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()]
    assert json.loads((tmp_path / "set" / "metadata.json").read_text())["versions"]["torch"] == torch.__version__


def test_metadata_that_cannot_be_completed_is_an_error(tmp_path, monkeypatch):
    def full_disk(_self) -> None:
        raise OSError(28, "No space left on device")

    saver = VPLSaver(make_cfg(tmp_path / "set"))
    store_round(saver)
    monkeypatch.setattr(Catalog, "write_metadata", full_disk)
    with pytest.raises(SaverError, match="No space left on device"):
        saver.close()
    assert len(episode_folders(tmp_path / "set")) == 3
