"""The loops that Numba compiles, and what becomes of them where it cannot."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from looptagger.config import Compute
from looptagger.model import tiles
from looptagger.model.predictor import Predictor
from looptagger.model.remade import RemadeBlock
from looptagger.model.winograd import WinogradBlock
from tests.model.test_packed import needs_packed

BEYOND = np.float32(7)


def strip(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns, 6, 6, 16)).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(4, 8), (5, 8), (7, 6), (8, 5)])
def test_nothing_is_written_beyond_the_maps(height: int, width: int) -> None:
    """Numba looks for no ends of arrays."""
    small = height // 2, width // 2, 16
    seen = np.zeros((height, width, 16), np.float32)
    weights = np.ones((6, 6, 6, 16), np.float32)
    for loop, shape, given in (
        (tiles.joined, seen.shape, (strip(2, 2), 0)),
        (tiles.pooled, small, (strip(2, 2), 0, seen)),
        (tiles.convolved, small, (seen[:, :, :6].copy(), weights, weights[0, 0, 0])),
    ):
        room = np.full(2000, BEYOND)
        inside = int(np.prod(shape))
        loop(*given, room[:inside].reshape(shape))
        assert (room[:inside] != BEYOND).all()
        assert (room[inside:] == BEYOND).all()


def test_the_second_strip_goes_where_the_first_ends() -> None:
    products, whole, parts = strip(3, 2), *np.zeros((2, 11, 8, 16), np.float32)
    tiles.joined(products, 0, whole)
    tiles.joined(products[:2], 0, parts)
    tiles.joined(products[2:], 2, parts)
    assert np.array_equal(whole, parts)


@needs_packed
def test_without_machine_code_the_scores_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Predictor.load("starter", Compute(device="cpu"))
    assert [type(block) for block in usual.network.trunk[1:4]] == [WinogradBlock] * 3
    monkeypatch.setattr(tiles, "numba", None)
    predictor = Predictor.load("starter", Compute(device="cpu"))
    assert [type(block) for block in predictor.network.trunk[1:4]] == [RemadeBlock] * 3
    pcm = np.random.default_rng(0).integers(-9000, 9000, (2, 48_000)).astype(np.int16)
    assert np.allclose(predictor.chunk_scores(pcm)[0], usual.chunk_scores(pcm)[0], atol=1e-4)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"NUMBA_DISABLE_JIT": "1"}, ""),
        ({"PYTHONPATH": "{}"}, "raise ImportError('Numba needs NumPy 2.9 or less')"),
        ({"PYTHONPATH": "{}"}, "raise OSError('no memory may be run')"),
    ],
)
def test_where_numba_cannot_be_used_it_is_known(tmp_path: Path, how: dict[str, str], error: str) -> None:
    (tmp_path / "numba.py").write_text(error)
    environment = os.environ | {name: value.format(tmp_path) for name, value in how.items()}
    script = "from looptagger.model import tiles; print(tiles.are_quick())"
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False"]


def doubled(number: Any, array: np.ndarray) -> None:
    array[:] = number * array


def large(number: int, array: np.ndarray) -> None:
    array[0] = np.empty(number, np.uint8).size


def test_machine_code_is_kept_and_done_without_where_it_cannot_be(tmp_path: Path) -> None:
    """Each process compiles what it cannot read, and goes on where it cannot write."""
    script = (
        "import numpy as np; from looptagger.model import tiles; strip = np.zeros((1, 1, 6, 6, 2), np.float32)\n"
        "tiles.spread(np.ones((4, 4, 2), np.float32), 0, strip); print(float(strip.sum()))\n"
        "print(sum(tiles.spread.code.stats.cache_hits.values()))"
    )

    def run() -> list[str]:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()

    first, second = run(), run()
    assert (first[1], second[1]) == ("0", "1")
    kept = [path for path in tmp_path.rglob("*.nb?") if path.is_file()]
    assert len(kept) == 2  # an index, and the code
    for path in kept:
        path.write_bytes(b"")
    assert run()[0] == second[0] == first[0]


def test_a_disk_that_is_full_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    loop, array = tiles.Loop(doubled), np.ones(3, np.float32)
    loop(np.float32(2), array)  # of types that nobody has kept it for
    code = loop.code
    loop(np.float32(2), array)
    assert array.tolist() == [4, 4, 4]
    assert loop.code is code


def test_memory_that_a_loop_lacks_is_no_reason_to_compile_it_again() -> None:
    loop, array = tiles.Loop(large), np.zeros(1, np.float32)
    loop(1, array)
    code = loop.code
    with pytest.raises(MemoryError):
        loop(1 << 60, array)
    assert loop.code is code
    loop(1, array)


def test_where_there_is_no_place_for_it_it_is_compiled_all_the_same() -> None:
    of_no_file: dict[str, Any] = {}
    exec("def doubled(number, array): array[:] = number * array", of_no_file)
    loop = tiles.Loop(of_no_file["doubled"])
    array = np.ones(3, np.float32)
    loop(2, array)
    assert array.tolist() == [2, 2, 2]
    assert not isinstance(loop.code, type(doubled))
