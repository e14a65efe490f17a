"""Train and score visual grounding on RefCOCO, RefCOCO+ and RefCOCOg.

python3 train_vgd.py --RUN=train --VERSION=mine --DATASET=refcoco+ --FEAT=coco_mrcn
python3 train_vgd.py --RUN=test --VERSION=mine
python3 train_vgd.py --help
"""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` handles Ctrl-C: loading torch takes a second
    from mmnas.run.cli import main
    from mmnas.tasks.vgd import VGDTask

    sys.exit(main(VGDTask))
