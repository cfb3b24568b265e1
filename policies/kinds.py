"""Policies by what a command line calls them.

load("student:runs/x/student.pt")
load("my_policies:make")            # your own: a function without arguments that returns a `policies.Policy`
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from policies import Policy, PolicyError
from policies.controls import Random
from policies.rsl_rl import load_policy
from policies.visuomotor import load_student, load_torchscript


def _load_rsl_rl(path: str) -> Policy:
    return load_policy(path, None, None)


def _load_lerobot(path: str) -> Policy:
    from policies.lerobot import load_lerobot  # only where it is asked for: LeRobot is a large package

    return load_lerobot(path)


KINDS: dict[str, Callable[[str], Policy]] = {
    "rsl_rl": _load_rsl_rl,
    "student": load_student,
    "torchscript": load_torchscript,
    "lerobot": _load_lerobot,
}
HELP = "rsl_rl:model.pt, student:student.pt, torchscript:policy.pt, lerobot:FOLDER, random, or your own module:function"


def load(spec: str) -> Policy:
    """The policy that `spec` names.

    Raises:
        PolicyError: there is no such policy.
    """
    kind, _, place = spec.partition(":")
    if spec == "random":
        return Random()
    if not place:
        raise PolicyError(f"'{spec}' names no policy; give {HELP}")
    if kind in KINDS:
        return KINDS[kind](place)
    try:
        make = getattr(importlib.import_module(kind), place)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise PolicyError(f"'{spec}': Python finds no such function ({error}); give {HELP}") from error
    if not callable(make):
        raise PolicyError(f"'{spec}' is not a function; give {HELP}")
    return make()
