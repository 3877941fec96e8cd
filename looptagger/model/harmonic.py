"""The harmonic front end: a power spectrogram seen through learned triangular filters at f0 and its harmonics.

Source: Won, Chun, Nieto, Serra, "Data-driven harmonic filters for audio representation learning" (ICASSP 2020).
The functions are the equations; the modules hold their constants as buffers, so that `forward` only applies them.
"""

import warnings

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import Spectrogram

FLOOR_POWER = 1e-10
"""Power below which the decibel scale stops: -100 dB."""


def centre_frequencies(first_midi: int, last_midi: int, bands_per_semitone: int, n_harmonic: int) -> Tensor:
    """Centres of the filters in Hz, shape (n_harmonic, n_band): harmonic n of band b lies at n x f0 of b.

    The f0 grid runs from `first_midi` up to, not including, `last_midi`.
    """
    n_band = (last_midi - first_midi) * bands_per_semitone
    midi = first_midi + torch.arange(n_band, dtype=torch.float64) / bands_per_semitone
    f0 = 440.0 * 2.0 ** ((midi - 69.0) / 12.0)
    return (torch.arange(1, n_harmonic + 1, dtype=torch.float64)[:, None] * f0).float()


def bandwidths(centre_hz: Tensor, q: Tensor) -> Tensor:
    """Bandwidth in Hz of the filter at each centre: (0.1079 f + 24.7) / Q, the ERB scale with Q learned."""
    return (0.1079 * centre_hz + 24.7) / q


def triangles(bin_hz: Tensor, centre_hz: Tensor, bandwidth_hz: Tensor) -> Tensor:
    """Triangular filters, shape (n_bin, *centre_hz.shape): 1 at the centre, 0 from half a bandwidth away."""
    # Multiplied out: near a filter's foot the rounding decides, and this is how published weights were trained.
    bins = bin_hz.reshape(-1, *[1] * centre_hz.dim())
    slope = 2.0 / bandwidth_hz
    offset = 2.0 * centre_hz / bandwidth_hz
    rising = bins * slope + 1.0 - offset
    falling = bins * -slope + 1.0 + offset
    return torch.minimum(rising, falling).clamp(min=0.0)


def decibels(power: Tensor) -> Tensor:
    """10 log10(power), floored at -100 dB."""
    return 10.0 * torch.log10(power.clamp(min=FLOOR_POWER))


class HarmonicFrontEnd(nn.Module):
    """Waveforms (batch, samples) in [-1, 1] -> decibels (batch, n_harmonic, n_band, frames). `q` is learned."""

    bin_hz: Tensor
    centre_hz: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop: int,
        first_midi: int,
        last_midi: int,
        bands_per_semitone: int,
        n_harmonic: int,
    ) -> None:
        super().__init__()
        self.spectrogram = Spectrogram(n_fft=n_fft, hop_length=hop, power=2.0)
        self.q = nn.Parameter(torch.ones(1))
        self.register_buffer("bin_hz", torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1))
        self.register_buffer("centre_hz", centre_frequencies(first_midi, last_midi, bands_per_semitone, n_harmonic))

    def filterbank(self) -> Tensor:
        """The filters for the present Q, shape (n_bin, n_harmonic * n_band), harmonic by harmonic."""
        return triangles(self.bin_hz, self.centre_hz, bandwidths(self.centre_hz, self.q)).flatten(1)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveforms through the STFT and the filters, in decibels."""
        filtered = self.filterbank().T @ self.spectrogram(waveform)
        return decibels(filtered).reshape(len(waveform), *self.centre_hz.shape, -1)


class MelFrontEnd(nn.Module):
    """Waveforms (batch, samples) -> log-mel decibels (batch, 1, n_band, frames): the non-harmonic CNN's view.

    The same STFT as the harmonic front end, through `n_band` fixed mel filters instead of learned harmonic ones.
    """

    mel: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop: int, n_band: int) -> None:
        super().__init__()
        self.spectrogram = Spectrogram(n_fft=n_fft, hop_length=hop, power=2.0)
        with warnings.catch_warnings():  # the lowest mel filters fall between two bins; the paper's twin has them too
            warnings.simplefilter("ignore", UserWarning)
            mel = melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, n_band, sample_rate)
        self.register_buffer("mel", mel)

    def filterbank(self) -> Tensor:
        """The mel filters, shape (n_bin, n_band)."""
        return self.mel

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveforms through the STFT and the mel filters, in decibels."""
        return decibels(self.filterbank().T @ self.spectrogram(waveform)).unsqueeze(1)
