"""Exports, read by the libraries that they are for, each in an environment of its own (tests/readers/).

LeRobot and robomimic are installed (`-m "not readers"` leaves them out). ACT and diffusion policy are no packages: set
ACT_SOURCE and DIFFUSION_POLICY_SOURCE to clones of their repositories to run theirs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from conftest import collect_dataset
from readers.environments import LIBRARIES, Library, library_python

import vpl_export
from vpl.columns import Role
from vpl_dataset import load_episode

HERE = Path(__file__).parent
PSNR_DB = 35
NEEDS_ZARR = pytest.mark.skipif(sys.version_info < (3, 11), reason="needs zarr 3, which needs Python 3.11")

LEROBOT = ("lerobot-0.4.4", "lerobot-0.6.1")
EXPORT_WITH_LEROBOT = """
import sys; sys.path[:0] = sys.argv[1:3]
import recorded; recorded.define_torchvision_ops()
import vpl_export; sys.exit(vpl_export.main(sys.argv[3:]))
"""


def read_with(library: str, python: Path | str, dataset: Path, exported: Path, **environment: str) -> dict:
    """What tests/readers/ says of an export."""
    command = [python, HERE / "readers" / f"{library}_reader.py", dataset, exported]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["losses"][1] < said["losses"][0], "the step did not descend"
    return said


def export(form: str, dataset: Path, output: Path, *flags: str) -> Path:
    assert vpl_export.main([form, str(dataset), "--output", str(output), *flags]) == 0
    return output


def export_with_lerobot(release: str, dataset: Path, output: Path, *flags: str) -> Path:
    command = [library_python(release), "-c", EXPORT_WITH_LEROBOT, HERE.parent, HERE / "readers", "lerobot"]
    done = subprocess.run([*command, dataset, "--output", output, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return output


@pytest.mark.readers
@pytest.mark.parametrize(
    ("writer", "reader"), [(LEROBOT[0], LEROBOT[0]), (LEROBOT[1], LEROBOT[1]), (LEROBOT[0], LEROBOT[1])]
)
def test_lerobot_reads_its_export(writer, reader, splits, tmp_path):
    exported = export_with_lerobot(writer, splits, tmp_path / "out")
    said = read_with("lerobot", library_python(reader), splits, exported)
    assert said["library"] == reader.replace("-", " ")
    assert said["psnr_db"] > PSNR_DB and said["frames"] == 10 * 9 * 2
    assert said["inputs"] == ["observation.images.overview", "observation.images.wrist", "observation.state"]
    assert said["names"][:2] == ["panda_joint1", "panda_joint2"] and said["splits"] == {"train": "0:8", "val": "8:10"}
    assert len(said["state_names"]) == 9 + 9 + 9 + 3 + 4 and said["state_names"][9] == "joint_vel.panda_joint1"
    assert "drawer_pos" not in said["columns"], "only a simulator knows it"
    assert said["robot_type"] == "franka" and said["codebase_version"] == "v3.0"
    assert said["stats_of_rows"] == 8 * 60, "policies are normalized by the list train alone"


@pytest.mark.readers
def test_policy_of_lerobot_drives_what_its_export_was_collected_with(dataset, tmp_path):
    """An untrained ACT through LeRobot's own files and processors; 0.6.1's environment has no simulator."""
    exported = export_with_lerobot(LEROBOT[0], dataset, tmp_path / "out")
    command = [library_python(LEROBOT[0]), HERE / "readers" / "lerobot_policy.py", exported, tmp_path / "policy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["code"] == 0 and said["results"][0]["scenes"] == 2
    assert said["results"][0]["about"]["layout"] == "lerobot act"


@pytest.mark.readers
@pytest.mark.parametrize("release", LEROBOT)
def test_lerobot_reads_every_second_row_and_raw_actions(release, tmp_path):
    flags = "--num_envs 2 --num_episodes 1 --steps 30 --video_interval 2 --fps 10 --width 64 --height 64"
    dataset = collect_dataset(tmp_path / "data", *flags.split())
    exported = export_with_lerobot(release, dataset, tmp_path / "out", "--action", "action")
    said = read_with("lerobot", library_python(release), dataset, exported)
    assert said["fps"] == 30, "rows are 1/30 s apart, however fast the videos play"
    assert said["names"] == [f"action_{i}" for i in range(8)]


@pytest.mark.readers
def test_robomimic_reads_its_export(splits, tmp_path):
    exported = export("robomimic", splits, tmp_path / "out.hdf5")
    said = read_with("robomimic", library_python("robomimic"), splits, exported)
    assert said["frames"] == 10 * 9 * 2 and said["masks"] == {"train": 8, "valid": 2}


def source(name: str) -> str:
    """The clone that the environment variable names."""
    if name not in os.environ:
        pytest.skip(f"needs {name}, the path of a clone; see the top of this file")
    return os.environ[name]


def test_act_reads_its_export(splits, tmp_path):
    act = source("ACT_SOURCE")
    said = read_with("act", sys.executable, splits, export("act", splits, tmp_path / "out"), ACT_SOURCE=act)
    assert said["frames"] == 10 * 9 * 2


def test_diffusion_policy_reads_its_export(splits, tmp_path):
    clone, python = source("DIFFUSION_POLICY_SOURCE"), os.environ.get("DIFFUSION_POLICY_PYTHON", sys.executable)
    exported = export("zarr", splits, tmp_path / "out.zarr")
    said = read_with("diffusion_policy", python, splits, exported, DIFFUSION_POLICY_SOURCE=clone)
    assert said["frames"] == 10 * 60 * 2


def check_about(about: dict) -> None:
    """Names, units, frames and orders have come along."""
    assert about["action"]["names"][0] == "panda_joint1" and "rad" in about["action"]["unit"]
    assert about["columns"]["ee_rotation"]["names"] == ["x", "y", "z", "w"]
    assert about["conventions"]["units"] == "m, rad, s" and "OpenCV" in about["columns"]["extrinsics"]["meaning"]
    assert [camera["name"] for camera in about["cameras"]] == ["overview", "wrist"]
    assert about["step_dt"] == pytest.approx(1 / 60)


def test_what_only_a_simulator_knows_is_exported_on_request(splits, tmp_path):
    with load_episode(splits / "episode_000") as episode:
        felt = {*episode.columns(Role.STATE), "overview_image", "wrist_image"}
    assert {"joint_pos", "ee_position"} <= felt
    for flags, extra in (((), set()), (("--privileged",), {"drawer_pos", "proprio"})):
        path = export("robomimic", splits, tmp_path / f"out{len(flags)}.hdf5", *flags)
        with h5py.File(path) as file:
            assert set(file["data/demo_0/obs"]) == felt | extra
            assert set(json.loads(file["data"].attrs["vpl"])["columns"]) >= extra


def test_act_export_is_what_was_recorded(splits, tmp_path):
    folder = export("act", splits, tmp_path / "out")
    with h5py.File(folder / "episode_9.hdf5") as file:
        check_about(about := json.loads(file.attrs["vpl"]))
        assert not {"episodes", "splits"} & about.keys()  # of ten thousand, in each of ten thousand files
        with load_episode(splits / file.attrs["source"]) as episode:
            for camera, name in enumerate(("overview", "wrist")):
                assert np.array_equal(file[f"observations/images/{name}"][:], episode["color"][:, camera])
            for name, column in (("action", "joint_pos_target"), ("observations/qpos", "joint_pos")):
                assert np.array_equal(file[name][:], episode[column][:])


def test_robomimic_export_is_what_was_recorded(splits, tmp_path):
    with h5py.File(export("robomimic", splits, tmp_path / "out.hdf5", "--split", "val")) as file:
        about = json.loads(file["data"].attrs["vpl"])
        assert about["splits"] == {"val": [0, 1]} and file["data"].attrs["total"] == 120
        with load_episode(splits / about["episodes"][1]) as episode:
            demo = file["data/demo_1"]
            assert np.array_equal(demo["obs/wrist_image"][:], episode["color"][:, 1])
            assert np.array_equal(demo["states"][:], episode["sim_state"][:])
            actions = file["data"].attrs["action_offset"] + file["data"].attrs["action_scale"] * demo["actions"][:]
            assert np.allclose(actions, episode["joint_pos_target"][:], atol=1e-5)


@NEEDS_ZARR
def test_zarr_export_is_what_was_recorded(splits, tmp_path):
    import zarr

    root = zarr.open_group(str(export("zarr", splits, tmp_path / "out.zarr")), mode="r")
    check_about(about := root.attrs["vpl"])
    assert len(about["splits"]["train"]) == 8
    assert list(root["meta/episode_ends"][:]) == list(range(60, 601, 60))
    with load_episode(splits / root.attrs["vpl"]["episodes"][9]) as episode:
        assert np.array_equal(root["data/overview_image"][540:], episode["color"][:, 0])
        assert np.array_equal(root["data/action"][540:], episode["joint_pos_target"][:])
        assert np.array_equal(root["data/wrist_extrinsics"][540:], episode["extrinsics"][:, 1])


def test_what_is_held_out_stays_out(splits, tmp_path, capsys):
    """Of one's own lists only train and val are exported unasked, and an empty one is no error."""
    copy = tmp_path / "copy"
    shutil.copytree(splits, copy, copy_function=os.link)
    (copy / "splits.json").unlink()
    lists = {"test": ["episode_000"], "val": [], "train": ["episode_001", "episode_002"]}
    (copy / "splits.json").write_text(json.dumps(lists))
    with h5py.File(export("robomimic", copy, tmp_path / "out.hdf5")) as file:
        assert [demo.attrs["source"] for demo in file["data"].values()] == ["episode_001", "episode_002"]
        assert "valid" not in file["mask"]
    with h5py.File(export("robomimic", copy, tmp_path / "test.hdf5", "--split", "test")) as file:
        assert [demo.attrs["source"] for demo in file["data"].values()] == ["episode_000"]
    (copy / "splits.json").write_text(json.dumps({"test": ["episode_000"]}))
    with pytest.raises(SystemExit):
        export("robomimic", copy, tmp_path / "none.hdf5")
    assert "has no train or val" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "exported"), [((), 2), (("--split", "val"), 1)])
