"""Drive a simulator from recorded episodes: film their states again, or run their actions and see how far they drift.

    python replay_episode.py vpl_tiled/NAME --width 640 --height 480             a new dataset of the same motion
    python replay_episode.py vpl_tiled/NAME --randomize looks,light --copies 3    in three other rooms each
    python replay_episode.py vpl_tiled/NAME/episode_003 --mode actions        how far they drift from the states
    python replay_episode.py vpl_tiled/NAME/episode_003 --compare new.mp4     both pictures and their error

States are what was recorded, so collect once and film many times: other sizes, cameras, light. On MuJoCo both modes
are exact on the machine that recorded. In Isaac Lab states come out right, their pictures nearly (RTX is not
deterministic), and actions drift: PhysX keeps contacts and a solver's warm start that no state holds.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from checks.drift import compare, report_drift
from flags import FlagError, as_flag_error, converted, exit_code, flag, parse, positional
from flags.cameras import CameraFlags
from flags.collect import check_at_least_1, check_seed_and_device
from flags.isaac import abilities
from flags.recorded import arguments, camera_rows, dataset_name, jsonable, versions
from flags.variation import kinds_of
from simulators import SIMULATORS, CameraEnv, SimulatorCfg, SimulatorError, load, options, resolve
from simulators.cameras import CameraCfg
from simulators.isaac.options import RENDERERS
from simulators.recorded import with_executed
from simulators.seeds import copy_seed
from simulators.variation import KINDS, VariationCfg
from vpl.episode import DatasetCfg, SaverError
from vpl.files import StopSignal, at_free_name, run
from vpl.listing import damage, read_metadata, without_damaged
from vpl.motion import Recorded, batch, rounds, variations
from vpl.round import said_of
from vpl.variation import variation_of
from vpl_dataset import Episode, episode_folders, load_episode
from vpl_saver import VPLSaver

CAMERA_FLAGS = [field.name for field in fields(CameraFlags)]
FROM_STATE = ("success", "extrinsics")
"""Columns that are not taken from the recording: the first is not in one of version 1."""
DRAWN_ANEW = ("looks", "light", "camera", "distractors")
"""Kinds of variation that do not change the motion."""
OF_PLACE = ("env_spacing", "isaac_physics", "isaac_renderer")
"""Flags of Isaac Lab that are as they were recorded."""
KEPT = ("checkpoint", "not_recorded", "conventions", "runs", "sources")
"""What a filmed dataset's metadata.json takes over: where the motion comes from."""


@dataclass(frozen=True, kw_only=True)
class ReplayFlags(CameraFlags):
    """What can be told; cameras are the recorded ones where nothing is given."""

    path: Path = positional("a dataset, or one episode of it")
    mode: str = flag("states", "what drives", choices=("states", "actions"))
    compare: Path | None = flag(None, "write this video of one episode, no dataset", metavar="MP4")
    data_root: Path = flag(Path("vpl_tiled"), "folder that gets the new dataset", metavar="FOLDER")
    light: float = flag(1.0, "brightness, a multiple of the scene's own")
    randomize: str = flag("none", f"what is drawn anew: some of {','.join(DRAWN_ANEW)}", metavar="KINDS")
    copies: int = flag(1, "how often each episode is filmed, each time with other draws")
    simulator: str | None = flag(None, "what simulates", choices=tuple(SIMULATORS), default_says="the recorded one")
    device: str | None = flag(None, "torch device", default_says="cpu with mujoco, else cuda:0")


@dataclass(frozen=True)
class Job:
    """What is to be replayed, and by what."""

    flags: ReplayFlags
    """With the simulator and its device chosen."""
    simulator: str
    cameras: tuple[CameraCfg, ...]
    metadata: dict[str, Any]
    """The recorded dataset's."""
    folders: list[Path]
    """The episodes that can be read."""
    all_whole: bool
    single: bool
    """Whether one episode alone was asked for."""
    kinds: tuple[str, ...]
    """What varies, as it was recorded or drawn anew."""

    @property
    def num_envs(self) -> int:
        """Envs to drive."""
        return 1 if self.single else self.metadata["arguments"]["num_envs"]

    @property
    def recorded(self) -> dict[str, Any]:
        """The flags that the dataset was collected with."""
        return self.metadata["arguments"]


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: replay(prepare(argv)), SaverError, SimulatorError)


