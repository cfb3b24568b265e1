"""H.264 videos, an image at a time: images in, MP4s out.

    encoder = VideoEncoder(320, 240, Fraction(60), VideoReformatter())
    with open("a.h264", "wb") as file: file.writelines(encoder.encode(image) for image in images)
    write_mp4(Path("a.h264"), Path("a.mp4"), Fraction(60))

Every video has an encoder of its own, so its bytes depend on its images only. An encoder takes some 1.2 MB at 320x240
(about five images) and keeps no other frame than the one before.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

BT709 = 1
"""ITU-T H.273's number, of primaries and of transfer; PyAV has names for them from release 16 on."""
KEY_FRAME_INTERVAL = 30
"""Frames from one key frame to the next, so that players can seek."""


class VideoEncoder:
    """One video, by x264 ultrafast at a constant quantizer of 19, in yuv420p and BT.709; not for several threads.

    A constant quantizer looks as good as crf 18, from which it is hardly different without a lookahead, and saves the
    memory and time that crf spends on estimating how complex an image is.
    """

    def __init__(self, width: int, height: int, fps: Fraction, reformatter: VideoReformatter) -> None:
        """Open an encoder for images of `width` x `height` px, both even.

        Videos of one thread may share a `reformatter`: it holds the colour conversion's tables, 0.5 MB.
        """
        self._reformatter = reformatter
        self._codec = av.CodecContext.create("libx264", "w")
        self._codec.width, self._codec.height, self._codec.pix_fmt = width, height, "yuv420p"
        self._codec.framerate, self._codec.time_base = fps, 1 / fps
        self._codec.thread_count = 1
        self._codec.colorspace, self._codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        self._codec.color_primaries, self._codec.color_trc = BT709, BT709
        # zerolatency: a packet comes out for each frame that goes in
        self._codec.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "qp": "19",
            "g": str(KEY_FRAME_INTERVAL),
        }
        self._pts = 0

    def encode(self, image: np.ndarray) -> bytes:
        """The packet (Annex B) of the next RGB image, (H, W, 3) uint8."""
        # POINT: nothing is scaled but the chroma's lines; a quarter less time than BILINEAR, 0.1 dB of 43
        frame = self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(image, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.POINT,
        )
        frame.pict_type = PictureType.NONE
        frame.pts, self._pts = self._pts, self._pts + 1
        return b"".join(map(bytes, self._codec.encode(frame)))


def write_mp4(packets: Path, mp4: Path, fps: Fraction) -> None:
    """Wrap an Annex B file, or an MP4, as MP4 of `fps` frames/s, its index up front so that players start at once."""
    # analyzeduration: what is to be known of the stream is in its first bytes; decoding frames would take 1 ms
    options = {"framerate": f"{fps.numerator}/{fps.denominator}", "analyzeduration": "1", "fpsprobesize": "0"}
    with (
        # absolute: FFmpeg takes what stands before a colon in a relative path for a protocol
        av.open(str(packets.absolute()), format=packets.suffix[1:], options=options) as source,
        av.open(str(mp4.absolute()), "w", options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.time_base = 1 / fps
        for i, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream = stream
            packet.time_base, packet.pts, packet.dts, packet.duration = 1 / fps, i, i, 1
            target.mux(packet)


def count_frames(mp4: Path) -> int:
    """Frames of a video, by its packets."""
    with av.open(str(mp4.absolute())) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)
