"""The reading side: what info prints, and the examples."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import vpl_dataset
from vpl_dataset import iter_episodes

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
    """Each block of Python, on a dataset in the place of data/NAME."""
    blocks = []
    for document in ("README.md", "FULL_GUIDE.md"):
        blocks += re.findall(r"```python\n(.*?)```", (PROJECT / document).read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        names: dict = {}
        exec(block.replace("data/NAME", str(dataset)), names)
        image = names.get("image", names.get("wrist"))
        assert image.shape == (120, 160, 3) and image.dtype == np.uint8
    assert len(list(iter_episodes(dataset))) == 10
