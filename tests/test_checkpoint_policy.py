"""policies/rsl_rl.py against checkpoints of the real RSL-RL releases (tests/checkpoints), and what it refuses."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies.checkpoint_settings import ACTIVATIONS, CheckpointError, known_activation
from policies.rsl_rl import load_policy

CHECKPOINTS = Path(__file__).parent / "checkpoints"
LAYOUTS = {
    "rsl_rl_2.3.3_plain": "rsl-rl 2.x or 3.x",
    "rsl_rl_2.3.3_normalized": "rsl-rl 2.x",
    "rsl_rl_3.1.2_plain": "rsl-rl 2.x or 3.x",
    "rsl_rl_3.1.2_normalized": "rsl-rl 3.x",
    "rsl_rl_4.0.1_plain": "rsl-rl 4.x",
    "rsl_rl_4.0.1_normalized": "rsl-rl 4.x",
    "rsl_rl_5.5.1_plain": "rsl-rl 5.x",
    "rsl_rl_5.5.1_normalized": "rsl-rl 5.x",
}
every_release = pytest.mark.parametrize("name", LAYOUTS)


def read_checkpoint(name: str) -> dict[str, Any]:
    return torch.load(CHECKPOINTS / f"{name}.pt", weights_only=True)


def save_altered(tmp_path: Path, alter: Callable[[dict[str, Any]], object], name: str = "rsl_rl_5.5.1_plain") -> Path:
    checkpoint = read_checkpoint(name)
    alter(checkpoint)
    torch.save(checkpoint, tmp_path / "model_1.pt")
    return tmp_path / "model_1.pt"


def copy_run(tmp_path: Path, name: str, agent_yaml: str) -> Path:
    """Lay out a run as Isaac Lab does: model_1.pt and params/agent.yaml."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "agent.yaml").write_text(agent_yaml)
    return Path(shutil.copy(CHECKPOINTS / f"{name}.pt", tmp_path / "model_1.pt"))


def refusal(path: Path, num_obs: int | None = 31, num_actions: int | None = 8) -> str:
    with pytest.raises(CheckpointError) as error:
        load_policy(path, num_obs, num_actions)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith((f"{path}: ", f"{path.parent / 'params' / 'agent.yaml'}: "))
    return message


@every_release
def test_policy_answers_as_the_release_that_wrote_it(name: str) -> None:
    recorded = np.load(CHECKPOINTS / f"{name}.npz")
    policy = load_policy(CHECKPOINTS / f"{name}.pt", num_obs=31, num_actions=8)
    with torch.inference_mode():
        actions = policy(torch.from_numpy(recorded["obs"]))
    assert actions.dtype == torch.float32
    # The difference is 0.0 on the recording's torch and CPU; other matrix kernels may round the last bit differently.
    np.testing.assert_allclose(actions.numpy(), recorded["actions"], rtol=0.0, atol=1e-6)


@every_release
def test_policy_tells_where_it_comes_from(name: str) -> None:
    path = CHECKPOINTS / f"{name}.pt"
    policy = load_policy(path, num_obs=None, num_actions=None)
    assert (policy.num_obs, policy.num_actions) == (31, 8)
    assert policy.layout == LAYOUTS[name]
    assert policy.normalized == name.endswith("normalized")
    assert policy.iteration == 1
    assert policy.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (policy.activation, policy.clip_actions) == ("elu", None)
    assert policy.settings == "elu, actions not clipped: assumed, there is no params/agent.yaml beside it"


def test_actions_carry_no_gradient_and_may_be_changed_in_place() -> None:
    policy = load_policy(CHECKPOINTS / "rsl_rl_5.5.1_normalized.pt", num_obs=31, num_actions=8)
    actions = policy(torch.zeros(4, 31))
    assert not actions.requires_grad
    actions[:2] = 0.0  # as a simulator does to the last action of envs that it resets


def test_loading_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    load_policy(CHECKPOINTS / "rsl_rl_5.5.1_normalized.pt", num_obs=31, num_actions=8)
    assert torch.equal(torch.get_rng_state(), before)


