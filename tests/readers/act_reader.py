"""ACT's own loader reads an export: frames and numbers exactly, and a step on its batches.

ACT_SOURCE is a clone of github.com/tonyzhaozh/act, whose utils.py is read.
"""

import json
import os
import sys

import h5py
import numpy as np
import torch
from recorded import SmallPolicy, arguments, losses_around_a_step, read, report

sys.path.insert(0, os.environ["ACT_SOURCE"])
import utils

vpl, folder = arguments()
episodes = []
for index in range(len(list(folder.iterdir()))):
    with h5py.File(folder / f"episode_{index}.hdf5") as file:
        about = json.loads(file.attrs["vpl"])
        episodes.append(file.attrs["source"])
cameras = [camera["name"] for camera in about["cameras"]]
train, _, stats, is_sim = utils.load_data(str(folder), len(episodes), cameras, 4, 2)
assert is_sim

compared = 0
for index, name in enumerate(episodes):
    color, joints = read(vpl, name, "color"), read(vpl, name, "joint_pos")
    actions = read(vpl, name, about["action"]["column"])
    data = utils.EpisodicDataset([index], str(folder), cameras, stats)
    for row in range(0, len(color), 7):
        np.random.choice = lambda length, row=row: row  # the row that the loader draws
        images, qpos, ahead, is_pad = data[0]
        assert torch.equal((images * 255).round().byte(), torch.from_numpy(color[row]).permute(0, 3, 1, 2)), (name, row)
        assert np.allclose(qpos * stats["qpos_std"] + stats["qpos_mean"], joints[row], atol=1e-6)
        asked = (ahead * stats["action_std"] + stats["action_mean"])[~is_pad]
        assert np.allclose(asked, actions[row:], atol=1e-5)
        compared += len(cameras)

images, qpos, ahead, _ = next(iter(torch.utils.data.DataLoader(train.dataset, batch_size=4)))
losses = losses_around_a_step(SmallPolicy(qpos.shape[1], ahead.shape[2]), (images, qpos.float()), ahead[:, 0].float())
report(library="ACT, utils.py of github.com/tonyzhaozh/act", frames=compared, exact=True, losses=losses)
