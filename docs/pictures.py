"""Draw the README's pictures from a dataset's episodes.

python docs/pictures.py strip docs/episode.png data/NAME/episode_003      a row a camera, time from left to right
python docs/pictures.py film docs/episodes.webp data/NAME/episode_00[0-3] a column an episode, as an animation
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from vpl_dataset import load_episode

INSTANTS = 5
FILM_STEP, FILM_MS = 2, 66
"""Every second row, shown for 66 ms: half speed at 60 rows a second."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("strip", "film"))
    parser.add_argument("picture", type=Path, help="file to write")
    parser.add_argument("episodes", type=Path, nargs="+", help="folders of episodes; strip takes the first")
    args = parser.parse_args(argv)
    if args.kind == "strip":
        columns = stacked(args.episodes[0])
        iio.imwrite(args.picture, np.hstack(columns[np.linspace(0, len(columns) - 1, INSTANTS).round().astype(int)]))
        return 0
    frames = np.concatenate([stacked(episode)[::FILM_STEP] for episode in args.episodes], axis=2)
    count, height, width, _ = frames.shape
    frames = frames.reshape(count, height // 2, 2, width // 2, 2, 3).mean((2, 4)).astype(np.uint8)  # half the size
    frames = np.concatenate([frames, np.repeat(frames[-1:], 12, axis=0)])  # time to see the open drawers
    iio.imwrite(args.picture, frames, duration=FILM_MS, loop=0, quality=80)
    return 0


def stacked(folder: Path) -> np.ndarray:
    """An episode's images, its cameras one above the other: (T, C * H, W, 3) uint8."""
    with load_episode(folder) as episode:
        color = episode["color"][:]
    return color.reshape(len(color), -1, *color.shape[3:])


if __name__ == "__main__":
    sys.exit(main())
