"""Import of checkpoints in the format of the paper's published code: a pickled state dict with that code's names."""

import re
from pathlib import Path

from torch import Tensor

from looptagger.config import Audio, Model
from looptagger.errors import UserError
from looptagger.model import pickled
from looptagger.model.checkpoint import Card, check_numbers, first_problem, read_bytes
from looptagger.model.hcnn import HCNN

RENAMES = (
    (r"^hstft\.bw_Q$", "front.q"),
    (r"^hstft\.spec\.window$", "front.spectrogram.window"),
    (r"^hstft_bn\.", "norm."),
    (r"^conv_2d\.res([15])\.conv\.", r"trunk.\1.conv."),
    (r"^conv_2d\.res([15])\.bn\.", r"trunk.\1.norm."),
    (r"^conv_2d\.res(\d)\.conv_(\d)\.", r"trunk.\1.conv\2."),
    (r"^conv_2d\.res(\d)\.bn_(\d)\.", r"trunk.\1.norm\2."),
    (r"^conv_2d\.fc_1\.", "dense."),
    (r"^conv_2d\.bn\.", "dense_norm."),
    (r"^conv_2d\.fc_2\.", "out."),
)


def renamed(key: str) -> str:
    """Our name for a published key; one we do not know stays as it is."""
    for pattern, name in RENAMES:
        key = re.sub(pattern, name, key)
    return re.sub(r"^trunk\.(\d)", lambda match: f"trunk.{int(match[1]) - 1}", key)


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a .pth file; only tensors are unpickled. Raises UserError."""
    data = read_bytes(path)
    try:
        state = pickled.load(data, str(path))
    except UserError:
        raise
    except Exception:  # unpickling raises anything on a file that is something else
        raise UserError(f"{path}: not a file of plain PyTorch weights; give the .pth of the published code.") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state dict of tensors; export the model's state_dict() and import that.")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def convert(path: Path, name: str, licence: str) -> tuple[HCNN, Card]:
    """A published HCNN checkpoint as our network and its card; the width is read off the weights.

    Raises UserError that names the first weight that is missing, unknown or of another shape.
    """
    ours = {renamed(key): value for key, value in read(path).items()}
    if "trunk.0.conv.weight" not in ours:
        raise UserError(f"{path}: lacks the weight 'conv_2d.res1.conv.weight' of the published HCNN.")
    try:
        channels, n_harmonic, _, _ = ours["trunk.0.conv.weight"].shape
        model = Model(channels=channels, n_harmonic=n_harmonic)
    except ValueError:  # pydantic's is one
        shape = tuple(ours["trunk.0.conv.weight"].shape)
        raise UserError(f"{path}: the first convolution is of shape {shape}; this is another architecture.") from None
    if n_harmonic != Model().n_harmonic:  # where its bands begin and end depends on it, and is in no file
        raise UserError(f"{path}: has {n_harmonic} harmonics; only weights with {Model().n_harmonic} can be imported.")
    network = HCNN(model, Audio()).eval()
    constants = {name: network.get_buffer(name) for name in ("front.bin_hz", "front.centre_hz")}
    if clash := ours.keys() & constants.keys():
        raise UserError(f"{path}: has {min(clash)}, which the published HCNN has not; this is another's.")
    try:
        network.load_state_dict(constants | ours)
    except Exception as error:  # weights of other names or shapes, or without numbers
        raise UserError(f"{path}: its weights do not fit the published HCNN: {first_problem(error)}.") from None
    check_numbers(network, str(path))
    card = Card(name=name, model=model, licence=licence, provenance={"imported_from": path.name})
    return network, card
