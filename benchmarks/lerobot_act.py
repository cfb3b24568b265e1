"""LeRobot's ACT, trained by LeRobot's own command on an export of ours, and evaluated in 500 unseen scenes.

    python vpl_export.py lerobot vpl_tiled/NAME --output exports/drawer --only_success
    python benchmarks/lerobot_act.py exports/drawer --output runs/act

Needs a GPU, this project's packages and lerobot[dataset,training]==0.6.1. ACT's ResNet starts from ImageNet's weights,
which LeRobot downloads; where the network is out of reach, it starts here from random ones. Its batch normalization is
frozen, so it is given the statistics of the export's pictures first: without any, what a block adds would double the
variance eight times.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from students import run as command
from torch import nn

from flags import FlagError, exit_code, flag, parse, positional, required
from flags.collect import check_seed_and_device
from vpl.files import run
from vpl.stats import spread_rows
from vpl.usable_cores import usable_cores

NAME = "local/drawer"
PICTURES = 192
"""For the statistics."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""By which LeRobot scales pictures, whatever the weights."""
LEARNING_RATE = 1.5e-4


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What can be told."""

    export: Path = positional("what vpl_export.py lerobot wrote")
    output: Path = required("new folder for the policies", metavar="FOLDER")
    steps: int = flag(2300, "of the optimizer")
    batch: int = flag(256, "rows of a step")
    simulator: str = flag("mujoco", "where it is evaluated")
    num_scenes: int = flag(500, "how many scenes it is evaluated in")
    device: str = flag("cuda:0", "torch device")


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: train_and_evaluate(parse(Flags, argv, __doc__)))


def train_and_evaluate(flags: Flags) -> int:
    """Do what the flags say; returns the exit code."""
    if flags.output.exists():
        raise FlagError(f"--output {flags.output} exists already; give a new folder")
    if not (flags.export / "meta" / "info.json").is_file():
        raise FlagError(f"{flags.export} has no meta/info.json; give what vpl_export.py lerobot wrote")
    check_seed_and_device(0, flags.simulator, flags.device)
    if find_spec("lerobot") is None:
        raise FlagError("this Python has no LeRobot; pip install 'lerobot[dataset,training]==0.6.1'")
    os.environ["HF_HUB_OFFLINE"] = "1"  # else LeRobot would ask the hub for local/drawer
    output = flags.output.absolute()
    shape = fresh_policy(flags.export, output / "fresh", flags.device)
    command("-m", "lerobot.scripts.lerobot_train", *training(flags, shape, output))
    policy = output / "trained" / "checkpoints" / "last" / "pretrained_model"
    size = ["--enable_wrist_camera", "--height", str(shape[0]), "--width", str(shape[1])]
    where = ["--simulator", flags.simulator, "--device", flags.device, "--num_scenes", str(flags.num_scenes)]
    where += ["--num_envs", str(min(100, flags.num_scenes)), "--output", str(output / "success.json")]
    command("evaluate_policy.py", "--policy", f"lerobot:{policy}", *size, *where)
    return 0


def fresh_policy(export: Path, folder: Path, device: str) -> tuple[int, int]:
    """Write an ACT that has learned nothing; returns the pictures' height and width."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.utils.feature_utils import dataset_to_policy_features

    data = LeRobotDataset(NAME, root=export)
    features = dataset_to_policy_features(data.meta.features)
    cfg = ACTConfig(
        input_features={key: feature for key, feature in features.items() if key.startswith("observation")},
        output_features={"action": features["action"]},
        chunk_size=12,
        n_action_steps=1,
        use_vae=False,
        pretrained_backbone_weights=None,
        optimizer_lr_backbone=LEARNING_RATE,
        device=device,
        push_to_hub=False,
    )
    torch.manual_seed(0)
    policy = ACTPolicy(cfg)
    cameras = data.meta.camera_keys
    rows = [data[int(row)] for row in spread_rows(len(data), PICTURES // len(cameras))]
    pictures = torch.stack([row[camera] for row in rows for camera in cameras])
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    give_statistics(policy.model.backbone, (pictures - mean) / std)
    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(cfg, dataset_stats=data.meta.stats):
        processor.save_pretrained(folder)
    height, width = pictures.shape[2:]
    return height, width


def give_statistics(backbone: nn.Module, pictures: torch.Tensor) -> None:
    """Set the frozen normalizations of a ResNet-18 to what `pictures`, (N, 3, H, W), come to at each of them."""
    from torchvision.models import resnet18
    from torchvision.models._utils import IntermediateLayerGetter

    learning = IntermediateLayerGetter(resnet18(), {"layer4": "feature_map"})
    learning.load_state_dict(backbone.state_dict(), strict=False)
    for module in learning.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean of all that it sees
    with torch.no_grad():
        learning.train()(pictures)
    backbone.load_state_dict(
        {key: value for key, value in learning.state_dict().items() if "num_batches_tracked" not in key}
    )


def training(flags: Flags, shape: tuple[int, int], output: Path) -> list[str]:
    """The flags of LeRobot's command."""
    shift = {"type": "RandomCrop", "kwargs": {"size": shape, "padding": 4, "padding_mode": "edge"}}
    brightness = {"type": "ColorJitter", "kwargs": {"brightness": [0.8, 1.2]}}
    told = {
        "dataset.repo_id": NAME,
        "dataset.root": flags.export.absolute(),
        "dataset.return_uint8": "true",
        "dataset.image_transforms.enable": "true",
        "dataset.image_transforms.max_num_transforms": 2,
        "dataset.image_transforms.tfs": json.dumps({"shift": shift, "brightness": brightness}),
        "policy.path": output / "fresh",
        "policy.device": flags.device,
        "policy.push_to_hub": "false",
        "batch_size": flags.batch,
        "steps": flags.steps,
        "num_workers": max(1, usable_cores() - 2),
        "prefetch_factor": 2,
        "use_policy_training_preset": "false",
        "optimizer.type": "adamw",
        "optimizer.lr": LEARNING_RATE,
        "optimizer.weight_decay": 1e-4,
        "optimizer.grad_clip_norm": 10,
        "scheduler.type": "cosine_decay_with_warmup",
        "scheduler.peak_lr": LEARNING_RATE,
        "scheduler.decay_lr": 1e-6,
        "scheduler.num_warmup_steps": 200,
        "scheduler.num_decay_steps": flags.steps,
        "save_freq": flags.steps,
        "wandb.enable": "false",
        "output_dir": output / "trained",
    }
    return [f"--{name}={value}" for name, value in told.items()]


if __name__ == "__main__":
    run(main)
