"""The Harmonic CNN: its filters, its network, its checkpoints, its use."""
