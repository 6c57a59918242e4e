"""A map of how likely each pixel belongs to text → boxes around the words, and their scores.

The post-processing of Differentiable Binarization (Liao et al. 2020): threshold, connected regions, the
smallest rectangle around each, widened by what training had shrunk it.
"""

from __future__ import annotations

import numpy as np

PIXEL_THRESHOLD = 0.3
BOX_THRESHOLD = 0.5
UNCLIP_RATIO = 1.6
SHORTEST_SIDE = 3.0


def find_boxes(likely: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """likely: float32 [rows, columns] in 0..1; size: (height, width) of the image that the boxes are for.

    → (float32 [boxes, 4, 2], corners x, y clockwise from the top left one, in the image's pixels; float32
    [boxes], the mean of `likely` in the box before it is widened). From top to bottom; both may be empty.
    """
    rows, columns = likely.shape
    scale = np.array([size[1] / columns, size[0] / rows])
    found = []
    for points in regions(likely > PIXEL_THRESHOLD):
        centre, axes, half = smallest_rectangle(points)
        score = _mean_inside(likely, centre, axes, half)
        if 2 * half.min() < SHORTEST_SIDE or score < BOX_THRESHOLD:
            continue
        # Vatti's offset D = A · r / L; a rectangle that is offset by D with round corners has this one around it.
        half = half + 4 * half.prod() * UNCLIP_RATIO / (4 * half.sum())
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        corners = (centre + (signs * half) @ axes) * scale
        found.append((_clockwise(corners.clip(0, [size[1], size[0]])), score))
    found.sort(key=lambda box: tuple(box[0][0][::-1]))
    boxes = np.array([corners for corners, _ in found], dtype=np.float32).reshape(-1, 4, 2)
    return boxes, np.array([score for _, score in found], dtype=np.float32)


def regions(mask: np.ndarray) -> list[np.ndarray]:
    """Booleans [rows, columns] → for each 8-connected region the ends of its runs, [points, 2] as x, y.

    Runs of set pixels are joined with those they touch in the row above; a run's two ends are all that its
    convex hull needs.
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1] - 1
    parent = list(range(len(row)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first = np.searchsorted(row, np.arange(mask.shape[0] + 1))
    for y in range(1, mask.shape[0]):
        above, run = first[y - 1], first[y]
        while above < first[y] and run < first[y + 1]:
            if start[above] <= end[run] + 1 and start[run] <= end[above] + 1:
                parent[root(run)] = root(above)
            if end[above] < end[run]:
                above += 1
            else:
                run += 1
    members: dict[int, list[int]] = {}
    for run in range(len(row)):
        members.setdefault(root(run), []).append(run)
    ends = np.stack([np.stack([start, row], 1), np.stack([end, row], 1)], 1)
    return [ends[runs].reshape(-1, 2) for runs in members.values()]


def smallest_rectangle(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[points, 2] → (centre [2], two unit vectors [2, 2], half the length along each [2]) of least area.

    One side of it lies along an edge of the convex hull (Freeman and Shapira 1975), so each edge is tried.
    """
    hull = convex_hull(points).astype(np.float64)
    edges = np.diff(np.concatenate([hull, hull[:1]]), axis=0)
    length = np.hypot(edges[:, 0], edges[:, 1])
    along = edges[length > 0] / length[length > 0, None] if length.any() else np.array([[1.0, 0.0]])
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    turned = np.stack([hull @ along.T, hull @ across.T], axis=-1)
    low, high = turned.min(axis=0), turned.max(axis=0)
    best = int((high - low).prod(axis=1).argmin())
    axes = np.stack([along[best], across[best]])
    return (low[best] + high[best]) / 2 @ axes, axes, (high[best] - low[best]) / 2


def convex_hull(points: np.ndarray) -> np.ndarray:
    """[points, 2] → the corners of the convex hull in order (Andrew's monotone chain)."""
    ordered = sorted({(int(x), int(y)) for x, y in points})

    def chain(candidates: list[tuple[int, int]]) -> list[tuple[int, int]]:
        kept: list[tuple[int, int]] = []
        for x, y in candidates:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-2:]
                if (bx - ax) * (y - ay) > (by - ay) * (x - ax):
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1] or kept

    lower, upper = chain(ordered), chain(ordered[::-1])
    return np.array(lower + upper if len(ordered) > 1 else lower)


def _mean_inside(likely: np.ndarray, centre: np.ndarray, axes: np.ndarray, half: np.ndarray) -> float:
    reach = np.abs(axes.T) @ half
    left, top = np.floor(centre - reach).astype(int).clip(0)
    right, bottom = np.ceil(centre + reach).astype(int)
    window = likely[top : bottom + 1, left : right + 1]
    y, x = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
    distance = np.abs((np.stack([x, y], axis=-1) - centre) @ axes.T)
    return float(window[(distance <= half + 0.5).all(axis=-1)].mean())


def _clockwise(corners: np.ndarray) -> np.ndarray:
    """The same corners, starting with the one nearest to the image's origin; y points down."""
    return np.roll(corners, -int(corners.sum(axis=1).argmin()), axis=0)
