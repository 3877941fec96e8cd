"""The jobs on Ray, which only this room imports, and tagging on one machine's cores."""
