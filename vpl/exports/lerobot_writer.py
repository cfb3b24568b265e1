"""What of LeRobot differs from release to release, and how it takes recorded videos instead of encoding its own.

Example:
    videos = RecordedVideos({"observation.images.wrist": 1}, folder, Fraction(60))
    writer = create_writer("local/name", folder, 60, "franka", features, videos)
    videos.episode = episode
    writer.save_episode(rows)
    writer.finalize()
"""

from __future__ import annotations

from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vpl.checks.images import STRIDE, check_video
from vpl.reader import Episode
from vpl.stats import FRAMES_PER_EPISODE, spread_rows
from vpl.video import write_mp4

VIDEO_FILE_MB = 8
"""LeRobot writes a video file anew for each episode that it appends; at its default of 200 MB that takes hours for a
thousand episodes. Loaders open smaller files sooner, too."""


class VideoError(ValueError):
    """A recorded video does not show what was recorded, so it cannot be passed on."""


class RecordedVideos:
    """Stands in the place of LeRobot's StreamingVideoEncoder and hands it the recorded videos, in real time."""

    episode: Episode
    """Whose turn it is."""

    def __init__(self, cameras: dict[str, int], folder: Path, fps: Fraction) -> None:
        self._cameras, self._folder, self._fps = cameras, folder, fps

    def finish_episode(self) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
        """By feature a video, in a folder of its own that LeRobot removes, and its pixels' statistics."""
        return {key: (self._video(camera), self._stats(camera)) for key, camera in self._cameras.items()}

    def close(self) -> None:
        """LeRobot's call at the end; nothing is open."""

    def _video(self, camera: int) -> Path:
        self._check_colours(camera)
        path = self._folder / f"tmp_{camera}" / f"{self.episode.folder.name}.mp4"
        path.parent.mkdir()
        write_mp4(self.episode.video(camera), path, self._fps)
        return path

    def _check_colours(self, camera: int) -> None:
        """Refuse what earlier releases recorded at a height of 4 n + 2 px, with displaced colours."""
        color = self.episode["color"]
        if color.shape[2] % 4 != 2:
            return
        images = np.stack([image[::STRIDE, ::STRIDE] for image in color[:, camera]])
        for _, reason in check_video(images, self.episode.video(camera), color.shape[2:4], self.episode.attrs["fps"]):
            folder = self.episode.folder
            raise VideoError(f"{folder.name}: {reason}; film it again: replay_episode.py {folder.parent} --mode states")

    def _stats(self, camera: int) -> dict[str, np.ndarray]:
        from lerobot.datasets.compute_stats import RunningQuantileStats

        color, stats = self.episode["color"], RunningQuantileStats()
        for row in spread_rows(len(color), FRAMES_PER_EPISODE):
            stats.update(color[row, camera][::2, ::2].reshape(-1, 3))
        return stats.get_statistics()


def create_writer(
    repo_id: str, folder: Path, fps: float, robot: str, features: dict[str, Any], videos: RecordedVideos
) -> Any:
    """What writes a LeRobotDataset into the new `folder` by `save_episode(rows)` and `finalize()`."""
    if version("lerobot").startswith("0.4."):
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        dataset = LeRobotDataset.create(
            repo_id, fps=fps, features=features, root=folder, robot_type=robot, vcodec="h264"
        )
        dataset.meta.update_chunk_settings(video_files_size_in_mb=VIDEO_FILE_MB)
        dataset._streaming_encoder = videos  # this release has no parameter for it
        return dataset
    from lerobot.configs import RGBEncoderConfig
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.datasets.dataset_writer import DatasetWriter

    metadata = LeRobotDatasetMetadata.create(repo_id, fps, features, robot_type=robot, root=folder)
    metadata.update_chunk_settings(video_files_size_in_mb=VIDEO_FILE_MB)
    return DatasetWriter(
        metadata,
        folder,
        rgb_encoder=RGBEncoderConfig("h264", g=None, crf=None),  # info.json names them; the recorder chose them
        depth_encoder=None,
        encoder_threads=None,
        batch_encoding_size=1,
        streaming_encoder=videos,
    )
