"""The six roles a loop can play, in the one order used everywhere: columns, logits, thresholds, tables."""

from typing import Final

ROLES: Final = ("percussion", "bass", "chord", "melody", "fx", "voice")
"""The taxonomy of the Freesound Loop Dataset (Ramires et al., ISMIR 2020)."""

FIGURES: Final = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "f1": "F1"}
"""What models are judged by: the keys of reports, and what people call them."""

COLOURS: Final = dict(zip(ROLES, ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), strict=True))
"""Okabe and Ito's: told apart by colour-blind readers, too. The same role has the same colour everywhere."""