def test_robomimics_actions_are_scaled_by_the_list_train_and_not_clipped(flags, exported, splits, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copyfile(splits / "metadata.json", copy / "metadata.json")
    for name in ("episode_000", "episode_001"):
        shutil.copytree(splits / name, copy / name)
    (copy / "splits.json").write_text('{"train": ["episode_000"], "val": ["episode_001"]}')
    with h5py.File(copy / "episode_000" / "episode_000.h5", "r+") as file:
        file["joint_pos_target"][:, 8] = 0.5
        train = file["joint_pos_target"][:]
    with h5py.File(copy / "episode_001" / "episode_001.h5", "r+") as file:
        file["joint_pos_target"][:] = 2 * file["joint_pos_target"][:]
        val = file["joint_pos_target"][:]
    with h5py.File(export("robomimic", copy, tmp_path / "out.hdf5", *flags)) as file:
        data = file["data"]
        offset, scale = data.attrs["action_offset"], data.attrs["action_scale"]
        assert np.allclose(offset, (train.max(0) + train.min(0)) / 2)
        assert np.allclose(scale[:8], (train.max(0) - train.min(0))[:8] / 2) and scale[8] == 1
        demos = [data[f"demo_{index}"]["actions"][:] for index in range(exported)]
    assert np.allclose(offset + scale * demos[-1], val, atol=1e-5), "what policies are validated on is not falsified"
    assert all(np.abs(demo).max() == 1 for demo in demos[:-1])
    assert "rows have actions beyond -1 ... 1, which is the range of the list train" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["act", pytest.param("zarr", marks=NEEDS_ZARR)])
