"""The command line. Parses, calls what works, prints; decides nothing else.

`options` holds what commands share, the other modules the commands, by subject.
"""

import logging
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
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)  # it tells of every try
    try:
        cli(standalone_mode=False)
    except click.ClickException as told:
        told.show()
        sys.exit(told.exit_code)
    except (Exception, SystemExit) as raised:
        error = ending.reason_for(raised)
        line = ending.word_for(error)
        if isinstance(error, click.exceptions.Abort):  # how click passes on KeyboardInterrupt
            line, error = "interrupted", error.__cause__ or error
        code = 130 if line == "interrupted" else ending.TERMINATED if line else 1
        if not line and isinstance(error, SystemExit):
            raise
        if not line and os.environ.get("THINKSCALE_TRACEBACK"):
            raise error from None
        from thinkscale.runtime.failure import tell

        tell(error, line or None)
        if ending.reason is None:
            sys.exit(code)
        sys.stdout.flush()
        os._exit(code)  # some thread may wait for ever for what is not there any more
