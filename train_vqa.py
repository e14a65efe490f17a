"""Train and score visual question answering on VQA v2.

python3 train_vqa.py --RUN=train --VERSION=mine --GPU='0, 1, 2, 3'
python3 train_vqa.py --RUN=test --VERSION=mine
python3 train_vqa.py --help
"""

import sys

from mmnas.run.cli import main
from mmnas.tasks.vqa import VQATask

if __name__ == "__main__":
    sys.exit(main(VQATask))
