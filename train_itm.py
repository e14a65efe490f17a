"""Train and score image-text matching on Flickr30K and COCO.

python3 train_itm.py --RUN=train --VERSION=mine --GPU='0, 1, 2, 3'
python3 train_itm.py --RUN=test --VERSION=mine
python3 train_itm.py --help
"""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` handles Ctrl-C: loading torch takes a second
    from mmnas.run.cli import main
    from mmnas.tasks.itm import ITMTask

    sys.exit(main(ITMTask))
