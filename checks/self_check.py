"""Proves on the user's own machine, through the seam alone, what the project promises of pictures, states and policy.

    checks = self_check(env, policy, Path("self_check.png"))
    print(table(checks))

Takes some 600 control steps and 90 pictures of every camera. It leaves the env in some state: reset it afterwards.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from checks.calibration import (
    CHANGED,
    GRIPPER_STEPS,
    MIN_PIXELS,
    OPEN_M,
    POSES,
    SEED,
    TURN,
    hold,
    levels,
    mirror_ratio,
    off_px,
    project,
    still,
    swing,
)
from simulators import CameraEnv, Sample
from simulators.cameras import CameraCfg
from vpl.video import VideoEncoder, write_mp4

NO_RT_CORES = Path(__file__).with_name("gpus_without_rt_cores.txt")
"""Patterns of the names of GPUs that cannot trace rays in hardware, which Isaac Sim's renderer asks for."""
TRIAL_STEPS = 120  # the shipped policy succeeds within 60
FILM_FRAMES, FILM_INTERVAL = 30, 2  # in steps: 1 s, in which the shipped policy succeeds
SHEET_COLUMNS = 6
CROSS_RGB = (255, 0, 200)
MIN_PSNR_DB = 30.0  # quantizer 19 gives 36 at 160 x 120, more at larger sizes
MIN_BRIGHTNESS, MIN_CONTRAST = 5.0, 2.0
"""Mean and standard deviation of a picture, in levels of 255."""
MOVING_RAD_S = 0.5  # a joint this fast moves the hand by a quarter of a pixel and more from frame to frame
MAX_REPEATED = 0.1
MAX_STALE = 0.2  # 0.08 with noise of 3 levels, 1 for a picture that is late


@dataclass(frozen=True)
class Check:
    """One line of the self-check."""

    name: str
    passed: bool
    figure: str
    """What was measured, and its limit."""
    remedy: str
    """What to do if it failed."""
    judged: bool = True
    """False: there was nothing to measure; it did not fail, and proves nothing."""


Drive = Callable[[torch.Tensor], torch.Tensor]
"""Observations (N, O) to actions (N, A)."""


@torch.no_grad()
def self_check(env: CameraEnv, policy: torch.nn.Module, picture: Path) -> list[Check]:
    """Check renderer, encoder, checkpoint and cameras, and write a contact sheet.

    Args:
        env: with one camera or more, and some 2 to 8 envs.
        policy: with `num_obs` and `num_actions` as `CheckpointPolicy` has them; where it does not fit the env, zero
            actions drive the other checks.
        picture: gets a PNG of (C * H, SHEET_COLUMNS * W) px: env 0 along the policy's run, each camera a row, a cross
            at the projected tool centre point.
    """
    checkpoint, drive = _check_checkpoint(env, policy)
    film = _film(env, drive)
    iio.imwrite(picture, _contact_sheet(env.cameras, film))
    encoder = _check_encoder(film, Fraction(1 / env.step_dt).limit_denominator(1001))
    lag = _check_lag(env, drive)
    return [_check_renderer(env), encoder, checkpoint, lag, *_check_calibration(env), _check_pictures(env, film)]


def table(checks: list[Check]) -> str:
    """One line a check, and what to do below those that failed."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = ("ok" if check.judged else "?") if check.passed else "FAIL"
        lines.append(f"{mark:<4}  {check.name:<{width}}  {check.figure}")
        lines += [] if check.passed else [f"{'':<{width + 8}}-> {check.remedy}"]
    return "\n".join(lines)


def _check_renderer(env: CameraEnv) -> Check:
    about = env.describe()
    figure = ", ".join(f"{key} {value}" for key, value in about.items())
    passed = about["simulator"] != "isaac" or about.get("renderer") == "newton_warp" or has_rt_cores(about["gpu"])
    return Check("renderer", passed, figure, "Isaac Sim needs a GPU with RT cores: use --simulator mujoco")


def has_rt_cores(gpu: str) -> bool:
    """Whether the GPU of this name has RT cores; a name that nobody has heard of counts as one that has."""
    return not re.search(rf"\b(?:{'|'.join(NO_RT_CORES.read_text().splitlines())})\b", gpu)


def _check_encoder(film: list[Sample], fps: Fraction) -> Check:
    """Encode env 0's pictures, one camera after the other, and decode them."""
    clip = np.ascontiguousarray(np.concatenate([sample["color"][0] for sample in film]))
    num_frames, height, width, _ = clip.shape
    encoder = VideoEncoder(width, height, fps, VideoReformatter())
    with tempfile.TemporaryDirectory() as folder:
        packets, mp4 = Path(folder) / "clip.h264", Path(folder) / "clip.mp4"
        packets.write_bytes(b"".join(encoder.encode(image) for image in clip))
        write_mp4(packets, mp4, fps)
        video = iio.imread(mp4, plugin="pyav")
    error = np.square(np.float32(video) - clip[: len(video)]).mean(axis=(1, 2, 3)).max()
    psnr_db = 10 * np.log10(255**2 / max(error, 1e-3))
    figure = f"{len(video)} of {num_frames} frames decoded, {psnr_db:.0f} dB (above {MIN_PSNR_DB:.0f})"
    remedy = "install PyAV from its wheel, which brings libx264: pip install -U av"
    return Check("encoder", len(video) == num_frames and bool(psnr_db > MIN_PSNR_DB), figure, remedy)


