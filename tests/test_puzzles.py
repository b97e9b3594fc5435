"""Puzzles: one solution each, counted by other means; splits that share no image; ratings that can be made again."""

import numpy as np
import pytest
import torch

from terrella.errors import PuzzleError
from terrella.puzzles import mazes, sudokus
from terrella.puzzles import sudoku as sudoku_module
from terrella.puzzles.mazes import GOAL, START, WALL, canonical, distances, faults, trees, turn
from terrella.puzzles.sudoku import climb, minimal, rate, solutions, violations
from terrella.puzzles.sudoku_search import propagate, search
from terrella.puzzles.sudoku_symmetry import augment, fingerprints, isomorphs


def images(maze):
    return [np.rot90(m, k) for m in (maze, maze.T) for k in range(4)]


def paths(maze):
    """Every path from start to goal that visits no token twice, as sets, by plain search."""
    (start,), found = np.argwhere(maze == START), []

    def walk(place, been):
        if maze[place] == GOAL:
            found.append(been)
            return
        r, c = place
        for step in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            inside = 0 <= step[0] < len(maze) and 0 <= step[1] < len(maze)
            if inside and maze[step] != WALL and step not in been:
                walk(step, been | {step})

    walk(tuple(start), {tuple(start)})
    return found


@pytest.mark.parametrize("side", [5, 7, 11])
def test_mazes_have_one_path_and_the_answer_is_it(side):
    lengths = (4, 2 * side)
    puzzles = mazes(20, side, lengths=lengths)
    assert (puzzles.tokens == START).sum((1, 2)).tolist() == (puzzles.tokens == GOAL).sum((1, 2)).tolist() == [1] * 20
    for maze, answer, rating in zip(puzzles.tokens, puzzles.answers, puzzles.ratings):
        (path,) = paths(maze)
        assert path == {tuple(p) for p in np.argwhere(answer)}
        assert len(path) == rating + 1
        assert lengths[0] <= rating <= lengths[1]
        room = maze != WALL  # all rooms are reached, and the tokens are a tree
        doors = (room[1:] & room[:-1]).sum() + (room[:, 1:] & room[:, :-1]).sum()
        assert room[::2, ::2].all()
        assert doors == room.sum() - 1


def test_mazes_differ_under_symmetry_and_splits_share_none():
    train = mazes(300, 5, lengths=(4, 12))
    test = mazes(40, 5, seed=1, lengths=(4, 12), split="test")
    seen = {image.tobytes() for maze in train.tokens for image in images(maze)}
    assert not any(image.tobytes() in seen for maze in test.tokens for image in images(maze))
    keys = canonical(train.tokens)
    assert len(set(keys)) == 300
    assert all(canonical(np.stack(images(maze))) == [key] * 8 for maze, key in zip(train.tokens[:9], keys))


def test_mazes_come_again_from_their_seed():
    one, two, other = mazes(30, 7, seed=3), mazes(30, 7, seed=3), mazes(30, 7, seed=4)
    assert np.array_equal(one.tokens, two.tokens)
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_turned_mazes_keep_their_answers():
    puzzles, rng = mazes(40, 7), np.random.default_rng(0)
    tokens, answers = turn(puzzles.tokens, puzzles.answers, rng)
    assert canonical(tokens) == canonical(puzzles.tokens)
    assert not np.array_equal(tokens, puzzles.tokens)
    assert (faults(torch.from_numpy(tokens), torch.from_numpy(answers)[:, None]) == 0).all()
    drawn, _ = puzzles.draw(10, rng)
    assert set(canonical(drawn)) <= set(canonical(puzzles.tokens))


def test_faults_are_none_for_the_answer_alone():
    puzzles = mazes(10, 5, lengths=(4, 12))
    tokens, answers = torch.from_numpy(puzzles.tokens), torch.from_numpy(puzzles.answers)
    every = torch.eye(25, dtype=torch.uint8).reshape(25, 5, 5)
    flipped = answers[:, None] ^ every  # each answer with one token wrong
    assert (faults(tokens, answers[:, None]) == 0).all()
    assert (faults(tokens, flipped) > 0).all()
    assert (faults(tokens, torch.zeros_like(flipped)) > 0).all()


def test_distances_in_a_tree():
    free = trees(5, 4, np.random.default_rng(0))
    away = distances(free, np.zeros(5, int))
    assert (away[:, 0, 0] == 0).all()
    assert ((away >= 0) == free).all()
    for maze, steps in zip(free, away):
        for r, c in np.argwhere(maze & (steps > 0)):
            near = [steps[p] for p in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)) if min(p) >= 0 and max(p) < 7]
            assert near.count(steps[r, c] - 1) == 1


