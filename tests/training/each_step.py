"""``python -m tests.training.each_step``: ``python -m training``, with every step's losses in its TensorBoard log."""

import sys

from training.__main__ import main
from training.running import record

if __name__ == "__main__":
    record.LOG_EVERY = 1
    sys.exit(main())