def replay(job: Job) -> int:
    """Do what the flags say; returns the exit code."""
    with load(job.simulator, simulator_cfg(job)) as env:
        check_states(env, job)
        if job.flags.compare:
            ((number, (episode,)),) = rounds(job.folders, job.single)
            info = scenes(env, job, number, [episode], copy=0) if job.flags.mode == "states" else None
            compare(env, job.folders[0], episode, info, job.flags.compare)
        elif job.flags.mode == "actions":
            report_drift(env, rounds(job.folders, job.single))
        elif code := film(env, job):
            return code
    return int(not job.all_whole)


def simulator_cfg(job: Job) -> SimulatorCfg:
    """As recorded, but for cameras and light; no cameras where nothing is filmed."""
    flags = job.flags
    filmed = flags.compare is not None or flags.mode == "states"
    drawn = {"samples_per_pixel": flags.samples_per_pixel, "shadows": flags.shadows}
    return SimulatorCfg(
        task=job.metadata["task"],
        num_envs=job.num_envs,
        cameras=job.cameras if filmed else (),
        seed=job.recorded["seed"],
        device=str(flags.device),
        light=flags.light,
        variation=VariationCfg(job.kinds),
        options=options(job.simulator, {**drawn, **{k: v for k, v in job.recorded.items() if k in OF_PLACE}}),
    )


def check_states(env: CameraEnv, job: Job) -> None:
    """Refuse recorded episodes whose columns mean something else here; say where that was not recorded.

    Raises:
        FlagError: an episode is another scene's or another robot's.
    """
    ours = {
        "columns of sim_state": f"{env.state_spec} ({env.get_state().shape[1]})",
        "joints": ", ".join(env.columns["joint_pos"].names),
        "observations": str(list(env.obs_terms)),
        "actions": str(env.num_actions),
        "physics of the scene": env.scene[:12],
    }
    unknown = 0
    for folder in job.folders:
        with load_episode(folder) as episode:
            recorded = meaning(episode)
        unknown += env.scene != "" and "physics of the scene" not in recorded
        for name, value in recorded.items():
            if value != ours[name]:
                raise FlagError(
                    f"{folder}: its {name} are {value}, but {ours[name]} with --simulator {job.simulator}; "
                    f"replay it with --simulator {job.metadata['simulator']} and the versions in its metadata.json"
                )
    if unknown:
        count = f"{unknown} of {len(job.folders)} episodes"
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


def film(env: CameraEnv, job: Job) -> int:
    """Write a dataset with the recorded motion and new pictures; returns the exit code."""
    stop = StopSignal("ended episodes are being published")
    start = time.monotonic()
    with open_saver(env, job) as saver:
        stop.hurry = saver.give_up
        print(f"dataset     {saver.cfg.root}", flush=True)
        for round_index, episodes in rounds(job.folders, job.single):
            for copy in range(job.flags.copies):
                info = scenes(env, job, round_index, episodes, copy)
                if not film_round(env, saver, round_index * job.flags.copies + copy, episodes, info, stop):
                    return 128 + stop.number
    frames = len(saver.cfg.camera_names) * saver.episodes.num_frames
    seconds = time.monotonic() - start
    print(f"filmed      {len(saver.episodes)} episodes, cameras {', '.join(saver.cfg.camera_names)}")
    print(f"took        {seconds:.1f} s: {frames / seconds:.0f} frames/s")
    for row in saver.dropped:
        print(said_of(row), file=sys.stderr)
    return 1 if saver.dropped else 0


def scenes(env: CameraEnv, job: Job, round_index: int, episodes: list[Recorded], copy: int) -> list[dict[str, Any]]:
    """What each env's episode looks like in this copy: as it was recorded, but for what is drawn anew."""
    recorded = [{k: v for k, v in drawn.items() if k in job.kinds} for drawn in variations(episodes, env.num_envs)]
    anew = kinds_of(job.flags.randomize)
    drawn = env.draw_variation(copy_seed(job.recorded["seed"], round_index, copy)) if anew else recorded
    return [old | {kind: new[kind] for kind in anew} for old, new in zip(recorded, drawn, strict=True)]


