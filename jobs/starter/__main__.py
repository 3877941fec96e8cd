"""`python -m jobs.starter OUT`: make the starter data."""

from jobs.starter.build import main

main()
