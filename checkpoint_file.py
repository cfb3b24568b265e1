"""Read a checkpoint file without running any of it, and say what a file that is none is instead.

data = read_file(Path("model_399.pt"))
checkpoint = unpickle(Path("model_399.pt"), data)
"""

from __future__ import annotations

import io
import pickle
import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

_TORCH_ERRORS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError)
"""What torch's unpickler raises on damaged files, as fuzzed; it does not wrap them."""
_EXPECTED = "give the model_*.pt of an RSL-RL run"
_FOREIGN = {
    rb"version https://git-lfs": "is a Git LFS pointer, not the file that it stands for; run git lfs pull",
    rb"\s*<": "is a web page, not the file; download it by the link of the file itself",
    rb"\x08.\x12": f"is an ONNX model, not a checkpoint; {_EXPECTED}",  # fields ir_version and producer_name
}
"""How files begin that are taken for checkpoints, and what to do about each."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message is one line: the file, what was found, what to do."""


def read_file(path: Path) -> bytes:
    """The content of a regular file; a pipe or a device, which may never end, is refused.

    Raises:
        CheckpointError: There is no such file, or it cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{path}: is a directory; give a file such as {path / 'model_399.pt'}")
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{path}: is not a regular file; copy its content into one")
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(f"{path}: {reason}; give the path of a file that this user may read") from error


def unpickle(path: Path, data: bytes) -> Any:
    """What torch.save put into the file. Only tensors and plain values are unpickled: a hostile file runs no code.

    Raises:
        CheckpointError: The file holds other things, or torch did not write it.
    """
    if not data:
        raise CheckpointError(f"{path}: is empty; give a checkpoint that was written to its end")
    if problem := _foreign_file(data):
        raise CheckpointError(f"{path}: {problem}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_archive(path, archive)
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"the Python object {found[1]}" if found else "Python objects"
        raise CheckpointError(f"{path}: holds {what}, which may run code: refused; {_EXPECTED}") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
    ) as error:
        reason = str(error).partition("\n")[0]  # any of these, as fuzzed: torch's unpickler does not wrap them
        raise CheckpointError(f"{path}: is cut short or damaged: {reason}; copy it again") from error


def _foreign_file(data: bytes) -> str | None:
    """What a file is that torch did not write; None: it may be torch's."""
    for beginning, problem in _FOREIGN.items():
        if re.match(beginning, data, re.DOTALL):
            return problem
    if not data.startswith(b"PK"):
        return f"is not a torch file, it begins with {data[:12]!r}; {_EXPECTED}"
    return None


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    members = [name.rpartition("/")[2] for name in archive.namelist()]
    if "constants.pkl" in members:  # only torch.jit.save writes it
        raise CheckpointError(f"{path}: is a TorchScript export; give the model_*.pt of the run, not its policy.pt")
    if "data.pkl" not in members:
        found = ", ".join(members[:4])
        maker = "Stable-Baselines3's" if "policy.pth" in members else "another program's"
        raise CheckpointError(f"{path}: is {maker} zip file of {found}; {_EXPECTED}")
    if damaged := archive.testzip():  # torch.load compares no checksums: it would take flipped weights
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")


def _numpy_scalars() -> list[Any]:
    """What unpickles NumPy's numbers: trainers log them in `infos`. NumPy 2 renamed the function's module."""
    scalar = np.float64(0).__reduce__()[0]
    functions = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    codes = "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
    return [np.dtype, *{type(np.dtype(code)) for code in codes}, *functions]
