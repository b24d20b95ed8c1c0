"""`ray job submit ... -- python jobs/curate.py CAMPAIGN [options]`: one part of a campaign, as `thinkscale curate`."""

import sys

from thinkscale.cli import main

sys.argv[1:1] = ["curate"]
main()
