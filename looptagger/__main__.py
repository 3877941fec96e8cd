"""The command `looptagger`, also `python -m looptagger`: ready to be stopped before the packages are imported."""

from looptagger import stopping


def main(args: list[str] | None = None) -> None:
    """Run the command line as a process of its own."""
    with stopping.in_order():
        from looptagger.cli import main as command

        command(args)


if __name__ == "__main__":
    main()
