"""Where episodes go that workers write on disks of their own: to the driver's machine, or into an object store.

destination = Gather(receiver)                                 # or ObjectStore("s3://bucket/datasets/NAME")
destination.put("worker_3_ab12", folder, "episode_007")
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from vpl.episode import SaverError
from vpl.files import fsync, publish


class Destination(Protocol):
    """What a worker is given where its disk is its own."""

    def put(self, worker: str, folder: Path, path: str) -> None:
        """Bring a whole episode's `folder` to `path` in the dataset.

        Raises:
            SaverError: it did not arrive as it was sent.
        """


def files_of(folder: Path) -> list[Path]:
    """An episode's files, the HDF5 last."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.suffix == ".h5")


class Gather:
    """To the machine of the driver, through Ray; an episode at a time."""

    def __init__(self, receiver: Any) -> None:
        """`receiver` is the actor that a `Receiver` is."""
        self._receiver = receiver

    def put(self, worker: str, folder: Path, path: str) -> None:
        """See `Destination.put`."""
        import ray

        files = {str(file.relative_to(folder)): file.read_bytes() for file in files_of(folder)}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        ray.get(self._receiver.put.remote(worker, path, files, digests))


class Receiver:
    """Takes episodes on the driver's machine and publishes them there."""

    def __init__(self, root: Path, folder: Path) -> None:
        """`root` is the dataset's folder, `folder` the driver's in .partial/."""
        self._root, self._folder = root.absolute(), folder.absolute()

    def put(self, worker: str, path: str, files: Mapping[str, bytes], digests: Mapping[str, str]) -> None:
        """Publish an episode unless it is there; `digests` are the files' SHA-256.

        Raises:
            SaverError: a file's bytes on disk are not those that were sent.
            FileNotFoundError: the worker was given up.
        """
        part = self._folder / worker / Path(path).name
        part.mkdir()  # without parents: a worker that was given up has no folder any more
        for name, content in files.items():
            file = part / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            fsync(file)
            if hashlib.sha256(file.read_bytes()).hexdigest() != digests[name]:
                raise SaverError(f"{path}/{name} did not arrive as it was sent; is the driver's disk sound?")
        for folder in {(part / name).parent for name in files}:
            fsync(folder)
        target = self._root / path
        target.parent.mkdir(exist_ok=True)
        publish(part, target)


class ObjectStore:
    """Into a bucket, through fsspec; the HDF5 comes last, so an episode that has one is whole."""

    def __init__(self, url: str) -> None:
        """`url` is the dataset's, such as s3://bucket/datasets/NAME; the place of a server and keys are the
        environment's, as for all of its kind (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)."""
        self.url = url

    def put(self, worker: str, folder: Path, path: str) -> None:
        """See `Destination.put`."""
        for file in files_of(folder):
            self.put_file(file, f"{path}/{file.relative_to(folder)}")

    def put_file(self, file: Path, name: str) -> None:
        """Upload one file.

        Raises:
            SaverError: the store does not answer, or has another size than the disk.
        """
        with self._reached() as (system, root):
            system.put_file(str(file), f"{root}/{name}")
            size = system.size(f"{root}/{name}")
        if size != file.stat().st_size:
            raise SaverError(f"{self.url}/{name} has {size} bytes in the store and {file.stat().st_size} on disk")

    def paths(self) -> set[str]:
        """The episodes that are there, as rows of metadata.json call them.

        Raises:
            SaverError: the store does not answer.
        """
        with self._reached() as (system, root):
            found = [path.removeprefix(f"{root}/") for path in system.find(root)]
        return {path.rpartition("/")[0] for path in found if path.endswith(".h5")}

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """The file system and the dataset's path in it; anew each time, since what is there may have changed."""
        import fsspec

        try:
            system, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
            yield system, root.rstrip("/")
        except Exception as error:  # each kind of store has errors of its own
            raise SaverError(f"the object store says {type(error).__name__}: {error}") from error
