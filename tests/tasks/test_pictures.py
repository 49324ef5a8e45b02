"""Pictures of every mode: the right bytes, or one line that says why not."""

import io
import struct
import zlib

import numpy as np
import pytest

from lrjax.tasks import image_data
from lrjax.tasks.data import DataError

Image = pytest.importorskip("PIL.Image")

GREY = np.array([[0, 1, 127, 128, 254, 255]], np.uint8)
DEEP = np.array([[0, 255, 256, 511, 32767, 32768, 65279, 65280, 65535]], np.uint16)
COLOUR = np.array([[[200, 100, 50], [0, 0, 0], [255, 255, 255], [1, 2, 3]]], np.uint8)
CLEAR = np.array([[255, 255, 254, 255]], np.uint8)


def stored(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def of(mode, array, form="PNG", **options):
    """A file of an array, the mode being what Pillow calls it."""
    image = Image.frombytes(mode, array.shape[1::-1], np.ascontiguousarray(array))
    return stored(image, form, **options)


def png(bits, colour, row, chunks=b""):
    """A PNG of one row, made by hand for what Pillow does not write."""

    def chunk(name, content):
        check = zlib.crc32(name + content)
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
        )

    width = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    head = struct.pack(
        ">IIBBBBB", len(row) * 8 // bits // width, 1, bits, colour, 0, 0, 0
    )
    rows = chunk(b"IDAT", zlib.compress(b"\0" + row))
    extra = chunk(b"tRNS", chunks) if chunks else b""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + extra + rows + chunk(b"IEND", b"")


def deep(*planes):
    """Rows of 16 bits a channel."""
    return np.stack(planes, -1).astype(">u2").tobytes()


OPAQUE16 = np.full_like(DEEP, 65535)
high = DEEP >> 8
three = np.repeat(GREY[..., None], 3, -1)
deep_three = np.repeat(high[..., None], 3, -1)
solid = np.full_like(CLEAR, 255)[..., None]
bits = np.array([[0, 255, 255, 0, 255, 0, 0, 0]], np.uint8)
palette = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), "P")
palette.putpalette(COLOUR.tobytes())
# The primaries of JPEG's YCbCr by its own formula, to rounding.
ycc = np.array([[[76, 85, 255], [128, 128, 128], [255, 128, 128]]], np.uint8)
ycc_rgb = np.array([[[254, 0, 0], [128, 128, 128], [255, 255, 255]]], np.uint8)
cmyk = np.array(
    [[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0], [0, 51, 0, 0]]], np.uint8
)
cmyk_rgb = np.array([[[255] * 3, [0] * 3, [0, 255, 255], [255, 204, 255]]], np.uint8)

