"""What validate finds: each fault is planted into a copy of a clean episode, alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from conftest import collect_dataset

import vpl_dataset
from vpl.checks import validate
from vpl.checks.rows import _motion
from vpl.exports.lerobot_writer import RecordedVideos, VideoError
from vpl.video import VideoEncoder, write_mp4
from vpl_dataset import load_episode

NAME = "episode_001"
ORDER_WXYZ, CONJUGATE = [3, 0, 1, 2], np.float32([-1, -1, -1, 1])
MIRROR_X, OPENGL = np.diag([-1.0, 1, 1, 1]), np.diag([1.0, -1, -1, 1])


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset to damage, of two episodes."""
    shutil.copytree(dataset, tmp_path / "set", ignore=lambda _, names: [f"episode_{i:03d}" for i in range(2, 10)])
    edit_metadata(tmp_path / "set", lambda metadata: metadata.update(episodes=metadata["episodes"][:2], num_episodes=2))
    edit_metadata(tmp_path / "set", lambda metadata: metadata.update(num_successes=successes(metadata)))
    assert validate(tmp_path / "set") == []
    return tmp_path / "set"


def successes(metadata: dict) -> int:
    return sum(row["success"] for row in metadata["episodes"])


def edit_metadata(dataset: Path, change: Callable[[dict], object]) -> None:
    metadata = json.loads((dataset / "metadata.json").read_text())
    change(metadata)
    (dataset / "metadata.json").write_text(json.dumps(metadata))


def column(name: str, change: Callable[[np.ndarray], np.ndarray]):
    """Replaces a column by what `change` makes of it."""

    def apply(file: h5py.File) -> None:
        data, attrs = file[name][:], dict(file[name].attrs)
        del file[name]
        file[name] = change(data)
        file[name].attrs.update(attrs)

    return apply


def later(data: np.ndarray) -> np.ndarray:
    """Each row in the place of the next."""
    return np.concatenate([data[:1], data[:-1]])


def at(row: int, value: float):
    def change(data: np.ndarray) -> np.ndarray:
        data[row] = value
        return data

    return change


def attribute(name: str, value: object, of: str = "/"):
    def apply(file: h5py.File) -> None:
        if value is None:
            del file[of].attrs[name]
        else:
            file[of].attrs[name] = value

    return apply


def film(color: np.ndarray, path: Path, fps: float = 60) -> None:
    """Write images (T, H, W, 3) as the video that the saver would have written."""
    height, width = color.shape[1:3]
    encoder = VideoEncoder(width, height, Fraction(60), VideoReformatter())
    packets = b"".join(encoder.encode(np.ascontiguousarray(image)) for image in color)
    path.with_suffix(".h264").write_bytes(packets)
    path.unlink()
    write_mp4(path.with_suffix(".h264"), path, Fraction(fps))


def pictures(change: Callable[[np.ndarray], np.ndarray]):
    """Replaces images (T, C, H, W, 3) and videos by what `change` makes of them."""

    def apply(file: h5py.File) -> None:
        color = change(file["color"][:])
        file["color"][:] = color
        for camera in range(color.shape[1]):
            film(color[:, camera], Path(file.filename).parent / f"camera_{camera}" / f"{NAME}.mp4")

    return apply


def frame(row: int, source: int | float, camera: int = 0):
    """Puts another row's image, or a level of 255 as a float, into a row."""

    def change(color: np.ndarray) -> np.ndarray:
        color[row, camera] = color[source, camera] if isinstance(source, int) else source
        return color

    return change


def frozen(color: np.ndarray) -> np.ndarray:
    color[20:30, 1] = color[20, 1]
    return color


def stale(color: np.ndarray) -> np.ndarray:
    """The picture before the episode is of another one's end."""
    color[:, 0] = np.concatenate([color[-1:, 0], color[1:, 0]])
    return color


def lose_image(file: h5py.File) -> None:
    color, attrs = file["color"][:], dict(file["color"].attrs)
    del file["color"]
    target = file.create_dataset("color", color.shape, color.dtype, chunks=(1, 1, *color.shape[2:]), compression="gzip")
    target.attrs.update(attrs)
    for row in range(len(color) - 1):
        target[row] = color[row]


