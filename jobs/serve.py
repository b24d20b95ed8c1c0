"""`ray job submit ... -- python jobs/serve.py MODEL [options]`: as `thinkscale serve`. It outlives the job."""

import sys

from thinkscale.cli import main

sys.argv[1:1] = ["serve"]
main()