RIGHT = {
    "1": (
        stored(Image.fromarray(bits).convert("1")),
        np.repeat(bits[..., None], 3, -1),
    ),
    "L": (of("L", GREY), three),
    "L of 2 bits": (png(2, 0, b"\x1b"), np.repeat([[[0], [85], [170], [255]]], 3, -1)),
    "L of 4 bits": (png(4, 0, b"\x0f"), np.repeat([[[0], [255]]], 3, -1)),
    "LA, opaque": (of("LA", np.stack([GREY, GREY * 0 + 255], -1)), three),
    "RGB": (of("RGB", COLOUR), COLOUR),
    "RGB, BMP": (of("RGB", COLOUR, "BMP"), COLOUR),
    "RGB, PPM": (of("RGB", COLOUR, "PPM"), COLOUR),
    "RGBA, opaque": (of("RGBA", np.concatenate([COLOUR, solid], -1)), COLOUR),
    "P": (stored(palette), COLOUR),
    "P, its transparent colour unused": (stored(palette, transparency=9), COLOUR),
    "PA, opaque": (
        of("PA", np.stack([GREY * 0, GREY * 0 + 255], -1), "TIFF"),
        np.zeros((1, 6, 3)),
    ),
    "YCbCr": (of("YCbCr", ycc, "TIFF"), ycc_rgb),
    "CMYK": (of("CMYK", cmyk, "TIFF"), cmyk_rgb),
    "I;16": (png(16, 0, deep(DEEP)), deep_three),
    "I;16 of times 257": (of("I;16", GREY.astype("<u2") * 257), three),
    "I;16, its transparent value unused": (png(16, 0, deep(DEEP), b"\0\7"), deep_three),
    "I;16, TIFF": (of("I;16", DEEP.astype("<u2"), "TIFF"), deep_three),
    "I;16B, TIFF": (of("I;16B", DEEP.astype(">u2"), "TIFF"), deep_three),
    "I, PPM of 16 bits": (b"P5 9 1 65535\n" + deep(DEEP), deep_three),
    "RGB of 16 bits": (png(16, 2, deep(DEEP, DEEP, DEEP)), deep_three),
    "LA of 16 bits": (png(16, 4, deep(DEEP, OPAQUE16)), deep_three),
    "RGBA of 16 bits": (png(16, 6, deep(DEEP, DEEP, DEEP, OPAQUE16)), deep_three),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_bytes_of_a_picture(name):
    content, expected = RIGHT[name]
    found = image_data._picture(content, "file")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    grey = image_data._picture(content, "file", channels=1)
    if (expected == expected[..., :1]).all():  # no colours, so no weights of them
        np.testing.assert_array_equal(grey, expected[..., :1])


def animated(form):
    frames = [Image.fromarray(COLOUR + i) for i in range(3)]
    return stored(frames[0], form, save_all=True, append_images=frames[1:])


REFUSED = {
    "L": (png(8, 0, GREY.tobytes(), b"\0\x7f"), "transparent"),
    "LA": (of("LA", np.stack([GREY, GREY * 0 + 254], -1)), "transparent"),
    "RGBA": (of("RGBA", np.concatenate([COLOUR, CLEAR[..., None]], -1)), "transparent"),
    "P": (stored(palette, transparency=2), "transparent"),
    "PA": (of("PA", np.stack([GREY * 0, GREY], -1), "TIFF"), "transparent"),
    "I;16": (png(16, 0, deep(DEEP), b"\1\xff"), "transparent"),
    "RGBA, of 16 bits": (png(16, 6, deep(DEEP, DEEP, DEEP, DEEP)), "transparent"),
    "I": (of("I", DEEP.astype("<i4"), "TIFF"), "range of its numbers"),
    "F": (of("F", DEEP.astype("<f4"), "TIFF"), "not a kind"),
    "LAB": (of("LAB", COLOUR, "TIFF"), "not a kind"),
    "RGB, APNG": (animated("PNG"), "several pictures"),
    "P, GIF": (animated("GIF"), "several pictures"),
    "RGB, TIFF": (animated("TIFF"), "several pictures"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_that_have_no_one_form_are_refused(name):
    content, words = REFUSED[name]
    with pytest.raises(DataError) as refused:
        image_data._picture(content, "some/file.png")
    text = str(refused.value)
    assert text.startswith("some/file.png: a ")
    assert "\n" not in text
    assert words in text
    mode = name.split(",")[0]
    assert f"mode {mode}" in text or words == "several pictures", text


@pytest.mark.parametrize("turned", range(1, 9))
def test_a_camera_that_was_held_sideways(turned):
    image = Image.fromarray(np.repeat(np.repeat(COLOUR[:, :2], 8, 0), 8, 1))
    exif = Image.Exif()
    exif[274] = turned
    found = image_data._picture(stored(image, exif=exif), "file")
    # The table of the Exif standard: where row 0 and column 0 of the file belong.
    array = np.asarray(image)
    right = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: array.transpose(1, 0, 2)[:, ::-1],
        7: array.transpose(1, 0, 2)[::-1, ::-1],
        8: array.transpose(1, 0, 2)[::-1],
    }[turned]
    np.testing.assert_array_equal(found, right)


def test_hidden_files_among_pictures_are_left_out(tmp_path):
    for split in ("train", "test"):
        for label in range(10):
            folder = tmp_path / "mnist" / split / str(label)
            folder.mkdir(parents=True)
            Image.fromarray(np.full((28, 28), label, np.uint8)).save(folder / "0.png")
            (folder / "._0.png").write_bytes(b"\0\5\x16\7")
        (tmp_path / "mnist" / split / ".ipynb_checkpoints").mkdir()
    (tmp_path / "mnist" / "._train.npz").write_bytes(b"\0\5\x16\7")
    with pytest.warns(UserWarning, match="do not compare"):
        part = image_data.load("mnist", str(tmp_path))["train"]
    assert part.images[:, 0, 0, 0].tolist() == list(range(10))


@pytest.mark.parametrize("form", ["EPS", "DDS", "TGA", "PCX", "SGI", "ICO"])
def test_only_decoders_that_are_named_are_tried(form, tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    def run(*args, **kwargs):
        raise AssertionError("Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    path = tmp_path / "a.png"
    path.write_bytes(of("RGB", COLOUR, form))
    with pytest.raises(DataError, match="cannot be decoded: cannot identify"):
        image_data._picture(path, str(path))


def test_sizes_are_looked_at_before_pictures_are_decoded(monkeypatch):
    def decoded(*args):
        raise AssertionError

    content = of("RGB", COLOUR)
    with monkeypatch.context() as patch:
        patch.setattr(image_data, "_pixels", decoded)
        patch.setattr(image_data, "_MAX_PIXELS", 3)
        with pytest.raises(DataError, match="file: 1 x 4 pixels are more than 3"):
            image_data._picture(content, "file")
    monkeypatch.setattr(image_data, "_MAX_BYTES", 2 * 4 * 3)
    room = image_data._Room(2, "place")
    image_data._picture(content, "file", room=room)
    monkeypatch.setattr(image_data, "_pixels", decoded)
    taller = of("RGB", np.repeat(COLOUR, 2, 0))
    with pytest.raises(DataError, match="place: 2 images of up to 2 x 4 are more than"):
        image_data._picture(taller, "file", room=room)
