"""`ray job submit ... -- python jobs/distill.py CAMPAIGN [options]`: as `thinkscale distill`."""

import sys

from thinkscale.cli import main

sys.argv[1:1] = ["distill"]
main()
