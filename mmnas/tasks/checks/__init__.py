"""What `check-data` looks at: whether a task's files are there, whole, and fit each other.

A module per task; `report` collects what they find, `features` looks at region features for all of them.
"""

from collections.abc import Callable

from mmnas.config import Config
from mmnas.tasks.checks.itm import check_itm
from mmnas.tasks.checks.report import Report
from mmnas.tasks.checks.vgd import check_vgd
from mmnas.tasks.checks.vqa import check_vqa

_CHECKS = {"vqa": check_vqa, "vgd": check_vgd, "itm": check_itm}


def check_data(config: Config, full: bool, write: Callable[[str], object]) -> bool:
    """Check the files that training under `config` reads; return whether it could start.

    Each line of the report goes to `write`; `full` reads the features of every image instead of some.
    """
    report = Report(write)
    report.line(f"{config.task} {config.data.dataset}".rstrip() + f", to train on {config.split}")
    _CHECKS[config.task](config, report, full)
    return report.verdict()
