"""The documentation says what the code does: every flag, every dataset, every command."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TASK

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import tables
import train_student

import collect_on_ray
import collect_tiled_with_checkpoint
import evaluate_policy
import replay_episode
import train_policy
import vpl_dataset
import vpl_export
from flags import collect as collect_flags
from flags import isaac as isaac_flags
from flags.recorded import arguments
from policies.controls import Random
from simulators import resolve

PROJECT = Path(train_policy.__file__).parent
DOCUMENTS = ("README.md", "FULL_GUIDE.md", "WHAT_IT_DOES.md")
SCRIPTS = {
    "collect_on_ray.py": collect_on_ray,
    "collect_tiled_with_checkpoint.py": collect_tiled_with_checkpoint,
    "evaluate_policy.py": evaluate_policy,
    "examples/train_student.py": train_student,
    "replay_episode.py": replay_episode,
    "train_policy.py": train_policy,
    "vpl_dataset.py": vpl_dataset,
    "vpl_export.py": vpl_export,
}
WITHOUT_FLAGS = {"vpl_dataset.py info", "vpl_dataset.py validate", "vpl_dataset.py index"}
"""Commands that take a dataset and hardly more: prose says it."""
DOCKERFILE = PROJECT / "isaaclab-tiledcam-starter" / "Dockerfile1.isaaclab-ray"
ISAAC_LAB_TRAIN = "isaaclab/scripts/reinforcement_learning/rsl_rl/train.py"
FOREIGN_FLAGS = {
    *("--no-install-recommends", "--gpus", "--init", "--name", "--shm-size", "--target"),  # apt-get's and docker's
    "--runtime",  # nvidia-ctk's
    # lerobot-train's, beside dotted ones
    *("--batch_size", "--num_workers", "--use_policy_training_preset", "--output_dir"),
}


def flags_of(script: str, capsys: pytest.CaptureFixture[str], *command: str) -> set[str]:
    """Of a script and its commands."""
    with pytest.raises(SystemExit):
        SCRIPTS[script].main([*command, "--help"])
    text = capsys.readouterr().out
    commands = re.findall(r"^  \{(.*)\}", text, re.MULTILINE)
    flags = set(re.findall(r"--[a-z_]+", text)) - {"--help"}
    return flags.union(*(flags_of(script, capsys, name) for names in commands for name in names.split(",")))


def test_every_flag_is_in_the_guide_and_every_flag_in_the_documents_exists(capsys):
    existing = {flag for script in SCRIPTS for flag in flags_of(script, capsys)} | {"--in"}
    guide = (PROJECT / "FULL_GUIDE.md").read_text()
    assert {flag for flag in existing if f"`{flag}`" not in guide} == set()
    for document in DOCUMENTS:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*(?![\w-]|\.[a-z])", (PROJECT / document).read_text()))
        assert named - existing - FOREIGN_FLAGS - {"--help"} == set(), document


def test_tables_of_the_guide_are_those_of_the_code():
    """`python docs/tables.py` writes them."""
    guide = (PROJECT / "FULL_GUIDE.md").read_text()
    assert tables.filled(guide) == guide
    assert sorted(re.findall(r"<!-- table: (.+?) -->", guide)) == sorted(set(tables.tables()) - WITHOUT_FLAGS)


class Parsed(Exception):
    """Raised where a script would start to work."""


@pytest.fixture
def parsing_only(monkeypatch, tmp_path):
    """The scripts stop after their flags, as if every checkpoint and dataset that a document names were there."""

    def stop(*_args, **_kwargs):
        raise Parsed

    monkeypatch.setattr(collect_tiled_with_checkpoint, "collect_dataset", stop)
    monkeypatch.setattr(collect_on_ray, "collect_on_ray", stop)
    monkeypatch.setattr(collect_flags, "load_policy", lambda *_args, **_flags: Random())
    monkeypatch.setattr(collect_flags, "load", lambda _spec: Random())
    monkeypatch.setattr(evaluate_policy, "evaluate_one", stop)
    monkeypatch.setattr(train_student, "train", stop)
    monkeypatch.setattr(collect_flags, "check_agreement", lambda *_: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: SimpleNamespace(free=10**15))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for module in (collect_flags, train_policy):  # commands of .venv-isaac run there
        monkeypatch.setattr(module, "resolve", lambda name: "isaac" if name == "isaac" else resolve(name))
    monkeypatch.setattr(isaac_flags, "release", lambda: 3)
    monkeypatch.setattr(train_policy, "load", stop)
    monkeypatch.setattr(replay_episode, "load", stop)
    commands = {name: (*about, stop) for name, (*about, _) in vpl_dataset.COMMANDS.items()}
    monkeypatch.setattr(vpl_dataset, "COMMANDS", commands)
    monkeypatch.setattr(vpl_dataset, "all_episode_folders", lambda dataset: [dataset / "episode_000"])
    monkeypatch.setattr(vpl_export, "episode_folders", lambda _dataset: ["an episode"])
    monkeypatch.setattr(vpl_export, "check_library", lambda _name: None)
    monkeypatch.setattr(vpl_export, "choose", stop)
    monkeypatch.setattr(replay_episode, "damage", lambda _folder: "")
    monkeypatch.setattr(replay_episode, "without_damaged", list)
    monkeypatch.setattr(replay_episode, "recorded_kinds", lambda _folders: set())
    monkeypatch.chdir(tmp_path)
    metadata = {"format_version": 2, "simulator": "mujoco", "task": TASK, "checkpoint": {}, "episodes": []}
    metadata["arguments"] = arguments(collect_flags.CollectFlags())
    shipped = tmp_path / collect_flags.SHIPPED_CHECKPOINT.relative_to(PROJECT)
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    for name in ("NAME", "OTHER"):
        (tmp_path / "vpl_tiled" / name / "episode_000").mkdir(parents=True)
        (tmp_path / "vpl_tiled" / name / "metadata.json").write_text(json.dumps(metadata))


def commands_of(document: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (PROJECT / document).read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def check_script(script: str, arguments: list[str]) -> None:
    if script != ISAAC_LAB_TRAIN:
        with pytest.raises(Parsed):
            SCRIPTS[script.removeprefix("/workspace/")].main(arguments)


def check_docker(words: list[str]) -> None:
    if words[0] == "build":
        assert PROJECT / words[words.index("-f") + 1] == DOCKERFILE and words[-1] == "."
        if "--target" in words:
            assert f" AS {words[words.index('--target') + 1]}\n" in DOCKERFILE.read_text()
    elif words[0] == "exec":
        assert words[1] == "isaaclab-test"
        if "python" in words:
            at = words.index("python") + 1
            check_script(words[at], words[at + 1 :])
    else:
        assert words[0] == "cp" or words[-1] == "isaaclab:2.2-ray"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_the_documents_parse(document, parsing_only):
    for command in commands_of(document):
        words = [word for word in shlex.split(command, comments=True) if not word.startswith("IMAGE=")]
        if words[0] in (".venv/bin/python", ".venv-isaac/bin/python", "python", "/workspace/isaaclab/isaaclab.sh"):
            script, *arguments = words[2:] if words[1] == "-p" else words[1:]
            check_script(script, arguments)
        elif words[0] == "docker":
            check_docker(words[1:])
        elif words[0] == "./run_collection.sh":
            arguments = words[1:]
            if "--in" in arguments:
                at = arguments.index("--in")
                assert arguments[at + 1] in ("exec", "run", "embedded")
                del arguments[at : at + 2]
            if arguments == ["--help"]:
                subprocess.run([PROJECT / words[0], "--help"], check=True, capture_output=True)
            else:
                check_script("collect_tiled_with_checkpoint.py", arguments)
        elif words[0] == "lerobot-train":
            assert "--dataset.root=exports/drawer" in words  # what the command before it wrote
        elif words[0] == "kubectl":
            assert (PROJECT / words[words.index("-f") + 1]).is_file()
        elif words[0] == "sbatch":
            assert (PROJECT / words[1]).is_file()
            check_script("collect_on_ray.py", words[2:])
        else:
            assert (PROJECT / words[0]).is_file() and words[0].startswith("./"), command
            if words[0].endswith("submit.sh"):
                check_script("collect_on_ray.py", words[2:])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_the_documents_name_exist(document):
    text = (PROJECT / document).read_text()
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sh|md|txt|json))`", text)) | set(
        re.findall(r"\]\((\S+?)\)", text)
    )
    theirs = {
        "train.py",
        "python.sh",
        "isaaclab.sh",
        "metadata.json",
        "splits.json",
        "student.json",
        "meta/info.json",
        "meta/stats.json",
    }
    ours = named - theirs
    assert {name for name in ours if not any(PROJECT.rglob(name))} == set()
