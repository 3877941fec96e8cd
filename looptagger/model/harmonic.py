"""The harmonic front end: a power spectrogram seen through learned triangular filters at f0 and its harmonics.

Source: Won, Chun, Nieto, Serra, "Data-driven harmonic filters for audio representation learning" (ICASSP 2020).
The functions are the equations; the modules hold their constants as buffers. In training the filters are made anew in
each forward, as Q changes; for tagging, once: `folded.FixedFilters`.
"""

import warnings

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import Spectrogram

from looptagger.config import Audio, Model

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


class FrontEnd(nn.Module):
    """Waveforms (n, samples) in [-1, 1] -> decibels (n, n_map, n_band, frames): a spectrogram through filters."""

    n_map = 1

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.spectrogram = Spectrogram(n_fft=model.n_fft, hop_length=model.hop, power=2.0)

    def power(self, waveform: Tensor) -> Tensor:
        """Waveforms (n, samples) -> spectrograms (n, n_bin, frames)."""
        return self.spectrogram(waveform)  # type: ignore[no-any-return]

    def filterbank(self) -> Tensor:
        """The filters, shape (n_bin, n_map * n_band), map by map."""
        raise NotImplementedError

    def filtered(self, power: Tensor) -> Tensor:
        """Spectrograms (n, n_bin, frames) through the filters, (n, n_map * n_band, frames)."""
        return self.filterbank().T @ power

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveforms through the STFT and the filters, in decibels."""
        power = self.filtered(self.power(waveform))
        return decibels(power).reshape(len(waveform), self.n_map, -1, power.shape[-1])


class HarmonicFrontEnd(FrontEnd):
    """Learned filters at f0 and its harmonics, a map a harmonic. `q` is learned."""

    bin_hz: Tensor
    centre_hz: Tensor

    def __init__(self, model: Model, audio: Audio) -> None:
        super().__init__(model)
        self.n_map = model.n_harmonic
        self.q = nn.Parameter(torch.ones(1))
        grid = model.first_midi, model.last_midi, model.bands_per_semitone, model.n_harmonic
        # of 513 points, the last bin lies at 7,984 Hz and not at 8,000: as the published code has it
        self.register_buffer("bin_hz", torch.linspace(0.0, audio.sample_rate / 2, model.n_fft // 2 + 1))
        self.register_buffer("centre_hz", centre_frequencies(*grid))

    def filterbank(self) -> Tensor:
        """The filters for the present Q."""
        return triangles(self.bin_hz, self.centre_hz, bandwidths(self.centre_hz, self.q)).flatten(1)


class MelFrontEnd(FrontEnd):
    """Fixed mel filters, one map: the non-harmonic CNN's view."""

    mel: Tensor

    def __init__(self, model: Model, audio: Audio) -> None:
        super().__init__(model)
        with warnings.catch_warnings():  # the lowest mel filters fall between two bins; the paper's twin has them too
            warnings.simplefilter("ignore", UserWarning)
            mel = melscale_fbanks(model.n_fft // 2 + 1, 0.0, audio.sample_rate / 2, model.n_band, audio.sample_rate)
        self.register_buffer("mel", mel)

    def filterbank(self) -> Tensor:
        """The mel filters."""
        return self.mel
