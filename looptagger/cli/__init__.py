"""The command line: parse, call, print. Exit codes: 0 done, 1 failures, 2 wrong use, 130 interrupted."""

import errno
import os
import sys

import click

from looptagger import stopping, terminal
from looptagger.cli import learning, models, tagging
from looptagger.errors import UserError, fault
from looptagger.logs import JsonLines


class InOrder(click.Group):
    """Commands as they were added: in the order of their use."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Their names."""
        return list(self.commands)

    def invoke(self, context: click.Context) -> None:
        """Run one. Raises Abort that says how it was stopped: click would only print an empty line."""
        try:
            super().invoke(context)
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)  # the terminal has written ^C into the line
            again = " The same command goes on from here." if context.invoked_subcommand in GO_ON else ""
            raise click.Abort(f"Stopped.{again}") from None


GO_ON = ("tag", "train", "paper")


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="looptagger")
def cli() -> None:
    """Tags archives of music loops with their roles: percussion, bass, chord, melody, fx, voice.

    Example: looptagger tag ~/loops -o tags && looptagger show tags
    """


for command in (*tagging.COMMANDS, *learning.COMMANDS, models.model):
    cli.add_command(command)


def main(args: list[str] | None = None) -> None:
    """Run the command line; what users can mend is one sentence and exit code 2, an interrupt is 130."""
    log = JsonLines() if "--log-json" in (sys.argv if args is None else args) else None
    try:
        cli.main(args, standalone_mode=False)
    except click.Abort as stop:
        _end(log, stopping.CODE, str(stop) or "Stopped.")
    except click.ClickException as error:
        if not log:
            error.show()
            sys.exit(2)
        _end(log, 2, error.format_message())
    except UserError as error:
        _end(log, 2, str(error))
    except OSError as error:
        if _is_nowhere():
            _end(log, 2, "the folder that the command was given in is gone; go to another.")
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _end(log, 1, fault(error))
        _end(log, 2, "the disk is full; free some space and run the same command again.")
    except Exception as error:
        _end(log, 1, fault(error))


def _is_nowhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _end(log: JsonLines | None, code: int, text: str) -> None:
    """Say how a command ended that did not finish, to a person or a machine, and exit."""
    if log:
        log.line("stopped" if code == stopping.CODE else "error", text=text)
    else:
        terminal.note(f"Error: {text}" if code == 2 else text)
    sys.exit(code)
