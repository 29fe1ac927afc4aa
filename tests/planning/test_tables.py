from nami_jax.planning.tables import gib, table, tera


def test_the_first_column_stands_left_and_the_others_right():
    text = table(("", "s"), [("one", "12.5"), ("three", "1")])
    assert text.splitlines() == ["          s", "-----------", "one    12.5", "three     1"]


def test_sizes_and_flops_have_four_digits():
    assert (gib(3 * 2**30 / 2), tera(1.23456e15)) == ("1.5", "1235")
