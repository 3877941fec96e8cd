import numpy as np
import pytest

from looptagger.audio import chunk


@pytest.mark.parametrize("n", [1, 7, 10])
def test_a_clip_no_longer_than_a_chunk_has_one_tiled_chunk(n: int) -> None:
    wave = np.arange(n, dtype=np.int16)
    first = chunk.starts(n, 10, 10, 40)
    assert first.tolist() == [0]
    assert np.array_equal(chunk.cut(wave, first, 10)[0], np.resize(wave, 10))


@pytest.mark.parametrize(("n", "expected"), [(20, [0, 10]), (21, [0, 10, 11]), (29, [0, 10, 19]), (30, [0, 10, 20])])
def test_the_last_chunk_ends_where_the_clip_ends(n: int, expected: list[int]) -> None:
    assert chunk.starts(n, 10, 10, 40).tolist() == expected


def test_chunks_joined_are_the_input() -> None:
    wave = np.random.default_rng(0).integers(-9, 9, 1234).astype(np.int16)
    first = chunk.starts(len(wave), 100, 100, 40)
    joined = np.empty_like(wave)
    for start, piece in zip(first, chunk.cut(wave, first, 100), strict=True):
        joined[start : start + 100] = piece
    assert np.array_equal(joined, wave)


@pytest.mark.parametrize("n", range(11, 300, 7))
@pytest.mark.parametrize("hop", [1, 3, 10])
def test_chunks_lie_inside_ascend_and_respect_the_bound(n: int, hop: int) -> None:
    first = chunk.starts(n, 10, hop, 8)
    assert len(first) <= 8
    assert first[0] == 0
    assert first[-1] == n - 10
    assert (np.diff(first) > 0).all()


def test_one_chunk_of_a_long_clip_is_its_middle() -> None:
    assert chunk.starts(1010, 10, 10, 1).tolist() == [500]


def test_only_quiet_clips_are_made_louder() -> None:
    pcm = np.array([[0, 100, -200], [50, 0, 0]], np.int16)
    louder = chunk.raised(pcm, -30.0)
    assert np.abs(louder).max() == round(32_768 * 10 ** (chunk.RAISED_DB / 20))
    assert np.allclose(louder / louder[0, 1], pcm / 100, atol=0.01)
    assert chunk.raised(pcm, -60.0) is pcm
    assert chunk.raised(pcm * 0, -30.0).tolist() == [[0] * 3] * 2
