"""How far a simulation drifts from recorded episodes, and how far pictures filmed now are from recorded ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch

from simulators import CameraEnv, Sample
from vpl.compare import fit, side_by_side
from vpl.motion import Recorded, batch, variations
from vpl.reader import load_episode


def report_drift(env: CameraEnv, by_round: Iterable[tuple[int, list[Recorded]]]) -> None:
    """Simulate from each episode's first state with its actions; print how far its states are from the simulation's."""
    print(f"{'episode':<14}{'steps':>6}{'exact':>7}{'joints':>12}{'measured':>12}{'first at':>10}")
    exact = count = 0
    for _, episodes in by_round:
        drifts = {episode.name: np.zeros((len(episode), 3)) for episode in episodes}
        for step, sample in simulate(env, episodes):
            for episode in episodes:
                if step < len(episode):
                    drifts[episode.name][step] = drift(episode, step, sample)
        for episode in episodes:
            differs, joints, measured = drifts[episode.name].T
            metric = str(episode.attrs.get("success_metric", ""))
            unit = env.columns[metric].unit if metric in env.columns else ""
            first, word = (str(int(np.argmax(differs))), "no") if differs.any() else ("-", "yes")
            print(f"{episode.name:<14}{len(episode):>6}{word:>7}{joints.max():>8.1e} rad", end="")
            print(f"{measured.max():>10.1e} {unit:<1}{first:>10}")
            exact, count = exact + (not differs.any()), count + 1
    print(f"\n{exact} of {count} episodes came out exactly as they were recorded")


def simulate(env: CameraEnv, episodes: list[Recorded], streams: tuple[str, ...] = ()) -> Iterator[tuple[int, Sample]]:
    """Each step and its sample, of a simulation that starts from the first states and takes the recorded actions."""
    env.reset(0)
    env.set_state(batch(episodes, 0, env.num_envs)["sim_state"], variations(episodes, env.num_envs))
    for step in range(max(map(len, episodes))):
        yield step, env.capture(streams)
        rows = batch(episodes, step, env.num_envs)
        env.step(torch.as_tensor(rows.get("action_executed", rows["action"]), device=env.device))


def drift(episode: Recorded, step: int, sample: Sample) -> tuple[float, float, float]:
    """Whether the whole state differs (0 or 1), by how much the joints (rad), what success is measured by."""
    rows, env = episode.rows, episode.env
    joints = float(np.abs(sample["joint_pos"][env] - rows["joint_pos"][step]).max())
    measured, metric = 0.0, episode.attrs.get("success_metric")
    if metric and metric in sample.columns:
        measured = float(abs(sample[metric][env] - rows[metric][step]))
    return float((sample["sim_state"][env] != rows["sim_state"][step]).any()), joints, measured


def compare(
    env: CameraEnv, folder: Path, episode: Recorded, info: Sequence[dict[str, Any]] | None, output: Path
) -> None:
    """Write a video: what was recorded, what is filmed now, and below them how far pictures or joints differ.

    Its states are filmed in the scene of `info`; None: its actions are run.
    """
    mode = "actions" if info is None else "states"
    interval = episode.attrs["video_interval"]
    with load_episode(folder) as file:
        recorded = file["color"][:]
    filmed, errors = [], []
    if info is None:
        for step, sample in simulate(env, [episode], ("color",)):
            if step % interval == 0:
                filmed.append(sample["color"][0])
                errors.append(drift(episode, step, sample)[1])
    else:
        for row, before in enumerate(recorded):
            env.set_state(episode.rows["sim_state"][row * interval][None], info)
            filmed.append(env.capture(["color"])["color"][0])
            pairs = zip(filmed[-1], before, strict=False)
            errors.append(float(np.mean([np.abs(fit(b, a).astype(float) - a).mean() for a, b in pairs])))
    unit = "rad" if info is None else "levels of 255"
    frames = [side_by_side(recorded[row], filmed[row], np.array(errors), row) for row in range(len(recorded))]
    iio.imwrite(output, np.stack(frames), plugin="pyav", codec="libx264", fps=float(episode.attrs["fps"]))
    print(f"{output}: recorded left, {mode} replayed right; largest error {max(errors):.2g} {unit}")
