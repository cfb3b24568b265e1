"""The reading side: info, stats, split, merge, and the examples."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import collect_dataset

import collect_tiled_with_checkpoint as collector
import vpl_dataset
from replay_episode import main as replay
from vpl import merge as vpl_merge
from vpl.checks import validate
from vpl.listing import all_episode_folders
from vpl_dataset import iter_episodes, load_episode

PROJECT = Path(vpl_dataset.__file__).parent


def test_whole_dataset_has_no_problems(dataset, capsys):
    assert vpl_dataset.main(["validate", str(dataset)]) == 0
    assert "10 episodes, no problems" in capsys.readouterr().out
    assert vpl_dataset.main(["info", str(dataset)]) == 0
    assert "10 episodes" in capsys.readouterr().out


def test_pytorch_example_reads_rows_in_any_order(dataset):
    command = [sys.executable, PROJECT / "examples" / "torch_dataset.py", dataset]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out == "{'color': (32, 2, 3, 120, 160), 'joint_pos': (32, 9), 'joint_pos_target': (32, 9)}\n"


def test_python_of_the_documents_runs(dataset):
    """Each block of Python, on a dataset in the place of vpl_tiled/NAME."""
    blocks = []
    for document in ("README.md", "FULL_GUIDE.md"):
        blocks += re.findall(r"```python\n(.*?)```", (PROJECT / document).read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        names: dict = {}
        exec(block.replace("vpl_tiled/NAME", str(dataset)), names)
        image = names.get("image", names.get("wrist"))
        assert image.shape == (120, 160, 3) and image.dtype == np.uint8
    assert len(list(iter_episodes(dataset))) == 10


SMALL = "--num_envs 2 --num_episodes 1 --width 32 --height 32".split()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two datasets of two episodes; those of the second are not successful, and in failed/."""
    root = tmp_path_factory.mktemp("two")
    one = collect_dataset(root / "a", *SMALL, "--steps", "60")
    return [one, collect_dataset(root / "b", *SMALL, "--steps", "20", "--seed", "1", "--only_success")]