def film_round(
    env: CameraEnv,
    saver: VPLSaver,
    round_index: int,
    episodes: list[Recorded],
    info: list[dict[str, Any]],
    stop: StopSignal,
) -> bool:
    """Film recorded episodes in the scenes of `info` as round `round_index`; False: it was stopped."""
    recording = np.zeros(env.num_envs, bool)
    recording[[episode.env for episode in episodes]] = True
    env.set_state(batch(episodes, 0, env.num_envs)["sim_state"], info)
    saver.begin_round(round_index, info, env.intrinsics())
    for step in range(max(map(len, episodes))):
        if stop.number:
            return False
        rows = batch(episodes, step, env.num_envs)
        env.set_state(rows["sim_state"])
        sample = env.capture(saver.cfg.streams if saver.wants_images(step) else ())
        anew = {name: sample[name] for name in FROM_STATE if name in saver.cfg.columns}
        columns = {name: anew[name] if name in anew else rows[name] for name in saver.cfg.columns}
        saver.store(columns, sample.images, recording)
        ended = [episode for episode in episodes if len(episode) == step + 1]
        if ended:
            recording = end(saver, ended, recording)
    return True


def end(saver: VPLSaver, episodes: list[Recorded], recording: np.ndarray) -> np.ndarray:
    """Publish episodes as they ended when they were recorded; returns who still records."""
    ended, terminated = np.zeros_like(recording), np.zeros_like(recording)
    ended[[episode.env for episode in episodes]] = True
    terminated[[episode.env for episode in episodes if episode.attrs["terminated"]]] = True
    saver.end_episodes(ended, terminated, ended & ~terminated)
    return recording & ~ended  # a new array: the saver keeps the old one


def open_saver(env: CameraEnv, job: Job) -> VPLSaver:
    """The saver of the new dataset, which is named as the recorded one is."""
    name = dataset_name(job.metadata["task"], job.recorded["sim_or_real"], job.recorded["robot_name"])
    return at_free_name(job.flags.data_root, name, lambda root: VPLSaver(dataset_cfg(env, job, root)))


def dataset_cfg(env: CameraEnv, job: Job, root: Path) -> DatasetCfg:
    """The description of the new dataset in the folder `root`: the recorded one's, but for its pictures."""
    flags, metadata = job.flags, job.metadata
    drawn = {name: value for name, value in arguments(flags).items() if name in CAMERA_FLAGS}
    recorded = job.recorded | drawn | {"num_envs": job.num_envs}
    kept = {key: metadata[key] for key in KEPT if key in metadata}
    with load_episode(job.folders[0]) as first:
        instruction, known = first.attrs["language_instruction"], {*first.declared, *FROM_STATE}
    return DatasetCfg(
        root=root,
        task=metadata["task"],
        simulator=job.simulator,
        num_envs=job.num_envs,
        steps=recorded["steps"],
        step_dt=env.step_dt,
        width=flags.width,
        height=flags.height,
        camera_names=tuple(camera.name for camera in job.cameras),
        intrinsics=np.stack([camera.intrinsics for camera in job.cameras]),
        columns={name: column for name, column in with_executed(env.columns).items() if name in known},
        streams={name: env.streams[name] for name in flags.stream_names()},
        obs_terms=env.obs_terms,
        state_spec=env.state_spec,
        scene=env.scene,
        seed=recorded["seed"],
        success_rule=env.task.success_rule,
        language_instruction=instruction,
        video_interval=recorded["video_interval"],
        fps=recorded["fps"],
        only_success=recorded["only_success"],
        compress=recorded["compress"] == "gzip",
        episode_attrs=dict(own_attrs(folder, job, copy) for folder in job.folders for copy in range(flags.copies)),
        metadata={
            **kept,
            "arguments": recorded,
            "versions": versions(env),
            "cameras": camera_rows(job.cameras),
            "replayed": {"from": str(flags.path), "light": flags.light, "versions": metadata["versions"]},
        },
    )


