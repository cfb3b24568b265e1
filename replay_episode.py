"""Drive a simulator from recorded episodes: film their states again, or run their actions and see how far they drift.

    python replay_episode.py data/NAME --mode states --width 640 --height 480      a new dataset of the same motion
    python replay_episode.py data/NAME/episode_003 --mode actions                  how far they drift from the states
    python replay_episode.py data/NAME/episode_003 --compare compare.mp4           both pictures and their error

States are what was recorded, so collect once and film many times: other sizes, cameras, light. On MuJoCo both modes
are exact on the machine that recorded. In Isaac Lab states come out right, their pictures nearly (RTX is not
deterministic), and actions drift: PhysX keeps contacts and a solver's warm start that no state holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch

from flags.collect import (
    WARP_FLAGS,
    add_camera_flags,
    camera_rows,
    cameras,
    check_camera_flags,
    check_seed_and_device,
    versions,
)
from simulators import SIMULATORS, DrawerEnv, Sample, SimulatorCfg, SimulatorError, load, resolve
from vpl.episode import DatasetCfg, SaverError, damage, read_metadata, without_damaged
from vpl.files import StopSignal, at_free_name, run
from vpl.format import LOW_DIM, SCHEMA
from vpl.round import said_of
from vpl_dataset import Episode, episode_folders, load_episode
from vpl_saver import VPLSaver

KEPT = ("checkpoint", "not_recorded", "conventions", "runs", "sources")
"""What a filmed dataset's metadata.json takes over: where the motion comes from."""
CURVE_PX = 90
CURVE_RGB, CURSOR_RGB = (200, 60, 30), (40, 40, 40)


@dataclass(frozen=True)
class Recorded:
    """What an episode's file says at every control step."""

    name: str
    env: int
    attrs: dict[str, Any]
    rows: dict[str, np.ndarray]
    """The columns of LOW_DIM that it has, (T, ...)."""

    def __len__(self) -> int:
        return len(self.rows["sim_state"])


