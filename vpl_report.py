"""Writes a dataset's report: one HTML file that opens from the disk, `python vpl_dataset.py view DATASET`.

    path = write_report(Path("data/NAME"))      # data/NAME/report.html, beside the videos that it plays
    serve(path, port=8000)                      # for a browser on another machine

The page (report/page.html) and uPlot (MIT licence), which draws the curves, are put into the file, and so are a
thumbnail and the numbers of each episode: at most MOST_ROWS rows, in 16 bits a value, deflated.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from vpl_dataset import Episode, load_episode
from vpl_episode import all_episode_folders, published, read_json
from vpl_stats import spread_rows

PAGE = Path(__file__).parent / "report"
MARK = '<meta name="generator" content="vpl_dataset.py view">'
"""Of report/page.html: what pages are known by that may be replaced."""
MOST_ROWS = 240
THUMBNAIL_PX = 112
CURVES = ("joint_pos", "action", "drawer_pos", "reward", "ee_position")
RANGES = 32767
"""What a column's least and greatest value become in 16 bits, with a sign."""


def write_report(dataset: Path) -> Path:
    """Write `report.html` into the dataset's folder, in the place of an earlier one; returns its path.

    Raises:
        ValueError: there is another page of this name.
    """
    path = dataset / "report.html"
    if path.exists() and MARK not in path.read_text(errors="replace"):
        raise ValueError(f"{path} is not of this program, which would write there; give it another name")
    folders = all_episode_folders(dataset)
    numbers = bytearray()
    episodes = []
    for folder in folders:
        with load_episode(folder) as episode:
            episodes.append(describe(episode, dataset, numbers))
    data: dict[str, Any] = {"name": dataset.resolve().name, "episodes": episodes, "summary": summary(dataset)}
    packed = base64.b64encode(zlib.compress(bytes(numbers), 9)).decode()
    page = (PAGE / "page.html").read_text()
    for name, text in {
        "TITLE": html.escape(data["name"]), "UPLOT_CSS": (PAGE / "uPlot.min.css").read_text(),
        "UPLOT_JS": (PAGE / "uPlot.iife.min.js").read_text(), "PAGE_JS": (PAGE / "page.js").read_text(),
        "DATA": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"), "NUMBERS": packed,
    }.items():  # fmt: skip
        page = page.replace(f"{{{{{name}}}}}", text)
    with published(path, replace=True) as new:
        new.write_text(page)
    return path


def describe(episode: Episode, dataset: Path, numbers: bytearray) -> dict[str, Any]:
    """What the page knows of an episode; its curves are appended to `numbers`."""
    attrs, file = episode.attrs, episode.h5
    length = len(file["color"])
    rows = spread_rows(length, MOST_ROWS)
    described = {
        "name": episode.folder.name,
        "videos": [
            {"name": name, "path": str(episode.video(camera).relative_to(dataset))}
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
        "rows": len(rows),
        "curves": {},
    }
    for name in CURVES:
        if name in file:
            names = list(file[name].attrs.get("names", ()))
            described["curves"][name] = pack(file[name][:][rows], numbers) | {"names": names}
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


def thumbnail(image: np.ndarray) -> str:
    """A JPEG as a data URL."""
    step = max(1, image.shape[1] // THUMBNAIL_PX)
    small, buffer = image[::step, ::step], io.BytesIO()
    iio.imwrite(buffer, small, extension=".jpg", quality=60)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def summary(dataset: Path) -> dict[str, Any]:
    """What metadata.json says of the whole."""
    path = dataset / "metadata.json"
    metadata = read_json(path) if path.is_file() else {}
    checkpoint = metadata.get("checkpoint") or {}
    return {
        "task": metadata.get("task", ""), "simulator": metadata.get("simulator", ""),
        "checkpoint": Path(checkpoint.get("path", "")).name, "seed": (metadata.get("arguments") or {}).get("seed"),
    }  # fmt: skip


def serve(report: Path, port: int) -> None:
    """Serve the dataset's folder on all addresses until Ctrl-C.

    Raises:
        OSError: the port is taken.
    """
    with ThreadingHTTPServer(("", port), partial(_Handler, directory=str(report.parent))) as server:
        print(f"http://{os.uname().nodename}:{server.server_port}/{report.name} (Ctrl-C ends)", flush=True)
        server.serve_forever()


class _Handler(SimpleHTTPRequestHandler):
    """Answers requests for a part of a file, without which browsers cannot seek in videos."""

    def do_GET(self) -> None:
        path, asked = Path(self.translate_path(self.path)), self.headers.get("Range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        if not (asked.startswith("bytes=") and first.isdigit() and path.is_file()):
            super().do_GET()
            return
        size = path.stat().st_size
        end = min(int(last) if last.isdigit() else size - 1, size - 1)
        if int(first) > end:
            self.send_error(416)  # not satisfiable
            return
        self.send_response(206)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Range", f"bytes {first}-{end}/{size}")
        self.send_header("Content-Length", str(end + 1 - int(first)))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(int(first))
            self.wfile.write(file.read(end + 1 - int(first)))

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""
