"""Bytes into waveforms, waveforms into chunks."""
