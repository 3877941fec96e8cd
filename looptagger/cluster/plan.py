"""How a cluster's CPUs and GPUs are shared between decoding and predicting. Pure, so that it can be checked first."""

from dataclasses import dataclass

from looptagger.config import Compute
from looptagger.errors import UserError


@dataclass(frozen=True)
class Plan:
    """`predictors` = 0: actors decode and predict, one a core. Else that many actors predict, and tasks decode."""

    predictors: int
    gpus_per_predictor: float
    decoders: int

    def __str__(self) -> str:
        if not self.predictors:
            return f"{self.decoders} CPU workers that decode and predict"
        return f"{self.decoders} CPU decoders feeding {self.predictors} GPU predictors"


def plan(cpus: float, gpus: float, compute: Compute) -> Plan:
    """The division of a cluster's logical CPUs and GPUs. Raises UserError where the job could only wait for ever."""
    wants_gpu = compute.device == "cuda" or (compute.device == "auto" and gpus > 0)
    if cpus < 1:
        raise UserError("Ray offers no CPU for tasks; start it with --num-cpus of at least 1, or free some.")
    if not wants_gpu:
        return Plan(0, 0.0, int(cpus))
    predictors = int(gpus / compute.gpus_per_predictor + 1e-9)
    if predictors < 1:
        raise UserError(
            f"compute.device: cuda was asked for, but Ray offers {gpus:g} GPUs where a predictor needs "
            f"{compute.gpus_per_predictor:g}; use compute.device=cpu, or join a cluster that has them."
        )
    return Plan(predictors, compute.gpus_per_predictor, int(cpus))
