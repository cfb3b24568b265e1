"""The cores that a process may use are those of its mask, its control groups and its Slurm job."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vpl import usable_cores


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine of 64 cores without any limit; returns the folder that stands for /sys/fs/cgroup."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    monkeypatch.setattr(usable_cores, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(usable_cores, "CGROUPS", tmp_path / "cgroup")
    for name in usable_cores.SLURM:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cgroup"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/", {}, 64),
        ("0::/", {"cpu.max": "max 100000\n"}, 64),
        ("0::/", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/", {"cpu.max": "9900000 100000\n"}, 64),
        ("0::/a/b", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a/b", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "200000 100000\n"}, 2),
        ("0::/../of_the_host", {"cpu.max": "500000 100000\n"}, 5),
        ("3:cpu,cpuacct:/job", {"cpu,cpuacct/job/cpu.cfs_quota_us": "600000\n"}, 6),
        ("3:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, 64),
        ("3:cpu,cpuacct:/docker/of_the_host", {"cpu,cpuacct/cpu.cfs_quota_us": "700000\n"}, 7),
        ("2:cpuset:/\n1:name=systemd:/a:b\n0::/", {"cpuset/cpu.max": "100000 100000\n"}, 64),
    ],
)
def test_quota_of_a_control_group_or_one_above_it_counts(machine, own, files, cores):
    write(machine.parent / "own", own + "\n")
    for name, text in files.items():
        write(machine / name, text)
        if name.endswith("cfs_quota_us"):
            write((machine / name).with_name("cpu.cfs_period_us"), "100000\n")
    assert usable_cores.usable_cores() == cores


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "8"}, 8),
        ({"SLURM_CPUS_ON_NODE": "16"}, 16),
        ({"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "32"}, 8),
        ({"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "128"}, 64),
    ],
)
def test_allocation_of_slurm_counts(machine, monkeypatch, variables, cores):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert usable_cores.usable_cores() == cores


def test_mask_of_taskset_counts():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from vpl.usable_cores import usable_cores; print(usable_cores())"
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, cwd=Path(usable_cores.__file__).parent.parent, capture_output=True, text=True, check=True
    )
    assert found.stdout == "1\n"


def test_nothing_counts_the_cores_of_the_machine():
    project = Path(usable_cores.__file__).parent.parent
    folders = (".", "vpl", "vpl/checks", "checks", "flags", "policies", "simulators", "benchmarks")
    sources = [path for folder in folders for path in (project / folder).glob("*.py")]
    asking = [
        str(path.relative_to(project))
        for path in sources
        if "cpu_count" in path.read_text() or "getaffinity" in path.read_text()
    ]
    assert asking == ["vpl/usable_cores.py"]
