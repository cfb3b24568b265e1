"""Videos show the images, luma and chroma alike, whatever their size, and depend on nothing but the images."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from vpl_video import VideoEncoder, count_frames, write_mp4

BT709 = np.array([(0.2126, 0.7152, 0.0722), (-0.1146, -0.3854, 0.5), (0.5, -0.4542, -0.0458)])
USUAL = [(160, 90), (480, 270), (200, 150), (640, 450), (320, 240), (640, 480)]
HEIGHTS = [(64, height) for height in range(16, 132, 2)]
WIDTHS = [(width, 66) for width in range(16, 132, 2)]


def picture(width: int, height: int, phase: float = 0) -> np.ndarray:
    """Colours that change in both directions, with another phase in each channel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + phase) + np.cos(y / 7), np.sin(y / 8 - phase), np.cos((x + y) / 10 + phase)]
    return (127 + 50 * np.stack(waves, axis=-1)).astype(np.uint8)


def encode(images: list[np.ndarray], mp4: Path) -> Path:
    height, width, _ = images[0].shape
    encoder = VideoEncoder(width, height, Fraction(60), VideoReformatter())
    mp4.with_suffix(".h264").write_bytes(b"".join(map(encoder.encode, images)))
    write_mp4(mp4.with_suffix(".h264"), mp4, Fraction(60))
    return mp4


def planes(image: np.ndarray) -> list[np.ndarray]:
    """Y, Cb and Cr of an RGB image in BT.709's limited range, the chroma of every 2 x 2 pixels."""
    y, cb, cr = np.moveaxis(image @ BT709.T, -1, 0)
    small = [plane.reshape(len(y) // 2, 2, -1, 2).mean(axis=(1, 3)) for plane in (cb, cr)]
    return [16 + y * 219 / 255, *(128 + plane * 224 / 255 for plane in small)]


def decoded_planes(mp4: Path) -> list[np.ndarray]:
    """Y, Cb and Cr of a video's first frame."""
    with av.open(str(mp4)) as container:
        frame = next(container.decode(video=0))
        return [
            np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
            for plane in frame.planes
        ]


@pytest.mark.parametrize(("width", "height"), [*USUAL, *HEIGHTS, *WIDTHS])
def test_luma_and_chroma_are_the_images_at_every_even_size(tmp_path, width, height):
    image = picture(width, height)
    found = decoded_planes(encode([image], tmp_path / "a.mp4"))
    for name, plane, expected in zip(("Y", "Cb", "Cr"), found, planes(image), strict=True):
        assert plane.shape == expected.shape, name
        psnr_db = 10 * np.log10(255**2 / np.square(plane - expected).mean())
        assert psnr_db > 34, f"{name}: {psnr_db:.1f} dB"


def test_videos_that_are_encoded_in_turn_have_the_bytes_that_each_has_alone():
    videos = [[picture(64, 48, phase / step) for phase in range(65)] for step in (5, 3, 2)]
    reformatter = VideoReformatter()
    encoders = [VideoEncoder(64, 48, Fraction(60), reformatter) for _ in videos]
    in_turn = [list(map(VideoEncoder.encode, encoders, images)) for images in zip(*videos, strict=True)]
    for images, packets in zip(videos, zip(*in_turn, strict=True), strict=True):
        alone = VideoEncoder(64, 48, Fraction(60), VideoReformatter())
        assert list(packets) == list(map(alone.encode, images))


def test_every_30th_frame_is_a_key_frame(tmp_path):
    mp4 = encode([picture(64, 48, phase / 5) for phase in range(65)], tmp_path / "a.mp4")
    assert count_frames(mp4) == 65
    with av.open(str(mp4)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == [0, 30, 60]
