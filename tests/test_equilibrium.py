"""Fixed points: the iteration against closed forms, the reasoner's recursion against autograd, training, choosing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from terrella.errors import ConfigError, PuzzleError, TrainingError, WorldError
from terrella.nn.equilibrium import iterate, residual, truncated
from terrella.nn.mixers import ConvMixer, Grid
from terrella.nn.noise import RowNoise, row_keys
from terrella.planning.equilibrium import Reasoner, ReasonerConfig
from terrella.planning.segmented import ReasonerTraining, segment_loss, stablemax_loss, train_reasoner
from terrella.planning.solve import choose, count_votes, solve
from terrella.puzzles import Puzzles, mazes
from terrella.puzzles.mazes import faults
from terrella.training.optim import AdamAtan2

SMALL = ReasonerConfig(symbols=4, classes=2, dim=16, hidden=32)


def contraction(rows=3, size=5, lipschitz=0.8):
    torch.manual_seed(0)
    a = torch.randn(size, size, dtype=torch.float64)
    a *= lipschitz / torch.linalg.matrix_norm(a, 2)
    b = torch.randn(rows, size, dtype=torch.float64)
    star = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - a, b.T).T
    return (lambda z: z @ a.T), b, star, a


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_a_contraction_comes_to_its_closed_form_within_the_bound(damping):
    f, b, star, a = contraction()
    # z <- A z + b is z <- A (z + u) with A u = b, so that the input enters as everywhere.
    u = torch.linalg.solve(a, b.T).T
    z0 = torch.zeros_like(b)
    for iters in (1, 4, 16):
        z, trace = iterate(f, z0, u, iters, damping)
        error = torch.linalg.vector_norm(z - star, dim=1) / 5**0.5
        assert (error <= trace.residuals[-1] / (1 - 0.8) + 1e-12).all()
    z, trace = iterate(f, z0, u, 400, damping)
    torch.testing.assert_close(z, star, atol=1e-10, rtol=0)
    assert (trace.steps == 400).all()
    assert not trace.halted.any()
    torch.testing.assert_close(iterate(f, z0, u, 1)[1].residuals[0], residual(b, z0))


def test_residuals_come_before_the_noise():
    f, b, _, _ = contraction()
    with_noise = iterate(f, b, 0.0, 1, noise=10.0, generator=torch.Generator().manual_seed(0))
    without = iterate(f, b, 0.0, 1)
    assert torch.equal(with_noise[1].residuals, without[1].residuals)
    assert (with_noise[0] - without[0]).abs().max() > 1


def test_a_row_that_rests_is_frozen_bit_for_bit():
    scale = torch.tensor([[0.1], [0.9]], dtype=torch.float64)

    def f(z):
        return z * scale

    z0 = torch.ones(2, 4, dtype=torch.float64)
    z, trace = iterate(f, z0, 0.0, 100, tol=1e-3)
    assert trace.halted.all()
    for row in range(2):
        steps = int(trace.steps[row])
        alone, its = iterate(f, z0, 0.0, steps)
        assert torch.equal(z[row], alone[row])
        assert its.residuals[-1, row] < 1e-3
        assert steps == 1 or its.residuals[-2, row] >= 1e-3
        assert (trace.residuals[steps - 1 :, row] == its.residuals[-1, row]).all()
        torch.testing.assert_close(trace.last(3)[row], its.residuals[-3:, row].mean())
    assert trace.steps[0] < trace.steps[1] == len(trace.residuals)  # stops when the last row does


def test_a_row_that_is_not_finite_never_rests():
    z, trace = iterate(lambda z: z * torch.tensor([[torch.nan], [0.0]]), torch.ones(2, 2), 0.0, 5, tol=0.1)
    assert trace.halted.tolist() == [False, True]
    assert trace.steps.tolist() == [5, 2]
    assert (z[1] == 0).all()


def test_settings_out_of_range_are_refused():
    z = torch.ones(1, 1)
    for bad in ({"iters": 0}, {"tol": -1.0}, {"damping": 1.0}, {"noise": -0.1}):
        with pytest.raises(ConfigError, match="expected"):
            iterate(lambda z: z, z, 0.0, **{"iters": 1, **bad})


def test_truncated_normal_numbers():
    drawn = truncated(torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert abs(float(drawn.std()) - 1) < 0.01
    assert abs(float(drawn.mean())) < 0.01
    assert 2.2 < float(drawn.abs().max()) < 2 / 0.8796 + 1e-3  # two deviations, widened


def test_row_noise_is_of_the_row_alone():
    like, seeds = torch.empty(3, 5, 2), torch.tensor([7, 8, 9])
    whole, alone = RowNoise(seeds, 1), RowNoise(seeds[1:2], 1)
    for _ in range(2):
        drawn = whole(like)
        assert torch.equal(drawn[1:2], alone(like[1:2]))
    assert not torch.equal(drawn, RowNoise(seeds, 1)(like))  # the next of the stream
    keys = row_keys(torch.tensor([[1, 2], [2, 1], [1, 2]]))
    assert keys[0] == keys[2] != keys[1]


def test_the_gradient_is_that_of_the_last_cycle_alone():
    config = replace(SMALL, cycles=3, inner=2, noise=0.0, damping=0.1)
    torch.manual_seed(0)
    reasoner = Reasoner(config).double()
    problem = reasoner.enter(torch.randint(4, (2, 3, 3)))
    z = reasoner.begin(problem.x).detach().requires_grad_(True)
    end, _ = reasoner.think(z, problem)
    mine = torch.autograd.grad(end.square().mean(), [*reasoner.blocks.parameters()], retain_graph=True)
    assert torch.autograd.grad(end.sum(), z, allow_unused=True) == (None,)

    # The same written out: two cycles as numbers, then one with gradients.
    def f(h):
        for block in reasoner.blocks:
            h = block(h, problem.grid)
        return h

    high, low = z.detach().unbind(1)
    for cycle in range(3):
        with torch.set_grad_enabled(cycle == 2):
            for _ in range(2):
                low = 0.1 * low + 0.9 * f(low + high + problem.x)
            high = 0.1 * high + 0.9 * f(high + low)
    wanted = torch.stack([high, low], 1)
    torch.testing.assert_close(end, wanted)
    torch.testing.assert_close(mine, torch.autograd.grad(wanted.square().mean(), [*reasoner.blocks.parameters()]))


@pytest.mark.parametrize("mixer", ["conv", "attention", "tokens"])
def test_a_batched_row_equals_it_alone(mixer):
    torch.manual_seed(1)
    reasoner = Reasoner(replace(SMALL, mixer=mixer, heads=2, tokens=25)).double()
    problems = torch.from_numpy(mazes(4, 5, lengths=(4, 12)).tokens.astype(np.int64))
    together = solve(reasoner, problems, iters=3, starts=3)
    again = solve(reasoner, problems, iters=3, starts=3, rows=5)
    alone = solve(reasoner, problems[2:3], iters=3, starts=3)
    assert torch.equal(together.candidates[2:3], alone.candidates)
    torch.testing.assert_close(together.residuals[2:3], alone.residuals, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together.residuals, again.residuals, rtol=1e-6, atol=1e-6)
    assert together.residuals.unique().numel() == 12  # starts and problems differ
    other = solve(reasoner, problems, iters=3, starts=3, seed=1)
    assert not torch.equal(other.residuals, together.residuals)


@pytest.mark.parametrize("mixer", ["conv", "attention"])
def test_grids_of_any_size_pass(mixer):
    reasoner = Reasoner(replace(SMALL, mixer=mixer, heads=2))
    for shape in ((5, 5), (7, 3)):
        found = solve(reasoner, torch.randint(4, (2, *shape)), iters=1)
        assert found.answers.shape == (2, *shape)


def test_a_mixer_across_tokens_knows_one_size():
    with pytest.raises(ConfigError, match="made for 25"):
        solve(Reasoner(replace(SMALL, mixer="tokens", tokens=25)), torch.zeros(1, 3, 3))
    with pytest.raises(PuzzleError, match="expected"):
        solve(Reasoner(SMALL), torch.zeros(3, 3))


def test_random_starts_and_noise_switch_off_exactly():
    plain = Reasoner(replace(SMALL, random_start=False, noise=0.0))
    problem = plain.enter(torch.zeros(2, 3, 3))
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    start = plain.begin(problem.x, generator)
    first, _ = plain.think(start, problem, generator=generator)
    assert torch.equal(generator.get_state(), before)  # nothing was drawn
    assert torch.equal(start[0], start[1])
    assert torch.equal(first, plain.think(start, problem)[0])
    one, two = (solve(plain, torch.zeros(1, 3, 3), seed=s) for s in (0, 1))
    assert torch.equal(one.residuals, two.residuals)
    with pytest.raises(ConfigError, match="all the same"):
        solve(plain, torch.zeros(1, 3, 3), starts=2)
    noisy = solve(plain, torch.zeros(1, 3, 3), starts=2, noise=0.01)
    assert noisy.residuals[0, 0] != noisy.residuals[0, 1]


def test_solving_stops_each_start_by_its_residual():
    torch.manual_seed(2)
    reasoner, problems = Reasoner(SMALL).double(), torch.randint(4, (3, 3, 3))
    ran = solve(reasoner, problems, iters=1, starts=2)
    at_once = solve(reasoner, problems, iters=8, starts=2, tol=10.0)
    assert (at_once.steps == 1).all()
    assert at_once.halted.all()
    assert torch.equal(at_once.candidates, ran.candidates)
    tol = float(ran.residuals.median())
    some = solve(reasoner, problems, iters=8, starts=2, tol=tol)
    early = ran.residuals < tol
    assert torch.equal(some.steps == 1, early)
    assert early.any()
    assert torch.equal(some.residuals[early], ran.residuals[early])  # noise goes on around a row that rests
    assert not solve(reasoner, problems, iters=2, starts=2).halted.any()


@pytest.mark.parametrize("mixer", ["conv", "attention", "tokens"])
def test_latents_stay_in_float32_beside_lower_precision(mixer):
    reasoner = Reasoner(replace(SMALL, mixer=mixer, heads=2, tokens=9))
    problem = reasoner.enter(torch.zeros(2, 3, 3))
    with torch.autocast("cpu", torch.bfloat16):
        z, gap = reasoner.think(reasoner.begin(problem.x), problem)
        logits, halt = reasoner.read(z)
        loss = segment_loss(logits, halt, torch.zeros(2, 9, dtype=torch.int64), 0.5)
    loss.backward()
    assert z.dtype == gap.dtype == loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in reasoner.parameters())


def test_convolution_sees_the_grid_as_it_lies():
    mixer = ConvMixer(2)
    h = torch.zeros(1, 12, 2)
    h[0, 5] = 1.0  # row 1, column 1 of 3 x 4
    seen = mixer(h, Grid(3, 4)).abs().sum(-1).reshape(3, 4) > 0
    assert seen.tolist() == [[True, True, True, False]] * 3


def test_stablemax_against_its_definition():
    logits = torch.tensor([[2.0, -1.0, 0.0]])
    s = torch.tensor([3.0, 0.5, 1.0], dtype=torch.float64)
    for target in range(3):
        wanted = -(s[target] / s.sum()).log()
        torch.testing.assert_close(stablemax_loss(logits, torch.tensor([target]))[0], wanted)
    far = torch.tensor([[1e6, -1e6]], requires_grad=True)
    stablemax_loss(far, torch.tensor([1])).sum().backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()


def test_the_loss_asks_to_halt_where_all_tokens_are_right():
    answers = torch.tensor([[0, 1], [0, 1]])
    logits = torch.tensor([[[9.0, 0.0], [0.0, 9.0]], [[9.0, 0.0], [9.0, 0.0]]])  # the second row errs once
    losses = [float(segment_loss(logits, torch.tensor(q), answers, 0.5)) for q in ([5.0, -5.0], [-5.0, 5.0])]
    assert losses[1] - losses[0] == pytest.approx(0.5 * 5.0, rel=1e-4)


def test_adam_atan2_against_its_formula():
    p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = AdamAtan2([p], lr=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    m, v, wanted = np.zeros(2), np.zeros(2), np.array([1.0, -2.0])
    for step, grad in enumerate(([0.3, -1e-9], [-0.2, 1e-9]), 1):
        p.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * np.array(grad), 0.95 * v + 0.05 * np.square(grad)
        turn = np.arctan2(m / (1 - 0.9**step), np.sqrt(v / (1 - 0.95**step)))
        wanted = wanted * (1 - 0.1 * 0.5) - 1.27 * 0.1 * turn
        np.testing.assert_allclose(p.detach().numpy(), wanted, rtol=1e-12)


def unchanged(tokens, answers, rng):
    return tokens, answers


def tiny(count=16) -> Puzzles:
    return replace(mazes(count, 5, lengths=(4, 12)), augment=unchanged)


TINY = ReasonerConfig(symbols=4, classes=2, dim=32, hidden=64, cycles=1, inner=3)
RECIPE = ReasonerTraining(batch=16, segments=6, lr=1e-2, weight_decay=0.0, look_every=10)


def test_a_tiny_reasoner_learns_sixteen_mazes(tmp_path):
    puzzles = tiny()
    problems, answers = (torch.from_numpy(a.astype(np.int64)) for a in (puzzles.tokens, puzzles.answers))
    reasoner = train_reasoner(
        puzzles, tmp_path, budget="400steps", config=TINY, training=RECIPE, device="cpu", progress=False
    )
    found = solve(reasoner, problems, iters=8, starts=4, select="cost", cost=faults)
    assert (found.answers == answers).all((1, 2)).float().mean() >= 0.75
    cheapest = found.costs.gather(1, found.chosen[:, None])[:, 0]
    assert torch.equal(cheapest, found.costs.amin(1))
    assert torch.equal(cheapest == 0, (found.answers == answers).all((1, 2)))
    loaded = Reasoner.load(tmp_path / "reasoner.safetensors")
    assert torch.equal(solve(loaded, problems, iters=8).residuals, solve(reasoner, problems, iters=8).residuals)
    assert loaded.record == reasoner.record
    assert loaded.record["steps"] == 400
    with pytest.raises(TrainingError, match="finished"):
        train_reasoner(puzzles, tmp_path, config=TINY, progress=False)


def test_training_that_stopped_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    from terrella.planning import segmented

    puzzles, how = (
        mazes(8, 5, lengths=(4, 12)),
        {"config": TINY, "training": RECIPE, "device": "cpu", "progress": False},
    )
    whole = train_reasoner(puzzles, budget="12steps", **how)
    original = segmented._Run._segment
    with monkeypatch.context() as patch:

        def stop(self):
            if self.step == 5:
                raise KeyboardInterrupt
            return original(self)

        patch.setattr(segmented._Run, "_segment", stop)
        with pytest.raises(KeyboardInterrupt):
            train_reasoner(puzzles, tmp_path, budget="12steps", **how)
    assert (tmp_path / "checkpoint.safetensors").exists()
    with pytest.raises(TrainingError, match="seed"):
        train_reasoner(puzzles, tmp_path, budget="12steps", seed=1, **how)
    resumed = train_reasoner(puzzles, tmp_path, budget="12steps", **how)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_looking_at_held_out_puzzles_changes_nothing():
    puzzles, how = (
        mazes(8, 5, lengths=(4, 12)),
        {"config": TINY, "training": RECIPE, "device": "cpu", "progress": False},
    )
    blind = train_reasoner(puzzles, budget="12steps", **how)
    looked = train_reasoner(puzzles, budget="12steps", held_out=puzzles, **how)
    assert len(looked.record["history"]) == 1
    assert looked.record["history"][0]["step"] == 10
    for name, value in blind.state_dict().items():
        assert torch.equal(value, looked.state_dict()[name]), name


def test_a_reasoner_of_other_puzzles_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="symbols"):
        train_reasoner(tiny(), config=replace(TINY, symbols=5))
    with pytest.raises(WorldError, match="no reasoner"):
        Reasoner.load(tmp_path / "nothing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    with pytest.raises(WorldError, match="no reasoner"):
        Reasoner.load(tmp_path / "bad.safetensors")


def test_choosing():
    residuals = torch.tensor([[0.3, 0.1, 0.2, 0.4], [0.3, torch.nan, 0.2, 0.4]])
    candidates = torch.tensor([[[[1]], [[2]], [[1]], [[1]]], [[[5]], [[5]], [[6]], [[6]]]])
    votes = count_votes(candidates)
    assert votes.tolist() == [[3, 1, 3, 3], [2, 2, 2, 2]]
    costs = torch.tensor([[1.0, 2.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    assert choose("residual", residuals, votes, costs).tolist() == [1, 2]
    assert choose("vote", residuals, votes, costs).tolist() == [2, 2]  # the best-rested of those that agree
    assert choose("cost", residuals, votes, costs).tolist() == [3, 0]


def test_votes_compare_whole_grids():
    a = torch.zeros(1, 3, 2, 2, dtype=torch.int64)
    a[0, 0, 0, 0] = a[0, 1, 1, 1] = 1  # the same symbols at other places
    a[0, 2, 0, 0] = 1
    assert count_votes(a).tolist() == [[2, 1, 2]]


def test_choices_that_make_no_sense_are_refused():
    reasoner, problems = Reasoner(SMALL), torch.zeros(1, 3, 3)
    for bad in ({"select": "best"}, {"select": "cost"}, {"starts": 0}, {"rows": 0}, {"iters": 0}):
        with pytest.raises(ConfigError, match="expected"):
            solve(reasoner, problems, **bad)
    for bad in ({"dim": 0}, {"damping": 1.0}, {"cycles": 0}):
        with pytest.raises(ConfigError, match="got"):
            replace(SMALL, **bad)
    with pytest.raises(ConfigError, match="heads"):
        Reasoner(replace(SMALL, mixer="attention", heads=3))
