"""The environments that the scripts of this folder run in, made at their first use."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock


@dataclass(frozen=True)
class Library:
    """What an environment is made of."""

    required: str
    alone: str = ""
    """Packages without what they require: it brings gigabytes of CUDA, and what only robots need."""
    python: str = ""
    """The interpreter, where the project's own will not do; then nothing of the project's environment is seen."""


LIBRARIES = {
    "lerobot-0.4.4": Library(
        alone="lerobot==0.4.4 torchvision==0.28.0 torchcodec==0.13.0 diffusers==0.35.2",
        required="datasets==5.2.0 huggingface_hub==2.4.0 av==15.1.0 pandas==2.3.3 pyarrow==25.0.1 jsonlines==4.0.0 "
        "draccus==0.10.0 einops==0.8.2 deepdiff==9.1.0 accelerate==1.15.0 gymnasium==1.4.0 toml==0.10.2 pyserial==3.5 "
        "opencv-python-headless==5.0.0.93 safetensors==0.8.0 termcolor==3.3.0 packaging==26.3 regex requests "
        "importlib_metadata",
    ),
    "lerobot-0.6.1": Library(
        required="lerobot[dataset]==0.6.1 torch==2.11.0 torchvision==0.26.0 torchcodec==0.11.1 h5py==3.16.0",
        python="python3.12",
    ),
    "robomimic": Library(
        alone="robomimic==0.3.0 torchvision==0.28.0", required="psutil termcolor tensorboardX tensorboard einops six"
    ),
}


def library_python(name: str) -> Path:
    """The interpreter of an environment with the library `name`, made where it is missing or was left half made."""
    library, folder = LIBRARIES[name], Path(sys.prefix) / "readers" / name
    python, stamp = folder / "bin" / "python", folder / f"installed_{zlib.crc32(repr(library).encode())}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # another test process may be about to make it too
        if not stamp.exists():
            _make(library, folder)
            stamp.touch()
    return python


def _make(library: Library, folder: Path) -> None:
    python = folder / "bin" / "python"
    base = find_python(library.python) if library.python else sys.executable
    subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
    if not library.python:
        asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        purelib = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        # torch, h5py, numpy: the project's own, behind what the library brings
        Path(purelib, "project.pth").write_text(sysconfig.get_path("purelib"))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if library.alone:
        subprocess.run([*pip, "--no-deps", *library.alone.split()], check=True)
    subprocess.run([*pip, *library.required.split()], check=True)


def find_python(name: str) -> str:
    """The path of an interpreter such as python3.12; the test is skipped on machines without it."""
    environment = {**os.environ, "PYENV_VERSION": name.removeprefix("python")}  # else pyenv offers its default alone
    try:
        asked = [name, "-c", "import sys; print(sys.executable)"]
        return subprocess.run(asked, check=True, capture_output=True, text=True, env=environment).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip(f"needs {name}, which is not on this machine")
