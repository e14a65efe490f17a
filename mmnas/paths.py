"""The paths of the files that a run writes."""

from dataclasses import dataclass
from pathlib import Path

from mmnas.files import PathLike


@dataclass(frozen=True)
class RunPaths:
    """The files and folders of the run `version` below the folder `logs`."""

    logs: PathLike
    version: str

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return Path(self.logs, "ckpts", f"ckpt_{self.version}")

    @property
    def genotypes(self) -> Path:
        """The genotypes that a search found, one per epoch."""
        return Path(self.logs, "ckpts", "arch", f"{self.version}.json")

    @property
    def history(self) -> Path:
        """The probabilities and losses of a search, per epoch."""
        return Path(self.logs, "log", f"search_{self.version}.json")

    @property
    def log(self) -> Path:
        """The log file."""
        return Path(self.logs, "log", f"log_run_{self.version}.txt")

    @property
    def events(self) -> Path:
        """The folder of the TensorBoard events."""
        return Path(self.logs, "tensorboard", self.version)

    @property
    def cache(self) -> Path:
        """The folder for what all runs share and compute only once, such as word vectors."""
        return Path(self.logs, "cache")

    def result(self, run: str, split: str = "") -> Path:
        """The predictions of `--RUN=val` or `--RUN=test`; with `split`, those of one of several splits."""
        return Path(self.logs, "ckpts", f"result_{run}", f"result_run_{self.version}{split and f'_{split}'}.json")
