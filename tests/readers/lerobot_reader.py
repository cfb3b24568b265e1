"""LeRobot reads an export: frames against `color`, numbers exactly, and a step of its ACT policy."""

import json

import numpy as np
import torch
from recorded import arguments, define_torchvision_ops, psnr_db, read, report

define_torchvision_ops()

import lerobot
from lerobot.configs.types import FeatureType
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import dataset_to_policy_features

vpl, root = arguments()
meta = LeRobotDatasetMetadata("local/test", root=root)
chunk = {"action": [i / meta.fps for i in range(8)]}
data = LeRobotDataset("local/test", root=root, delta_timestamps=chunk, video_backend="torchcodec")
info = json.loads((root / "meta" / "info.json").read_text())
about = info["vpl"]
felt = [name for name, column in about["columns"].items() if column["role"] == "state"]

worst, compared = np.inf, 0
for index, name in enumerate(about["episodes"]):
    start = meta.episodes[index]["dataset_from_index"]
    color, actions = read(vpl, name, "color"), read(vpl, name, about["action"]["column"])
    extrinsics = read(vpl, name, "extrinsics")
    state = np.concatenate([read(vpl, name, column).reshape(len(color), -1) for column in felt], axis=1)
    for row in range(0, len(color), 7):
        item = data[start + row]
        for camera, key in enumerate(meta.video_keys):
            image = item[key].permute(1, 2, 0).numpy() * 255
            worst, compared = min(worst, psnr_db(image, color[row, camera])), compared + 1
            flat = item[key.replace("observation.images", "extrinsics")].numpy()
            assert np.allclose(flat, extrinsics[row, camera].ravel(), atol=1e-6), (name, row, key)  # read in 32 bits
        assert np.array_equal(item["observation.state"].numpy(), state[row]), (name, row)
        ahead = actions[np.minimum(np.arange(row, row + 8), len(actions) - 1)]
        assert np.array_equal(item["action"].numpy(), ahead), (name, row)
        assert item["episode_index"] == index and item["frame_index"] == row and item["task"]

normalized_by = about["splits"].get("train", range(len(about["episodes"])))
rows = np.concatenate([read(vpl, about["episodes"][index], about["action"]["column"]) for index in normalized_by])
for name, value in {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}.items():
    assert np.allclose(meta.stats["action"][name], value, atol=1e-4), name

features = dataset_to_policy_features(meta.features)
outputs = {key: feature for key, feature in features.items() if feature.type is FeatureType.ACTION}
config = ACTConfig(
    input_features={key: feature for key, feature in features.items() if key not in outputs},
    output_features=outputs,
    chunk_size=8,
    n_action_steps=8,
    pretrained_backbone_weights=None,
    dim_model=64,
    n_heads=4,
    dim_feedforward=64,
    n_encoder_layers=1,
    n_vae_encoder_layers=1,
    device="cpu",
)
policy = ACTPolicy(config)
policy.train()
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
batch = next(iter(torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)))
losses = []
for _ in range(2):
    torch.manual_seed(1)  # the same dropout and latents before and after the step
    loss, _ = policy.forward(batch)
    losses.append(loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
report(
    library=f"lerobot {lerobot.__version__}",
    frames=compared,
    psnr_db=worst,
    inputs=sorted(config.input_features),
    losses=losses,
    names=meta.features["action"]["names"],
    state_names=meta.features["observation.state"]["names"],
    columns=sorted(about["columns"]),
    splits=info["splits"],
    fps=meta.fps,
    robot_type=meta.robot_type,
    codebase_version=info["codebase_version"],
    stats_of_rows=int(meta.stats["action"]["count"][0]),
)