def test_stats_are_those_of_the_rows(dataset, capsys):
    assert vpl_dataset.main(["stats", str(dataset), "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    rows = np.concatenate([episode["joint_pos"][:] for episode in iter_episodes(dataset)])
    for key, value in {"mean": rows.mean(0), "std": rows.std(0), "min": rows.min(0), "max": rows.max(0)}.items():
        assert np.allclose(stats["columns"]["joint_pos"][key], value, atol=1e-5)
    assert stats["columns"]["joint_pos"]["names"][0] == "panda_joint1" and stats["columns"]["action"]["count"] == 600
    frames = np.concatenate([episode["color"][:, 1] for episode in iter_episodes(dataset)]) / 255
    assert np.allclose(stats["cameras"]["wrist"]["mean"], frames.mean((0, 1, 2)), atol=0.01)  # of 16 frames of 60
    assert np.allclose(stats["cameras"]["wrist"]["std"], frames.std((0, 1, 2)), atol=0.01)
    assert vpl_dataset.main(["stats", str(dataset)]) == 0
    assert "joint_pos panda_joint1" in capsys.readouterr().out


def test_split_is_kept_and_used(two, capsys):
    dataset = two[0]
    assert vpl_dataset.main(["split", str(dataset), "--val", "0.5"]) == 0
    lists = json.loads((dataset / "splits.json").read_text())
    assert sorted(lists["train"] + lists["val"]) == ["episode_000", "episode_001"] and len(lists["val"]) == 1
    assert vpl_dataset.main(["stats", str(dataset), "--split", "train", "--json"]) == 0
    with load_episode(dataset / lists["train"][0]) as episode:
        printed = json.loads(capsys.readouterr().out.partition("\n")[2])
        assert np.allclose(printed["columns"]["drawer_pos"]["max"], episode["drawer_pos"][:].max())
    with pytest.raises(SystemExit) as stopped:
        vpl_dataset.main(["split", str(dataset)])
    assert stopped.value.code == 2 and "exists already; move it" in capsys.readouterr().err
    (dataset / "splits.json").unlink()


@pytest.mark.parametrize("at_a_time", [1, 16], ids=["by processes", "by this one"])
def test_merged_dataset_is_valid_and_says_where_each_episode_came_from(two, tmp_path, monkeypatch, capsys, at_a_time):
    monkeypatch.setattr(vpl_merge, "AT_A_TIME", at_a_time)
    merged = tmp_path / "merged"
    assert vpl_dataset.main(["merge", *map(str, two), "--output", str(merged)]) == 0
    assert "4 episodes of 2 datasets" in capsys.readouterr().out
    assert validate(merged) == []
    assert [folder.parent.name for folder in all_episode_folders(merged)] == ["merged"] * 2 + ["failed"] * 2
    with load_episode(merged / "failed" / "episode_003") as episode, load_episode(two[1] / "failed/episode_001") as own:
        assert episode.attrs["source"] == f"{two[1].name}/episode_001"
        assert np.array_equal(episode["color"][:], own["color"][:])
        assert np.array_equal(episode.read_images(), own.read_images())
        assert episode.video(0).samefile(own.video(0)), "all is hard links"
        assert (episode.folder / "recorded.h5").samefile(own.h5.filename)
    metadata = json.loads((merged / "metadata.json").read_text())
    assert [source["arguments"]["seed"] for source in metadata["sources"]] == [42, 1]
    assert {path.name for path in merged.iterdir()} == {"metadata.json", "episode_000", "episode_001", "failed"}


def test_merging_says_that_lists_are_not_taken_over(two, tmp_path, capsys):
    (two[0] / "splits.json").write_text('{"train": ["episode_000"], "val": ["episode_001"]}')
    assert vpl_dataset.main(["merge", *map(str, two), "--output", str(tmp_path / "merged")]) == 0
    (two[0] / "splits.json").unlink()
    assert re.search(r"lists of splits.json were not taken over; .* split .*merged draws", capsys.readouterr().out)


def test_merged_dataset_replays_exactly_and_is_not_resumed(two, tmp_path, capsys):
    vpl_dataset.main(["merge", str(two[0]), "--output", str(tmp_path / "merged"), "--copy"])
    assert replay([str(tmp_path / "merged"), "--mode", "actions"]) == 0
    assert "2 of 2 episodes came out exactly" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        collect_dataset(tmp_path, "--resume", str(tmp_path / "merged"))
    assert "was merged from several datasets; resume those and merge again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--steps", "30", "--enable_wrist_camera"], ["--steps", "30", "--video_interval", "2"]]
)
def test_datasets_that_do_not_go_together_are_refused(flags, two, tmp_path, capsys):
    other = collect_dataset(tmp_path / "other", *SMALL, *flags)
    with pytest.raises(SystemExit, match="2"):
        vpl_dataset.main(["merge", str(two[0]), str(other), "--output", str(tmp_path / "merged")])
    assert re.search(r"other.* does not go with .*: not the same (cameras|video_interval)", capsys.readouterr().err)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("main", [collector.main, replay, vpl_dataset.main])
def test_metadata_that_is_damaged_is_one_line(main, two, tmp_path, capsys):
    dataset = tmp_path / "dataset"
    shutil.copytree(two[0], dataset)
    (dataset / "metadata.json").write_text('{"task": ')
    arguments = {collector.main: ["--resume"], vpl_dataset.main: ["view"]}.get(main, [])
    try:
        code = main([*arguments, str(dataset)])
    except SystemExit as error:
        code = error.code
    message = capsys.readouterr().err
    assert code == 2 and "metadata.json is no JSON" in message and message.count("\n") == 1


def test_policies_that_clip_their_actions_are_merged_with_others(two, tmp_path):
    """What was clipped is what is recorded; a merged metadata.json has the first dataset's checkpoint only."""
    shutil.copytree(two[0], tmp_path / "clipped")
    path = tmp_path / "clipped" / "metadata.json"
    document = json.loads(path.read_text())
    document["checkpoint"]["clip_actions"] = 0.3
    path.write_text(json.dumps(document))
    vpl_dataset.main(["merge", str(tmp_path / "clipped"), str(two[1]), "--output", str(tmp_path / "merged")])
    assert validate(tmp_path / "merged") == []


