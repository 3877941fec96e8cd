import numpy as np

from looptagger.model.code import codes


def differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.bitwise_count(one ^ other).sum(axis=-1)


def test_bits_that_differ_measure_the_angle() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 128))
    shares = np.linspace(0, 1, 21)[:, None]
    between = one * (1 - shares) + other * shares
    centred = between - between.mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    angles = np.arccos(np.clip(unit @ unit[0], -1, 1)) / np.pi
    found = codes(between.astype(np.float32))
    assert np.abs(differ(found, found[0]) / 256 - angles).max() < 0.06
    assert differ(found[0], found[0]) == 0


def test_codes_heed_neither_level_nor_place_in_the_batch() -> None:
    vectors = np.maximum(np.random.default_rng(1).normal(size=(5, 256)), 0).astype(np.float16)
    assert (codes(vectors) == codes(vectors * np.float16(2))).all()
    assert (codes(vectors)[3] == codes(vectors[3:4])[0]).all()
    assert codes(vectors).dtype == np.uint64


def test_the_planes_are_the_same_for_ever() -> None:
    vector = (np.arange(8) % 3).astype(np.float32)[None]
    assert codes(vector).tolist() == [
        [4784341327604270496, 14562404719664140948, 10012449442676134227, 3350516311005585415]
    ]
