"""Pictures -> what the vision tower takes: one resized source and, for large ones, slices of it.

The arithmetic (banker's rounding, truncation, bicubic resizing by Pillow) is that of the published
image processor: the weights know its sizes, and the placeholders in the prompt follow from them.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image, ImageOps

from omni.errors import ClientError
from omni.pictures import FORMATS, MAX_PIXELS

SCALE = 448  # side of the square whose area a picture is resized to; slice_config.scale_resolution
PATCH = 14
#: Longer side by the shorter one. From here on the shorter one is less than a patch, and the number
#: of patches grows: a line of 64 million pixels would be 256,000 instead of 1,024.
MAX_ASPECT = (SCALE // PATCH) ** 2

Size = tuple[int, int]  # (width, height) in pixels
Grid = tuple[int, int]  # (columns, rows) of slices
PatchGrid = tuple[int, int]  # (rows, columns) of patches, as the vision tower takes it
Patches = NDArray[np.uint8]


@frozen(kw_only=True, eq=False)
class SlicedImage:
    """One picture as the tower takes it: the source first, then slices row by row.

    grid: (columns, rows) of slices, None: only the source. patches: one (rows * columns, 588) uint8
    array each, values of a patch in (channel, y, x) order. patch_grids: their (rows, columns).
    """

    grid: Grid | None
    patches: tuple[Patches, ...]
    patch_grids: tuple[PatchGrid, ...]


def decode_image(data: bytes) -> Image.Image:
    """Return the picture of an encoded file (JPEG, PNG, WebP and what else Pillow reads) as RGB.

    It is turned upright where the file says how; of a moving picture it is the first.
    Raises: ClientError, when it is no picture, broken, empty or too large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width}x{image.height} pixels"
            raise ClientError(f"a picture of {size}; at most {MAX_PIXELS} are taken")
        ImageOps.exif_transpose(image, in_place=True)
        return _of_eight_bits(image).convert("RGB")
    except ClientError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ClientError(f"a picture of too many pixels: {exc}") from exc
    except Exception as exc:  # seven decoders raise whatever they like for broken files
        raise ClientError(f"not a picture that can be read: {exc}") from exc


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """Return *image*; one of 16 bits a pixel as one of 8, which Pillow would cut at 255."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray((values.clip(0, 0xFFFF) >> 8).astype(np.uint8))


def slice_image(image: Image.Image, max_slices: int) -> SlicedImage:
    """Return *image* (RGB) resized, and cut into at most *max_slices* slices if it is large.

    Raises: ClientError, when it is a line.
    """
    if max(image.size) > MAX_ASPECT * min(image.size):
        size = f"{image.width}x{image.height} pixels"
        raise ClientError(f"a picture of {size}; a side is at most {MAX_ASPECT} times the other")
    grid = slice_grid(image.size, max_slices)
    source = _resized(image, best_size(image.size, upscale=grid is None))
    pictures = [source] if grid is None else [source, *_slices(image, grid)]
    return SlicedImage(
        grid=grid,
        patches=tuple(_patches(picture) for picture in pictures),
        patch_grids=tuple((p.height // PATCH, p.width // PATCH) for p in pictures),
    )


def slice_grid(size: Size, max_slices: int) -> Grid | None:
    """Return (columns, rows) of slices for a picture of *size*, None for a small one.

    Among the factor pairs of the wanted number of slices and its two neighbours, the one nearest to
    the picture's aspect ratio (in logarithms) wins; the first of equals.
    """
    width, height = size
    multiple = min(math.ceil(width * height / SCALE**2), max_slices)
    if multiple <= 1:
        return None
    counts = [n for n in (multiple - 1, multiple, multiple + 1) if 1 < n <= max_slices]
    grids = [(m, n // m) for n in counts for m in range(1, n + 1) if n % m == 0]
    aspect = math.log(width / height)
    best, smallest = (1, 1), math.inf
    for columns, rows in grids:
        distance = abs(aspect - math.log(columns / rows))
        if distance < smallest:
            best, smallest = (columns, rows), distance
    return best


def best_size(size: Size, upscale: bool) -> Size:
    """Return *size* brought to the area SCALE x SCALE (down, or also up), in whole patches."""
    width, height = size
    if width * height > SCALE**2 or upscale:
        ratio = width / height
        height = int(SCALE / math.sqrt(ratio))
        width = int(height * ratio)
    return _whole(width, PATCH), _whole(height, PATCH)


def _whole(length: int, unit: int) -> int:
    return max(round(length / unit) * unit, unit)


def _slices(image: Image.Image, grid: Grid) -> list[Image.Image]:
    columns, rows = grid
    cell = (_whole(image.width, columns) / columns, _whole(image.height, rows) / rows)
    width, height = best_size((int(cell[0]), int(cell[1])), upscale=True)
    refined = _resized(image, (width * columns, height * rows))
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    return [refined.crop((x, y, x + width, y + height)) for x, y in corners]


def _resized(image: Image.Image, size: Size) -> Image.Image:
    return image.resize(size, Image.Resampling.BICUBIC)


def _patches(image: Image.Image) -> Patches:
    """Return (rows * columns, 588) uint8, row-major patches, each in (channel, y, x) order."""
    pixels = np.asarray(image, dtype=np.uint8)
    rows, columns = image.height // PATCH, image.width // PATCH
    blocks = pixels.reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(blocks.reshape(rows * columns, 3 * PATCH * PATCH))


def mosaic(images: Sequence[Image.Image]) -> Image.Image:
    """Tile pictures of one second into one, cells equal, with 6 black pixels between them.

    Four make 2 x 2; two or three a row or a column, whichever canvas is nearer to a square; more a
    row. Each is letterboxed on white in a cell of the largest width and height, or in a smaller one
    where the whole would have more than MAX_PIXELS.
    """
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    scale = math.sqrt(MAX_PIXELS / (len(images) * width * height))
    if scale < 1:
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
    columns, rows = _mosaic_grid(images, (width, height))
    canvas = Image.new("RGB", _canvas_size((columns, rows), (width, height)), "black")
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        corner = (column * (width + _GAP), row * (height + _GAP))
        canvas.paste(_letterboxed(image, (width, height)), corner)
    return canvas


_GAP = 6  # black pixels between cells


def _mosaic_grid(images: Sequence[Image.Image], cell: Size) -> Grid:
    count = len(images)
    if count == 4:
        return 2, 2
    if count not in (2, 3):
        return count, 1
    row, column = (_canvas_size(grid, cell) for grid in ((count, 1), (1, count)))
    row_excess, column_excess = (abs(width - height) for width, height in (row, column))
    if row_excess == column_excess and count == 2:
        aspects = [image.width / image.height for image in images]
        return (2, 1) if sum(aspects) / 2 >= 1 else (1, 2)
    return (count, 1) if row_excess <= column_excess else (1, count)


def _canvas_size(grid: Grid, cell: Size) -> Size:
    columns, rows = grid
    return columns * cell[0] + (columns - 1) * _GAP, rows * cell[1] + (rows - 1) * _GAP


def _letterboxed(image: Image.Image, cell: Size) -> Image.Image:
    scale = min(cell[0] / image.width, cell[1] / image.height)
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    box = Image.new("RGB", cell, "white")
    box.paste(_resized(image, size), ((cell[0] - size[0]) // 2, (cell[1] - size[1]) // 2))
    return box
