"""Train and score image-text matching on Flickr30K and COCO.

python3 train_itm.py --RUN=train --VERSION=mine --GPU='0, 1, 2, 3'
python3 train_itm.py --RUN=test --VERSION=mine
python3 train_itm.py --help
"""

import sys

from mmnas.run.cli import main
from mmnas.tasks.itm import ITMTask

if __name__ == "__main__":
    sys.exit(main(ITMTask))
