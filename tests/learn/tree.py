"""A small copy of FSLD, made here: the shape of the real one, sounds that are easy to tell apart."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from looptagger.archive.storage import Folder
from looptagger.config import Prepare
from looptagger.learn import preparing, table
from looptagger.learn.fsld import FSLD_NAMES
from looptagger.roles import ROLES

THEIRS = {ours: name for name, ours in FSLD_NAMES.items()}
RATE = 22_050


def sound(roles: tuple[str, ...], rng: np.random.Generator, seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    """What a loop of these roles sounds like here: noise bursts, low buzzes, triads, steps of a high sine ..."""
    t = np.arange(round(seconds * rate)) / rate
    root = 220.0 * 2 ** (rng.integers(0, 12) / 12)
    beat = np.floor(t * 4).astype(int)
    steps = rng.choice([1, 9 / 8, 5 / 4, 3 / 2], 64)[beat]
    parts = {
        "percussion": lambda: rng.normal(0, 0.4, len(t)) * np.exp(-20 * (t * 4 % 1)),
        "bass": lambda: sum(np.sin(np.pi * root / 2 * k * t) / k for k in range(1, 4)),
        "chord": lambda: sum(np.sin(2 * np.pi * root * ratio * t) for ratio in (1, 5 / 4, 3 / 2)),
        "melody": lambda: np.sin(2 * np.pi * np.cumsum(4 * root * steps) / rate),
        "fx": lambda: np.sin(2 * np.pi * np.cumsum(np.geomspace(200, 6000, len(t))) / rate),
        "voice": lambda: sum(
            np.sin(2 * np.pi * k * np.cumsum(110 + 6 * np.sin(35 * t)) / rate) * np.exp(-(((k * 110 - 900) / 500) ** 2))
            for k in range(1, 25)
        ),
    }
    mixed = sum(parts[role]() for role in roles)
    return (0.5 * mixed / np.abs(mixed).max()).astype(np.float32)


def answer(roles: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """An annotator's file, without the keys that were added late."""
    said = {THEIRS[role]: role in roles for role in ROLES}
    return {"instrumentation": said, "bpm": "120", "key": "none", "genres": [], "comments": ""} | more


class Tree:
    """FSL10K/audio/wav and metadata.json, with annotations/ beside FSL10K or the compiled CSV in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.audio, self.annotations = root / "FSL10K" / "audio" / "wav", root / "annotations"
        self.records: dict[str, Any] = {}
        self.answers: dict[tuple[str, str], dict[str, Any]] = {}
        self.audio.mkdir(parents=True)

    def add(self, loop: int, user: int, samples: np.ndarray | bytes | None, **by_annotator: dict[str, Any]) -> None:
        licence = ("http://creativecommons.org/licenses/by/3.0/", "http://creativecommons.org/publicdomain/zero/1.0/")
        self.records[str(loop)] = {"id": loop, "username": f"user{user}", "license": licence[user % 2]}
        self.records[str(loop)] |= {"pack_name": "a pack" if user % 3 else None, "tags": ["loop"]}
        path = self.audio / f"{loop}_{user}.wav.wav"
        if isinstance(samples, bytes):
            path.write_bytes(samples)
        elif samples is not None:
            soundfile.write(path, np.stack([samples, samples], 1), RATE, subtype="PCM_24")
        self.answers |= {(name, str(loop)): said for name, said in by_annotator.items()}

    def write(self, layout: str) -> Path:
        (self.root / "FSL10K" / "metadata.json").write_text(json.dumps(self.records))
        if layout == "csv":
            self._write_csv()
            return self.root / "FSL10K"
        for (annotator, loop), said in self.answers.items():
            folder = self.annotations / annotator
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"sound-{loop}.json").write_text(json.dumps(said))
        return self.root

    def _write_csv(self) -> None:
        names = ["sound_id", "annotator", "discard", "save_for_later", *(f"instrumentation_{n}" for n in FSLD_NAMES)]
        with (self.root / "FSL10K" / "loop_annotation_data.csv").open("w", newline="") as file:
            rows = csv.DictWriter(file, names)
            rows.writeheader()
            for (annotator, loop), said in self.answers.items():
                marks = {key: str(said.get(key, False)) for key in ("discard", "save_for_later")}
                on = {f"instrumentation_{name}": str(said["instrumentation"][name]) for name in FSLD_NAMES}
                rows.writerow({"sound_id": loop, "annotator": annotator, **marks, **on})


def separable(root: Path, each: int, seed: int = 0, users: int = 12) -> Tree:
    """`each` loops of every role, some with a second role, of 1 to 4 s, by so many users."""
    tree, rng = Tree(root), np.random.default_rng(seed)
    for number in range(each * len(ROLES)):
        roles = [ROLES[number % len(ROLES)]]
        if number % 5 == 4:
            roles.append(ROLES[(number + 1 + number // 6 % 4) % len(ROLES)])
        heard = sound(tuple(roles), rng, rng.uniform(1, 4))
        tree.add(1000 + number, 50 + int(rng.integers(users)), heard, ann=answer(tuple(roles)))
    return tree


def store(source: Path, out: Path, **settings: Any) -> tuple[Folder, table.Dataset]:
    """What `looptagger prepare` does, in this process."""
    chosen = Prepare(**settings)
    collection = preparing.collect(str(source), chosen)
    blocks = preparing.prepared(preparing.to_rows(collection.loops, chosen), chosen)
    return Folder(str(out)), preparing.store(blocks, Folder(str(out)), collection, chosen)
