"""Where a source's files lie: a local path, s3://, gs://, az:// or hf://datasets/..., patterns expanded.
Owns opening and listing. Knows nothing of what is in the files but their format's name."""

import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from thinkscale.store.filesystem import REMOTE, Store, StoreError, mistyped

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".zst", ".bz2")
_HUB = re.compile(r"hf://datasets/(?P<repo>[^/]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?")


class IngestError(ValueError):
    """A source cannot be read; the message names the file, the line where there is one, and what to do."""


@dataclass(frozen=True)
class Location:
    """One file. Picklable; each process opens it for itself."""

    url: str

    @property
    def compressed(self) -> bool:
        return self.url.endswith(COMPRESSIONS)

    def format(self) -> str:
        """jsonl, json (an array or one object), csv, tsv or parquet, by the name; `.json` by its first line.
        Raises IngestError where the name ends in none of FORMATS, or the text is not UTF-8 but UTF-16."""
        ending = _ending(self.url)
        if ending not in FORMATS:
            raise IngestError(f"{self.url}: unknown format; a file's name must end in one of {', '.join(FORMATS)}")
        if ending == ".parquet":
            return "parquet"
        with self.open_stream() as stream:
            start = stream.read(1 << 16)
            if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start[:64]:
                remedy = "iconv -f UTF-16 -t UTF-8 makes a copy that can be read"
                raise IngestError(f"{self.url} is UTF-16, not UTF-8: {remedy}")
            if ending == ".json":
                while (line := start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{") and b"\n" not in start.strip():
                    if not (more := stream.read(1 << 24)):
                        break
                    start += more
                return "jsonl" if line and _is_object(start.strip(b"\xef\xbb\xbf \t\r\n")) else "json"
        return FORMATS[ending]

    def open_file(self) -> Any:
        """A seekable file (pyarrow.NativeFile). Raises IngestError where it cannot be opened."""
        return self._open("open_input_file")

    def open_stream(self) -> Any:
        """The content in order, decompressed by the name's ending. Raises IngestError as `open_file`."""
        return self._open("open_input_stream")

    def _open(self, way: str) -> Any:
        fs: pafs.FileSystem = pafs.LocalFileSystem()
        if self.url.startswith(REMOTE):
            fs, path = Store(self.url.rpartition("/")[0]).fs, self.url.partition("://")[2]
        elif match := _HUB.fullmatch(self.url):
            path = _download(self.url, match)
        else:
            path = str(Path(self.url).expanduser())
        try:
            return getattr(fs, way)(path)
        except OSError as error:
            raise _cannot_open(self.url, error) from error


def _is_object(text: bytes) -> bool:
    """Whether a text's first line is an object and another line follows it."""
    first, _, rest = text.partition(b"\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return rest[:1] == b"{"
    return bool(rest)


def expand(path: str) -> list[Location]:
    """The files that a path names, by name: itself, those that match its `*` and `?`, or a directory's data files.
    Raises IngestError where there is none, or the place cannot be listed."""
    if wrong := mistyped(path):
        raise IngestError(f"pool path {wrong}; files lie in a directory, s3://, gs://, az:// or hf://datasets/")
    if match := _HUB.fullmatch(path):
        names = _hub_files(path, match)
    elif path.startswith(REMOTE):
        names = _stored_files(path)
    else:
        names = _local_files(Path(path).expanduser())
    if not names:
        raise IngestError(
            f"pool path {path}: no file there. On a cluster a pool file must be readable from every node: a shared "
            "directory, s3:// or hf://"
        )
    return [Location(name) for name in names]


def _has_pattern(path: str) -> bool:
    return "*" in path or "?" in path


def _ending(name: str) -> str:
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return Path(name).suffix.lower()


def _is_data(name: str) -> bool:
    return _ending(name) in FORMATS and not Path(name).name.startswith((".", "_", "dataset_info"))


def _local_files(path: Path) -> list[str]:
    if path.is_dir():
        return sorted(str(found) for found in path.rglob("*") if found.is_file() and _is_data(found.name))
    if not _has_pattern(str(path)):
        return [str(path)] if path.exists() else []
    anchor = Path(path.anchor) if path.is_absolute() else Path()
    pattern = str(path.relative_to(anchor)) if path.is_absolute() else str(path)
    return sorted(str(found) for found in anchor.glob(pattern) if found.is_file())


def _stored_files(path: str) -> list[str]:
    pattern = _has_pattern(path)
    if not pattern and not path.endswith("/"):
        return [path]
    base = re.split(r"[*?]", path)[0].rpartition("/")[0]
    try:
        names = [f"{base}/{name}" for name in Store(base).files("", recursive=True)]
    except StoreError as error:
        raise _cannot_open(path, error) from error
    return [name for name in names if (fnmatch.fnmatchcase(name, path) if pattern else _is_data(name))]


def _hub_files(path: str, match: re.Match[str]) -> list[str]:
    inner = match["path"] or ""
    if inner and not _has_pattern(inner) and _is_data(inner):
        return [path]
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(match["repo"], repo_type="dataset", revision=match["revision"])
    except Exception as error:
        raise _cannot_open(path, error) from error
    if _has_pattern(inner):
        names = [name for name in names if fnmatch.fnmatchcase(name, inner)]
    else:
        folder = f"{inner.rstrip('/')}/" if inner else ""
        names = [name for name in names if name.startswith(folder) and _is_data(name)]
    root = path.removesuffix(inner).rstrip("/")
    return sorted(f"{root}/{name}" for name in names)


def _download(url: str, match: re.Match[str]) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return str(hf_hub_download(match["repo"], match["path"], repo_type="dataset", revision=match["revision"]))
    except Exception as error:
        raise _cannot_open(url, error) from error


def _cannot_open(url: str, error: Exception) -> IngestError:
    hints = {
        "s3://": "Check the bucket and key, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL.",
        **dict.fromkeys(REMOTE[1:], "Check the bucket and key, and the credentials in the environment."),
        "hf://": "Check the dataset's id and file, the network, and HF_TOKEN for gated data sets.",
    }
    local = "On a cluster a pool file must be readable from every node: a shared directory, s3:// or hf://."
    return IngestError(f"pool file {url} cannot be opened: {error}. {hints.get(url[:5], local)}")
