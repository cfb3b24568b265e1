"""Makes an untrained ACT policy of LeRobot's for an export, lets it drive, and prints the result:  EXPORT FOLDER"""

import contextlib
import io
import json
import sys
from pathlib import Path

from recorded import define_torchvision_ops

define_torchvision_ops()
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
from lerobot.datasets.utils import dataset_to_policy_features
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors

import evaluate_policy

export, folder = map(Path, sys.argv[1:])
metadata = LeRobotDatasetMetadata(f"local/{export.name}", root=export)
features = dataset_to_policy_features(metadata.features)
outputs = {"action": features["action"]}
inputs = {name: feature for name, feature in features.items() if name.startswith("observation")}
cfg = ACTConfig(
    input_features=inputs,
    output_features=outputs,
    chunk_size=8,
    n_action_steps=4,
    dim_model=32,
    n_heads=2,
    dim_feedforward=64,
    n_encoder_layers=1,
    pretrained_backbone_weights=None,
    device="cpu",
    push_to_hub=False,
)
torch.manual_seed(0)
ACTPolicy(cfg).save_pretrained(folder)
for processor in make_pre_post_processors(cfg, dataset_stats=metadata.stats):
    processor.save_pretrained(folder)
output = folder / "results.json"
flags = ["--simulator", "mujoco", "--num_scenes", "2", "--num_envs", "2", "--steps", "12", "--enable_wrist_camera"]
size = ["--width", "160", "--height", "120", "--output", str(output)]
with contextlib.redirect_stdout(io.StringIO()):
    code = evaluate_policy.main(["--policy", f"lerobot:{folder}", *flags, *size])
print(json.dumps({"code": code, "results": json.loads(output.read_text())}))
