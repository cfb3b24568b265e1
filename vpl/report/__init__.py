"""Writes a dataset's report: one HTML file that opens from the disk, `python vpl_dataset.py view DATASET`.

    write_report(dataset, folders, dataset / "report.html")        # beside the videos that it plays
    serve(report, folders, host="127.0.0.1", port=8000)            # for a browser that does not see the disk

The page (page.html) and uPlot (MIT licence), which draws the curves, are put into the file, and so are a
thumbnail and the numbers of each episode: at most MOST_ROWS rows, in 16 bits a value, deflated.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import posixpath
import re
import sys
import zlib
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import h5py
import imageio.v3 as iio
import numpy as np

from vpl.columns import Role
from vpl.files import published, read_json
from vpl.listing import final_value
from vpl.reader import Episode, load_episode
from vpl.stats import spread_rows
from vpl.variation import flat, variation_of

PAGE = Path(__file__).parent
MARK = '<meta name="generator" content="vpl_dataset.py view">'
"""Of page.html: what pages are known by that may be replaced."""
MOST_ROWS = 240
THUMBNAIL_PX = 112
CURVES = (Role.STATE, Role.ACTION, Role.PRIVILEGED, Role.METRIC)
"""Roles whose columns are drawn, in this order; not those of more than WIDEST numbers: nobody can read them."""
WIDEST = 12
NEARNESS = (0.0, 0.25, 0.5, 0.75, 1.0)
NEAR_COLORS = ((68, 59, 33, 94, 253), (1, 82, 145, 201, 231), (84, 139, 140, 98, 37))
"""Red, green and blue of depth from far to near: viridis, as Matplotlib has it."""
RANGES = 32767
"""What a column's least and greatest value become in 16 bits, with a sign."""


def write_report(dataset: Path, folders: list[Path], path: Path) -> Path:
    """Write the page of the episodes `folders` to `path`, in the place of an earlier one; returns `path`.

    Raises:
        ValueError: there is another page of this name.
    """
    if path.exists() and MARK not in path.read_text(errors="replace"):
        raise ValueError(f"{path} is not of this program, which would write there; give it another name")
    numbers = bytearray()
    episodes = []
    for folder in folders:
        with load_episode(folder) as episode:
            episodes.append(describe(episode, path.parent, numbers))
    data: dict[str, Any] = {"name": dataset.resolve().name, "episodes": episodes, "summary": summary(dataset)}
    parts = {
        "TITLE": html.escape(data["name"]),
        "UPLOT_CSS": (PAGE / "uPlot.min.css").read_text(),
        "UPLOT_JS": (PAGE / "uPlot.iife.min.js").read_text(),
        "PAGE_JS": (PAGE / "page.js").read_text(),
        "DATA": script_json(data),
        "NUMBERS": base64.b64encode(zlib.compress(bytes(numbers), 9)).decode(),
    }
    # in one pass: recorded text may hold what looks like a place of the page
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], (PAGE / "page.html").read_text())
    with published(path, replace=True) as new:
        new.write_text(page)
    return path


