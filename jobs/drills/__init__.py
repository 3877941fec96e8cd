"""Fault drills: jobs killed, disks filled, stores that fail; and what is in the output after each."""
