"""examples/cluster/: a job on a running cluster, a Slurm job with stand-ins for Slurm, and a RayJob's description."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster

from flags import parse
from flags.on_ray import RayFlags
from vpl.checks import validate

EXAMPLES = Path(__file__).parent.parent / "examples" / "cluster"
FLAGS = "--num_envs 2 --num_episodes 2 --steps 4 --width 64 --height 48".split()


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the dashboard of a cluster on this machine."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        port, agent_port = (free.getsockname()[1] for free in (one, two))  # other clusters may run here
    ports = {"dashboard_port": port, "dashboard_agent_listen_port": agent_port}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": True, **ports})
    yield f"http://127.0.0.1:{port}"
    cluster.shutdown()


def test_job_is_submitted_to_a_running_cluster(tmp_path, dashboard):
    command = [EXAMPLES / "submit.sh", dashboard, "--data_root", tmp_path / "data", *FLAGS]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:  # the node is not ready yet
            break
        time.sleep(1)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "collected   4 episodes" in done.stdout
    (dataset,) = (tmp_path / "data").iterdir()
    assert validate(dataset) == []


def test_slurm_job_makes_a_cluster_of_its_nodes_and_ends_as_the_collection_does(tmp_path):
    log = tmp_path / "log"
    stand_ins = {
        "scontrol": "printf 'a\\nb\\n'",
        "srun": f'echo srun "$@" >> {log}; exec sleep 60',
        "python": f'[ "$1" = - ] || {{ echo python "$@" >> {log}; exit 7; }}',
    }
    for name, line in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "[a-b]", "SLURM_JOB_ID": "123"}
    command = ["bash", EXAMPLES / "collect.slurm", "--data_root", "/shared/my data"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 7, done.stderr
    assert sorted(log.read_text().splitlines()) == [
        "python collect_on_ray.py --address a:20123 --data_root /shared/my data",
        "srun --nodes=1 --ntasks=1 --nodelist=a ray start --head --port=20123 --block",
        "srun --nodes=1 --ntasks=1 --nodelist=b ray start --address=a:20123 --block",
    ]


def test_rayjob_asks_for_what_its_collection_needs():
    job = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    python, script, *words = shlex.split(job["spec"]["entrypoint"])
    assert python == "python" and (EXAMPLES.parent.parent / Path(script).name).is_file()
    flags = parse(RayFlags, words, None)
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        assert str(flags.data_root) == mount["mountPath"]
        assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"]


def test_shell_scripts_are_clean():
    if shutil.which("shellcheck") is None:
        pytest.skip("there is no shellcheck; .ci/run installs it")
    subprocess.run(["shellcheck", EXAMPLES / "submit.sh", EXAMPLES / "collect.slurm"], check=True)
