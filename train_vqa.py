"""Train and score visual question answering on VQA v2.

python3 train_vqa.py --RUN=train --VERSION=mine --GPU='0, 1, 2, 3'
python3 train_vqa.py --RUN=test --VERSION=mine
python3 train_vqa.py --help
"""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` handles Ctrl-C: loading torch takes a second
    from mmnas.run.cli import main
    from mmnas.tasks.vqa import VQATask

    sys.exit(main(VQATask))
