"""`ray job submit ... -- python jobs/report.py CAMPAIGN [options]`: one part of a campaign, as `thinkscale report`."""

import sys

from thinkscale.cli import main

sys.argv[1:1] = ["report"]
main()
