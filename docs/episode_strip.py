"""Draw an episode as a strip: a row a camera, time from left to right. Made the README's picture.

python docs/episode_strip.py data/NAME/episode_003 docs/episode.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from vpl_dataset import load_episode


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("episode", type=Path, help="folder of an episode")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--columns", type=int, default=5, help="instants shown")
    args = parser.parse_args(argv)
    with load_episode(args.episode) as episode:
        rows = np.linspace(0, len(episode["color"]) - 1, args.columns).round().astype(int)
        columns = [np.vstack(list(episode["color"][row])) for row in rows]
    iio.imwrite(args.picture, np.hstack(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
