"""The reading side: what info prints and what validate finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import vpl_dataset
from vpl_dataset import validate


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset to damage, of three episodes."""
    shutil.copytree(dataset, tmp_path / "set", ignore=lambda _, names: [f"episode_{i:03d}" for i in range(3, 10)])
    metadata = json.loads((tmp_path / "set" / "metadata.json").read_text())
    metadata["episodes"] = metadata["episodes"][:3]
    (tmp_path / "set" / "metadata.json").write_text(json.dumps(metadata))
    assert validate(tmp_path / "set") == []
    return tmp_path / "set"


def test_whole_dataset_has_no_problems(dataset, capsys):
    assert vpl_dataset.main(["validate", str(dataset)]) == 0
    assert "10 episodes, no problems" in capsys.readouterr().out
    assert vpl_dataset.main(["info", str(dataset)]) == 0
    assert "10 episodes" in capsys.readouterr().out


def edit(dataset: Path, change) -> None:
    with h5py.File(dataset / "episode_001" / "episode_001.h5", "a") as file:
        change(file)


def replace(name: str, change):
    def apply(file: h5py.File) -> None:
        data, attrs = file[name][:], dict(file[name].attrs)
        del file[name]
        file[name] = change(data)
        file[name].attrs.update(attrs)

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.__delitem__("action"), "action is missing"),
        (replace("proprio", lambda data: data[:-1]), "proprio has the shape"),
        (replace("joint_pos", lambda data: data.astype(np.float64)), "joint_pos is 2-dimensional float64"),
        (
            replace("ee_position", lambda data: data * np.float32(np.where(np.arange(60) == 7, np.nan, 1))[:, None]),
            "row 7",
        ),
        (replace("intrinsics", lambda data: data[:1]), "intrinsics has the shape"),
        (replace("timestamps", lambda data: data[::-1]), "timestamps do not increase"),
        (lambda file: file.attrs.__setitem__("success", not file.attrs["success"]), "success is"),
        (lambda file: file.attrs.__delitem__("seed"), "attributes seed are missing"),
        (lambda file: file.attrs.__setitem__("format_version", 2), "format version 2"),
        (lambda file: file["color"].write_direct(255 - file["color"][:]), "differs from color"),
        (lambda file: file["color"].resize(61, axis=0), "color has the shape"),
    ],
)
def test_damaged_hdf5_is_found(copy, change, words):
    edit(copy, change)
    problems = validate(copy)
    assert any("episode_001" in problem and words in problem for problem in problems), problems


def test_damaged_files_are_found(copy):
    video = copy / "episode_000" / "camera_1" / "episode_000.mp4"
    video.write_bytes(video.read_bytes()[:-500])
    (copy / "episode_001" / "camera_0" / "episode_001.mp4").unlink()
    shutil.copy(copy / "episode_002" / "camera_0" / "episode_002.mp4", copy / "episode_002" / "camera_1")
    found = " | ".join(validate(copy))
    for words in ("episode_000: camera_1", "episode_001: camera_0/episode_001.mp4 is missing", "episode_002: camera_1"):
        assert words in found, found


def test_metadata_that_disagrees_is_found(copy, capsys):
    metadata = json.loads((copy / "metadata.json").read_text())
    metadata["episodes"][0]["success"] = not metadata["episodes"][0]["success"]
    metadata["episodes"][1]["path"] = "episode_777"
    (copy / "metadata.json").write_text(json.dumps(metadata))
    assert vpl_dataset.main(["validate", str(copy)]) == 1
    assert set(capsys.readouterr().out.splitlines()) == {
        "episode_000: metadata.json says something else than its HDF5",
        "episode_001: is not in metadata.json",
        "episode_777: is in metadata.json and not on disk",
    }
