"""`python -m mmnas convert-detector`: any published file of the detector's weights, as one `.safetensors`."""

import argparse
from pathlib import Path

from mmnas.errors import ConfigError, safe


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("convert-detector", help="convert the detector's weights to one .safetensors file")
    parser.description = (
        "Convert the weights of the bottom-up-attention detector, in any published layout, to a file that loads "
        "faster, cannot run code, and holds the anchors and a checksum of all numbers."
    )
    parser.add_argument("source", metavar="FILE", type=Path, help=".caffemodel, .pth, .pkl or pytorch_model.bin")
    parser.add_argument("out", metavar="OUT.safetensors", type=Path, help="the file to write")
    parser.set_defaults(run=convert_detector)


def convert_detector(options: argparse.Namespace) -> int:
    """Convert, and print the digest."""
    from mmnas.detector.weights import read_weights, write_weights  # slow to import

    if options.out.suffix != ".safetensors":
        raise ConfigError(f"the file to write must end in .safetensors, unlike {options.out}")
    if options.out.exists() and options.out.samefile(options.source):
        raise ConfigError(f"{options.out} is the file to convert; name another one to write")
    weights = read_weights(options.source)
    write_weights(options.out, weights)
    count = sum(value.numel() for value in weights.tensors.values())
    print(f"{safe(options.out)}: {count} weights, digest {weights.digest}")
    return 0
