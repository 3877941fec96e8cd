"""What people would write instead of using looptagger, each in a file, and the race: `make bench-peers`."""