def overwrite(file: h5py.File, color: np.ndarray) -> None:
    file["color"][:] = color


def transpose(file: h5py.File) -> None:
    column("color", lambda color: color.swapaxes(2, 3))(file)


def damage_chunk(file: h5py.File) -> None:
    place = file["color"].id.get_chunk_info_by_coord((30, 0, 0, 0, 0)).byte_offset
    file.flush()
    with open(file.filename, "r+b") as raw:
        raw.seek(place + 40)
        raw.write(bytes(64))


def another_episode_at_the_end(file: h5py.File) -> None:
    for name in (
        "joint_pos",
        "joint_vel",
        "ee_position",
        "ee_rotation",
        "proprio",
        "sim_state",
        "extrinsics",
        "drawer_pos",
    ):
        file[name][-1] = file[name][0]


def swap_joints(data: np.ndarray) -> np.ndarray:
    return data[:, [1, 0, *range(2, 9)]]


FAULTS = {
    # the format
    "column missing": (lambda file: file.__delitem__("action"), "action is missing"),
    "column short": (column("proprio", lambda data: data[:-1]), "proprio has the shape"),
    "column of doubles": (column("joint_pos", lambda data: data.astype(float)), "joint_pos is 2-dimensional float64"),
    "not a number": (column("ee_position", at(7, np.nan)), "row 7: ee_position holds NaN"),
    "infinite reward": (column("reward", at(9, np.inf)), "row 9: reward holds NaN or infinity"),
    "a camera's intrinsics": (column("intrinsics", lambda data: data[:1]), "intrinsics has the shape"),
    "image rows without numbers": (lambda file: file["color"].resize(61, axis=0), "color has the shape"),
    "image never stored": (lose_image, "color lacks images"),
    "image damaged": (damage_chunk, "cannot be read"),
    "image transposed": (transpose, "frames of (120, 160), color 60 of (160, 120)"),
    # what the file says of itself
    "seed unknown": (attribute("seed", None), "attributes seed are missing"),
    "version": (attribute("format_version", 3), "format version 3, this program reads 1 and 2"),
    "frame count": (attribute("num_frames", 59), "has the shape"),
    "another's index": (attribute("episode_index", 7), "episode_index is 7"),
    "two endings": (attribute("terminated", True), "terminated and truncated are both True"),
    "no ending": (attribute("truncated", False), "terminated and truncated are both False"),
    "joint names": (attribute("names", ["a", "b"], of="joint_pos"), "joint_pos's attribute names is ['a', 'b']"),
    "camera names": (attribute("names", ["wrist", "wrist"], of="color"), "color's attribute names"),
    "quaternion order": (attribute("names", list("wxyz"), of="ee_rotation"), "ee_rotation's order is wxyz"),
    "observation terms": (attribute("terms", '{"joint_pos_rel": [0, 8]}', of="proprio"), "attribute terms does"),
    # time
    "time reversed": (column("timestamps", lambda data: data[::-1]), "timestamps do not increase"),
    "time in ms": (column("timestamps", lambda data: data * 1000), "timestamps are not multiples of step_dt"),
    "time from 1 s": (column("timestamps", lambda data: data + 1), "timestamps are not multiples of step_dt"),
    "a row's time": (column("timestamps", at(30, 0.5042)), "row 30: timestamps are not multiples"),
    # the tool
    "w first": (column("ee_rotation", lambda data: data[:, ORDER_WXYZ]), "off the tool of joint_pos (its order?)"),
    "turned back": (column("ee_rotation", lambda data: data * CONJUGATE), "ee_rotation is"),
    "no unit": (column("ee_rotation", lambda data: data * np.float32(1.1)), "ee_rotation is no unit quaternion"),
    "tool a row late": (column("ee_position", later), "mm off the tool of joint_pos"),
    "tool in mm": (column("ee_position", lambda data: data * 1000), "mm off the tool of joint_pos"),
    "tool in the world": (column("ee_position", lambda data: data + np.float32([2.5, 0, 0])), "2500 mm off the tool"),
    "hand for tool": (column("ee_position", lambda data: data - np.float32([0, 0, 0.1])), "100 mm off the tool"),
    # cameras
    "world to camera": (column("extrinsics", np.linalg.inv), "extrinsics of camera_0 are"),
    "mirrored": (column("extrinsics", lambda data: data @ MIRROR_X), "mirrored: a rotation's determinant is 1"),
    "OpenGL's axes": (column("extrinsics", lambda data: data @ OPENGL), "180.0 degrees off 'overview'"),
    "extrinsics a row late": (column("extrinsics", later), "extrinsics of camera_1 are"),
    "extrinsics swapped": (column("extrinsics", lambda data: data[:, ::-1]), "extrinsics of camera_0 are"),
    "sheared": (column("extrinsics", lambda data: data * np.array([1, 1.1, 1, 1])), "camera_0 are no rotation matrix"),
    "transposed": (column("extrinsics", lambda data: data.swapaxes(2, 3)), "the last line of the matrix"),
    "wrist camera stands": (column("extrinsics", lambda data: np.repeat(data[:1], 60, axis=0)), "camera_1 are"),
    "focal length": (column("intrinsics", lambda data: data * np.array([2, 2, 1])[:, None]), "camera_0 are not those"),
    "centre swapped": (column("intrinsics", lambda K: K[:, [1, 0, 2]][:, :, [1, 0, 2]]), "camera_0 are not those"),
    "K transposed": (column("intrinsics", lambda data: data.swapaxes(1, 2)), "are no pinhole matrix"),
    # joints, actions, states
    "degrees": (column("joint_pos", np.degrees), "degrees, not radians?"),
    "joint_pos a row late": (column("joint_pos", later), "joint_pos is that of sim_state 1 rows earlier"),
    "joint_vel a row late": (column("joint_vel", later), "joint_vel is that of sim_state 1 rows earlier"),
    "joint_vel in degrees": (column("joint_vel", np.degrees), "joint_vel is not in sim_state"),
    "joint order": (column("joint_pos", swap_joints), "joint_pos has another order in sim_state"),
    "drawer a row late": (column("drawer_pos", later), "drawer_pos is that of sim_state 1 rows earlier"),
    "drawer in mm": (column("drawer_pos", lambda data: data * 1000), "drawer_pos is not in sim_state"),
    "states a row late": (column("sim_state", later), "joint_pos is that of sim_state 1 rows later"),
    "the next episode's row": (another_episode_at_the_end, "row 59: joint_pos jumps"),
    "actions a row late": (column("action", later), "proprio's last_action is not the row before's action"),
    "actions negated": (column("action", np.negative), "joint_pos_target is not action plus the default pose"),
    "targets a row late": (column("joint_pos_target", later), "joint_pos_target is not action plus the default pose"),
    "observations a row late": (column("proprio", later), "joint_pos_rel is not that of joint_pos"),
    # labels
    "success": (lambda file: file.attrs.__setitem__("success", not file.attrs["success"]), "success is"),
    "success unmeasured": (attribute("success_threshold", None), "attributes success_threshold are missing"),
    # pictures, in color and videos alike
    "black": (pictures(frame(12, 0.0)), "row 12: camera_0 is black"),
    "one colour": (pictures(frame(12, 90.0, camera=1)), "row 12: camera_1 is of one colour"),
    "frozen": (pictures(frozen), "camera_1 is frozen"),
    "repeated": (pictures(frame(40, 10)), "row 40: camera_0 repeats a picture: the same as in row 10"),
    "stale first frame": (pictures(stale), "camera_0"),
    "cameras swapped": (pictures(lambda color: color[:, ::-1]), "camera_0 stands, say its extrinsics, but only"),
    "upside down": (pictures(lambda color: color[:, :, ::-1]), "camera_0 does not change where the tool moves"),
    # pictures against videos
    "images swapped": (lambda file: overwrite(file, file["color"][:][:, ::-1]), "mp4 differs from color"),
    "images a row late": (lambda file: overwrite(file, later(file["color"][:])), "shows the row after"),
    "negative": (lambda file: overwrite(file, 255 - file["color"][:]), "differs from color"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(copy, fault):
    plant, words = FAULTS[fault]
    with h5py.File(copy / NAME / f"{NAME}.h5", "a") as file:
        plant(file)
    problems = [str(problem) for problem in validate(copy)]
    assert any(problem.startswith(NAME) and words in problem for problem in problems), problems
    assert not any(problem.startswith("episode_000") for problem in problems)


def video(dataset: Path, camera: int = 0) -> Path:
    return dataset / NAME / f"camera_{camera}" / f"{NAME}.mp4"


def images(dataset: Path, camera: int = 0) -> np.ndarray:
    with h5py.File(dataset / NAME / f"{NAME}.h5") as file:
        return file["color"][:, camera]


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


def edit_episode(dataset: Path, **changes: object) -> None:
    edit_metadata(dataset, lambda metadata: metadata["episodes"][1].update(changes))


def move_camera(dataset: Path) -> None:
    edit_metadata(dataset, lambda metadata: metadata["cameras"][0].update(eye=[1, 1, 1]))


def repeat_episode(dataset: Path) -> None:
    shutil.rmtree(dataset / NAME)
    shutil.copytree(dataset / "episode_000", dataset / NAME)
    for path in list((dataset / NAME).rglob("episode_000*")):
        path.rename(path.with_name(path.name.replace("episode_000", NAME)))


FILE_FAULTS = {
    "truncated HDF5": (lambda d: cut(d / NAME / f"{NAME}.h5", 9000), "cannot be read"),
    "no HDF5": (lambda d: (d / NAME / f"{NAME}.h5").unlink(), f"has no {NAME}.h5"),
    "truncated video": (lambda d: cut(video(d), 500), "camera_0/episode_001.mp4"),
    "empty video": (lambda d: video(d).write_bytes(b""), "cannot be decoded"),
    "no video": (lambda d: video(d, 1).unlink(), "camera_1/episode_001.mp4 is missing"),
    "another camera's video": (lambda d: shutil.copy(video(d, 0), video(d, 1)), "camera_1/episode_001.mp4 differs"),
    "dropped frame": (lambda d: film(images(d)[:-1], video(d)), "has 59 frames"),
    "a row late": (lambda d: film(later(images(d)), video(d)), "shows the row before"),
    "smaller": (lambda d: film(images(d)[:, ::2, ::2], video(d)), "frames of (60, 80), color 60 of (120, 160)"),
    "rate": (lambda d: film(images(d), video(d), fps=30), "plays 30 frames/s, fps is 60"),
    "listed otherwise": (lambda d: edit_episode(d, num_frames=7), "something else of num_frames"),
    "not listed": (lambda d: edit_metadata(d, lambda m: m["episodes"].pop()), "is not in metadata.json"),
    "not on disk": (lambda d: shutil.rmtree(d / NAME), "is in metadata.json and not on disk"),
    "camera elsewhere": (move_camera, "off 'overview' of metadata.json"),
    "camera in an unknown frame": (
        lambda d: edit_metadata(d, lambda m: m["cameras"][0].update(frame="hand")),
        "camera_0 in metadata.json is none: frame hand is neither env nor gripper",
    ),
    "repeated episode": (repeat_episode, "repeats episode_000"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_planted_fault_in_the_files_is_found(copy, fault):
    plant, words = FILE_FAULTS[fault]
    plant(copy)
    problems = [str(problem) for problem in validate(copy)]
    assert any(problem.startswith(NAME) and words in problem for problem in problems), problems


def film_displaced(color: np.ndarray, path: Path) -> None:
    """Write a video as earlier releases did: `from_numpy_buffer` takes the planes of yuv420p for two lines higher."""
    height, width = color.shape[1:3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 60, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU709, ColorRange.MPEG
        for image in color:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(av.VideoFrame.from_numpy_buffer(frame.to_ndarray(), format="yuv420p")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("size", [(160, 90), (64, 50)])
def test_displaced_colours_of_a_video_are_found(tmp_path, size):
    flags = "--num_envs 1 --num_episodes 1 --steps 10 --randomize none --camera side:-0.9,-1,1.4:0.5,0,0.5"
    dataset = collect_dataset(tmp_path, *flags.split(), "--width", str(size[0]), "--height", str(size[1]))
    assert validate(dataset) == []
    with h5py.File(dataset / "episode_000" / "episode_000.h5") as file:
        for camera in range(2):
            film_displaced(file["color"][:, camera], dataset / "episode_000" / f"camera_{camera}" / "episode_000.mp4")
    problems = [str(problem) for problem in validate(dataset)]
    for camera in range(2):
        words = f"episode_000: camera_{camera}/episode_000.mp4 shows colours 8 px too low"
        assert any(problem.startswith(words) for problem in problems), problems
    videos = RecordedVideos({"overview": 0}, tmp_path, Fraction(60))
    with load_episode(dataset / "episode_000") as videos.episode, pytest.raises(VideoError, match="film it again"):
        videos.finish_episode()


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda d: (d / "metadata.json").unlink(), "metadata.json is missing"),
        (lambda d: (d / "metadata.json").write_text("{"), "metadata.json is no JSON"),
        (lambda d: (d / "metadata.json").write_text("[]"), "metadata.json is no JSON object"),
        (lambda d: (d / "metadata.json").write_text("{}"), "lacks format_version, task, simulator, num_episodes, epis"),
        (lambda d: edit_metadata(d, lambda metadata: metadata.pop("format_version")), "lacks format_version"),
        (lambda d: edit_metadata(d, lambda metadata: metadata.update(format_version=9)), "format version 9"),
        (lambda d: edit_metadata(d, lambda metadata: metadata.update(num_episodes="2")), "num_episodes is 2"),
        (lambda d: edit_metadata(d, lambda metadata: metadata.update(episodes={})), "episodes is {}"),
        (lambda d: edit_metadata(d, lambda metadata: metadata["episodes"].append(7)), "episodes has no path"),
        (lambda d: edit_metadata(d, lambda metadata: metadata.update(cameras=["overview"])), "cameras has no name"),
        (lambda d: edit_metadata(d, lambda metadata: metadata.update(num_successes=9)), "num_successes is 9"),
    ],
)
def test_fault_of_the_dataset_is_found(copy, plant, words):
    plant(copy)
    assert any(words in str(problem) for problem in validate(copy))


def test_problems_as_json(copy, capsys):
    assert vpl_dataset.main(["validate", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    video(copy).unlink()
    assert vpl_dataset.main(["validate", str(copy), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)
    assert problem == {"episode": NAME, "row": None, "reason": f"camera_0/{NAME}.mp4 is missing"}


def test_file_of_another_writer_is_told_what_it_lacks(tmp_path):
    folder = tmp_path / "set" / "episode_0"
    folder.mkdir(parents=True)
    with h5py.File(folder / "episode_0.h5", "w") as file:
        file["color"] = np.random.default_rng(0).integers(0, 255, (5, 1, 48, 64, 3), np.uint8)
        file["action"] = np.zeros((5, 8), np.float32)
    found = [str(problem) for problem in validate(tmp_path / "set")]
    assert "metadata.json is missing" in found
    for words in (
        "joint_pos is missing",
        "extrinsics is missing",
        "attributes format_version",
        "camera_0/episode_0.mp4 is missing",
    ):
        assert any(words in problem for problem in found), found


def test_sample_of_the_episodes_is_checked_and_the_list_of_all(copy, capsys):
    assert vpl_dataset.main(["validate", str(copy), "--sample", "1"]) == 0
    assert "1 of 2 episodes, no problems" in capsys.readouterr().out
    edit_metadata(copy, lambda metadata: metadata["episodes"].pop())
    assert [problem.reason for problem in validate(copy, sample=1)][:1] == ["is not in metadata.json"]


@pytest.mark.parametrize(("speed", "way", "found"), [(-70.0, 0.06, 0), (-70.0, 0.3, 1), (0.0, 0.1, 1)])
def test_speed_of_a_blow_says_nothing_of_the_way_and_a_far_way_is_a_jump_all_the_same(speed, way, found):
    rows = {"joint_pos": np.zeros((10, 9)), "joint_vel": np.zeros((10, 9)), "timestamps": np.arange(10) / 60}
    rows["joint_pos"][5:, 6], rows["joint_vel"][5, 6] = way, speed
    assert len(list(_motion(rows))) == found