def _check_checkpoint(env: CameraEnv, policy: torch.nn.Module) -> tuple[Check, Drive]:
    """Also returns what drives the other checks."""

    def zero(obs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(env.num_envs, env.num_actions, device=env.device)

    obs = env.reset(SEED)["policy"]
    has, needs = (policy.num_obs, policy.num_actions), (obs.shape[1], env.num_actions)
    figure, remedy = f"{has[0]} observations, {has[1]} actions", f"give a --checkpoint trained on {env.cfg.task}"
    if has != needs:
        return Check("checkpoint", False, f"{figure}; the task has {needs[0]} and {needs[1]}", remedy), zero
    measured, succeeded = "success" in env.columns, torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
    for step in range(TRIAL_STEPS):
        action = policy(obs)
        if not action.isfinite().all():
            return Check("checkpoint", False, f"{figure}; not finite at step {step}", remedy), zero
        observed, _, _, extras = env.step(action)
        if extras["diverged"].any():
            return Check("checkpoint", False, f"{figure}; the simulation diverged at step {step}", remedy), zero
        obs = observed["policy"]
        succeeded |= env.succeeded() if measured else False
    if not measured:
        return Check("checkpoint", True, f"{figure}, finite; the task has no measure of success", remedy), policy
    figure += f"; {int(succeeded.sum())} of {env.num_envs} envs succeeded in {TRIAL_STEPS} steps (at least 1)"
    return Check("checkpoint", bool(succeeded.any()), figure, remedy), policy


def _check_lag(env: CameraEnv, drive: Drive) -> Check:
    """A state that is set anew, and those of the steps that follow, show in the very next picture."""
    env.reset(SEED)
    _run(env, drive, 10)
    state, before = env.get_state(), levels(still(env))
    _run(env, drive, 20)
    moved = levels(still(env))
    env.set_state(state)
    stale = [_stale(levels(env.capture(["color"])), before, moved)]
    for _ in range(5):
        _run(env, drive, 3)
        at_once, settled = levels(env.capture(["color"])), levels(still(env))
        stale.append(_stale(at_once, settled, before))
        before = settled
    motionless = np.isnan(stale[0])
    frozen = motionless & ~_is_blank(moved)
    worst = np.nanmax([*stale, np.zeros_like(stale[0])])
    passed = worst <= MAX_STALE and not frozen.any() and not motionless.all()
    figure = f"{worst:.0%} of a motion is missing in the next picture (at most {MAX_STALE:.0%})"
    figure += _named(env, motionless, "shows no motion")
    return Check("lag", bool(passed), figure, "pictures come late or stand still: raise --rerenders (Isaac)")


def _check_calibration(env: CameraEnv) -> list[Check]:
    names = [f"calibration {camera.name}" for camera in env.cameras]
    if env.num_actions != 8 or "ee_position" not in env.columns:
        return [Check(name, True, "not judged: it takes a Franka arm with a gripper", "", False) for name in names]
    swings = [swing(env, pose) for pose in POSES]
    straight = still(env)
    hold(env, POSES[-1] + TURN, OPEN_M, GRIPPER_STEPS)
    turned = still(env)
    return [_calibration(env, c, name, swings, straight, turned) for c, name in enumerate(names)]


def _calibration(
    env: CameraEnv, c: int, name: str, swings: list[tuple[Sample, np.ndarray]], straight: Sample, turned: Sample
) -> Check:
    """Fingers that move are where they project to; what a wrist camera sees turns as it should."""
    camera, envs = env.cameras[c], range(env.num_envs)
    measured = np.array([[off_px(camera, c, i, *swing) for i in envs] for swing in swings])
    off, limit = measured[..., 0], measured[..., 1].min()  # (pose, env)
    mirror = np.array([mirror_ratio(camera, c, i, straight, turned) for i in envs])
    seen = ~np.isnan(off)
    worst = " and ".join(f"{row[ok].max():.1f}" for row, ok in zip(off, seen, strict=True) if ok.any())
    figure = f"fingers {worst} px off their projection (at most {limit:.1f})" if worst else "not judged"
    if not np.isnan(mirror).all():
        figure += f"; turning leaves {np.nanmax(mirror):.2f} of a mirror image's error (below 1)"
    if not seen.any(axis=0).all():
        figure += f"; no moving fingers seen in {_listed(~seen.any(axis=0))}"
    passed = not (off > limit).any() and not (mirror >= 1).any()
    remedy = "the camera stands, looks, zooms or mirrors otherwise than extrinsics and intrinsics say: do not use them"
    return Check(name, passed, figure, remedy, judged=bool(seen.any()))


def _check_pictures(env: CameraEnv, film: list[Sample]) -> Check:
    brightness = np.min([sample["color"].mean(axis=(2, 3, 4)) for sample in film], axis=0)
    contrast = np.min([sample["color"].std(axis=(2, 3, 4)) for sample in film], axis=0)
    moving = np.array([(np.abs(sample["joint_vel"]).max(axis=1) > MOVING_RAD_S) for sample in film[1:]])[..., None]
    equal = np.array([(a["color"] == b["color"]).all(axis=(2, 3, 4)) for a, b in pairwise(film)])
    repeated = (equal & moving).sum(axis=0) / np.maximum(moving.sum(axis=0), 1)
    black, flat, repeats = brightness < MIN_BRIGHTNESS, contrast < MIN_CONTRAST, repeated > MAX_REPEATED
    figure = (
        f"mean {brightness.min():.0f} (at least {MIN_BRIGHTNESS:.0f}), deviation {contrast.min():.0f} (at least "
        f"{MIN_CONTRAST:.0f}), {repeated.max():.0%} of a moving arm's repeated (at most {MAX_REPEATED:.0%})"
        + _named(env, black, "black")
        + _named(env, flat & ~black, "flat")
        + _named(env, repeats & ~flat, "repeats")
    )
    remedy = "see the contact sheet: no light, a camera that looks into nothing, or a renderer that skips frames"
    return Check("pictures", not (black | flat | repeats).any(), figure, remedy)


def _film(env: CameraEnv, drive: Drive) -> list[Sample]:
    env.reset(SEED)
    still(env)
    film = []
    for _ in range(FILM_FRAMES):
        film.append(env.capture(["color"]))
        _run(env, drive, FILM_INTERVAL)
    return film


def _contact_sheet(cameras: tuple[CameraCfg, ...], film: list[Sample]) -> np.ndarray:
    """(C * H, SHEET_COLUMNS * W, 3) uint8."""
    columns = []
    for t in np.linspace(0, len(film) - 1, SHEET_COLUMNS).astype(int):
        sample, images = film[t], film[t]["color"][0].copy()
        for c, camera in enumerate(cameras if "ee_position" in sample.columns else ()):
            px, depth = project(camera, sample["extrinsics"][0, c], sample["ee_position"][:1])
            x, y = px[0].astype(int)
            if depth[0] > 0 and 0 <= x < camera.width and 0 <= y < camera.height:
                r = 2 + camera.height // 40
                images[c, max(y - r, 0) : y + r + 1, x] = images[c, y, max(x - r, 0) : x + r + 1] = CROSS_RGB
        columns.append(images.reshape(-1, *images.shape[2:]))
    return np.concatenate(columns, axis=1)


def _run(env: CameraEnv, drive: Drive, steps: int) -> None:
    for _ in range(steps):
        env.step(drive(env.get_observations()["policy"]))


def _is_blank(levels: np.ndarray) -> np.ndarray:
    """(N, C) bool."""
    return (levels.mean(axis=(2, 3, 4)) < MIN_BRIGHTNESS) | (levels.std(axis=(2, 3, 4)) < MIN_CONTRAST)


def _named(env: CameraEnv, where: np.ndarray, what: str) -> str:
    """Says of which cameras in which envs, (N, C) bool, `what` is true."""
    columns = [(camera.name, where[:, c]) for c, camera in enumerate(env.cameras) if where[:, c].any()]
    return "".join(f"; {name} in {_listed(column)} {what}" for name, column in columns)


def _listed(envs: np.ndarray) -> str:
    """Envs (N,) bool in words."""
    return f"env {', '.join(map(str, np.flatnonzero(envs)))}"


def _stale(seen: np.ndarray, expected: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far `seen` is from `expected` towards `other`, where these differ: 0 to 1, (N, C); NaN: they do not differ.

    Only the pixels that differ count: noise on all others would outweigh a small arm.
    """
    differ = np.abs(other - expected).max(axis=-1, keepdims=True) > CHANGED
    way = (np.abs(other - expected) * differ).sum(axis=(2, 3, 4), dtype=float)
    error = (np.abs(seen - expected) * differ).sum(axis=(2, 3, 4), dtype=float)
    return np.divide(error, way, out=np.full_like(way, np.nan), where=differ.sum(axis=(2, 3, 4)) >= MIN_PIXELS)
