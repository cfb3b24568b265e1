"""What becomes of a dataset that run_collection.sh has had collected in a container."""

from __future__ import annotations

import os

import pytest
from test_run_collection import NO_CONTAINER, READY, machine, mount, write_script  # noqa: F401


def test_dataset_of_the_same_name_is_left_alone(machine):
    there = machine.folder / "vpl_tiled" / "dataset"
    there.mkdir(parents=True)
    (there / "mine").write_text("precious")
    done = machine.call(READY, "--num_envs", "1")
    (kept,) = (machine.folder / "vpl_tiled").glob(".incoming-*/dataset/episode_000")
    assert done.code == 0 and f"the new one is {kept.parent}" in done.err
    assert [path.name for path in there.iterdir()] == ["mine"]


def test_dataset_that_cannot_be_copied_out_stays_in_the_container(machine):
    done = machine.call(READY | {"fails": "cp"}, "--num_envs", "1")
    stage = machine.docker()[4][-1]
    assert done.code == 1 and "no space left on device" in done.err and "it is still there" in done.err
    assert machine.docker()[-1][0] == "cp" and stage


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to write what only a container's root would")
def test_what_the_containers_root_wrote_becomes_the_callers(machine):
    write_script(machine.tools / "id", "echo 1000")
    assert machine.call(NO_CONTAINER, "--num_envs", "1").code == 0
    data_root = machine.folder / "vpl_tiled"
    assert machine.docker()[-1] == [
        "run",
        "--rm",
        "--mount",
        mount(data_root),
        "--entrypoint",
        "chown",
        "isaaclab:2.2-ray",
        "-R",
        "--from=0:0",
        "1000:1000",
        str(data_root),
    ]
