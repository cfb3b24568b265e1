"""Depth and segmentation: true to the scene, small on disk, and known to whatever reads a dataset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import BOTH, OVERVIEW, collect_dataset
from test_truth import open_env

import collect_tiled_with_checkpoint as collector
import replay_episode
from simulators import Sample
from simulators.cameras import CameraCfg
from simulators.variation import KINDS, VariationCfg
from vpl.checks import validate
from vpl.columns import STREAMS
from vpl.variation import variation_of
from vpl_dataset import episode_folders, load_episode
from vpl_dataset import main as dataset_main
from vpl_export import main as export_main

DEPTH_ERROR_M = 1e-3
SEAM_M = 1e-3
"""Height of the floor's seams."""
GEOMETRY = ("depth", "segmentation")
ABOVE = CameraCfg("above", (0.3, 0.9, 2.4), (0.35, 0.0, 0.0), vertical_fov_deg=60)
SMALL = ("--num_envs", "2", "--num_episodes", "1", "--steps", "20", "--width", "160", "--height", "120")


def rays(K: np.ndarray, height: int, width: int) -> np.ndarray:
    """Through the pixels' middles in the camera's axes, z = 1, (H, W, 3)."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], axis=-1)


def sphere_depth(look: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """Of rays (n, 3) from the camera, where they first meet a sphere in its axes; (n,) m along z, NaN beside it."""
    a, b, c = (look**2).sum(-1), look @ center, center @ center - radius**2
    with np.errstate(invalid="ignore"):
        return (b - np.sqrt(b**2 - a * c)) / a


def test_depth_is_that_of_planes_and_spheres(make_env):
    env = make_env(num_envs=3, cameras=(ABOVE,), variation=VariationCfg(KINDS))
    env.reset(11)
    sample, info, intrinsics = env.capture(STREAMS), env.episode_info(), env.intrinsics()
    ids = env.streams["segmentation"].ids
    spheres = 0
    for i in range(3):
        look, T = rays(intrinsics[i, 0], ABOVE.height, ABOVE.width), sample["extrinsics"][i, 0]
        depth, seen = sample["depth"][i, 0] / 1000, sample["segmentation"][i, 0]
        floor = seen == ids.index("floor")
        assert floor.sum() > 1000
        seams, plane = [(height - T[2, 3]) / (look @ T[2, :3]) for height in (SEAM_M, 0.0)]
        off = np.maximum(seams - depth, depth - plane)[floor]
        assert off.max() < DEPTH_ERROR_M and np.median(np.abs(depth - plane)[floor]) < DEPTH_ERROR_M / 2
        for name in ("distractor_6", "distractor_10"):  # balls on the floor
            ball = seen == ids.index(name)
            spheres += bool(ball.sum() > 20)
            drawn = info[i]["distractors"][name]
            center = (np.array(drawn["pos"]) - T[:3, 3]) @ T[:3, :3]
            inner = ball & (np.nan_to_num(sphere_depth(look, center, 0.8 * drawn["size"][0]), nan=-1) > 0)
            off = np.abs(depth - sphere_depth(look, center, drawn["size"][0]))[inner]
            assert np.nanmax(off, initial=0) < DEPTH_ERROR_M, name
    assert spheres >= 2


def test_both_engines_number_the_same_things_alike(make_env):
    env = make_env(num_envs=1, cameras=(OVERVIEW,))
    sample = env.capture(GEOMETRY)
    ids, seen = env.streams["segmentation"].ids, sample["segmentation"][0, 0]
    assert ids[0] == "nothing" and set(GEOMETRY) == set(sample.images)
    names = {ids[number] for number in np.unique(seen)}
    assert {"floor", "wall", "cabinet", "drawer_top", "drawer_top_handle", "link3", "hand"} <= names
    tool = np.append(sample["ee_position"][0], 1) @ np.linalg.inv(sample["extrinsics"][0, 0]).T
    u, v, _ = (OVERVIEW.intrinsics @ tool[:3] / tool[2]).astype(int)
    about = {ids[number] for number in np.unique(seen[v - 4 : v + 5, u - 4 : u + 5])}
    assert about & {"leftfinger", "rightfinger", "hand"}


def test_colours_are_the_same_with_and_without_other_streams(make_env):
    env = make_env(num_envs=2, cameras=BOTH)
    alone, together = env.capture(["color"]), env.capture(STREAMS)
    assert np.array_equal(alone["color"], together["color"])
    again: Sample = env.capture(["depth"])
    assert set(again.images) == {"depth"} and np.array_equal(again["depth"], together["depth"])


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes with all streams, in which everything varies."""
    flags = (*SMALL, "--streams", "color,depth,segmentation", "--randomize", "all", "--enable_wrist_camera")
    return collect_dataset(tmp_path_factory.mktemp("streams"), *flags)


def test_every_image_is_that_of_its_state(streams):
    with open_env(streams, num_envs=1) as env:
        for folder in episode_folders(streams):
            with load_episode(folder) as episode:
                assert episode.streams == list(STREAMS)
                assert episode.segment_ids == list(env.streams["segmentation"].ids)
                for row in (0, 9, 19):
                    env.set_state(episode["sim_state"][row : row + 1], [variation_of(episode.h5)])
                    sample = env.capture(STREAMS)
                    for name in STREAMS:
                        assert np.array_equal(sample[name][0], episode[name][row]), (folder.name, row, name)


