"""robomimic reads an export: frames and numbers exactly, its filter keys, and a step of its BC."""

import json

import h5py
import numpy as np
import torch
from recorded import arguments, define_torchvision_ops, read, report

define_torchvision_ops()

import robomimic
import robomimic.utils.file_utils as FileUtils
import robomimic.utils.obs_utils as ObsUtils
from robomimic.algo import algo_factory
from robomimic.config import config_factory
from robomimic.utils.dataset import SequenceDataset

vpl, path = arguments()
with h5py.File(path) as file:
    about = json.loads(file["data"].attrs["vpl"])
    offset, scale = file["data"].attrs["action_offset"], file["data"].attrs["action_scale"]
    masks = {name: len(names) for name, names in file.get("mask", {}).items()}
images = [f"{camera['name']}_image" for camera in about["cameras"]]

config = config_factory("bc")
with config.values_unlocked():
    config.train.data = str(path)
    config.observation.modalities.obs.low_dim = ["joint_pos", "joint_vel"]
    config.observation.modalities.obs.rgb = images
ObsUtils.initialize_obs_utils_with_config(config)
shapes = FileUtils.get_shape_metadata_from_dataset(str(path), all_obs_keys=config.all_obs_keys)
data = SequenceDataset(
    str(path),
    obs_keys=config.all_obs_keys,
    dataset_keys=("actions", "rewards", "dones"),
    seq_length=1,
    hdf5_cache_mode="low_dim",
    load_next_obs=False,
)

compared = 0
for index, name in enumerate(about["episodes"]):
    color, joints = read(vpl, name, "color"), read(vpl, name, "joint_pos")
    actions = read(vpl, name, about["action"]["column"])
    start = data._demo_id_to_start_indices[f"demo_{index}"]
    for row in range(0, len(color), 7):
        item = data[start + row]
        for camera, key in enumerate(images):
            assert np.array_equal(item["obs"][key][0], color[row, camera]), (name, row, key)
            compared += 1
        assert np.array_equal(item["obs"]["joint_pos"][0], joints[row])
        assert np.abs(item["actions"]).max() <= 1 or index in about["splits"].get("val", [])  # train sets the scale
        assert np.abs(offset + scale * item["actions"][0] - actions[row]).max() < 1e-5

model = algo_factory("bc", config, shapes["all_shapes"], shapes["ac_dim"], torch.device("cpu"))
model.set_train()
batch = model.process_batch_for_training(next(iter(torch.utils.data.DataLoader(data, batch_size=8, shuffle=True))))
batch = model.postprocess_batch_for_training(batch, obs_normalization_stats=None)
losses = [float(model.train_on_batch(batch, epoch=1)["losses"]["action_loss"]) for _ in range(2)]
report(
    library=f"robomimic {robomimic.__version__}",
    frames=compared,
    exact=True,
    losses=losses,
    masks=masks,
    env=FileUtils.get_env_metadata_from_dataset(str(path)),
)
