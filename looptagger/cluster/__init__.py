"""The jobs on Ray, which only this room imports, and those on one machine's cores."""