def own_attrs(folder: Path, job: Job, copy: int) -> tuple[int, dict[str, Any]]:
    """The index that a copy of an episode gets, and those of its attributes that need not be its dataset's."""
    with load_episode(folder) as episode:
        attrs = episode.attrs
    number, env = (attrs["episode_index"], 0) if job.single else (attrs["round"], attrs["env_index"])
    index = (number * job.flags.copies + copy) * job.num_envs + env
    return index, {key: value for key, value in attrs.items() if key in ("seed", "source", "run")}


def prepare(argv: list[str] | None) -> Job:
    """Parse and refuse; cameras that are not given are as they were recorded.

    Raises:
        FlagError: there is nothing to replay, or a flag that cannot be.
    """
    flags = parse(ReplayFlags, argv, __doc__)
    folders, metadata = find_episodes(flags.path)
    single = flags.path in folders
    if single and (damaged := damage(flags.path)):
        raise FlagError(damaged)
    whole = without_damaged(folders)
    if not whole:
        raise FlagError(f"{flags.path} has no episode that can be read")
    recorded = converted(CameraFlags, metadata["arguments"])
    if (flags.simulator or metadata["simulator"]) != "mujoco_warp":  # what others cannot draw is not asked of them
        recorded = {name: value for name, value in recorded.items() if name not in ("samples_per_pixel", "shadows")}
    flags = parse(ReplayFlags, argv, __doc__, recorded=recorded)
    if flags.compare and (not single or flags.compare.exists()):
        wrong = "exists already" if flags.compare.exists() else "name one episode"
        raise FlagError(f"--compare {flags.compare}: {wrong}")
    if not 0.05 <= flags.light <= 10:
        raise FlagError(f"--light must be from 0.05 to 10, got {flags.light}")
    with as_flag_error(ValueError):
        simulator = resolve(flags.simulator or metadata["simulator"])
    able = abilities(simulator, metadata["task"], metadata["arguments"].get("isaac_renderer", RENDERERS[0]))
    flags = replace(flags, simulator=simulator, device=flags.device or able.device)
    check_seed_and_device(metadata["arguments"]["seed"], simulator, str(flags.device))
    flags.check(able)
    check_at_least_1(flags, "copies")
    kinds = kinds_to_film(flags, metadata, whole)
    return Job(flags, simulator, flags.cameras(), metadata, whole, len(whole) == len(folders), single, kinds)


def kinds_to_film(flags: ReplayFlags, metadata: dict[str, Any], folders: list[Path]) -> tuple[str, ...]:
    """What varies: what was recorded and what is drawn anew; recorded places of cameras only where none is given.

    Raises:
        FlagError: a kind that decides about the motion is to be drawn anew.
    """
    anew = kinds_of(flags.randomize)
    if wrong := [kind for kind in anew if kind not in DRAWN_ANEW]:
        raise FlagError(f"--randomize {flags.randomize}: {wrong[0]} is part of the motion; give {','.join(DRAWN_ANEW)}")
    if flags.copies > 1 and not anew:
        raise FlagError(f"--copies {flags.copies} of the same picture; give --randomize {','.join(DRAWN_ANEW)}")
    recorded = recorded_kinds(folders)
    if jsonable(camera_rows(flags.cameras())) != metadata.get("cameras"):
        recorded.discard("camera")
    return tuple(kind for kind in KINDS if kind in recorded or kind in anew)


def recorded_kinds(folders: list[Path]) -> set[str]:
    """What was drawn for any of these episodes."""
    kinds: set[str] = set()
    for folder in folders:
        with load_episode(folder) as episode:
            kinds |= variation_of(episode.h5).keys()
    return kinds


def find_episodes(path: Path) -> tuple[list[Path], dict[str, Any]]:
    """The episodes of a dataset, or the one at `path`, and the dataset's metadata.json.

    Raises:
        FlagError: there is none.
    """
    single = path.name.startswith("episode_")
    folders = [path] if single else episode_folders(path)
    root = path.parent if single else path
    if single and root.name == "failed" and not (root / "metadata.json").is_file():
        root = root.parent
    if not folders or not (root / "metadata.json").is_file():
        raise FlagError(
            f"{path} is no dataset and no episode of one: there is no metadata.json; give a folder such as "
            "vpl_tiled/NAME/episode_000"
        )
    with as_flag_error(ValueError):
        return folders, read_metadata(root)


if __name__ == "__main__":
    run(main)
