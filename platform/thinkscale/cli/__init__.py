"""The command line. Parses, calls what works, prints; decides nothing else.

`options` holds what commands share, the other modules the commands, by subject.
"""

import os
import signal
import sys

import click

from thinkscale.cli import benchmarks, campaigns, grading, jobs, models  # noqa: F401 (they add their commands)
from thinkscale.cli.options import cli


def main() -> None:
    """Entry point: what goes wrong is told in a line or two; by a traceback where THINKSCALE_TRACEBACK is set."""
    from thinkscale.runtime import ending

    signal.signal(signal.SIGTERM, ending.terminate)
    try:
        cli(standalone_mode=False)
    except click.ClickException as told:
        told.show()
        sys.exit(told.exit_code)
    except (Exception, SystemExit) as raised:
        error = ending.reason_for(raised)
        if isinstance(error, click.exceptions.Abort):  # how click passes on KeyboardInterrupt
            line, code = "interrupted", 130
            error = error.__cause__ or error
        elif isinstance(error, SystemExit):
            if error.code != ending.TERMINATED:
                raise
            line, code = "terminated", ending.TERMINATED
        else:
            if os.environ.get("THINKSCALE_TRACEBACK"):
                raise error from None
            line, code = None, 1
        from thinkscale.runtime.failure import tell

        tell(error, line)
        if ending.reason is None:
            sys.exit(code)
        sys.stdout.flush()
        os._exit(code)  # some thread may wait for ever for what is not there any more
