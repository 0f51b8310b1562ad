"""Nested dissection: in which order the cells of a grid are eliminated, and the fronts this makes.

A set of cells is cut across its longest side; the cells on one side that have an edge across the cut form
the separator, which is eliminated after both halves. The separator is read from the graph and not from the
geometry, so it is thin where the stencil is short, thick where it is wide, and holds both seams of a
periodic axis. Source: George (1973), Nested dissection of a regular finite element mesh; the elimination
tree with one dense front per separator is the multifrontal method of Duff and Reid (1983).
"""

from dataclasses import dataclass

import numba as nb
import numpy as np

LEAF = 8  # below this a set of cells is one front: measured best between bookkeeping and fill


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _adjacency(tail, head, cells):
    """Neighbours of every cell: row pointer, neighbour, and 2·edge (+1 where the cell is the head)."""
    pointer = np.zeros(cells + 1, np.int64)
    for e in range(tail.size):
        pointer[tail[e] + 1] += 1
        pointer[head[e] + 1] += 1
    for c in range(cells):
        pointer[c + 1] += pointer[c]
    fill = pointer[:-1].copy()
    neighbour = np.empty(2 * tail.size, np.int64)
    side = np.empty(2 * tail.size, np.int64)
    for e in range(tail.size):
        t, h = tail[e], head[e]
        neighbour[fill[t]] = h
        side[fill[t]] = 2 * e
        fill[t] += 1
        neighbour[fill[h]] = t
        side[fill[h]] = 2 * e + 1
        fill[h] += 1
    return pointer, neighbour, side


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _dissect(position, pointer, neighbour, leaf):
    """Elimination order and, per node of the tree, (first pivot, end of pivots, children), in post-order.

    Each set of cells is a segment of `order`, rewritten in place as [left | right | separator], so that
    the finished array is the elimination order.
    """
    cells, axes = position.shape
    order = np.arange(cells)
    scratch = np.empty(cells, np.int64)
    owner = np.full(cells, -1, np.int64)
    right = np.zeros(cells, np.bool_)
    end_of = np.zeros(cells, np.int64)  # indexed by a node's first pivot: 0 where no node starts
    children_of = np.zeros(cells, np.int64)
    todo = np.empty((cells + 1, 2), np.int64)  # disjoint segments that wait to be cut
    todo[0, 0], todo[0, 1] = 0, cells
    waiting, stamp = 1, 0
    while waiting > 0:
        waiting -= 1
        lo, hi = todo[waiting]
        stamp += 1
        axis, low, longest = 0, 0, 0
        for a in range(axes):
            least, most = position[order[lo], a], position[order[lo], a]
            for s in range(lo, hi):
                least = min(least, position[order[s], a])
                most = max(most, position[order[s], a])
            if most - least > longest:
                axis, low, longest = a, least, most - least
        if hi - lo <= leaf or longest == 0:
            end_of[lo] = hi
            continue
        cut = low + (longest + 1) // 2
        for s in range(lo, hi):
            c = order[s]
            owner[c] = stamp
            right[c] = position[c, axis] >= cut
        touching_left = touching_right = 0
        for s in range(lo, hi):
            c = order[s]
            for n in range(pointer[c], pointer[c + 1]):
                y = neighbour[n]
                if owner[y] == stamp and right[y] != right[c]:
                    if right[c]:
                        touching_right += 1
                    else:
                        touching_left += 1
                    break
        from_right = touching_right < touching_left  # the thinner side gives the separator
        lefts = rights = separators = 0
        for s in range(lo, hi):
            c = order[s]
            across = False
            if right[c] == from_right:
                for n in range(pointer[c], pointer[c + 1]):
                    y = neighbour[n]
                    if owner[y] == stamp and right[y] != right[c]:
                        across = True
                        break
                if touching_left == 0 and separators == 0:
                    across = True  # nothing crosses the cut: any one cell keeps the node non-empty
            if across:
                scratch[hi - 1 - separators] = c
                separators += 1
            elif right[c]:
                rights += 1
            else:
                lefts += 1
        # second sweep: the counts are known, so every cell can go to its place
        put_left, put_right, put_separator = lo, lo + lefts, hi - separators
        for s in range(put_separator, hi):
            owner[scratch[s]] = -stamp
        for s in range(lo, hi):
            c = order[s]
            if owner[c] == -stamp:
                continue
            if right[c]:
                scratch[put_right] = c
                put_right += 1
            else:
                scratch[put_left] = c
                put_left += 1
        for s in range(lo, hi):  # not by slices: Numba would compile the message of an error for 4 s
            order[s] = scratch[s]
        end_of[hi - separators] = hi
        if lefts > 0:
            todo[waiting, 0], todo[waiting, 1] = lo, lo + lefts
            waiting += 1
            children_of[hi - separators] += 1
        if rights > 0:
            todo[waiting, 0], todo[waiting, 1] = lo + lefts, lo + lefts + rights
            waiting += 1
            children_of[hi - separators] += 1
    nodes = np.nonzero(end_of)[0]
    return order, nodes, end_of[nodes], children_of[nodes]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fronts(order, start, end, children, pointer, neighbour):
    """Cells of every front (pivots, then the later cells they reach) and the storage elimination needs."""
    cells = order.size
    rank = np.empty(cells, np.int64)
    for r in range(cells):
        rank[order[r]] = r
    nodes = start.size
    front_pointer = np.zeros(nodes + 1, np.int64)
    front = np.empty(4 * cells + 64, np.int64)
    seen = np.full(cells, -1, np.int64)
    stack = np.empty(nodes, np.int64)
    depth = 0
    filled = factor = largest = live = peak = 0
    products = 0
    for q in range(nodes):
        begin, top = filled, end[q]
        room = top - start[q]
        for s in range(start[q], top):
            room += pointer[order[s] + 1] - pointer[order[s]]
        for k in range(children[q]):
            c = stack[depth - 1 - k]
            room += front_pointer[c + 1] - front_pointer[c]
        while filled + room > front.size:
            larger = np.empty(2 * front.size, np.int64)
            for s in range(filled):
                larger[s] = front[s]
            front = larger
        for s in range(start[q], top):
            front[filled] = order[s]
            filled += 1
        for s in range(start[q], top):
            for n in range(pointer[order[s]], pointer[order[s] + 1]):
                y = neighbour[n]
                if rank[y] >= top and seen[y] != q:
                    seen[y] = q
                    front[filled] = y
                    filled += 1
        for k in range(children[q]):
            c = stack[depth - 1 - k]
            pivots = end[c] - start[c]
            for s in range(front_pointer[c] + pivots, front_pointer[c + 1]):
                y = front[s]
                if rank[y] >= top and seen[y] != q:
                    seen[y] = q
                    front[filled] = y
                    filled += 1
            rest = front_pointer[c + 1] - front_pointer[c] - pivots
            live -= rest * (rest + 1)
        depth -= children[q]
        stack[depth] = q
        depth += 1
        front_pointer[q + 1] = filled
        size, pivots = filled - begin, top - start[q]
        live += (size - pivots) * (size - pivots + 1)  # one more column: the leaks
        peak = max(peak, live)
        largest = max(largest, size)
        factor += pivots * size - pivots * (pivots + 1) // 2
        for t in range(pivots):
            products += (size - t - 1) ** 2
    return rank, front_pointer, front[:filled].copy(), largest, peak, factor, products


