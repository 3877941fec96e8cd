"""The Harmonic CNN and its non-harmonic twin: waveform chunks in, one logit a role out.

Source: Ching, Ramires, Yang, "Instrument Role Classification: Auto-tagging for Loop Based Music" (2020), on the
network of Won et al. (ICASSP 2020). The sigmoid is left to the caller, so that the loss is numerically sound. A block's
last ReLU follows its pooling, where it has a quarter to do: the two commute.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from looptagger.config import Audio, Model
from looptagger.model.harmonic import FrontEnd, HarmonicFrontEnd, MelFrontEnd
from looptagger.roles import ROLES


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, 2x2 max pooling, ReLU: (n, c_in, h, w) -> (n, c_out, h/2, w/2)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps of half the size."""
        return F.relu(F.max_pool2d(self.norm(self.conv(x)), 2))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm plus the input, 2x2 max pooling, ReLU: (n, c, h, w) -> (n, c, h/2, w/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps of half the size."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(F.max_pool2d(self.norm2(self.conv2(inner)) + x, 2))


def front_end(model: Model, audio: Audio) -> FrontEnd:
    """The front end that an architecture names: harmonic filters for `hcnn`, a log-mel spectrogram for `cnn`."""
    return HarmonicFrontEnd(model, audio) if model.kind == "hcnn" else MelFrontEnd(model, audio)


class HCNN(nn.Module):
    """Chunks (batch, samples) -> logits (batch, 6) in ROLES order. Longer inputs are pooled over time.

    At its full width, with the harmonic front end, it has 3,620,243 trainable parameters.
    """

    def __init__(self, model: Model, audio: Audio) -> None:
        super().__init__()
        c, d = model.channels, 2 * model.channels
        self.front = front_end(model, audio)
        self.norm = nn.BatchNorm2d(self.front.n_map)
        self.trunk = nn.Sequential(
            ConvBlock(self.norm.num_features, c),
            *(ResidualBlock(c) for _ in range(3)),
            ConvBlock(c, d),
            *(ResidualBlock(d) for _ in range(2)),
        )
        self.dense = nn.Linear(d, d)
        self.dense_norm = nn.BatchNorm1d(d)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(d, len(ROLES))

    @property
    def body(self) -> tuple[nn.Module, ...]:
        """All that learns up to the pooling."""
        return self.front, self.norm, self.trunk

    @property
    def head(self) -> tuple[nn.Linear | nn.BatchNorm1d, ...]:
        """All that learns after it."""
        return self.dense, self.dense_norm, self.out

    def maps(self, waveform: Tensor) -> Tensor:
        """Chunks (batch, samples) -> what the trunk sees, (batch, n_harmonic or 1, n_band, frames)."""
        seen: Tensor = self.norm(self.front(waveform))
        return seen

    def embed(self, maps: Tensor) -> Tensor:
        """Maps to the layer before the last, (batch, 2 x channels): 256 at full width."""
        pooled = self.trunk(maps).amax(dim=(2, 3))
        return F.relu(self.dense_norm(self.dense(pooled)))

    def classify(self, maps: Tensor) -> Tensor:
        """Maps to logits."""
        logits: Tensor = self.out(self.dropout(self.embed(maps)))
        return logits

    def forward(self, waveform: Tensor) -> Tensor:
        """Chunks to logits."""
        return self.classify(self.maps(waveform))
