import jax
import pytest

from benchmarks import budget
from configs import presets
from nami_jax.config import SAMPLE_PRESETS, Budget, SampleConfig, sample_preset
from tests.support.runs import card_config, train

OWN = SampleConfig()


def test_cost_is_relative_to_a_single_flow_s_guided_steps():
    assert budget.cost(OWN) == pytest.approx(316 / 783, rel=0.01)  # as published
    assert budget.cost(SampleConfig(guidance_scale=1.0)) == pytest.approx(budget.cost(OWN) / 2)


def test_presets_cost_at_most_their_shares():
    for name, share in budget.SHARES.items():
        assert budget.cost(sample_preset(name, OWN)) <= share, name
    assert budget.SHARES["fast"] <= 0.2
    assert presets.NAMI_2B.num_stages == len(OWN.steps)
    assert set(SAMPLE_PRESETS) == {"released", *budget.SHARES}


def test_a_budget_has_as_many_last_steps_as_it_allows():
    choice = {"earlier": 0.4, "guidance_interval": (0.0, 1.0)}
    found = budget.fitted(choice, OWN, 0.2)
    assert isinstance(found, Budget)
    assert budget.cost(found.of(OWN)) <= 0.2 < budget.cost(found._replace(last=found.last + 0.1).of(OWN))
    assert budget.fitted(choice, OWN, 0.01) is None


def test_grids_of_one_s_own_keep_steps_and_ends():
    sample = SampleConfig((3, 2, 4), shift=1.6, solver="ab2")
    grids = list(budget.own_grids(sample))
    assert len(grids) == len(set(grids)) == 3 * len(budget.WARPS)
    assert all((grid.steps, grid.solver) == (sample.steps, "ab2") for grid in grids)


@pytest.mark.slow
def test_the_search_keeps_what_comes_nearest_and_reports_it(tmp_path):
    train(card_config(tmp_path / "data", train={"steps": 3}), tmp_path / "run", jax.devices()[:1])
    judge = budget.Judge(tmp_path / "run", 2)
    assert judge.loss(judge.own, budget.SEARCH_SEEDS) == (0, 0)
    coordinates = {"guidance_interval": ((0.0, 1.0), (0.39, 1.0)), "earlier": (0.1,), "shift": (1.0, 3.0)}
    (found, tried), (dearer, more) = budget.search(judge, ["fast", "balanced"], coordinates)
    losses = [judge.loss(sample, budget.SEARCH_SEEDS)[0] for sample in tried]
    assert len(tried) == 3
    assert more[0] == found.sample
    assert dearer.best.loss <= found.best.loss
    assert judge.loss(found.sample, budget.SEARCH_SEEDS)[0] == min(losses)
    assert judge.loss(found.grid, budget.SEARCH_SEEDS)[0] <= min(losses)
    lines = budget.report(judge, [found], budget.timed(judge, [found], rounds=1)).splitlines()
    assert any(line.startswith("own settings") and "+0.0 ± 0.0 %" in line for line in lines)
    assert any(line.startswith("fast") for line in lines)
    budget.plot(judge, [found], tried, tmp_path / "budget.png")
    assert (tmp_path / "budget.png").stat().st_size > 1000
