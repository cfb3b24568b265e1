"""MuJoCo Warp repeats itself bit by bit, whichever contacts and constraints the GPU's threads find first."""

from collections.abc import Callable
from dataclasses import fields

import mujoco_warp as mjw
import numpy as np
import pytest
from conftest import GPU, TASK

from flags.collect import parse_flags, prepare
from simulators import SimulatorCfg, load, warp_order
from simulators.mujoco_warp import MujocoWarpEnv

STEPS = 60
"""After which the shipped policy holds the handle and pulls."""


def states(env: MujocoWarpEnv, tmp_path) -> np.ndarray:
    """(steps, envs, values) of an episode of the shipped policy."""
    policy = prepare(parse_flags(["--simulator", "mujoco", "--data_root", str(tmp_path)])).policy.bind(env)
    found = []
    for _ in range(STEPS):
        found.append(env.get_state())
        env.step(policy.act(env.capture(), env.get_observations()))
    return np.array(found)


def shuffle_contacts(data: mjw.Data, rng: np.random.Generator) -> None:
    count = data.nacon.numpy()[0]
    order = rng.permutation(count)
    for field in fields(data.contact):
        values = getattr(data.contact, field.name).numpy()
        if len(values):  # flexes' are empty
            values[:count] = values[order]


def shuffle_rows(data: mjw.Data, rng: np.random.Generator) -> None:
    """A constraint's rows stay beside each other, as they are where threads come in another order."""
    address, world = (
        values.numpy()[: data.nacon.numpy()[0]] for values in (data.contact.efc_address, data.contact.worldid)
    )
    for env, count in enumerate(data.nefc.numpy()):
        kinds = np.stack([data.efc.type.numpy()[env, :count], data.efc.id.numpy()[env, :count]])
        blocks = np.split(np.arange(count), 1 + np.flatnonzero((kinds[:, 1:] != kinds[:, :-1]).any(axis=0)))
        order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
        for field in fields(data.efc):
            values = getattr(data.efc, field.name).numpy()
            if values.ndim > 1 and values.shape[1] >= data.njmax:
                values[env, :count] = values[env, order]
        mine = address[world == env]
        address[world == env] = np.where(mine >= 0, np.argsort(order)[mine], mine)


def shuffled(shuffle: Callable, then: Callable | None) -> Callable:
    rng = np.random.default_rng(0)

    def callback(model: mjw.Model, data: mjw.Data) -> None:
        shuffle(data, rng)
        if then:
            then(model, data)

    return callback


@pytest.mark.parametrize("sort", [True, False], ids=["sorted", "left as they are"])
def test_order_of_contacts_and_constraints_changes_nothing_where_they_are_sorted(sort, tmp_path):
    cfg = SimulatorCfg(task=TASK, num_envs=4, device="cpu")
    with load("mujoco_warp", cfg) as env:
        expected = states(env, tmp_path)
        assert env._data.nacon.numpy()[0] >= 2 * env.num_envs, "handles are not held"
        env.reset(cfg.seed)
        callback = env._model.callback
        callback.contactfilter = shuffled(shuffle_contacts, callback.contactfilter if sort else None)
        callback.control = shuffled(shuffle_rows, callback.control if sort else None)
        assert np.array_equal(states(env, tmp_path), expected) == sort


@pytest.mark.gpu
@GPU
def test_two_runs_on_a_gpu_are_equal(tmp_path):
    found = []
    for _ in range(2):
        with load("mujoco_warp", SimulatorCfg(task=TASK, num_envs=256, device="cuda:0")) as env:
            found.append(states(env, tmp_path))
    assert np.array_equal(*found)


def test_all_that_a_contact_and_a_row_have_is_sorted():
    """What a later MuJoCo Warp adds is to be looked at."""
    left = {"flex", "elem", "vert", "efc_address"}  # of flexes; rows come after the sorting
    assert {field.name for field in fields(mjw.Contact)} - left == set(warp_order._CONTACT)
    unset = {"jtdaj_adr", "jtdaj_nrow", "jtdaj_nblock", "J_rownnz", "J_rowadr", "J_colind"}  # of sparse Jacobians
    unset |= {"force", "state", "island", "Ma"}  # which the solver fills, or which is not of rows
    assert {field.name for field in fields(mjw.Constraint)} - unset == set(warp_order._ROW)