@dataclass(frozen=True)
class Dissection:
    """The elimination tree of a symmetric graph, in post-order, and the storage its numbers will take."""

    pointer: np.ndarray
    neighbour: np.ndarray
    side: np.ndarray
    rank: np.ndarray  # rank[cell] = place of the cell in the elimination order
    pivots: np.ndarray  # pivots per node
    children: np.ndarray
    front_pointer: np.ndarray
    front: np.ndarray
    largest_front: int
    peak_stack: int  # entries of update matrices alive at once
    factor_entries: int
    products: int  # multiply-adds of the elimination

    @property
    def bytes(self) -> int:
        """Bytes that elimination holds at its peak: 16 per entry (mantissa and exponent)."""
        return (
            16 * (self.factor_entries + self.peak_stack + self.largest_front * (self.largest_front + 1))
            + 8 * self.front.size
        )


def dissect(tail: np.ndarray, head: np.ndarray, position: np.ndarray) -> Dissection:
    """Order the cells at integer coordinates `position` (n, d), joined by the edges (tail, head)."""
    pointer, neighbour, side = _adjacency(tail, head, len(position))
    order, start, end, children = _dissect(position, pointer, neighbour, LEAF)
    rank, front_pointer, front, largest, peak, factor, products = _fronts(
        order, start, end, children, pointer, neighbour
    )
    return Dissection(
        pointer, neighbour, side, rank, end - start, children, front_pointer, front,
        int(largest), int(peak), int(factor), int(products),
    )  # fmt: skip
