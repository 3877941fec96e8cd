import numpy as np
import pyarrow as pa
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from looptagger.errors import UserError
from looptagger.learn import metrics
from looptagger.paper.chunks import Loops, gather
from looptagger.paper.classic import ClassicSystem
from looptagger.paper.features import NAMES
from looptagger.paper.settings import SYSTEMS, Classic
from looptagger.roles import ROLES

CLASSIC = Classic(trees=30, folds=2)


def made(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of which the first six each tell a role, of very unlike sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.multinomial(1, np.full(6, 1 / 6), count).astype(bool)
    labels[::3] |= np.roll(labels, 1, axis=1)[::3]  # a dozen sets of roles
    features = rng.normal(size=(count, 104)) + np.pad(labels * 2.5, ((0, 0), (0, 98)))
    return (features * np.geomspace(0.01, 1000, 104)).astype(np.float32), labels


@pytest.mark.parametrize("system", SYSTEMS[:6])
def test_each_system_learns_and_repeats_itself(system: str) -> None:
    features, labels = made(240)
    more, truth = made(120, seed=1)
    one, two = (ClassicSystem(system, features, labels, CLASSIC, seed=5).scores(more) for _ in range(2))  # type: ignore[arg-type]
    assert (one == two).all()
    assert one.shape == (120, 6)
    assert ((one >= 0) & (one <= 1)).all()
    assert metrics.macro(metrics.roc_auc(truth, one)) > 0.8


@pytest.mark.parametrize("system", SYSTEMS[:6])
def test_decisions_are_those_that_the_learner_takes(system: str) -> None:
    features, labels = made(240)
    labels[:, 0], labels[:, 5] = True, False
    learned = ClassicSystem(system, features, labels, CLASSIC, seed=5, decides=True)  # type: ignore[arg-type]
    said = learned.scores(features)
    assert set(np.unique(said)) == {0, 1}
    assert (said[:, 0] == 1).all()
    assert (said[:, 5] == 0).all()
    assert (said == labels).mean() > 0.8
    if system.startswith("LP"):
        assert {tuple(row) for row in said.astype(bool)} <= {tuple(row) for row in labels}, "sets that there are"


def test_an_svm_decides_by_its_margin() -> None:
    """By its probabilities it would hardly ever say a role that few loops play."""
    features, labels = made(600)
    labels[:, 2] = np.random.default_rng(2).random(600) < np.where(
        features[:, 2] > np.median(features[:, 2]), 0.2, 0.02
    )
    by_margin = ClassicSystem("BR-SVM", features, labels, CLASSIC, seed=5, decides=True).scores(features)
    plain = LinearSVC(C=CLASSIC.c, tol=1e-3, random_state=5)
    alone = plain.fit(StandardScaler().fit_transform(features), labels[:, 2])
    assert (by_margin[:, 2] == (alone.decision_function(StandardScaler().fit_transform(features)) > 0)).mean() > 0.99
    likelier = ClassicSystem("BR-SVM", features, labels, CLASSIC, seed=5).scores(features) > 0.5
    assert by_margin[:, 2].sum() > 2 * likelier[:, 2].sum()


def test_an_svm_is_not_sure_of_what_it_cannot_know() -> None:
    """Chunks of a loop are alike: fitted to some of them, a margin knows the others, too."""
    rng = np.random.default_rng(0)
    loop = np.arange(60).repeat(8)
    labels = np.zeros((480, 6), bool)
    labels[:, 0] = (rng.random(60) < 0.5)[loop]  # by chance
    features = (rng.normal(size=(60, 104))[loop] + 0.1 * rng.normal(size=(480, 104))).astype(np.float32)
    new = rng.normal(size=(200, 104)).astype(np.float32)
    shares = []
    for given in (None, loop):
        scores = ClassicSystem("BR-SVM", features, labels, Classic(), 0, loop=given).scores(new)[:, 0]
        shares.append((np.abs(scores - 0.5) > 0.45).mean())
    assert shares[0] > 0.2
    assert shares[1] == 0


@pytest.mark.parametrize("system", ["BR-SVM", "LP-SVM", "RAkEL-RF"])
def test_a_role_without_examples_and_sets_met_once_do_not_stop_it(system: str) -> None:
    features, labels = made(120)
    labels[:, 5], labels[:, 0] = False, True
    labels[0] = [True, True, True, True, True, False]
    scores = ClassicSystem(system, features, labels, CLASSIC, seed=0).scores(features)  # type: ignore[arg-type]
    assert (scores[:, 5] == 0).all()
    assert (scores[:, 0] == 1).all()
    assert len(np.unique(scores[:, 1])) > 2


def test_with_few_roles_rakel_is_lp() -> None:
    features, labels = made(80)
    labels[:, 3:] = False
    both = [ClassicSystem(name, features, labels, CLASSIC, 0).scores(features) for name in ("RAkEL-RF", "LP-RF")]  # type: ignore[arg-type]
    assert (both[0] == both[1]).all()


def test_nothing_to_tell_apart_is_a_sentence() -> None:
    features, labels = made(10)
    for some in (labels[:0], np.ones_like(labels)):
        with pytest.raises(UserError, match="BR-RF: the training part has no role to tell apart"):
            ClassicSystem("BR-RF", features[: len(some)], some, CLASSIC, 0)


def test_a_loop_scores_the_mean_of_its_chunks_or_what_chance_gives() -> None:
    truth = np.zeros((3, 6), bool)
    chunks = np.arange(3, dtype=np.float32)[:, None] * np.ones(104, np.float32)
    loops = Loops(["a", "b", "c"], truth, chunks, np.array([2, 2, 0]))
    scores = loops.scores(lambda features: features[:, :6], np.full(6, 0.25, np.float32))
    assert scores[:, 0].tolist() == [2.0, 0.25, 0.5]
    assert loops.unheard == 1
    assert loops.labels.shape == (3, 6)


def test_features_of_other_files_are_refused() -> None:
    """A data set that is prepared again may hold its loops in other files."""
    columns = {"id": ["a", "b"], **{role: [True, False] for role in ROLES}}
    stored = {"id": ["b"], "heard": ["chunk"], "error": ["x"], **{name: [0.0] for name in NAMES}}
    assert gather([(pa.table(columns).slice(1), pa.table(stored))], "chunk").unheard == 1
    none = pa.table(columns).slice(0, 0)  # as of a small test part, spread over many files
    assert gather([(none, pa.table(stored)), (pa.table(columns).slice(1), pa.table(stored))], "chunk").ids == ["b"]
    with pytest.raises(UserError, match="delete the output's features/ and run the same command"):
        gather([(pa.table(columns), pa.table(stored))], "chunk")
