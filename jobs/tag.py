"""`looptagger tag` as a Ray job: ray job submit --working-dir . -- python jobs/tag.py SOURCE... -o OUT."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from looptagger.__main__ import main

if __name__ == "__main__":
    main(["tag", *sys.argv[1:]])
