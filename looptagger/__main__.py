"""`python -m looptagger` is the command `looptagger`."""

from looptagger.cli import main

main()
