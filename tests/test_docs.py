"""The documentation says what the code does: every flag, every dataset, every command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import collect_flags
import collect_tiled_with_checkpoint
import train_policy
import vpl_dataset
from vpl_episode import SCHEMA

PROJECT = Path(train_policy.__file__).parent
DOCUMENTS = ("README.md", "FULL_GUIDE.md", "WHAT_IT_DOES.md")
SCRIPTS = {
    "collect_tiled_with_checkpoint.py": collect_tiled_with_checkpoint,
    "train_policy.py": train_policy,
    "vpl_dataset.py": vpl_dataset,
}
FOREIGN_FLAGS = {"--no-install-recommends"}


def flags_of(script: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        SCRIPTS[script].main(["--help"])
    return set(re.findall(r"--[a-z_]+", capsys.readouterr().out)) - {"--help"}


def test_every_flag_is_in_the_guide_and_every_flag_in_the_documents_exists(capsys):
    existing = {flag for script in SCRIPTS for flag in flags_of(script, capsys)}
    guide = (PROJECT / "FULL_GUIDE.md").read_text()
    assert {flag for flag in existing if f"`{flag}`" not in guide} == set()
    for document in DOCUMENTS:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", (PROJECT / document).read_text()))
        assert named - existing - FOREIGN_FLAGS == set(), document


def test_guide_gives_each_flags_default(capsys):
    guide = (PROJECT / "FULL_GUIDE.md").read_text()
    with pytest.raises(SystemExit):
        collect_tiled_with_checkpoint.main(["--help"])
    helped = " ".join(capsys.readouterr().out.split())
    for flag in ("num_envs", "num_episodes", "steps", "env_spacing", "video_interval", "seed"):
        default = re.search(rf"--{flag} [A-Z_]+ .*?\(default: (\S+)\)", helped)[1]
        assert re.search(rf"`--{flag}` \| {re.escape(default)} \|", guide), flag


def test_guide_prints_the_schema():
    guide = (PROJECT / "FULL_GUIDE.md").read_text()
    for name, column in SCHEMA.items():
        shape = ", ".join(map(str, column.shape))
        assert f"| `{name}` | ({shape}) {column.dtype} | {column.meaning} |" in guide


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_the_documents_parse(document, monkeypatch, tmp_path):
    class Parsed(Exception):
        """Raised where a script would start to work."""

    def stop(*_args, **_kwargs):
        raise Parsed

    monkeypatch.setattr(collect_tiled_with_checkpoint, "run", stop)
    monkeypatch.setattr(collect_flags, "load_policy", lambda *_: None)
    monkeypatch.setattr(collect_flags, "_recorded", lambda *_: {})
    monkeypatch.setattr(train_policy, "load", stop)
    monkeypatch.setattr(vpl_dataset, "info", stop)
    monkeypatch.setattr(vpl_dataset, "validate", stop)
    monkeypatch.setattr(vpl_dataset, "episode_folders", lambda _dataset: ["an episode"])
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```\n(.*?)```", (PROJECT / document).read_text(), flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith((".venv/bin/python ", "./"))]
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == ".venv/bin/python":
            with pytest.raises(Parsed):
                SCRIPTS[words[1]].main(words[2:])
        else:
            assert (PROJECT / words[0]).is_file(), command
