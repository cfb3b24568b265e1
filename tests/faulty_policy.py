"""A policy that fails as its environment variables say, for tests of collecting on Ray.

    FAULTS=kill,hang,raise FAULTS_DONE=/tmp/x python collect_on_ray.py --policy faulty_policy:Faulty

Each fault comes once, in whatever process is the first to get there: its file in FAULTS_DONE says so. In the round
FAULTY_ROUND every attempt fails; each step takes SLOW_S seconds.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from simulators.seeds import round_seed

AT_STEP = 5


class Faulty:
    """Arms that stand still until a fault comes."""

    needs: tuple[str, ...] = ()

    def bind(self, env: Any) -> Faulty:
        self._env = env
        return self

    def describe(self) -> dict[str, Any]:
        return {"layout": "faulty"}

    def reset(self, env_ids: torch.Tensor) -> None:
        self._step, faulty = 0, os.environ.get("FAULTY_ROUND")
        self._fails = bool(faulty) and self._env.episode_info() == self._env.draw_variation(round_seed(42, int(faulty)))

    def act(self, sample: Any, obs: Any) -> torch.Tensor:
        self._step += 1
        time.sleep(float(os.environ.get("SLOW_S", 0)))
        if self._step == AT_STEP:
            if self._fails:
                fail("raise")
            for fault in filter(None, os.environ.get("FAULTS", "").split(",")):
                with suppress(FileExistsError):
                    open(Path(os.environ["FAULTS_DONE"], fault), "x").close()
                    fail(fault)
        return torch.zeros(self._env.num_envs, self._env.num_actions)


def fail(fault: str) -> None:
    if fault == "raise":
        raise ArithmeticError("planted")
    if fault == "hang":
        time.sleep(10_000)
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[fault])
