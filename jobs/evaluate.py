"""`ray job submit ... -- python jobs/evaluate.py CAMPAIGN [options]`: as `thinkscale evaluate`."""

import sys

from thinkscale.cli import main

sys.argv[1:1] = ["evaluate"]
main()