def script_json(data: dict[str, Any]) -> str:
    """JSON that nothing in it can end the script that it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda character: f"\\u{ord(character[0]):04x}", text)


def describe(episode: Episode, place: Path, numbers: bytearray) -> dict[str, Any]:
    """What the page in the folder `place` knows of an episode; its curves are appended to `numbers`."""
    attrs, file = episode.attrs, episode.h5
    length = len(file["color"])
    rows = spread_rows(length, MOST_ROWS)
    described = {
        "name": episode.folder.name,
        "videos": [
            {"name": name, "path": relative(episode.video(camera), place)}
            for camera, name in enumerate(episode.camera_names)
        ],
        "size": list(file["color"].shape[2:4]),
        "fps": attrs["fps"],
        "frames": length,
        "seconds": length * attrs["step_dt"] * attrs["video_interval"],
        "success": attrs.get("success"),
        "failed": episode.folder.parent.name == "failed",
        "text": attrs.get("language_instruction", ""),
        "thumbnail": thumbnail(file["color"][length - 1, 0]),
        "drawn": flat(variation_of(file)),
        "rows": len(rows),
        "curves": {},
    }
    for name in [name for role in CURVES for name in episode.columns(role) if name != "timestamps"]:
        if np.prod(file[name].shape[1:]) <= WIDEST:
            about = {"names": list(episode.declared[name].names), "unit": episode.declared[name].unit}
            described["curves"][name] = pack(file[name][:][rows], numbers) | about
    if metric := attrs.get("success_metric"):
        final = final_value(file, metric)
        described |= {"metric": metric, "final": final if np.isfinite(final) else None}  # JSON has no NaN
    described["pictures"] = [
        {"name": f"{stream} of {name}", "image": strip(file[stream], camera)}
        for stream in episode.streams
        if stream != "color"
        for camera, name in enumerate(episode.camera_names)
    ]
    if "extrinsics" in file:
        for camera, video in enumerate(described["videos"]):
            poses = file["extrinsics"][:, camera, :3][rows]
            video["pose"] = pack(poses.reshape(len(rows), 12), numbers)
            if "intrinsics" in file and camera < len(file["intrinsics"]):
                focal = file["intrinsics"][camera, 0, 0] / file["color"].shape[3]
                video |= {"focal": focal} if np.isfinite(focal) else {}
    return described


def pack(columns: np.ndarray, numbers: bytearray) -> dict[str, Any]:
    """Append columns (T,) or (T, D) in 16 bits, one after the other; returns where they are and what they stand for."""
    columns = np.nan_to_num(columns.reshape(len(columns), -1).T.astype(float), posinf=0, neginf=0)
    low, high = columns.min(axis=1), columns.max(axis=1)
    scale = np.maximum(high - low, 1e-9) / RANGES
    at = len(numbers) // 2
    numbers += ((columns - low[:, None]) / scale[:, None]).round().astype("<i2").tobytes()
    return {"at": at, "low": [float(f"{x:.7g}") for x in low], "scale": [float(f"{x:.7g}") for x in scale]}


def strip(images: h5py.Dataset, camera: int) -> str:
    """The first, the middle and the last image of depth or segmentation in colours, side by side, as a data URL."""
    rows = (0, len(images) // 2, len(images) - 1)
    pictures = np.concatenate([images[row, camera] for row in rows], axis=1)
    if images.dtype == np.uint16:
        near, far = np.maximum(1, np.quantile(pictures, (0.02, 0.98)))
        nearness = np.log(far / np.maximum(pictures, 1)) / np.log(max(far / near, 1.01))  # what is near is bright
        shades = np.where(pictures > 0, np.clip(nearness, 0, 1), np.nan)
        colors = np.stack([np.interp(shades, NEARNESS, channel, left=0) for channel in NEAR_COLORS], axis=-1)
        return data_url(np.nan_to_num(colors).astype(np.uint8))
    hue = 0.618034 * np.arange(256)  # the golden ratio's steps keep neighbours apart
    palette = 150 + 100 * np.cos(2 * np.pi * (hue[:, None] + np.array([0, 1 / 3, 2 / 3])))
    return data_url(palette.astype(np.uint8)[pictures])


def thumbnail(image: np.ndarray) -> str:
    """A small picture as a data URL."""
    step = max(1, image.shape[1] // THUMBNAIL_PX)
    return data_url(image[::step, ::step])


def data_url(image: np.ndarray) -> str:
    """A JPEG."""
    buffer = io.BytesIO()
    iio.imwrite(buffer, image, extension=".jpg", quality=60)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def summary(dataset: Path) -> dict[str, Any]:
    """What metadata.json says of the whole."""
    path = dataset / "metadata.json"
    metadata = read_json(path) if path.is_file() else {}
    checkpoint = metadata.get("checkpoint") or {}
    return {
        "task": metadata.get("task", ""),
        "simulator": metadata.get("simulator", ""),
        "checkpoint": Path(checkpoint.get("path", "")).name,
        "seed": (metadata.get("arguments") or {}).get("seed"),
    }


def relative(file: Path, place: Path) -> str:
    """A file's path seen from the folder `place`, with slashes."""
    return Path(os.path.relpath(file.resolve(), place.resolve())).as_posix()


def serve(report: Path, folders: list[Path], host: str, port: int) -> None:
    """Serve the page and the videos of the episodes `folders`, and nothing else, until Ctrl-C.

    Raises:
        OSError: the port is taken, or `host` is no address of this machine.
    """
    files = {f"/{report.name}": report}
    for folder in folders:
        with load_episode(folder) as episode:
            videos = [episode.video(camera) for camera in range(len(episode.camera_names))]
        files |= {posixpath.normpath(f"/{relative(video, report.parent)}"): video for video in videos}
    with _Server((host, port), partial(_Handler, files)) as server:
        name = os.uname().nodename if host in ("0.0.0.0", "::", "") else host
        print(f"http://{name}:{server.server_port}/{quote(report.name)} (Ctrl-C ends)", flush=True)
        server.serve_forever()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that drops a request is nothing to tell of."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers requests for the given files, also for parts, without which browsers cannot seek in videos."""

    def __init__(self, files: dict[str, Path], *of_request: Any) -> None:
        self._files = files
        super().__init__(*of_request)

    def do_GET(self) -> None:
        path = self._files.get(unquote(urlsplit(self.path).path))
        if path is None or not path.is_file():
            self.send_error(404)
            return
        size, asked = path.stat().st_size, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        end = min(int(asked[2]), size - 1) if asked and asked[2] else size - 1
        if first > end:
            self.send_error(416)  # not satisfiable
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", "video/mp4" if path.suffix == ".mp4" else "text/html; charset=utf-8")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end + 1 - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{end}/{size}")
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(first)
            self.wfile.write(file.read(end + 1 - first))

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""
