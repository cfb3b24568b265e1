"""Files that policies/rsl_rl.py refuses: damaged ones, malicious ones, and those of other programs."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint_policy import CHECKPOINTS, copy_run, read_checkpoint, refusal, save_altered
from torch import nn


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "model_1.pt")
    assert "is a directory" in refusal(tmp_path)
    assert "File name too long" in refusal(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (b"once upon a time", "not a torch file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html></html>", "is an HTML page"),
        (b"\x08\x08\x12\x07pytorch:\x0connx::Gemm", "is an ONNX export"),
        (pickle.dumps({"model_state_dict": {}, "iter": 1}), "not a torch file"),
    ],
)
def test_file_that_torch_did_not_write_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "model_1.pt"
    path.write_bytes(content)
    assert found in refusal(path)


def test_zip_of_another_trainer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", "weights")
    assert "is another program's zip (data, policy.pth)" in refusal(path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    assert "is no regular file" in refusal(pipe)
    run = copy_run(tmp_path, "rsl_rl_5.5.1_plain", "")
    (tmp_path / "params" / "agent.yaml").unlink()
    (tmp_path / "params" / "agent.yaml").mkdir()
    assert "cannot be read: Is a directory" in refusal(run)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
def test_truncated_checkpoint_is_refused(tmp_path: Path, part: float) -> None:
    data = (CHECKPOINTS / "rsl_rl_5.5.1_normalized.pt").read_bytes()
    path = tmp_path / "model_1.pt"
    path.write_bytes(data[: int(part * len(data))])
    assert "cut short" in refusal(path)


def test_one_flipped_bit_in_a_weight_is_refused(tmp_path: Path) -> None:
    data = bytearray((CHECKPOINTS / "rsl_rl_5.5.1_plain.pt").read_bytes())
    weight = read_checkpoint("rsl_rl_5.5.1_plain")["actor_state_dict"]["mlp.0.weight"]
    data[data.index(weight.numpy().tobytes()) + 2] ^= 1
    path = tmp_path / "model_1.pt"
    path.write_bytes(data)
    assert not torch.equal(torch.load(path, weights_only=True)["actor_state_dict"]["mlp.0.weight"], weight)
    assert "wrong checksum" in refusal(path)


class Trap:
    """Unpickling it makes a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("save", [torch.save, pickle.dump])
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, save: Callable[[Any, Any], None]) -> None:
    marker = tmp_path / "executed"
    buffer = io.BytesIO()
    save({"model_state_dict": Trap(marker), "iter": 1}, buffer)
    path = tmp_path / "model_1.pt"
    path.write_bytes(buffer.getvalue())
    message = refusal(path)
    assert not marker.exists()
    if save is torch.save:
        assert f"{os.mkdir.__module__}.mkdir" in message
        torch.load(path, weights_only=False)
        assert marker.exists(), "the trap is no trap, so this test shows nothing"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_export_is_refused_with_the_right_file_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.pt"
    torch.jit.trace(nn.Linear(31, 8), torch.zeros(1, 31)).save(str(path))
    assert "give the model_*.pt of the run" in refusal(path)


def test_foreign_checkpoint_is_refused_listing_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "model_1.pt"
    torch.save({"epoch": 3, "weights": torch.zeros(2)}, path)
    assert "['epoch', 'weights']" in refusal(path)
    torch.save(nn.Linear(31, 8).state_dict(), path)
    assert "['weight', 'bias']" in refusal(path)
    torch.save([torch.zeros(2)], path)
    assert "a list" in refusal(path)


def test_convolutional_actor_is_refused(tmp_path: Path) -> None:
    path = save_altered(tmp_path, lambda c: c["actor_state_dict"].update({"cnns.image.0.weight": torch.zeros(8, 3)}))
    assert "cnns.image.0.weight" in refusal(path)


def test_distilled_student_is_refused(tmp_path: Path) -> None:
    student = {"student.0.weight": torch.zeros(8, 31), "student.0.bias": torch.zeros(8), "std": torch.ones(8)}
    path = save_altered(tmp_path, lambda c: c.update(model_state_dict=student), "rsl_rl_3.1.2_plain")
    assert "student.0.weight" in refusal(path)