def test_stored_images_are_smaller_than_colours_and_valid(streams, capsys):
    assert validate(streams) == []
    with load_episode(episode_folders(streams)[0]) as episode:
        size = {name: episode[name].id.get_storage_size() for name in STREAMS}
        assert size["segmentation"] < size["depth"] < size["color"]
        assert episode["depth"].shuffle and episode["depth"].compression == "gzip"
    assert dataset_main(["info", str(streams)]) == 0
    assert "color, depth, segmentation" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [("--writer", "processes"), ("--compress", "none"), ("--video_interval", "2")])
def test_other_ways_of_writing_give_the_same_images(streams, tmp_path, flags):
    wanted = (*SMALL, "--streams", "segmentation,depth,color", "--randomize", "all", "--enable_wrist_camera", *flags)
    other = collect_dataset(tmp_path, *wanted)
    assert validate(other) == []
    every = 2 if "--video_interval" in flags else 1
    with load_episode(streams / "episode_001") as first, load_episode(other / "episode_001") as second:
        for name in STREAMS:
            assert np.array_equal(first[name][::every], second[name][:])


def test_filming_again_gives_the_recorded_streams_and_others_on_request(streams, tmp_path):
    assert replay_episode.main([str(streams), "--data_root", str(tmp_path / "same")]) == 0
    (again,) = (tmp_path / "same").iterdir()
    with load_episode(streams / "episode_000") as first, load_episode(again / "episode_000") as second:
        assert all(np.array_equal(first[name][:], second[name][:]) for name in STREAMS)
    assert replay_episode.main([str(streams), "--data_root", str(tmp_path / "color"), "--streams", "color"]) == 0
    (colored,) = (tmp_path / "color").iterdir()
    with load_episode(colored / "episode_000") as episode:
        assert episode.streams == ["color"]


def test_exports_that_know_depth_take_it_along(streams, tmp_path, capsys):
    assert export_main(["robomimic", str(streams), "--output", str(tmp_path / "r.hdf5"), "--privileged"]) == 0
    assert export_main(["zarr", str(streams), "--output", str(tmp_path / "z.zarr")]) == 0
    assert export_main(["act", str(streams), "--output", str(tmp_path / "a")]) == 0
    assert "depth left out" in capsys.readouterr().out
    zarr = pytest.importorskip("zarr", reason="zarr 3 needs Python 3.11")
    root = zarr.open_group(str(tmp_path / "z.zarr"), mode="r")
    with load_episode(streams / "episode_001") as episode, h5py.File(tmp_path / "r.hdf5") as robomimic:
        observed = robomimic["data/demo_1/obs"]
        for name in GEOMETRY:
            assert np.array_equal(observed[f"wrist_{name}"][..., 0], episode[name][:, 1])
        assert json.loads(robomimic["data"].attrs["vpl"])["segmentation_ids"] == episode.segment_ids
        assert np.array_equal(root["data/wrist_depth"][20:], episode["depth"][:, 1])
    assert "wrist_segmentation" not in root["data"]


def test_report_shows_depth_and_segmentation(streams, tmp_path):
    report = tmp_path / "report.html"
    assert dataset_main(["view", str(streams), "--output", str(report)]) == 0
    text = report.read_text()
    assert all(f"{name} of {camera}" in text for name in GEOMETRY for camera in ("overview", "wrist"))


def edit(name: str, change):
    """Replaces a stream by what `change` makes of it."""

    def apply(file: h5py.File) -> None:
        data, attrs = file[name][:], dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, data=change(data), chunks=(1, 1, *data.shape[2:]), compression="gzip", shuffle=True)
        file[name].attrs.update(attrs)

    return apply


DAMAGE = {
    "depth in centimetres": (edit("depth", lambda d: d // 10), "off the floor"),
    "depth along the ray": (edit("depth", lambda d: (d * 1.08).astype("u2")), "ends below the floor"),
    "depth upside down": (edit("depth", lambda d: d[:, :, ::-1]), "the floor"),
    "depth of the other camera": (edit("depth", lambda d: d[:, ::-1]), "the floor"),
    "depth of a later row": (edit("depth", lambda d: np.roll(d, -6, axis=0)), "off the floor"),
    "depth that is empty": (edit("depth", np.zeros_like), "is nothing but 0"),
    "depth as floats": (edit("depth", lambda d: d.astype("f4")), "depth is 4-dimensional float32"),
    "an id without a name": (edit("segmentation", lambda d: d + 200), "ids names 35"),
    "one thing everywhere": (edit("segmentation", np.ones_like), "sees nothing but id 1"),
    "no names": (lambda file: file["segmentation"].attrs.__delitem__("ids"), "attribute ids is no list"),
    "too few rows": (edit("depth", lambda d: d[:-1]), "depth has the shape"),
}


@pytest.mark.parametrize("damage, reason", DAMAGE.values(), ids=DAMAGE)
def test_wrong_depth_and_segmentation_are_found(streams, tmp_path, damage, reason):
    copy = tmp_path / "copy"
    shutil.copytree(streams, copy)
    with h5py.File(copy / "episode_001" / "episode_001.h5", "r+", locking=False) as file:
        damage(file)
    problems = [str(problem) for problem in validate(copy)]
    assert any(reason in problem for problem in problems) and all("episode_001" in problem for problem in problems)


@pytest.mark.parametrize(
    "streams, reason",
    [("depth", "made of color"), ("color,infrared", "'infrared' is unknown"), ("", "'' is unknown")],
)
def test_streams_that_cannot_be_are_refused(tmp_path, capsys, streams, reason):
    with pytest.raises(SystemExit) as error:
        collector.main(["--data_root", str(tmp_path), "--streams", streams])
    assert error.value.code == 2 and reason in capsys.readouterr().err
