"""Importing this makes Isaac Lab's wheel run without Kit; nothing of Isaac's may be imported before.

The environment variable ISAAC_SITE names the folder with the wheel's files.
"""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
sys.path[:0] = [str(PROJECT), str(HERE), str(PROJECT / "tests")]
import kit  # noqa: E402

kit.install(Path(os.environ["ISAAC_SITE"]))
builtins.ISAAC_LAUNCHED_FROM_TERMINAL = False

# these two register tasks
import isaaclab_tasks.manager_based.manipulation.cabinet.config.franka  # noqa: E402
import isaaclab_tasks.manager_based.manipulation.reach.config.franka  # noqa: E402, F401
import world  # noqa: E402

world.install()
TASK, REACH = "Isaac-Open-Drawer-Franka-v0", "Isaac-Reach-Franka-v0"
