"""`looptagger train` as a Ray job: ray job submit --working-dir . -- python jobs/train.py DIR -o RUN."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from looptagger.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