def test_formats_without_lists_say_so(form, splits, tmp_path, capsys):
    export(form, splits, tmp_path / "out")
    assert "knows no lists and would also train on val; --split train leaves it out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("form", "part"),
    [
        ("act", "vpl.exports.act.copy_frames"),
        ("robomimic", "vpl.exports.robomimic.copy_frames"),
        pytest.param("zarr", "pathlib.Path.write_bytes", marks=NEEDS_ZARR),
    ],
)
def test_failed_export_leaves_nothing(form, part, splits, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError("No space\nleft on device")

    monkeypatch.setattr(part, full)
    assert vpl_export.main([form, str(splits), "--output", str(tmp_path / "out" / "new")]) == 1
    assert list((tmp_path / "out").iterdir()) == []
    assert capsys.readouterr().err == "error: No space left on device\n"


@pytest.mark.readers
@pytest.mark.parametrize("release", LEROBOT)
def test_failed_export_with_lerobot_leaves_nothing(release, splits, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(splits, damaged, copy_function=os.link)
    (damaged / "episode_004" / "camera_1" / "episode_004.mp4").unlink()
    with pytest.raises(AssertionError, match=r"error: .*No such file or directory"):
        export_with_lerobot(release, damaged, tmp_path / "out" / "new")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.readers
@pytest.mark.parametrize("release", LEROBOT)
def test_lerobot_is_told_that_validation_episodes_are_such(release, splits, tmp_path):
    exported = export_with_lerobot(release, splits, tmp_path / "out", "--split", "val")
    assert json.loads((exported / "meta" / "info.json").read_text())["splits"] == {"val": "0:2"}


def test_color_of_another_writers_chunks_is_exported(splits, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(splits, other)
    with h5py.File(other / "episode_000" / "episode_000.h5", "r+") as file:
        color, names = file["color"][:], file["color"].attrs["names"]
        del file["color"]
        file["color"] = color
        file["color"].attrs["names"] = names
    (other / "splits.json").write_text('{"train": ["episode_000"]}')
    with h5py.File(export("act", other, tmp_path / "out") / "episode_0.hdf5") as file:
        assert np.array_equal(file["observations/images/wrist"][:], color[:, 1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"train": ["episode_777"]}', "names episode_777, which is not in the dataset"),
        ('{"train": ["episode_001"], "val": ["episode_001"]}', "names an episode twice"),
        ("", "splits.json is no JSON"),
        ("[]", "splits.json is no JSON object"),
    ],
)
def test_damaged_lists_are_refused(content, said, splits, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(splits, copy, copy_function=os.link, ignore=shutil.ignore_patterns("splits.json"))
    (copy / "splits.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        vpl_export.main(["act", str(copy), "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and said in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("act {data} --output {tmp}", r"--output .* exists already; give a new one"),
        ("act {data} --output {tmp}/out --split seed", r"--split seed: no such list in .*; has train, val"),
        ("act {tmp} --output {tmp}/out", "holds no metadata.json or no episode"),
        ("act {data} --output {tmp}/out --split test", r"--split test: no such list in .*splits.json; has train, val"),
        ("lerobot {data} --output {tmp}/out", r"lerobot is needed, found none: pip install 'lerobot>=0.4.4,<0.5' or"),
        ("rlds {data} --output {tmp}/out", "invalid choice: 'rlds'"),
    ],
)
def test_bad_input_is_one_line(flags, said, splits, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        vpl_export.main(flags.format(data=splits, tmp=tmp_path).split())
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and len(error.splitlines()) == 1
    assert re.search(said, error), error


@pytest.mark.readers
def test_half_made_environment_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setitem(LIBRARIES, "pip", Library(required="pip"))
    torn = tmp_path / "readers" / "pip" / "lib" / "torn"
    torn.mkdir(parents=True)
    python = library_python("pip")
    assert python.exists() and not torn.exists()
    (python.parent / "kept").touch()
    assert library_python("pip") == python and (python.parent / "kept").exists()


@pytest.mark.parametrize(
    ("release", "said"),
    [
        *((release, release) for release in ("0.4.3", "0.5.1", "0.6.0", "0.7.0")),
        ("0.6.1", "0.6.1 without its extra dataset"),
    ],
)
def test_other_releases_of_lerobot_are_refused(release, said, splits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vpl_export, "distributions", lambda **_: iter([SimpleNamespace(version=release)]))
    monkeypatch.setattr(vpl_export, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as stopped:
        export("lerobot", splits, tmp_path / "out")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and len(error.splitlines()) == 1
    assert f"found {said}: pip install 'lerobot>=0.4.4,<0.5' or 'lerobot[dataset]>=0.6.1,<0.7'" in error
