"""What `looptagger paper` can be told, as in configs/paper.yaml."""

from itertools import product
from operator import attrgetter
from typing import Annotated, Final, Literal, get_args

from pydantic import Field, field_validator, model_validator

from looptagger.config import PROTOCOLS, Augment, Phase, Protocol, Settings, Storage, Train

System = Literal["BR-RF", "BR-SVM", "LP-RF", "LP-SVM", "RAkEL-RF", "RAkEL-SVM", "CNN", "HCNN"]

SYSTEMS: Final[tuple[System, ...]] = get_args(System)
"""Table 2's rows; CNN is the non-harmonic one."""
NETWORKS: Final[dict[str, Literal["cnn", "hcnn"]]] = {"CNN": "cnn", "HCNN": "hcnn"}

PUBLISHED: Final = Train(
    split="paper",
    epochs=200,
    batch=16,
    phases=(
        Phase(optimiser="adam", lr=1e-4),
        Phase(from_epoch=60, optimiser="sgd", lr=1e-3, weight_decay=1e-4, from_best=True),
        Phase(from_epoch=80, optimiser="sgd", lr=1e-4, weight_decay=1e-4, from_best=True),
        Phase(from_epoch=100, optimiser="sgd", lr=1e-5, weight_decay=1e-4, from_best=True),
    ),
    augment=Augment(),
    raise_quiet=False,
    balance="none",
    average_epochs=0.0,
    select="loss",
)
"""configs/train_paper.yaml."""
SAID_ONCE: Final = {"seed": "seeds", "model.kind": "systems", "storage": "storage"}
"""Settings of a training, and those of the comparison that say them for all."""


class Classic(Settings):
    """The six classic systems. Trees, C and k are the paper's."""

    trees: int = Field(1000, ge=1, description="of a random forest")
    c: float = Field(10.0, gt=0, description="of the linear SVM")
    k: int = Field(3, ge=2, le=6, description="roles a RAkEL labelset")
    folds: int = Field(5, ge=2, le=20, description="the SVM's probabilities are calibrated on so many")


class Paper(Settings):
    """Everything `looptagger paper` can be told."""

    systems: tuple[System, ...] = Field(SYSTEMS, min_length=1)
    protocols: tuple[Protocol, ...] = Field(PROTOCOLS, min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        (0, 1, 2), min_length=1, description="each system is trained once with each"
    )
    classic: Classic = Classic()
    ours: Train = Field(Train(), description="under `ours`: how the networks are trained, and the split of all systems")
    published: Train = Field(PUBLISHED, description="the same under `published`")
    storage: Storage = Storage()

    @field_validator("seeds")
    @classmethod
    def _are_several(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed comes twice: the same run would count as two")
        return seeds

    @model_validator(mode="after")
    def _says_once(self) -> "Paper":
        """Refuse what would be passed over: seeds, systems and storage are one for all."""
        for name, (key, where) in product(PROTOCOLS, SAID_ONCE.items()):
            said = attrgetter(key)
            if said(getattr(self, name)) != said(Train()):
                raise ValueError(f"{name}.{key} cannot be set: `{where}` says it for all runs")
        return self

    def train(self, system: System, protocol: Protocol, seed: int) -> Train:
        """The training of a network under a protocol; of a classic system, its split is what counts."""
        base = self.ours if protocol == "ours" else self.published
        kind = NETWORKS.get(system, base.model.kind)
        same = {"seed": seed, "storage": self.storage}
        return base.model_copy(update={**same, "model": base.model.model_copy(update={"kind": kind})})
