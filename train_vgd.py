"""Train and score visual grounding on RefCOCO, RefCOCO+ and RefCOCOg.

python3 train_vgd.py --RUN=train --VERSION=mine --DATASET=refcoco+ --FEAT=coco_mrcn
python3 train_vgd.py --RUN=test --VERSION=mine
python3 train_vgd.py --help
"""

import sys

from mmnas.run.cli import main
from mmnas.tasks.vgd import VGDTask

if __name__ == "__main__":
    sys.exit(main(VGDTask))
