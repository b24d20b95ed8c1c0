"""`ray job submit ... -- python jobs/train.py CAMPAIGN [options]`: one part of a campaign, as `thinkscale train`."""

import sys

from thinkscale.cli import main

sys.argv[1:1] = ["train"]
main()