def test_log_std_is_as_good_as_std(tmp_path: Path) -> None:
    def rename(checkpoint: dict[str, Any]) -> None:
        checkpoint["model_state_dict"]["log_std"] = checkpoint["model_state_dict"].pop("std").log()

    path = save_altered(tmp_path, rename, "rsl_rl_2.3.3_plain")
    assert load_policy(path, num_obs=31, num_actions=8).layout == "rsl-rl 2.x or 3.x"


@pytest.mark.parametrize("section", ["policy", "actor"])
@pytest.mark.parametrize("release", ["2.3.3", "3.1.2", "5.5.1"])
def test_activation_is_read_from_the_agent_yaml_of_the_run(tmp_path: Path, release: str, section: str) -> None:
    path = copy_run(tmp_path, f"rsl_rl_{release}_plain", f"seed: 42\n{section}:\n  activation: relu\n")
    keys = ("actor_state_dict", "mlp") if release == "5.5.1" else ("model_state_dict", "actor")
    policy = load_policy(path, num_obs=31, num_actions=8)
    assert policy.activation == "relu"
    assert policy.settings == f"relu, actions not clipped: {tmp_path / 'params' / 'agent.yaml'}"

    state, prefix = read_checkpoint(f"rsl_rl_{release}_plain")[keys[0]], keys[1]
    obs = torch.linspace(-3.0, 3.0, 62).reshape(2, 31)
    hidden = obs
    for i in (0, 2):
        hidden = (hidden @ state[f"{prefix}.{i}.weight"].T + state[f"{prefix}.{i}.bias"]).relu()
    torch.testing.assert_close(policy(obs), hidden @ state[f"{prefix}.4.weight"].T + state[f"{prefix}.4.bias"])


def test_python_tags_in_agent_yaml_are_neither_run_nor_stumbled_over(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    text = f"""
obs_groups: !!python/object/apply:collections.OrderedDict [[]]
class_type: !!python/name:rsl_rl.runners.OnPolicyRunner ''
hook: !!python/object/apply:os.mkdir ['{marker}']
policy:
  actor_hidden_dims: !!python/tuple [16, 8]
  activation: tanh
"""
    path = copy_run(tmp_path, "rsl_rl_3.1.2_plain", text)
    assert load_policy(path, num_obs=31, num_actions=8).activation == "tanh"
    assert not marker.exists()


@pytest.mark.parametrize(("written", "limit"), [("0.05", 0.05), ("1", 1), ("null", None)])
def test_actions_are_clipped_as_isaac_lab_clips_them(tmp_path: Path, written: str, limit: float | None) -> None:
    text = f"clip_actions: {written}\nactor:\n  activation: elu\n"
    recorded = np.load(CHECKPOINTS / "rsl_rl_5.5.1_normalized.npz")
    policy = load_policy(copy_run(tmp_path, "rsl_rl_5.5.1_normalized", text), num_obs=31, num_actions=8)
    assert policy.clip_actions == limit
    actions = policy(torch.from_numpy(recorded["obs"])).numpy()
    expected = recorded["actions"] if limit is None else recorded["actions"].clip(-limit, limit)
    np.testing.assert_allclose(actions, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("actor:\n  activation: snake\n", "the actor's activation is snake, expected one of elu, selu, relu"),
        ("policy:\n  hidden_dims: [16]\n", "the actor's activation is None"),
        ("", "the actor's activation is None"),
        ("actor: [\n", "not YAML"),
        ("actor: {activation: elu}\nclip_actions: 1e2\n", "clip_actions is '1e2', expected a positive number or null"),
        ("actor: {activation: elu}\nclip_actions: -1\n", "clip_actions is -1"),
        ("actor: {activation: elu}\nclip_actions: true\n", "clip_actions is True"),
        ("actor: {activation: ELU(alpha=0.5)}\n", "activation is ELU(alpha=0.5)"),
        (
            "actor: {activation: elu, distribution_cfg: {class_name: my.SquashedGaussian}}",
            "is a my.SquashedG",
        ),
        ("actor: {activation: elu}\nwhen: 2025-99-99\n", "not YAML (month must be in 1..12)"),
    ],
)
def test_agent_yaml_that_does_not_fit_is_refused(tmp_path: Path, text: str, found: str) -> None:
    assert found in refusal(copy_run(tmp_path, "rsl_rl_5.5.1_plain", text))