def test_what_mazes_cannot_be_is_refused():
    for bad in ({"side": 6}, {"side": 3}, {"count": 0}, {"lengths": (9, 4)}, {"split": "dev"}):
        with pytest.raises(PuzzleError, match="expected"):
            mazes(**{"count": 1, "side": 5, **bad})
    with pytest.raises(PuzzleError, match="ask for fewer"):
        mazes(1, 5, lengths=(100, 200))


def brute(puzzle, box, limit=2):
    """Count solutions by plain search, without any rule."""
    grid, (high, wide) = puzzle.copy(), box
    side = len(grid)

    def fill():
        holes = np.argwhere(grid == 0)
        if not len(holes):
            return 1
        total, best = 0, None
        for r, c in holes:
            r0, c0 = r // high * high, c // wide * wide
            used = {*grid[r], *grid[:, c], *grid[r0 : r0 + high, c0 : c0 + wide].ravel()}
            fits = [d for d in range(1, side + 1) if d not in used]
            if best is None or len(fits) < len(best[1]):
                best = (r, c), fits
        place, fits = best
        for digit in fits:
            grid[place] = digit
            total += fill()
            if total >= limit:
                break
        grid[place] = 0
        return total

    return min(fill(), limit)


def test_the_solver_counts_all_grids_of_side_four():
    found = search(np.zeros((1, 4, 4), int), limit=1000)
    assert found.count.tolist() == [288]
    assert found.guesses.tolist() == [287]


@pytest.mark.parametrize(("side", "box"), [(4, (2, 2)), (6, (2, 3)), (9, (3, 3))])
def test_the_solver_agrees_with_plain_search(side, box):
    rng = np.random.default_rng(0)
    grids = minimal(solutions(1 if side == 9 else 3, side, rng), rng)
    fewer = grids.copy()
    for grid in fewer:
        r, c = rng.permutation(np.argwhere(grid))[0]
        grid[r, c] = 0
    wrong = grids.copy()
    clue = np.argwhere(wrong[0])[0]
    wrong[0, clue[0]] = wrong[0][tuple(clue)]  # one digit all along a row
    for puzzles in (grids, fewer, wrong):
        assert search(puzzles).count.tolist() == [brute(p, box) for p in puzzles]
    assert (search(fewer).count == 2).all()  # minimal: no clue can go
    both = search(fewer).solutions
    assert (both[:, 0] != both[:, 1]).any((1, 2)).all()
    for n in range(2):
        assert (violations(torch.from_numpy(fewer), torch.from_numpy(both[:, n : n + 1]).long() - 1) == 0).all()


def test_rules_never_lose_the_solution():
    rng = np.random.default_rng(1)
    grids = solutions(8, 9, rng)
    bits = (1 << (grids.reshape(8, -1).T.astype(int) - 1)).astype(np.uint16)
    tokens = minimal(grids, rng)
    masks = np.where(tokens.reshape(8, -1).T > 0, bits, 511).astype(np.uint16)
    for _ in range(30):
        masks, bad = propagate(masks, 9)
        assert not bad.any()
        assert (masks & bits == bits).all()


def test_locked_candidates_reach_beyond_their_box():
    masks = np.full((9, 9), 511, np.uint16)
    masks[1:3, :3] &= ~np.uint16(1)  # in the first box, 1 fits in the first row alone
    masks[3:, 8] &= ~np.uint16(2)  # in the last column, 2 fits in the top box alone
    after, _ = propagate(masks.reshape(81, 1), 9)
    after = after.reshape(9, 9)
    assert (after[0, 3:] & 1 == 0).all()
    assert (after[0, :3] & 1 == 1).all()
    assert (after[:3, 6:8] & 2 == 0).all()
    assert (after[:3, 8] & 2 == 2).all()


def test_a_puzzle_is_searched_as_it_is_alone():
    rng = np.random.default_rng(2)
    grids = minimal(solutions(6, 9, rng), rng)
    together = search(grids)
    alone = [search(grids[i : i + 1]) for i in range(6)]
    assert together.guesses.tolist() == [int(a.guesses[0]) for a in alone]
    assert np.array_equal(together.solutions, np.concatenate([a.solutions for a in alone]))