class ForeignStateError(ValueError):
    """A recorded episode is not of the simulator's scene; one line that names it and the remedy."""


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        with load(args.simulator)(simulator_cfg(args)) as env:
            check_states(env, args)
            if args.compare:
                compare(env, args)
            elif args.mode == "actions":
                report_drift(env, args)
            elif code := film(env, args):
                return code
    except ForeignStateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (SaverError, SimulatorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return int(not args.all_whole)


def simulator_cfg(args: argparse.Namespace) -> SimulatorCfg:
    """As recorded, but for cameras and light; no cameras where nothing is filmed."""
    filmed = args.compare is not None or args.mode == "states"
    return SimulatorCfg(
        task=args.metadata["task"], num_envs=args.num_envs, cameras=args.cameras if filmed else (),
        seed=args.metadata["arguments"]["seed"], device=args.device, light=args.light,
        env_spacing=args.metadata["arguments"]["env_spacing"],
        samples_per_pixel=args.samples_per_pixel, shadows=args.shadows,
    )  # fmt: skip


def check_states(env: DrawerEnv, args: argparse.Namespace) -> None:
    """Refuse recorded episodes whose columns mean something else here; say where that was not recorded.

    Raises:
        ForeignStateError: an episode is another scene's or another robot's.
    """
    ours = {
        "columns of sim_state": f"{env.state_spec} ({env.get_state().shape[1]})",
        "joints": ", ".join(env.joint_names),
        "observations": str(list(env.obs_terms)),
        "actions": str(env.num_actions),
        "physics of the scene": env.scene[:12],
    }
    unknown = 0
    for folder in args.folders:
        with load_episode(folder) as episode:
            recorded = meaning(episode)
        unknown += env.scene != "" and "physics of the scene" not in recorded
        for name, value in recorded.items():
            if value != ours[name]:
                raise ForeignStateError(
                    f"{folder}: its {name} are {value}, but {ours[name]} with --simulator {args.simulator}; "
                    f"replay it with --simulator {args.metadata['simulator']} and the versions in its metadata.json"
                )
    if unknown:
        count = f"{unknown} of {len(args.folders)} episodes"
        print(f"note        {count} do not say which scene they are of; it is not checked")


def meaning(episode: Episode) -> dict[str, str]:
    """What an episode's file says of its numbers, as `check_states` compares it."""
    states = episode["sim_state"]
    said = {
        "columns of sim_state": f"{states.attrs.get('spec', 'unknown')} ({states.shape[1]})",
        "joints": ", ".join(episode.element_names("joint_pos")),
        "observations": str(list(json.loads(episode["proprio"].attrs.get("terms", "{}")))),
        "actions": str(episode["action"].shape[1]),
    }
    return said | ({"physics of the scene": states.attrs["scene"][:12]} if "scene" in states.attrs else {})


def film(env: DrawerEnv, args: argparse.Namespace) -> int:
    """Write a dataset with the recorded motion and new pictures; returns the exit code."""
    stop = StopSignal("ended episodes are being published")
    with open_saver(env, args) as saver:
        stop.hurry = saver.give_up
        print(f"dataset     {saver.cfg.root}", flush=True)
        for round_index, episodes in rounds(args):
            recording = np.zeros(env.num_envs, bool)
            recording[[episode.env for episode in episodes]] = True
            saver.begin_round(round_index)
            for step in range(max(map(len, episodes))):
                if stop.number:
                    return 128 + stop.number
                rows = batch(episodes, step, env.num_envs)
                env.set_state(rows["sim_state"])
                sample = env.capture(render=saver.wants_images(step))
                kept: dict[str, Any] = {field.name: rows.get(field.name) for field in fields(Sample)}
                kept |= {"color": sample.color, "extrinsics": sample.extrinsics}
                saver.store(Sample(**kept), rows["action"], rows["joint_pos_target"], rows["reward"], recording)
                ended = [episode for episode in episodes if len(episode) == step + 1]
                if ended:
                    recording = end(saver, ended, recording)
    print(f"filmed      {len(saver.episodes)} episodes, cameras {', '.join(saver.cfg.camera_names)}")
    for row in saver.dropped:
        print(said_of(row), file=sys.stderr)
    return 1 if saver.dropped else 0


def end(saver: VPLSaver, episodes: list[Recorded], recording: np.ndarray) -> np.ndarray:
    """Publish episodes as they ended when they were recorded; returns who still records."""
    ended, terminated = np.zeros_like(recording), np.zeros_like(recording)
    ended[[episode.env for episode in episodes]] = True
    terminated[[episode.env for episode in episodes if episode.attrs["terminated"]]] = True
    saver.end_episodes(ended, terminated, ended & ~terminated)
    return recording & ~ended  # a new array: the saver keeps the old one


def report_drift(env: DrawerEnv, args: argparse.Namespace) -> None:
    """Simulate from each episode's first state with its actions; print how far its states are from the simulation's."""
    print(f"{'episode':<14}{'steps':>6}{'exact':>7}{'joints':>12}{'measured':>12}{'first at':>10}")
    exact = count = 0
    for _, episodes in rounds(args):
        drifts = {episode.name: np.zeros((len(episode), 3)) for episode in episodes}
        for step, sample in simulate(env, episodes):
            for episode in episodes:
                if step < len(episode):
                    drifts[episode.name][step] = drift(episode, step, sample)
        for episode in episodes:
            differs, joints, measured = drifts[episode.name].T
            unit = SCHEMA[episode.attrs["success_metric"]].unit if "success_metric" in episode.attrs else ""
            first, word = (str(int(np.argmax(differs))), "no") if differs.any() else ("-", "yes")
            print(f"{episode.name:<14}{len(episode):>6}{word:>7}{joints.max():>8.1e} rad", end="")
            print(f"{measured.max():>10.1e} {unit:<1}{first:>10}")
            exact, count = exact + (not differs.any()), count + 1
    print(f"\n{exact} of {count} episodes came out exactly as they were recorded")


def simulate(env: DrawerEnv, episodes: list[Recorded], render: bool = False) -> Iterator[tuple[int, Sample]]:
    """Each step and its sample, of a simulation that starts from the first states and takes the recorded actions."""
    env.reset(0)
    env.set_state(batch(episodes, 0, env.num_envs)["sim_state"])
    for step in range(max(map(len, episodes))):
        yield step, env.capture(render=render)
        env.step(torch.as_tensor(batch(episodes, step, env.num_envs)["action"], device=env.device))


def drift(episode: Recorded, step: int, sample: Sample) -> tuple[float, float, float]:
    """Whether the whole state differs (0 or 1), by how much the joints (rad), what success is measured by."""
    rows, env = episode.rows, episode.env
    joints = float(np.abs(sample.joint_pos[env] - rows["joint_pos"][step]).max())
    measured, metric = 0.0, episode.attrs.get("success_metric")
    if metric and getattr(sample, metric) is not None:
        measured = float(abs(getattr(sample, metric)[env] - rows[metric][step]))
    return float((sample.sim_state[env] != rows["sim_state"][step]).any()), joints, measured


def compare(env: DrawerEnv, args: argparse.Namespace) -> None:
    """Write a video: what was recorded, what is filmed now, and below them how far pictures or joints differ."""
    ((_, (episode,)),) = rounds(args)
    interval = episode.attrs["video_interval"]
    with load_episode(args.folders[0]) as file:
        recorded = file["color"][:]
    filmed, errors = [], []
    if args.mode == "actions":
        for step, sample in simulate(env, [episode], render=True):
            if step % interval == 0:
                filmed.append(images(sample)[0])
                errors.append(drift(episode, step, sample)[1])
    else:
        for row, before in enumerate(recorded):
            env.set_state(episode.rows["sim_state"][row * interval][None])
            filmed.append(images(env.capture())[0])
            pairs = zip(filmed[-1], before, strict=False)
            errors.append(float(np.mean([np.abs(fit(b, a).astype(float) - a).mean() for a, b in pairs])))
    unit = "rad" if args.mode == "actions" else "levels of 255"
    frames = [side_by_side(recorded[row], filmed[row], np.array(errors), row) for row in range(len(recorded))]
    iio.imwrite(args.compare, np.stack(frames), plugin="pyav", codec="libx264", fps=float(episode.attrs["fps"]))
    print(f"{args.compare}: recorded left, {args.mode} replayed right; largest error {max(errors):.2g} {unit}")


def images(sample: Sample) -> np.ndarray:
    assert sample.color is not None
    return sample.color


def fit(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`image` in the size of `like`, by its nearest pixels."""
    rows, columns = (np.arange(n) * old // n for n, old in zip(like.shape[:2], image.shape[:2], strict=True))
    return image[rows][:, columns]


def side_by_side(recorded: np.ndarray, filmed: np.ndarray, errors: np.ndarray, row: int) -> np.ndarray:
    """A frame: recorded left, filmed right, a line a camera; at the bottom the errors. (H, W, 3) uint8, even sizes."""
    lines = [np.hstack([fit(old, new), new]) for old, new in zip(recorded, filmed, strict=False)]
    return np.vstack([*lines, curve(errors, row, lines[0].shape[1])])


def curve(errors: np.ndarray, row: int, width: int) -> np.ndarray:
    """The errors over the episode as a line, a cursor at `row`; (CURVE_PX, width, 3) uint8."""
    strip = np.full((CURVE_PX, width, 3), 255, np.uint8)
    top = max(np.nanmax(errors, initial=0), 1e-9)
    x = np.linspace(0, len(errors) - 1, width)
    y = (CURVE_PX - 4 - np.interp(x, np.arange(len(errors)), np.nan_to_num(errors)) / top * (CURVE_PX - 8)).astype(int)
    for column in range(width - 1):
        low, high = sorted((y[column], y[column + 1]))
        strip[low : high + 2, column] = CURVE_RGB
    strip[:, min(width - 1, round(row / max(1, len(errors) - 1) * (width - 1)))] = CURSOR_RGB
    return strip


def rounds(args: argparse.Namespace) -> Iterator[tuple[int, list[Recorded]]]:
    """The recorded episodes, by round; one episode alone is env 0 of a round of its own number."""
    single = args.num_envs == 1 and len(args.folders) == 1
    by_round: dict[int, list[Path]] = {}
    for folder in args.folders:
        with load_episode(folder) as episode:
            key = "episode_index" if single else "round"
            by_round.setdefault(episode.attrs[key], []).append(folder)
    for round_index, folders in sorted(by_round.items()):
        yield round_index, [read(folder, single) for folder in folders]


def read(folder: Path, alone: bool) -> Recorded:
    """An episode's numbers."""
    with load_episode(folder) as episode:
        table = episode.h5.get("full_rate", episode.h5)
        rows = {name: table[name][:] for name in LOW_DIM if name in table}
        return Recorded(folder.name, 0 if alone else episode.attrs["env_index"], episode.attrs, rows)


def batch(episodes: list[Recorded], step: int, num_envs: int) -> dict[str, np.ndarray]:
    """A step of all envs, (N, ...) each: the last row of what has ended, the first episode's where there is none."""
    chosen: list[Recorded] = [episodes[0]] * num_envs
    for episode in episodes:
        chosen[episode.env] = episode
    return {name: np.stack([e.rows[name][min(step, len(e) - 1)] for e in chosen]) for name in episodes[0].rows}


def open_saver(env: DrawerEnv, args: argparse.Namespace) -> VPLSaver:
    """The saver of the new dataset, which is named as the recorded one is."""
    arguments = args.metadata["arguments"]
    task = args.metadata["task"].replace("/", "_")
    name = f"{task}_{arguments['sim_or_real']}_{arguments['robot_name']}"
    return at_free_name(args.data_root, name, lambda root: VPLSaver(dataset_cfg(env, args, root)))


def dataset_cfg(env: DrawerEnv, args: argparse.Namespace, root: Path) -> DatasetCfg:
    """The description of the new dataset in the folder `root`: the recorded one's, but for its pictures."""
    metadata, arguments = args.metadata, args.metadata["arguments"] | args.drawn
    kept = {key: metadata[key] for key in KEPT if key in metadata}
    return DatasetCfg(
        root=root, task=metadata["task"], simulator=args.simulator, num_envs=args.num_envs,
        steps=arguments["steps"], step_dt=env.step_dt, width=args.width, height=args.height,
        camera_names=tuple(camera.name for camera in args.cameras),
        intrinsics=np.stack([camera.intrinsics for camera in args.cameras]), joint_names=env.joint_names,
        obs_terms=env.obs_terms, state_spec=env.state_spec, scene=env.scene, seed=arguments["seed"],
        success_metric=env.task.success_metric, success_threshold=env.task.success_threshold,
        language_instruction=env.task.language_instruction, video_interval=arguments["video_interval"],
        fps=arguments["fps"], only_success=arguments["only_success"], compress=arguments["compress"] == "gzip",
        episode_attrs=dict(map(own_attrs, args.folders)),
        metadata={
            **kept, "arguments": arguments, "versions": versions(env),
            "cameras": camera_rows(args.cameras),
            "replayed": {"from": str(args.path), "light": args.light, "versions": metadata["versions"]},
        },
    )  # fmt: skip


def own_attrs(folder: Path) -> tuple[int, dict[str, Any]]:
    """An episode's index, and those of its attributes that need not be its dataset's."""
    with load_episode(folder) as episode:
        attrs = episode.attrs
    return attrs["episode_index"], {key: value for key, value in attrs.items() if key in ("seed", "source", "run")}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse and refuse; adds `metadata`, `folders`, `num_envs`, `cameras` and `drawn`, the flags that may differ from
    the recorded ones; those of cameras default to them.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        usage=argparse.SUPPRESS,
    )  # fmt: skip
    parser.add_argument("path", type=Path, help="a dataset, or one episode of it")
    parser.add_argument("--mode", choices=("states", "actions"), default="states", help="what drives [states]")
    parser.add_argument("--compare", type=Path, metavar="MP4", help="write this video of one episode, no dataset")
    parser.add_argument("--data_root", type=Path, default=Path("data"), help="folder that gets the new dataset [data]")
    parser.add_argument("--light", type=float, default=1.0, help="brightness, a multiple of the scene's own [1]")
    parser.add_argument("--simulator", default=None, choices=tuple(SIMULATORS), help="[the recorded one]")
    parser.add_argument("--device", default=None, help="torch device [cpu with mujoco, else cuda:0]")
    add_camera_flags(parser)
    known = parser.parse_known_args(argv)[0]
    path = known.path
    folders = [path] if path.name.startswith("episode_") else episode_folders(path)
    root = path.parent if path in folders else path
    if path in folders and root.name == "failed" and not (root / "metadata.json").is_file():
        root = root.parent
    if not folders or not (root / "metadata.json").is_file():
        parser.error(
            f"{path} is no dataset and no episode of one: there is no metadata.json; give data/NAME/episode_000"
        )
    try:
        metadata = read_metadata(root)
    except ValueError as error:
        parser.error(str(error))
    if path in folders and (damaged := damage(path)):
        parser.error(damaged)
    whole = without_damaged(folders)
    if not whole:
        parser.error(f"{path} has no episode that can be read")
    recorded = argparse.ArgumentParser(add_help=False)
    add_camera_flags(recorded)
    names = [action.dest for action in recorded._actions]
    arguments = {name: value for name, value in metadata["arguments"].items() if name in names}
    if (known.simulator or metadata["simulator"]) != "mujoco_warp":  # what others cannot draw is not asked of them
        arguments = {name: value for name, value in arguments.items() if name not in WARP_FLAGS}
    args = parser.parse_args(argv, argparse.Namespace(**arguments))
    args.metadata, args.folders, args.all_whole = metadata, whole, len(whole) == len(folders)
    args.num_envs = 1 if path in folders else metadata["arguments"]["num_envs"]
    if args.compare and (path not in folders or args.compare.exists()):
        parser.error(
            f"--compare {args.compare}: " + ("exists already" if args.compare.exists() else "name one episode")
        )
    if not 0.05 <= args.light <= 10:
        parser.error(f"--light must be from 0.05 to 10, got {args.light}")
    try:
        args.simulator = resolve(args.simulator or metadata["simulator"])
        args.device = args.device or SIMULATORS[args.simulator].device
        args.seed = metadata["arguments"]["seed"]
        check_seed_and_device(parser, args)
        check_camera_flags(parser, args)
        args.cameras = cameras(args)
        args.drawn = {name: getattr(args, name) for name in ("num_envs", *names)}
    except ValueError as error:
        parser.error(str(error))
    return args


if __name__ == "__main__":
    run(main)
