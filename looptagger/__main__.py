"""The command `looptagger`, also `python -m looptagger`: ready to be stopped before the packages are imported."""

import io
import os
import sys

from looptagger import stopping


def main(args: list[str] | None = None) -> None:
    """Run the command line as a process of its own."""
    _mend_streams()
    with stopping.in_order():
        from looptagger.cli import main as command

        command(args)


def _mend_streams() -> None:
    """One that was closed leads nowhere: a file of ours would get its number. What one cannot encode becomes a `?`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (until the process ends)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
