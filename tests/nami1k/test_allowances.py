"""Rate limits, by a clock that the test moves."""

from nami_jax.nami1k.allowances import MOST, Allowances


def test_a_burst_and_then_a_steady_rate():
    now = [0.0]
    allowances = Allowances(per_second=2, burst=3, clock=lambda: now[0])
    assert [allowances.admit("a") for _ in range(4)] == [True, True, True, False]
    assert allowances.admit("b")  # others have their own
    now[0] = 0.5
    assert [allowances.admit("a") for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [allowances.admit("a") for _ in range(4)] == [True, True, True, False]


def test_it_remembers_so_many_at_most():
    allowances = Allowances(per_second=0, burst=1, clock=lambda: 0.0)
    assert allowances.admit(0)
    assert not allowances.admit(0)
    for who in range(1, MOST + 1):
        allowances.admit(who)
    assert allowances.admit(0)  # forgotten
