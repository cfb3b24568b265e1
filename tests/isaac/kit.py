"""Stand-ins for Omniverse Kit's own modules, so that Isaac Lab's real wheels run without Kit.

`install(site)` puts the wheel's packages on the path and a finder behind them that makes up every module of Kit's:
what is looked up there is a class if its name is capitalized, else a module that can be called. Only what Isaac Lab
needs an answer from is real here: carb's settings, Kit's start, the version. Physics and rendering are in world.py.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

ROOTS = ("carb", "cv2", "hid", "isaacsim", "omni", "usdrt")
PARTS = ("pxr.PhysxSchema", "pxr.Semantics")
"""Missing in the public usd-core, which is real otherwise."""
VERSION = ("5.0.0", "", "5", "0", "0", "", "", "")
"""What isaacsim.core.version.get_version() answers."""


class Settings(dict):
    """carb.settings: what Isaac Lab sets, it reads again."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, default)

    def get_as_bool(self, key: str) -> bool:
        return bool(self.get(key))

    def set(self, key: str, value: Any) -> None:
        self[key] = value

    set_bool = set_int = set_string = set_float = set


settings = Settings()


class SimulationApp:
    """Kit. Remembers with what it was started; told to close it would end the process with 0, as fast shutdown does."""

    started: ClassVar[list[tuple[dict, list[str]]]] = []
    """Configuration and command line of every start."""

    def __init__(self, config: dict | None = None, experience: str = "") -> None:
        self.started.append((dict(config or {}), list(sys.argv)))
        settings["/isaaclab/cameras_enabled"] = "rendering" in experience

    def is_running(self) -> bool:
        return True

    def close(self) -> None:
        os._exit(0)


class _Meta(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name)


class Anything(types.ModuleType):
    """A module of Kit's, or anything in one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value: Any
        if name[0].isupper():
            members = {"__init__": lambda self, *a, **k: None, "__class_getitem__": lambda item: Anything}
            value = _Meta(name, (), members)
        else:
            value = Anything(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        return Anything("result")

    def __int__(self) -> int:
        return 0


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] in ROOTS or name in PARTS:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = Anything(spec.name)
        for name, value in ANSWERS.get(spec.name, {}).items():
            setattr(module, name, value)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _set_seed(seed: int, *_args: Any) -> int:
    """isaacsim.core.utils.torch.set_seed, as far as anything here draws."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


ANSWERS: dict[str, dict[str, Any]] = {
    "carb.settings": {"get_settings": lambda: settings},
    "carb": {"settings": types.SimpleNamespace(get_settings=lambda: settings)},
    "isaacsim": {"SimulationApp": SimulationApp, "__file__": __file__},
    "isaacsim.core.version": {"get_version": lambda: VERSION},
    "isaacsim.core.utils.carb": {"set_carb_setting": lambda carb_settings, key, value: carb_settings.set(key, value)},
    "isaacsim.core.utils.torch": {"set_seed": _set_seed},
}


def install(site: Path) -> None:
    """Make `import isaaclab` find the wheel unpacked in `site`, and Kit's modules the stand-ins."""
    os.environ.setdefault("EXP_PATH", str(site))
    settings["/persistent/isaac/asset_root/cloud"] = "assets"
    source = site / "isaaclab" / "source"
    sys.path[:0] = [str(folder) for folder in source.iterdir()]
    sys.meta_path.insert(0, _Finder())
    # its own __init__ imports every task there is, with all that they need
    tasks = types.ModuleType("isaaclab_tasks")
    tasks.__path__ = [str(source / "isaaclab_tasks" / "isaaclab_tasks")]
    sys.modules["isaaclab_tasks"] = tasks
