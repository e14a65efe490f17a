"""Writing a `.caffemodel` of the published layers from weights in the PyTorch ports' names."""

LENGTH = 2  # protobuf's wire type


def write_layers(layers: Mapping[str, Blobs]) -> Iterator[bytes]:
    """Yield the bytes of a `.caffemodel` with such layers."""
    for name, blobs in layers.items():
        body = [_field(1, [name.encode("ascii")])]
        for blob in blobs:
            dims = b"".join(map(_encoded, blob.shape))
            body.append(_field(7, [*_field(7, _field(1, [dims])), *_field(5, [blob.astype("<f4").tobytes()])]))
        yield from _field(100, [part for field in body for part in field])


def _field(number: int, parts: list[bytes]) -> list[bytes]:
    return [_encoded(number << 3 | LENGTH), _encoded(sum(map(len, parts))), *parts]


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
