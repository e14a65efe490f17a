"""Where the files of a run lie below the root of the logs."""

from dataclasses import dataclass
from pathlib import Path

from mmnas.files import PathLike


@dataclass(frozen=True)
class RunPaths:
    """The files and folders of one version."""

    logs: PathLike
    version: str

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return Path(self.logs, "ckpts", f"ckpt_{self.version}")

    @property
    def genotypes(self) -> Path:
        """The genotypes that a search finds."""
        return Path(self.logs, "ckpts", "arch", f"{self.version}.json")

    @property
    def history(self) -> Path:
        """The probabilities and losses of a search."""
        return Path(self.logs, "log", f"search_{self.version}.json")

    @property
    def log(self) -> Path:
        """The log file."""
        return Path(self.logs, "log", f"log_run_{self.version}.txt")

    @property
    def events(self) -> Path:
        """The folder of TensorBoard events."""
        return Path(self.logs, "tensorboard", self.version)

    @property
    def cache(self) -> Path:
        """The folder of what is computed once for all runs, such as word vectors."""
        return Path(self.logs, "cache")

    def result(self, run: str, split: str = "") -> Path:
        """The predictions that `--RUN=val` or `--RUN=test` writes; `split` where it scores several."""
        return Path(self.logs, "ckpts", f"result_{run}", f"result_run_{self.version}{split and f'_{split}'}.json")
