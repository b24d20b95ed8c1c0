"""`ray job submit ... -- python jobs/run.py CAMPAIGN [options]`: a whole campaign, as `thinkscale run`."""

import sys

from thinkscale.cli import main

sys.argv[1:1] = ["run"]
main()
