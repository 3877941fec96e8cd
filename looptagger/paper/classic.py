"""The paper's six classic systems: {BR, LP, RAkEL} x {random forest, linear SVM} on 104 features of a chunk.

Transformations by scikit-multilearn, learners by scikit-learn. BR: a binary learner a role (Zhang and Zhou, 2014); LP:
one learner of sets of roles; RAkEL, distinct form: LP on random sets of k roles (Tsoumakas and Vlahavas, 2007).
"""

import random
import warnings
from typing import Any

import numpy as np
from joblib import parallel_config
from numpy.typing import NDArray

from looptagger.errors import UserError
from looptagger.learn.metrics import Truth
from looptagger.paper.settings import Classic, System

Floats = NDArray[np.float32]


class ClassicSystem:
    """One of the six, fitted to chunks. A role that none, or all, of them play is not learned: its score is fixed."""

    def __init__(
        self,
        system: System,
        features: Floats,
        labels: Truth,
        settings: Classic,
        seed: int,
        decides: bool = False,
        loop: NDArray[np.int64] | None = None,
    ) -> None:
        """Fit to features (n, 104) and labels (n, 6), to give scores, or decisions where it `decides`.

        `loop` (n,) numbers the loop of each chunk; by default each is of its own.
        Raises UserError where there is too little to fit.
        """
        transform, learner = system.split("-")
        share = labels.sum(axis=0) / max(1, len(labels))
        self.constant, self.told = share.astype(np.float32), np.flatnonzero((share > 0) & (share < 1))
        if not len(self.told):
            raise UserError(f"{system}: the training part has no role to tell apart; prepare more loops.")
        folds = None
        if learner == "SVM" and not decides:
            loop = np.arange(len(labels)) if loop is None else loop
            features, labels, loop = _enough(features, labels, loop, settings.folds)
            folds = _folds(labels, loop, settings.folds, seed)
        base = _forest(settings, seed) if learner == "RF" else _svm(settings, seed, folds)
        random.seed(seed)  # scikit-multilearn draws RAkEL's sets of roles from these two
        np.random.seed(seed)
        self.model = _transformed(transform, base, len(self.told), settings.k)
        self.predict = self.model.predict if decides else self.model.predict_proba
        with warnings.catch_warnings(), parallel_config("threading"):
            # threads: processes would take longer to start than to fit
            warnings.simplefilter("ignore")  # of sparse matrices' old names
            self.model.fit(features.astype(np.float64), labels[:, self.told].astype(np.int64))

    def scores(self, features: Floats) -> Floats:
        """Features (n, 104) -> scores (n, 6) in [0, 1]; of a system that decides, 1 for each role said, else 0."""
        found = np.tile(self.constant, (len(features), 1))
        if len(features):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                likely = self.predict(features.astype(np.float64))
            found[:, self.told] = np.clip(likely.toarray(), 0, 1)
        return found


def _transformed(transform: str, base: Any, roles: int, k: int) -> Any:
    """The system around a learner. With no more than k roles to tell apart, RAkEL is LP."""
    from skmultilearn.ensemble import RakelD
    from skmultilearn.problem_transform import BinaryRelevance, LabelPowerset

    dense = [True, True]
    if transform == "BR":
        return BinaryRelevance(base, require_dense=dense)
    if transform == "LP" or roles <= k:
        return LabelPowerset(base, require_dense=dense)
    return RakelD(base, labelset_size=k, base_classifier_require_dense=dense)


def _forest(settings: Classic, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(settings.trees, n_jobs=-1, random_state=seed)


Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Places of chunks to fit margins on, and of those to make probabilities of margins with, fold by fold."""


def _svm(settings: Classic, seed: int, folds: Folds | None) -> Any:
    """Standardised. It decides by its margins; for scores, Platt's sigmoid makes probabilities of them, over folds.

    The class that is likelier is not the one that a margin decides for: a rare role is hardly ever the likelier.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    margin = LinearSVC(C=settings.c, tol=1e-3, random_state=seed)  # a finer tolerance changes no score's third decimal
    if folds is None:
        return make_pipeline(StandardScaler(), margin)
    return make_pipeline(StandardScaler(), CalibratedClassifierCV(margin, cv=folds, n_jobs=-1))


def _folds(labels: Truth, loop: NDArray[np.int64], folds: int, seed: int) -> Folds:
    """All chunks of a loop are in one fold: margins of loops that were fitted to are too good to be true."""
    from sklearn.model_selection import StratifiedGroupKFold

    kind = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sets with few loops
        return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, kind, loop))


def _enough(
    features: Floats, labels: Truth, loop: NDArray[np.int64], folds: int
) -> tuple[Floats, Truth, NDArray[np.int64]]:
    """Chunks of a set of roles that fewer loops have than there are folds, repeated and each for itself.

    So every fold has one to calibrate on.
    """
    kind = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    loops = np.array([len(np.unique(loop[kind == each])) for each in range(kind.max() + 1)])
    rare = (loops < folds)[kind]
    times = np.where(rare, -(-folds // np.bincount(kind))[kind], 1)
    alone = rare.repeat(times)
    loop = loop.repeat(times)
    loop[alone] = loop.max() + 1 + np.arange(alone.sum())
    return features.repeat(times, axis=0), labels.repeat(times, axis=0), loop
