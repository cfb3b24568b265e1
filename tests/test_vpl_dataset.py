"""The reading side: what info prints."""

from __future__ import annotations

import vpl_dataset


def test_whole_dataset_has_no_problems(dataset, capsys):
    assert vpl_dataset.main(["validate", str(dataset)]) == 0
    assert "10 episodes, no problems" in capsys.readouterr().out
    assert vpl_dataset.main(["info", str(dataset)]) == 0
    assert "10 episodes" in capsys.readouterr().out
