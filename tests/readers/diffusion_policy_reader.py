"""Diffusion policy's own ReplayBuffer and SequenceSampler read an export: frames and numbers exactly, and a step.

DIFFUSION_POLICY_SOURCE is a clone of github.com/real-stanford/diffusion_policy.
"""

import os
import sys

import numpy as np
import torch
import zarr
from recorded import SmallPolicy, arguments, losses_around_a_step, read, report

sys.path.insert(0, os.environ["DIFFUSION_POLICY_SOURCE"])
from diffusion_policy.common.replay_buffer import ReplayBuffer
from diffusion_policy.common.sampler import SequenceSampler

vpl, path = arguments()
about = zarr.open(str(path), "r").attrs["vpl"]
images = [f"{camera['name']}_image" for camera in about["cameras"]]
buffer = ReplayBuffer.copy_from_path(str(path), store=zarr.MemoryStore())
assert all(len(array) == buffer.n_steps for array in buffer.values())

compared = 0
for index, name in enumerate(about["episodes"]):
    color, joints = read(vpl, name, "color"), read(vpl, name, "joint_pos")
    actions = read(vpl, name, about["action"]["column"])
    episode = buffer.get_episode(index)
    assert np.array_equal(episode["joint_pos"], joints) and np.array_equal(episode["action"], actions)
    for camera, key in enumerate(images):
        assert np.array_equal(episode[key], color[:, camera]), (name, key)
        compared += len(color)

sampler = SequenceSampler(buffer, sequence_length=16, pad_before=1, pad_after=7, keys=[*images, "joint_pos", "action"])
rng = np.random.default_rng(0)
sequences = [sampler.sample_sequence(i) for i in rng.choice(len(sampler), 8, replace=False)]
frames = torch.from_numpy(np.stack([[s[key][0] for key in images] for s in sequences])).permute(0, 1, 4, 2, 3) / 255
state = torch.from_numpy(np.stack([s["joint_pos"][0] for s in sequences]))
target = torch.from_numpy(np.stack([s["action"] for s in sequences])).flatten(1)
losses = losses_around_a_step(SmallPolicy(state.shape[1], target.shape[1]), (frames, state), target)
report(library=f"diffusion policy's ReplayBuffer, zarr {zarr.__version__}", frames=compared, exact=True, losses=losses)