def test_unknown_activation_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    message = refusal(copy_run(tmp_path, "rsl_rl_5.5.1_plain", "actor:\n  activation: snake\n"))
    assert all(name in message for name in ACTIVATIONS)


@pytest.mark.parametrize("release", ["3.1.2", "5.5.1"])
def test_recurrent_policy_is_refused(release: str) -> None:
    assert "recurrent" in refusal(CHECKPOINTS / f"rsl_rl_{release}_recurrent.pt")


@every_release
def test_wrong_dimensions_are_refused_naming_both(name: str) -> None:
    assert "has 31 observations, expected 30" in refusal(CHECKPOINTS / f"{name}.pt", num_obs=30)
    assert "has 8 actions, expected 7" in refusal(CHECKPOINTS / f"{name}.pt", num_actions=7)


def double_last_layer(checkpoint: dict[str, Any]) -> None:
    """As a policy whose standard deviation depends on the state has it."""
    state = checkpoint["actor_state_dict"]
    del state["distribution.std_param"]
    for key in ("mlp.4.weight", "mlp.4.bias"):
        state[key] = torch.cat([state[key], torch.ones_like(state[key])])


def test_of_a_state_dependent_std_the_mean_is_the_first_rows(tmp_path: Path) -> None:
    recorded = np.load(CHECKPOINTS / "rsl_rl_5.5.1_plain.npz")
    policy = load_policy(save_altered(tmp_path, double_last_layer), num_obs=31, num_actions=8)
    actions = policy(torch.from_numpy(recorded["obs"]))
    np.testing.assert_allclose(actions.numpy(), recorded["actions"], rtol=0.0, atol=1e-6)


def test_beta_policy_is_refused(tmp_path: Path) -> None:
    path = save_altered(tmp_path, double_last_layer)
    (tmp_path / "params").mkdir()
    text = "actor: {activation: elu, distribution_cfg: {class_name: BetaDistribution}}"
    (tmp_path / "params" / "agent.yaml").write_text(text)
    assert "is a Beta policy" in refusal(path)


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("silu", "swish"),
        ("torch.nn.SiLU", "swish"),
        ("leaky_relu", "lrelu"),
        ("nn.LeakyReLU()", "lrelu"),
        ("celu", "crelu"),
        ("torch.nn.ELU", "elu"),
        ("ReLU", "relu"),
        ("snake", None),
        ("torch.nn.modules.activation:Mish", "mish"),
    ],
)
def test_activations_are_known_by_their_other_names(written: str, known: str | None) -> None:
    assert known_activation(written) == known


def test_activation_and_clipping_can_be_given_and_are_told(tmp_path: Path) -> None:
    path = CHECKPOINTS / "rsl_rl_5.5.1_plain.pt"
    lone = "assumed, there is no params/agent.yaml beside it"
    policy = load_policy(path, 31, 8, activation="relu", clip_actions=0.5)
    assert (policy.activation, policy.clip_actions) == ("relu", 0.5)
    assert policy.settings == "relu: --activation; actions clipped to ±0.5: --clip_actions"
    assert load_policy(path, 31, 8, activation="tanh").settings == f"tanh: --activation; actions not clipped: {lone}"
    run = copy_run(tmp_path, "rsl_rl_5.5.1_plain", "actor: {activation: relu}\nclip_actions: 2.0\n")
    assert load_policy(run, 31, 8, clip_actions=float("inf")).clip_actions is None


def test_activation_may_be_written_as_a_python_class(tmp_path: Path) -> None:
    text = "actor:\n  activation: !!python/name:torch.nn.modules.activation.SELU ''\n"
    assert load_policy(copy_run(tmp_path, "rsl_rl_5.5.1_plain", text), 31, 8).activation == "selu"


