import pytest

from nami_jax.planning.batches import LargestBatch, batch_unit, largest_batch, with_batch


@pytest.mark.parametrize(
    ("stage_batch", "parts", "unit"),
    [
        ((64, 32, 8), 4, (32, 16, 4)),
        ((1024, 512, 256), 256, (1024, 512, 256)),
        ((256, 512, 1024), 32, (32, 64, 128)),
        ((12, 18), 6, (12, 18)),
        ((12, 18), 1, (2, 3)),
        ((8, 8, 8), 8, (8, 8, 8)),
    ],
)
def test_unit_is_the_smallest_batch_in_the_same_ratios_that_devices_can_share(stage_batch, parts, unit):
    assert batch_unit(stage_batch, parts) == unit


def test_batch_is_replaced_and_images_stay():
    assert with_batch(((8, 4, 4, 3), (4, 8, 8, 3)), (2, 1)) == ((2, 4, 4, 3), (1, 8, 8, 3))


def compilations(limit, bytes_of):
    """Returns units -> bytes if they are within the limit, and the list of the units that were asked for."""
    asked = []

    def needed(units):
        asked.append(units)
        return bytes_of(units) if bytes_of(units) <= limit else None

    return needed, asked


def largest(*args, verify=False) -> LargestBatch:
    found = largest_batch(*args, verify=verify)
    assert found is not None
    return found


def test_linear_memory_is_extrapolated_from_two_smaller_compilations():
    needed, asked = compilations(1000, lambda n: 100 + 30 * n)
    found = largest(8, 1000, needed)
    assert (found.units, asked) == (30, [8, 4])
    assert "extrapolated" in found.basis


def test_a_batch_that_does_not_fit_is_extrapolated_from_the_smallest():
    needed, asked = compilations(1000, lambda n: 100 + 30 * n)
    assert largest(40, 1000, needed).units == 30
    assert asked == [40, 1, 2]


@pytest.mark.parametrize(("units", "limit", "fitting"), [(1, 100, 0), (2, 140, 1), (1, 170, 1), (5, 140, 1)])
def test_few_units_are_found_without_extrapolation(units, limit, fitting):
    needed, _ = compilations(limit, lambda n: 100 + 40 * n)
    found = largest(units, limit, needed)
    assert found.units == fitting
    assert "extrapolated" not in found.basis


def test_verification_lowers_what_was_extrapolated_too_high():
    needed, asked = compilations(1000, lambda n: 100 + n * n)  # 4 and 8 units promise 77; 30 fit
    found = largest(8, 1000, needed, verify=True)
    assert asked[:3] == [8, 4, 77]
    assert needed(found.units) is not None
    assert 8 < found.units <= 30
    assert "verified" in found.basis


def test_memory_that_does_not_grow_says_nothing():
    needed, _ = compilations(1000, lambda n: 100)
    assert largest_batch(8, 1000, needed, verify=False) is None
