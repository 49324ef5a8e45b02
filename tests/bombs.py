"""Read small files that unfold to much, and print what they took.

python tests/bombs.py FOLDER MIB KIND...: each KIND is one of `BOMBS`, of MIB mebibytes.
One line for each: the kind, the peak of memory in MiB above that before, the message.
"""

import gzip
import io
import lzma
import os
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from lrjax.core import UsageError
from lrjax.optim.learned import load
from lrjax.reports import published
from lrjax.tasks import corpus, data, image_data, tokens

CHUNK = 2**20


def stretch(open_file, path, start, unit, mib):
    """Write `start` and then a mebibyte of `unit` again and again."""
    block = unit * (CHUNK // len(unit))
    with open_file(path) as file:
        file.write(start)
        for _ in range(mib):
            file.write(block)
    return path


def gz(path):
    return gzip.open(path, "wb", compresslevel=1)


def xz(path):
    return lzma.open(path, "wb", preset=0)


def tar(folder, mib):
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, mib * CHUNK
    start = header.tobuf(tarfile.GNU_FORMAT)
    path = stretch(gz, folder / "a.tar.gz", start, b"\0", mib)
    return lambda: image_data._members(path, ["train"])


def npz(folder, mib, name):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({mib * CHUNK},), }}"
    header = header.ljust(117) + "\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()

    def open_file(path):
        archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        if name == "other":
            for wanted, shape in (("image", (2, 32, 32, 3)), ("label", (2,))):
                array = io.BytesIO()
                np.save(array, np.zeros(shape, np.uint8))
                archive.writestr(f"{wanted}.npy", array.getvalue())
        return Member(archive, f"{name}.npy")

    return stretch(open_file, folder / f"{name}.npz", start, b"\0", mib)


class Member:
    """A member of a zip archive; both are closed at the end."""

    def __init__(self, archive, name):
        self.archive, self.file = archive, archive.open(name, "w", force_zip64=True)

    def __enter__(self):
        return self.file

    def __exit__(self, *error):
        self.file.close()
        self.archive.close()


def picture(folder, mib):
    side = int((mib * CHUNK / 3) ** 0.5) if mib < 256 else 9000
    Image.new("RGB", (side, side)).save(folder / "a.png", compress_level=9)
    room = image_data._Room(10**4, folder)
    return lambda: image_data._picture(folder / "a.png", "a.png", 3, room)


def pickle(folder, mib):
    path = stretch(gz, folder / "a.gz", b"\x80\x02", b"]", min(mib, 200))
    return lambda: image_data._pickled_cifar(
        "cifar10", "train", data.read_bytes(path), ""
    )


def csv(folder, mib):
    path = stretch(xz, folder / "a.csv.xz", b"task,method,metric,mean\n", b"t,", mib)
    return lambda: published.read(str(path))


def zipped(folder, mib):
    path = folder / "a.csv.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", b"t," * (mib * CHUNK // 2))
    return lambda: published.read(str(path))


def line(folder, mib):
    path = stretch(xz, folder / "a.txt.xz", b"", b"a", mib)
    return lambda: list(corpus.read_lines(path))


def rows(folder, mib):
    path = stretch(xz, folder / "a.svm.xz", b"", b"1 1:1\n", mib)
    return lambda: data.read_svmlight(path)


def entries(folder, mib):
    path = stretch(xz, folder / "b.svm.xz", b"1", b" 1:1", mib)
    return lambda: data.read_svmlight(path)


def idx(folder, mib):
    path = stretch(gz, folder / "a-idx.gz", b"\0\0\x08\3" + b"\xff" * 12, b"\0", mib)
    return lambda: image_data.read_idx(path)


def policy(folder, mib):
    path = npz(folder, mib, "hidden")
    return lambda: load(path)


def wanted(folder, mib):
    path = npz(folder, mib, "image")
    with zipfile.ZipFile(path, "a") as archive:
        array = io.BytesIO()
        np.save(array, np.zeros(9, int))
        archive.writestr("label.npy", array.getvalue())
    return lambda: image_data._read_npz(path, image_data.SETS["cifar10"])


def other(folder, mib):
    path = npz(folder, mib, "other")
    return lambda: image_data._read_npz(path, image_data.SETS["cifar10"])


def tokenizer(folder, mib):
    path = folder / "tokenizer.json"
    path.touch()
    os.truncate(path, mib * CHUNK)  # takes no room on the disk
    return lambda: tokens.read_vocabulary(path)


BOMBS = {
    **{"tar": tar, "picture": picture, "csv": csv, "zip": zipped, "policy": policy},
    **{"wanted": wanted, "other": other, "tokenizer": tokenizer, "line": line},
    **{"entries": entries, "idx": idx, "pickle": pickle, "rows": rows},
}


def main(folder, mib, *kinds):
    for kind in kinds:
        read = BOMBS[kind](Path(folder), int(mib))
        before = reset()
        try:
            read()
            said = "read"
        except (UsageError, ValueError) as error:
            said = str(error)
        print(kind, peak_since_reset() - before, said.replace("\n", "\\n"), flush=True)


def reset():
    """Forget the peak of memory; give what is in use, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_since_reset()


def peak_since_reset():
    """The peak of memory in MiB since `reset`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
