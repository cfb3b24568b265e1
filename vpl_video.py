"""H.264 videos of many streams at once from one encoder: images in, MP4s out.

    encoder = SegmentEncoder(320, 240, Fraction(60))
    segment = encoder.new_segment(num_frames=30)
    for image, yuv in zip(images, segment): encoder.to_yuv(image, out=yuv)
    packets = encoder.encode(segment)                                       # begins with a key frame
    with open("a.h264", "ab") as file: file.writelines(packets)
    write_mp4(Path("a.h264"), Path("a.mp4"), Fraction(60))

An open x264 context takes some 3 MB, so a context a stream would be gigabytes for a thousand cameras, and encoding an
episode after its end would inflate every stored frame once more. Instead each segment of a few frames starts with a
key frame and refers to nothing before it, so that one context encodes the segments of any number of videos in turn.
A segment's bytes depend on its images and its number alone, not on what the context has encoded before.
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


class SegmentEncoder:
    """x264 ultrafast, qp 18, yuv420p in BT.709; not for use by several threads."""

    def __init__(self, width: int, height: int, fps: Fraction) -> None:
        """Open the encoder for images of `width` x `height` px, both even."""
        self._reformatter = VideoReformatter()  # shared: it holds the scaler's tables
        self._codec = av.CodecContext.create("libx264", "w")
        self._codec.width, self._codec.height, self._codec.pix_fmt = width, height, "yuv420p"
        self._codec.framerate, self._codec.time_base = fps, 1 / fps
        self._codec.thread_count = 1
        self._codec.colorspace, self._codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        self._codec.color_primaries, self._codec.color_trc = BT709, BT709
        # zerolatency: a packet comes out for each frame that goes in; forced-idr: no reference beyond a key frame;
        # qp: crf would choose a frame's quality by what was encoded before it
        self._codec.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "qp": "18",
            "g": "1000",
            "forced-idr": "1",
        }
        self._pts = self._num_key_frames = 0
        self._blank = self.new_segment(1)
        self._blank[:] = 0

    def new_segment(self, num_frames: int) -> np.ndarray:
        """Room for frames in yuv420p, (num_frames, H * 3 / 2, W) uint8.

        Made once and used again: frames that are allocated one by one leave the heap in pieces.
        """
        return np.empty((num_frames, self._codec.height * 3 // 2, self._codec.width), np.uint8)

    def to_yuv(self, image: np.ndarray, out: np.ndarray) -> None:
        """Convert an RGB image (H, W, 3) uint8 into a frame of a segment."""
        # POINT: nothing is scaled but the chroma's lines; a quarter less time than BILINEAR, 0.1 dB of 43
        frame = self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(image, format="rgb24"), format="yuv420p",
            dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=Interpolation.POINT,
        )  # fmt: skip
        out[:] = frame.to_ndarray()

    def encode(self, segment: np.ndarray, number: int = 0) -> list[bytes]:
        """Encode a video's segment `number` (from 0); one packet (Annex B) per frame, the first a key frame."""
        # x264's first packet holds its version, and each key frame whether an even number of them came before
        while self._num_key_frames == 0 or self._num_key_frames % 2 != number % 2:
            self._encode_segment(self._blank)
        return self._encode_segment(segment)

    def _encode_segment(self, segment: np.ndarray) -> list[bytes]:
        self._num_key_frames += 1
        packets = []
        for i, yuv in enumerate(segment):
            frame = av.VideoFrame.from_numpy_buffer(yuv, format="yuv420p")
            frame.colorspace, frame.color_range = Colorspace.ITU709, ColorRange.MPEG
            frame.pict_type = PictureType.NONE if i else PictureType.I
            frame.pts, self._pts = self._pts, self._pts + 1
            packets += [bytes(packet) for packet in self._codec.encode(frame)]
        return packets


def write_mp4(packets: Path, mp4: Path, fps: Fraction) -> None:
    """Wrap an Annex B file, or an MP4, as MP4 of `fps` frames/s, its index up front so that players start at once."""
    # analyzeduration: what is to be known of the stream is in its first bytes; decoding frames would take 1 ms
    options = {"framerate": f"{fps.numerator}/{fps.denominator}", "analyzeduration": "1", "fpsprobesize": "0"}
    with (
        av.open(str(packets), format=packets.suffix[1:], options=options) as source,
        av.open(str(mp4), "w", options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.time_base = 1 / fps
        for i, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream = stream
            packet.time_base, packet.pts, packet.dts, packet.duration = 1 / fps, i, i, 1
            target.mux(packet)


def count_frames(mp4: Path) -> int:
    """Frames of a video, by its packets."""
    with av.open(str(mp4)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)