@pytest.mark.parametrize("side", [4, 6, 9])
def test_sudokus_are_unique_minimal_and_rated_from_a_seed(side):
    count = 2
    puzzles = sudokus(count, side)
    found = search(puzzles.tokens)
    assert (found.count == 1).all()
    assert np.array_equal(found.solutions[:, 0] - 1, puzzles.answers)
    for puzzle in puzzles.tokens:
        every = np.stack([np.where(np.arange(side**2).reshape(side, side) == i, 0, puzzle) for i in range(side**2)])
        assert ((search(every).count == 1) == (puzzle == 0).ravel()).all()
    np.testing.assert_allclose(rate(puzzles.tokens[1:2]), puzzles.ratings[1:2])
    assert puzzles.fingerprint == sudokus(count, side).fingerprint


def test_images_of_sudokus_are_sudokus_with_one_fingerprint():
    for side in (4, 6, 9):
        rng = np.random.default_rng(side)
        wholes = solutions(20, side, rng)
        tokens = minimal(wholes, rng)
        keys, grids = fingerprints(wholes, tokens > 0), fingerprints(wholes)
        image, answer = augment(tokens, wholes - 1, rng)
        assert (violations(torch.from_numpy(image), torch.from_numpy(answer)[:, None]) == 0).all()
        assert (search(image).count == 1).all()
        assert (image != tokens).any((1, 2)).all()
        assert fingerprints(answer + 1, image > 0) == keys
        assert fingerprints(answer + 1) == grids
        assert len(set(keys)) > 10
    assert len(set(grids)) == 20  # of 9 x 9
    assert len(set(fingerprints(solutions(200, 4, np.random.default_rng(0))))) == 2  # all that there are
    one = isomorphs(tokens, np.random.default_rng(0), same=True)
    assert np.array_equal(one[3:4], isomorphs(tokens[3:4], np.random.default_rng(0), same=True))


def test_splits_of_sudokus_share_no_image():
    train, test = sudokus(60, 6), sudokus(6, 6, seed=1, split="test")
    keys = [set(fingerprints(p.answers + 1, p.tokens > 0)) for p in (train, test)]
    assert (len(keys[0]), len(keys[1])) == (60, 6)
    assert not keys[0] & keys[1]
    large, others = sudokus(4, 9), sudokus(1, 9, seed=1, split="test")
    assert not set(fingerprints(large.answers + 1)) & set(fingerprints(others.answers + 1))  # by the solution


def test_climbing_makes_puzzles_harder():
    rng = np.random.default_rng(0)
    wholes = solutions(16, 6, rng)
    easy = minimal(wholes, rng)
    hard, arrived = climb(easy, wholes, 0.7, 8, rng)
    assert (search(hard).solutions[:, 0] == wholes).all()  # the solution is the lineage
    assert (search(hard).count == 1).all()
    assert np.array_equal(minimal(hard, rng), hard)
    assert rate(hard).mean() > rate(easy).mean() + 0.1
    assert arrived.sum() > (rate(easy) >= 0.7).sum()


def test_what_sudokus_cannot_be_is_refused(monkeypatch):
    for bad in ({"side": 5}, {"count": 0}, {"guesses": -1.0}, {"split": "dev"}):
        with pytest.raises(PuzzleError, match="expected"):
            sudokus(**{"count": 1, "side": 4, **bad})
    for bad in (np.full((1, 4, 4), 5), np.zeros((4, 4)), np.zeros((1, 4, 5)), np.full((1, 4, 4), -1)):
        with pytest.raises(PuzzleError, match="expected"):
            search(bad)
    monkeypatch.setattr(sudoku_module, "PATIENCE", 1)
    with pytest.raises(PuzzleError, match="ask for fewer"):
        sudokus(1, 4, guesses=5.0, steps=1)


def test_batches_may_be_empty():
    nothing = np.zeros((0, 9, 9), np.uint8)
    rng = np.random.default_rng(0)
    assert search(nothing).count.shape == (0,)
    assert fingerprints(nothing, nothing > 0) == []
    assert climb(minimal(nothing, rng), nothing, 1.0, 2, rng, 0)[0].shape == (0, 9, 9)


def test_violations_count_what_is_wrong():
    rng = np.random.default_rng(0)
    wholes = solutions(2, 6, rng)
    tokens = minimal(wholes, rng)
    answers = torch.from_numpy(wholes).long()[:, None] - 1
    assert (violations(torch.from_numpy(tokens), answers) == 0).all()
    clue = tuple(np.argwhere(tokens[0])[0])
    answers[0, 0][clue] = (answers[0, 0][clue] + 1) % 6
    # One clue is not kept, and its row, its column and its box lack a digit.
    assert violations(torch.from_numpy(tokens), answers).tolist() == [[4], [0]]
