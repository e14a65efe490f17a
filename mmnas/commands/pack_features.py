"""`python -m mmnas pack-features`: packs region features into a store that loads faster, and checks a store."""

import argparse
import time

from mmnas.errors import ConfigError, safe


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser(
        "pack-features",
        help="pack region features into one store for --FEAT_PATH",
        usage="%(prog)s SRC... OUT [options], or %(prog)s --verify OUT",
        description="Pack folders of .npz files, archives (.tar.gz) or .tsv tables as downloaded into one store. "
        "An interrupted run resumes when started again. The kind of features (x, or fc7 and pool5) is detected.",
    )
    sources = "a folder, .tar.gz, .npz, .tsv, or .zip of .tsv files"
    parser.add_argument("sources", nargs="*", metavar="SRC", help=sources)
    parser.add_argument("out", metavar="OUT", help="the folder of the store, such as data/vqa.features")
    parser.add_argument("--dtype", default="float32", help="float32 (default) or float16")
    parser.add_argument("--feature-size", type=int, help="default: 2048 for x, 3072 for fc7 and pool5")
    parser.add_argument("--verify", action="store_true", help="check all counts and checksums of OUT")
    parser.set_defaults(run=pack_features)


def pack_features(options: argparse.Namespace) -> int:
    """Pack or check a store, and print what it holds."""
    from mmnas.data.store_writer import pack, verify  # slow to import, needed by this command only

    if options.verify == bool(options.sources):
        raise ConfigError("name what to pack and the store, SRC... OUT, or one store alone with --verify")
    start = time.perf_counter()
    if options.verify:
        header = verify(options.out)
        done, what = header.images, "checked"
    else:
        header, done = pack(options.sources, options.out, options.dtype, options.feature_size)
        what = "packed now"
    seconds, size = time.perf_counter() - start, sum(header.file_sizes().values())
    print(
        f"{safe(options.out)}: {header.images} images, {header.regions} regions, {header.kind} of width "
        f"{header.feature_size} in {header.dtype}, {size} bytes; {done} images {what} "
        f"in {seconds:.1f} seconds, {done / seconds:.0f} images per second"
    )
    return 0
