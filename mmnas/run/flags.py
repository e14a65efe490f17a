"""The table of flags that the three scripts share. A task adds its own as `Task.flags`."""

from collections.abc import Iterator

from mmnas.config import ALPHA_INITS, ALPHA_MODES, SIZES, Flag
from mmnas.tasks.base import Task


def flags_of(task: type[Task]) -> list[Flag]:
    """Return the flags of a task's script, in the order in which --help shows them."""
    what, data, learn, search, machine = "what to do", "data", "training", "search", "machine"
    return [
        Flag(
            "--RUN",
            "run",
            what,
            "train, score a split and write its result, or search an architecture",
            "required",
            choices=("train", "val", "test", "search"),
        ),
        Flag("--VERSION", "version", what, "name of the run; its files carry it", "task, size and time"),
        Flag(
            "--RESUME",
            "resume",
            what,
            "go on with the newest checkpoint of --VERSION, or with --CKPT_PATH",
            "off",
            bool,
        ),
        Flag(
            "--CKPT_PATH",
            "checkpoint",
            what,
            "checkpoint to score, fine-tune or resume; released ones too",
            "newest of --VERSION",
        ),
        Flag("--KEEP_ALL", "keep_all", what, "keep every epoch's checkpoint", "newest two and best", bool),
        Flag("--MODEL", "size", "model", "size of the network", "small; search for --RUN=search", choices=SIZES),
        Flag(
            "--GENO_PATH",
            "geno_path",
            "model",
            "genotype file, or the name of a shipped genotype",
            f"train_{task.name}",
            aliases=("--ARCH_PATH",),
        ),
        Flag(
            "--GENO_EPOCH",
            "geno_epoch",
            "model",
            "which entry of the genotype file",
            "the last",
            int,
            aliases=("--ARCH_EPOCH",),
        ),
        Flag("--SPLIT", "split", data, "what to train on", task.splits[0], choices=task.splits),
        *_own_flags(task),
        Flag("--DATA_PATH", "paths.data", data, "root of the data", "./data, or the checkpoint's"),
        Flag("--FEAT_PATH", "paths.features", data, "region features: root or feature store", "below --DATA_PATH"),
        Flag(
            "--WORD_VECTORS",
            "paths.word_vectors",
            data,
            "spaCy vectors (package or directory) or GloVe file",
            "en_vectors_web_lg",
        ),
        Flag("--BS", "training.batch_size", learn, "samples per step and process", "as the YAML says", int),
        Flag("--ACCU", "training.accumulate", learn, "parts that a batch is computed in", "1", int),
        Flag(
            "--BUCKETS",
            "training.buckets",
            learn,
            "batches of images with about as many regions each (feature store)",
            "true",
            bool,
        ),
        Flag("--MAX_EPOCH", "training.epochs", learn, "epochs to train", "as the YAML says", int),
        Flag("--SEED", "training.seed", learn, "start of all random streams", "0", int),
        Flag("--CFG", "file", learn, "YAML file laid over the shipped one", "none"),
        Flag(
            "--ALPHA_MODE",
            "search.alpha_mode",
            search,
            "candidates that run in an architecture step: all, or two drawn ones",
            "full",
            choices=ALPHA_MODES,
        ),
        Flag("--ALPHA_START", "search.alpha_start", search, "epochs before architecture steps", "20", int),
        Flag("--ALPHA_EVERY", "search.alpha_every", search, "weight steps per architecture step", "5", int),
        Flag(
            "--ALPHA_INIT",
            "search.alpha_init",
            search,
            "what the alphas start from: the pattern SA FFN / RSA GA FFN, zeros, noise",
            "prior",
            choices=ALPHA_INITS,
        ),
        Flag("--PATIENCE", "search.patience", search, "unchanged epochs after which to stop", "0, never", int),
        Flag(
            "--GPU",
            "devices",
            machine,
            "GPU ids such as '0, 1', one process each; 'cpu' uses none",
            "the first GPU, else the CPU",
        ),
        Flag("--NW", "training.workers", machine, "loader processes per process", "as the YAML says", int),
        Flag(
            "--PRECISION",
            "training.precision",
            machine,
            "number format of the forward pass",
            "fp32",
            choices=("fp32", "bf16"),
        ),
        Flag(
            "--COMPILE",
            "training.compile",
            machine,
            "compile the network by torch.compile in training",
            "off",
            bool,
        ),
    ]


_HELP = {
    "data.dataset": ("data", "which data set"),
    "data.feature_kind": ("data", "kind of region features"),
    "data.protocol": ("data", "which images are scored against each other"),
    "training.loss": ("training", "loss to train with"),
}


def _own_flags(task: type[Task]) -> Iterator[Flag]:
    """Yield the flags that only this task's script has."""
    for name, key in task.flags.items():
        group, text = _HELP.get(key, (key.split(".")[0], key))
        choices = task.choices.get(key, ())
        yield Flag(name, key, group, text, choices[0] if choices else "as the YAML says", choices=choices)