def test_folders_that_a_user_made_of_episodes_are_left_alone(two, tmp_path, capsys):
    dataset = tmp_path / "dataset"
    shutil.copytree(two[0], dataset)
    for name in ("episode_000 (copy)", "episode_000.bak", "episode_1a", "episode_001_old"):
        shutil.copytree(dataset / "episode_000", dataset / name)
    assert vpl_dataset.main(["validate", str(dataset)]) == 0
    assert "2 episodes, no problems" in capsys.readouterr().out
    assert collector.main(["--resume", str(dataset)]) == 0
    assert len(list(dataset.glob("episode_*"))) == 6


def test_datasets_with_other_labels_are_not_merged(two, tmp_path, capsys):
    shutil.copytree(two[0], tmp_path / "other")
    for folder in all_episode_folders(tmp_path / "other"):
        with h5py.File(folder / f"{folder.name}.h5", "r+") as file:
            file.attrs["success_threshold"] = 0.1
    with pytest.raises(SystemExit, match="2"):
        vpl_dataset.main(["merge", str(two[0]), str(tmp_path / "other"), "--output", str(tmp_path / "merged")])
    assert "not the same success_threshold" in capsys.readouterr().err


def test_success_that_nobody_measured_is_not_selected_by(two, tmp_path, capsys):
    shutil.copytree(two[0], tmp_path / "other")
    for folder in all_episode_folders(tmp_path / "other"):
        with h5py.File(folder / f"{folder.name}.h5", "r+") as file:
            del file.attrs["success"]
    with pytest.raises(SystemExit, match="2"):
        vpl_dataset.main(["split", str(tmp_path / "other"), "--val", "0.5", "--only_success"])
    assert "has no success label" in capsys.readouterr().err
    assert vpl_dataset.main(["split", str(tmp_path / "other"), "--val", "0.5"]) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_merge_that_is_terminated_leaves_nothing(two, tmp_path, monkeypatch, number, code):
    signal.signal(number, signal.SIG_DFL)
    monkeypatch.setattr(vpl_merge, "_copy", lambda *_: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as exited:
        vpl_dataset.main(["merge", *map(str, two), "--output", str(tmp_path / "merged"), "--copy"])
    assert exited.value.code == code and not list(tmp_path.iterdir())
    os.kill(os.getpid(), number)  # a second one finds nothing to interrupt


def test_an_episode_twice_is_refused(two, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        vpl_dataset.main(["merge", str(two[0]), str(two[0]), "--output", str(tmp_path / "merged")])
    assert "episode_000 repeats" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("split {a} --val 1.5", "--val must be above 0 and below 1, got 1.5"),
        ("split {a} --val 0.1", "--val 0.1 of 2 episodes leaves one of the lists empty"),
        ("stats {a} --split val", "--split val: no such list"),
        ("merge {a} --output {a}", "exists already; give a new folder"),
        ("merge {a} {a}/episode_000 --output {a}/new", "holds no metadata.json or no episode"),
    ],
)
def test_bad_input_is_one_line(command, said, two, capsys):
    try:
        code = vpl_dataset.main(command.format(a=two[0]).split())
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2 and said in error and len(error.splitlines()) == 1


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_merge_takes_files_by_their_names_and_writes_over_none(two, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(two[0], source)
    camera = source / "episode_000" / "camera_0"
    (camera / "._episode_000.mp4").write_bytes(b"macOS's")
    shutil.copy(source / "episode_001" / "camera_0" / "episode_001.mp4", camera / "annotated.mp4")
    before = digests(source)
    assert vpl_dataset.main(["merge", str(source), str(two[1]), "--output", str(tmp_path / "merged")]) == 0
    assert digests(source) == before
    merged = tmp_path / "merged" / "episode_000" / "camera_0" / "episode_000.mp4"
    assert merged.read_bytes() == (camera / "episode_000.mp4").read_bytes()
    assert [path.name for path in merged.parent.iterdir()] == ["episode_000.mp4"]


def test_info_of_many_episodes_is_what_metadata_says_of_them(two, monkeypatch, capsys):
    monkeypatch.setattr(vpl_dataset, "MANY", 1)
    assert vpl_dataset.main(["info", str(two[0])]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 episodes, ") and "episode_000" not in said and "--all" in said
    assert vpl_dataset.main(["info", str(two[0]), "--all"]) == 0
    assert "episode_000" in capsys.readouterr().out


def test_what_was_merged_before_merges_again(two, tmp_path):
    once, twice, copied = (tmp_path / name for name in ("once", "twice", "copied"))
    vpl_dataset.main(["merge", str(two[0]), "--output", str(once)])
    vpl_dataset.main(["merge", str(two[1]), str(once), "--output", str(twice)])
    vpl_dataset.main(["merge", str(once), "--output", str(copied), "--copy"])
    for merged, name in ((twice, "episode_002"), (copied, "episode_000")):
        assert validate(merged) == []
        with load_episode(merged / name) as episode, load_episode(two[0] / "episode_000") as own:
            assert episode.attrs["source"] == f"{two[0].name}/episode_000"
            assert np.array_equal(episode["color"][:], own["color"][:])
    assert not (copied / "episode_000" / "recorded.h5").exists()


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_merge_copies_where_there_are_no_links(two, tmp_path, monkeypatch, error):
    def link(source, target):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", link)
    assert vpl_dataset.main(["merge", *map(str, two), "--output", str(tmp_path / "merged")]) == 0
    assert validate(tmp_path / "merged") == []


def test_merge_fails_where_a_link_fails_for_another_reason(two, tmp_path, monkeypatch, capsys):
    def link(source, target):
        raise FileExistsError(errno.EEXIST, "File exists", str(target))

    monkeypatch.setattr(os, "link", link)
    assert vpl_dataset.main(["merge", *map(str, two), "--output", str(tmp_path / "merged")]) == 1
    assert "File exists" in capsys.readouterr().err and not (tmp_path / "merged").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [("info {0}", True), ("stats {0}", True), ("view {0}", True), ("merge {0} {1} --output {2}", False)],
)
def test_a_damaged_episode_is_named_and_the_rest_goes_on(two, tmp_path, capsys, command, goes_on):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(two[0], spoilt)
    cut(spoilt / "episode_001" / "episode_001.h5")
    code = vpl_dataset.main(command.format(spoilt, two[1], tmp_path / "merged").split())
    said = capsys.readouterr()
    assert code == 1 and said.err.count("\n") == 1
    assert "episode_001.h5 cannot be read" in said.err and "--resume the dataset" in said.err
    assert bool(said.out) == goes_on and not (tmp_path / "merged").exists()


def test_pytorch_example_reads_more_files_than_a_process_may_open(two, tmp_path):
    source = two[0] / "episode_000" / "episode_000.h5"
    for index in range(200):
        (tmp_path / f"episode_{index:03d}").mkdir()
        os.link(source, tmp_path / f"episode_{index:03d}" / f"episode_{index:03d}.h5")
    shutil.copy(source, tmp_path / "episode_000" / "._episode_000.h5")
    script = (
        "import resource, sys, torch_dataset; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128));"
        "rows = torch_dataset.Rows(sys.argv[1]); print(len([rows[i] for i in range(0, len(rows), 2)]), len(rows.files))"
    )
    command = [sys.executable, "-c", script, tmp_path]
    done = subprocess.run(command, cwd=PROJECT / "examples", capture_output=True, text=True)
    assert done.stdout.endswith(" 200\n"), done.stderr


def test_a_dataset_may_be_named_failed(two, tmp_path):
    shutil.copytree(two[0], tmp_path / "failed")
    merged = tmp_path / "merged"
    assert vpl_dataset.main(["merge", str(tmp_path / "failed"), str(two[1]), "--output", str(merged)]) == 0
    assert len(vpl_dataset.episode_folders(merged)) == 2 and validate(merged) == []  # the others had failed
    assert replay([str(tmp_path / "failed" / "episode_000"), "--mode", "actions"]) == 0


def test_metadata_is_made_anew_from_the_episodes(two, tmp_path, capsys):
    dataset = tmp_path / "set"
    shutil.copytree(two[1], dataset)
    before = json.loads((dataset / "metadata.json").read_text())
    (dataset / "metadata.json").write_text("{cut")
    assert vpl_dataset.main(["index", str(dataset)]) == 0
    assert "2 episodes" in capsys.readouterr().out
    after = json.loads((dataset / "metadata.json").read_text())
    assert after["episodes"] == before["episodes"] and after["num_successes"] == before["num_successes"]
    assert (dataset / "metadata.json.old").read_text() == "{cut"
    assert validate(dataset) == []