def test_flag_is_the_remedy_for_an_agent_yaml_that_does_not_fit(tmp_path: Path) -> None:
    path = copy_run(tmp_path, "rsl_rl_5.5.1_plain", "actor: {activation: snake}\nclip_actions: soft\n")
    assert load_policy(path, 31, 8, activation="SiLU", clip_actions=2.0).activation == "swish"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_agent_yaml_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = copy_run(tmp_path, "rsl_rl_5.5.1_plain", "")
    (tmp_path / "params" / "agent.yaml").unlink()
    make(tmp_path / "params" / "agent.yaml")
    assert refusal(path).startswith(f"{tmp_path / 'params' / 'agent.yaml'}: ")


def test_link_to_a_checkpoint_has_its_runs_settings(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    path = copy_run(tmp_path / "run", "rsl_rl_5.5.1_plain", "actor: {activation: relu}\n")
    (tmp_path / "best.pt").symlink_to(path)
    assert load_policy(tmp_path / "best.pt", 31, 8).activation == "relu"


def test_actor_without_any_std_is_its_mean(tmp_path: Path) -> None:
    path = save_altered(tmp_path, lambda checkpoint: checkpoint["actor_state_dict"].pop("distribution.std_param"))
    assert load_policy(path, 31, 8).num_actions == 8


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["rsl_rl_2.3.3_plain", "rsl_rl_5.5.1_normalized"])
def test_wrapped_modules_load(tmp_path: Path, prefix: str, name: str) -> None:
    def wrap(checkpoint: dict[str, Any]) -> None:
        for key in ("model_state_dict", "actor_state_dict"):
            if key in checkpoint:
                checkpoint[key] = {f"{prefix}{tensor}": value for tensor, value in checkpoint[key].items()}

    recorded = np.load(CHECKPOINTS / f"{name}.npz")
    actions = load_policy(save_altered(tmp_path, wrap, name), 31, 8)(torch.from_numpy(recorded["obs"]))
    np.testing.assert_allclose(actions.numpy(), recorded["actions"], rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("iteration", [7, 7.0, np.int64(7), np.float32(7), torch.tensor(7)])
def test_plain_numbers_load(tmp_path: Path, iteration: Any) -> None:
    infos = {"reward": np.float64(1.5), "ok": np.bool_(True), "steps": 3}
    path = save_altered(tmp_path, lambda checkpoint: checkpoint.update(iter=iteration, infos=infos))
    assert load_policy(path, 31, 8).iteration == 7


@pytest.mark.parametrize("iteration", [None, float("nan"), "seven"])
def test_checkpoint_without_a_usable_count_loads(tmp_path: Path, iteration: Any) -> None:
    path = save_altered(tmp_path, lambda checkpoint: checkpoint.update(iter=iteration, infos=np.uint64(3)))
    assert load_policy(path, 31, 8).iteration is None


@pytest.mark.parametrize(
    ("key", "shape"),
    [("mlp.2.weight", (8, 15)), ("mlp.2.bias", (7,)), ("mlp.0.weight", (31,)), ("obs_normalizer._mean", (1, 1))],
)
def test_shapes_that_do_not_chain_up_are_refused(tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    def reshape(checkpoint: dict[str, Any]) -> None:
        checkpoint["actor_state_dict"][key] = torch.zeros(shape)

    assert "do not chain up" in refusal(save_altered(tmp_path, reshape, "rsl_rl_5.5.1_normalized"))


def test_missing_layer_is_refused(tmp_path: Path) -> None:
    path = save_altered(tmp_path, lambda c: c["actor_state_dict"].pop("mlp.2.bias"))
    assert "do not chain up" in refusal(path)


@pytest.mark.parametrize("key", ["mlp.2.weight", "obs_normalizer._std"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, key: str, value: float) -> None:
    def spoil(checkpoint: dict[str, Any]) -> None:
        checkpoint["actor_state_dict"][key][0, 3] = value

    message = refusal(save_altered(tmp_path, spoil, "rsl_rl_5.5.1_normalized"))
    assert key.split(".", 1)[1] in message
    assert "NaN or infinity" in message
