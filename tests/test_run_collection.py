"""run_collection.sh with a docker that notes what it is asked (tests/containers/docker_stand_in.py).

tests/containers/run.sh does the same with real containers, on a machine that lets it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

PROJECT = Path(__file__).parent.parent
COLLECTOR = "/workspace/collect_tiled_with_checkpoint.py"
RTX, H100 = "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)", "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-2)"
READY = {"containers": {"isaaclab-test": "isaac"}, "images": {"isaaclab:2.2-ray": "isaac"}, "gpus": [RTX]}
NO_CONTAINER = READY | {"containers": {}}
ARGUMENTS = [
    "",
    " ",
    "  two  spaces ",
    "tab\there",
    "line\nbreak",
    "'",
    '"',
    "''",
    '"quoted"',
    "it's",
    "a 'b' \"c\"",
    "*",
    "?",
    "[a-z]",
    "~",
    "$HOME",
    "${x}",
    "$(id)",
    "`id`",
    "\\",
    "\\n",
    "a\\ b",
    "!x",
    "#x",
    "&",
    "; ls",
    "| cat",
    "> file",
    "{a,b}",
    "--",
    "-",
    "--kit_args=--a --b='c d'",
    "ünïcode",
    "100%",
    "a=b=c",
    ",",
    ":",
    "(x)",
]


def write_script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> SimpleNamespace:
    """`start(state, *arguments, **environment)` and `call(...)` run the wrapper in `folder`, on a machine of `state`.

    `docker()` gives what docker was asked since, `collector()` what reached the collector.
    """
    tools, folder = tmp_path / "tools", tmp_path / "caller"
    for place in (tools, tools / "venv" / "bin", folder):
        place.mkdir(parents=True)
    stand_ins = {
        "docker": "docker_stand_in.py",
        "python": "collector_stand_in.py",
        "venv/bin/python": "collector_stand_in.py",
    }
    for name, script in stand_ins.items():
        write_script(tools / name, f'exec {sys.executable} {PROJECT}/tests/containers/{script} "$@"')
    stamp = subprocess.check_output("cat pyproject.toml setup_venv.sh | cksum | cut -d' ' -f1", shell=True, cwd=PROJECT)
    (tools / "venv" / f".installed-{stamp.decode().strip()}-").touch()
    of_isaac = "cat pyproject.toml setup_venv.sh isaaclab-tiledcam-starter/isaaclab3.txt | cksum | cut -d' ' -f1"
    stamp = subprocess.check_output(of_isaac, shell=True, cwd=PROJECT)
    (tools / "venv" / f".installed-{stamp.decode().strip()}-isaac").touch()
    write_script(tools / "nvidia-smi", '[ "$GPUS" ] && echo "$GPUS"')
    docker_log, collector_log = tools / "docker.log", tools / "collector.log"

    def start(state: dict, *arguments: str, **environment: str) -> subprocess.Popen:
        docker_log.unlink(missing_ok=True)
        collector_log.unlink(missing_ok=True)
        settings = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "VENV": str(tools / "venv"),
            "DOCKER_STATE": json.dumps(state),
            "DOCKER_LOG": str(docker_log),
            "COLLECTOR_LOG": str(collector_log),
            "GPUS": "\n".join(state.get("gpus", [])),
        }
        return subprocess.Popen(
            [PROJECT / "run_collection.sh", *arguments],
            cwd=folder,
            env=os.environ | settings | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(state: dict, *arguments: str, **environment: str) -> SimpleNamespace:
        process = start(state, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return SimpleNamespace(code=process.returncode, out=out, err=err)

    return SimpleNamespace(
        start=start,
        call=call,
        folder=folder,
        tools=tools,
        collector_log=collector_log,
        docker=lambda: [json.loads(line) for line in docker_log.read_text().splitlines()],
        collector=lambda: json.loads(collector_log.read_text()),
    )


@pytest.mark.parametrize("mode", ["exec", "run", "embedded"])
def test_arguments_reach_the_collector_unchanged(machine, mode):
    done = machine.call(READY, "--in", mode, *ARGUMENTS)
    assert done.code == 0, done.err
    script, *words = machine.collector()["words"]
    assert Path(script).name == "collect_tiled_with_checkpoint.py"
    assert words[: len(ARGUMENTS)] == ARGUMENTS and len(ARGUMENTS) >= 30
    appended = words[len(ARGUMENTS) :]
    assert appended[:1] == ["--data_root"] if mode == "exec" else appended == []


def test_exec_is_this_command_line(machine):
    assert machine.call(READY, "--num_envs", "4").code == 0
    calls = [words for words in machine.docker() if words[0] in ("exec", "cp")]
    probe, stage, main, found, fetched, removed = calls
    assert probe == ["exec", "isaaclab-test", "nvidia-smi", "-L"]
    assert stage == ["exec", "isaaclab-test", "mktemp", "-d", "/tmp/isaac-data-gen.XXXXXX"]
    folder = main[-1].removesuffix("/data")
    assert main == [
        "exec",
        "--env",
        "RUN_COLLECTION=1",
        "--workdir",
        "/workspace",
        "isaaclab-test",
        "sh",
        "-c",
        'echo $$ >"$0/pid"; exec "$@"',
        folder,
        "python",
        COLLECTOR,
        "--num_envs",
        "4",
        "--data_root",
        f"{folder}/data",
    ]
    assert found == ["exec", "isaaclab-test", "test", "-d", f"{folder}/data"]
    assert fetched[:2] == ["cp", f"isaaclab-test:{folder}/data/."]
    assert removed == ["exec", "isaaclab-test", "rm", "-r", folder]
    assert (machine.folder / "vpl_tiled" / "dataset" / "episode_000").is_dir()
    assert [path.name for path in (machine.folder / "vpl_tiled").iterdir()] == ["dataset"]


def test_reference_run_in_a_fresh_container_is_this_command_line(machine):
    assert machine.call(NO_CONTAINER, COLLECTOR_CODE="2").code == 2  # so that nothing comes into vpl_tiled/
    probe, main = [words for words in machine.docker() if words[0] == "run"]
    assert probe == ["run", "--rm", "--gpus", "all", "--entrypoint", "nvidia-smi", "isaaclab:2.2-ray", "-L"]
    data_root = str(PROJECT / "vpl_tiled")
    name = main[main.index("--name") + 1]
    assert main == [
        "run",
        "--rm",
        "--init",
        "--sig-proxy=false",
        "--name",
        name,
        "--shm-size",
        "16g",
        "--gpus",
        "all",
        "-v",
        "isaac-data-gen-kit:/isaac-sim/kit/cache",
        "-v",
        "isaac-data-gen-cache:/root/.cache",
        "--mount",
        mount(data_root),
        "--env",
        "RUN_COLLECTION=1",
        "isaaclab:2.2-ray",
        "sh",
        "-c",
        'mkdir -p "$0" && cd "$0" && exec "$@"',
        str(machine.folder),
        "python",
        COLLECTOR,
        "--num_envs",
        "20",
        "--num_episodes",
        "2",
        "--steps",
        "60",
        "--enable_wrist_camera",
        "--headless",
        "--data_root",
        data_root,
    ]


def mount(path: Path | str, end: str = "") -> str:
    return f'type=bind,"source={path}","target={path}"{end}'


def test_checkpoint_is_copied_into_a_running_container(machine):
    run = machine.folder / "a run, 'mine'"
    (run / "params").mkdir(parents=True)
    (run / "model 1.pt").write_text("weights")
    (run / "params" / "agent.yaml").write_text("policy: {}")
    assert machine.call(READY, "--checkpoint", "a run, 'mine'/model 1.pt").code == 0
    copies = [words[1:] for words in machine.docker() if words[0] == "cp"]
    words = machine.collector()["words"]
    *stage, name = words[-1].rsplit("/", 1)
    assert words[-2] == "--checkpoint" and name == "model 1.pt"
    assert copies[:2] == [
        [str(run / "model 1.pt"), f"isaaclab-test:{stage[0]}/"],
        [str(run / "params" / "agent.yaml"), f"isaaclab-test:{stage[0]}/params/"],
    ]


@pytest.mark.parametrize("mode", ["exec", "run"])
def test_link_to_a_checkpoint_takes_its_runs_agent_yaml_along(machine, mode):
    run = machine.folder / "run"
    (run / "params").mkdir(parents=True)
    (run / "model_9.pt").write_text("weights")
    (run / "params" / "agent.yaml").write_text("policy: {}")
    (machine.folder / "best.pt").symlink_to(run / "model_9.pt")
    assert machine.call(READY, "--in", mode, "--checkpoint", "best.pt").code == 0
    words = [word for call in machine.docker() for word in call]
    mounted = f'type=bind,"source={run}/params/agent.yaml","target={machine.folder}/params/agent.yaml",readonly'
    assert (str(run / "params" / "agent.yaml") if mode == "exec" else mounted) in words


def test_checkpoint_that_only_the_container_has_is_named_as_it_is(machine):
    assert machine.call(READY, "--checkpoint", "/workspace/logs/model_399.pt").code == 0
    assert machine.collector()["words"].count("--checkpoint") == 1
    assert next(words for words in machine.docker() if words[0] == "cp")[1].startswith("isaaclab-test:")


def test_fresh_container_sees_checkpoint_data_and_the_callers_folder(machine):
    run = machine.folder / 'a "run", mine'
    (run / "params").mkdir(parents=True)
    (run / "model.pt").write_text("weights")
    (run / "params" / "agent.yaml").write_text("policy: {}")
    flags = ["--checkpoint", 'a "run", mine/model.pt', "--data_root=../out"]
    assert machine.call(NO_CONTAINER, *flags).code == 0
    assert machine.collector() == {"words": [COLLECTOR, *flags], "folder": str(machine.folder)}
    quoted = str(run).replace('"', '""')
    mounted = next(words for words in machine.docker() if "--mount" in words)
    assert [words for flag, words in pairwise(mounted) if flag == "--mount"] == [
        mount(machine.folder.parent / "out"),
        mount(f"{quoted}/model.pt", ",readonly"),
        mount(f"{quoted}/params/agent.yaml", ",readonly"),
    ]
    assert (machine.folder.parent / "out" / "dataset" / "episode_000").is_dir()


def test_resume_mounts_the_dataset_and_passes_a_running_container_over(machine):
    (machine.folder / "vpl_tiled" / "NAME").mkdir(parents=True)
    done = machine.call(READY, "--resume", "vpl_tiled/NAME")
    assert done.code == 0 and "--in run, because image isaaclab:2.2-ray is here" in done.err
    main = [words for words in machine.docker() if words[0] == "run"][-1]
    assert main[main.index("--mount") + 1] == mount(machine.folder / "vpl_tiled" / "NAME")


@pytest.mark.parametrize(
    ("state", "mode", "why"),
    [
        (READY, "exec", "container isaaclab-test is running"),
        (NO_CONTAINER, "run", "image isaaclab:2.2-ray is here"),
        (
            NO_CONTAINER | {"gpus": [H100]},
            "embedded",
            "isaaclab:2.2-ray needs a GPU with RT cores and this machine has none",
        ),
        (
            NO_CONTAINER | {"gpus": []},
            "embedded",
            "isaaclab:2.2-ray needs a GPU with RT cores and this machine has none",
        ),
        (NO_CONTAINER | {"gpus": [H100, RTX]}, "run", "image isaaclab:2.2-ray is here"),
        (
            NO_CONTAINER | {"images": {}},
            "embedded",
            "neither a running container isaaclab-test nor an image isaaclab:2.2-ray",
        ),
        (READY | {"refuses": "Cannot connect to the Docker daemon"}, "embedded", "docker does not answer"),
    ],
)
def test_way_is_picked_by_what_is_there(machine, state, mode, why):
    done = machine.call(state, "--num_envs", "1")
    assert done.code == 0 and f"--in {mode}, because" in done.err and why in done.err


def test_image_for_every_machine_runs_without_a_gpu(machine):
    state = {"containers": {}, "images": {"isaac-data-gen:embedded": "mujoco"}}
    assert machine.call(state, "--num_envs", "1", IMAGE="isaac-data-gen:embedded").code == 0
    main = [words for words in machine.docker() if words[0] == "run"][-1]
    assert "--gpus" not in main and "-v" not in main


@pytest.mark.parametrize(
    ("state", "arguments", "remedy"),
    [
        (READY, ["--in", "nowhere"], "--in must be exec, run or embedded, got 'nowhere'"),
        (READY, ["--in"], "--in needs one of exec, run, embedded"),
        (READY | {"refuses": "permission denied"}, ["--in", "run"], "sudo usermod -aG docker"),
        (READY | {"refuses": "Is the daemon running?"}, ["--in", "exec"], "sudo systemctl start docker"),
        (NO_CONTAINER, ["--in", "exec"], "docker start isaaclab-test, or set CONTAINER"),
        (READY | {"containers": {"isaaclab-test": ""}}, ["--in", "exec"], "not of an image of isaaclab-tiledcam"),
        (READY | {"gpus": [H100]}, ["--in", "exec"], "H100 80GB HBM3 (UUID: GPU-2)), Isaac Sim cannot draw"),
        (READY | {"gpus": []}, ["--in", "exec"], "no GPU with RT cores"),
        (READY, ["--in", "exec", "--resume", "vpl_tiled/NAME"], "use --in run"),
        (READY | {"images": {}}, ["--in", "run"], "docker build -t isaaclab:2.2-ray -f isaaclab-tiled"),
        (READY | {"images": {"isaaclab:2.2-ray": ""}}, ["--in", "run"], "is not built from isaaclab-tiledcam-starter/"),
        (READY | {"gpus": []}, ["--in", "run"], "nvidia-ctk runtime configure"),
        (READY | {"gpus": [H100]}, ["--in", "run"], "use --in embedded"),
        (READY, ["--in", "run", "--data_root", "/root"], "would hide the container's own /root"),
    ],
)
def test_what_is_missing_is_one_line_with_its_remedy(machine, state, arguments, remedy):
    done = machine.call(state, *arguments)
    assert done.code == 2 and not machine.collector_log.exists()
    assert remedy in done.err and done.err.count("\n") == 1


def test_without_docker_the_machine_itself_collects(machine):
    (machine.tools / "docker").unlink()
    bare = machine.tools / "bare"
    bare.mkdir()
    for folder in map(Path, os.environ["PATH"].split(":")):
        for command in folder.iterdir() if folder.is_dir() else ():
            if command.name != "docker" and not (bare / command.name).exists():
                (bare / command.name).symlink_to(command)
    path = f"{machine.tools}:{bare}"
    done = machine.call(READY, "--num_envs", "1", PATH=path)
    assert done.code == 0 and "--in embedded, because there is no docker command" in done.err
    assert machine.call(READY, "--in", "run", PATH=path).err.endswith("install Docker Engine\n")


@pytest.mark.parametrize(
    ("arguments", "cores", "script"),
    [
        ("", 8, "collect_on_ray.py"),
        ("--simulator mujoco --num_envs 100", 2, "collect_on_ray.py"),
        ("", 1, "collect_tiled_with_checkpoint.py"),
        ("--num_envs 4", 8, "collect_tiled_with_checkpoint.py"),
        ("--num_episodes 1 --num_envs 100", 8, "collect_tiled_with_checkpoint.py"),
        ("--self_check --num_envs 100", 8, "collect_tiled_with_checkpoint.py"),
        ("--simulator mujoco_warp --num_envs 100", 8, "collect_tiled_with_checkpoint.py"),
        ("--num_envs many", 8, "collect_tiled_with_checkpoint.py"),
    ],
)
def test_several_cores_without_a_gpu_get_a_worker_each_where_it_pays(machine, arguments, cores, script):
    if shutil.which("nvidia-smi", path=os.environ["PATH"]):
        pytest.skip("this machine has a GPU")
    (machine.tools / "nvidia-smi").unlink()
    write_script(machine.tools / "nproc", f"echo {cores}")
    assert machine.call(READY, "--in", "embedded", *arguments.split()).code == 0
    assert Path(machine.collector()["words"][0]).name == script
    machine.call(READY, "--in", "embedded", *arguments.split(), RAY="0")
    assert Path(machine.collector()["words"][0]).name == "collect_tiled_with_checkpoint.py"


def test_isaac_lab_without_docker_runs_in_its_own_environment(machine):
    (plain,) = (machine.tools / "venv").glob(".installed-*-")
    plain.unlink()  # MuJoCo's environment would have to be set up now
    assert machine.call(READY, "--in", "embedded", "--simulator", "isaac").code == 0
    assert machine.collector()["words"][-2:] == ["--simulator", "isaac"]


@pytest.mark.parametrize("mode", ["exec", "run", "embedded"])
@pytest.mark.parametrize("code", ["0", "1", "2", "130"])
def test_exit_code_is_the_collectors(machine, mode, code):
    assert machine.call(READY, "--in", mode, "--steps", "9", COLLECTOR_CODE=code).code == int(code)
    assert (machine.folder / "vpl_tiled").exists() == (code != "2")


@pytest.mark.parametrize("mode", ["exec", "run"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_reaches_the_collector_and_what_ended_is_kept(machine, mode, number):
    process = machine.start(READY, "--in", mode, "--num_envs", "1", COLLECTOR_WAITS="1")
    deadline = time.monotonic() + 30
    while not machine.collector_log.exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert (machine.folder / "vpl_tiled" / "dataset" / "episode_000").is_dir()
