import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.flow.transition import Renoise
from nami_jax.sampling.flow_edit import edited_stages
from nami_jax.sampling.prompts import Texts
from nami_jax.sampling.sampler import UNWATCHED, Request
from nami_jax.sampling.source_paths import Source
from nami_jax.sampling.stage_programs import Networks
from nami_jax.text.encoders import TextStates
from tests.support.pipelines import small_pipeline, states

LATENTS = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)


def texts(seed: int = 0) -> tuple[TextStates, TextStates]:
    given = states(2, seed)
    return (
        TextStates(given["prompt_embeds"], given["pooled_prompt_embeds"]),
        TextStates(given["negative_prompt_embeds"], given["negative_pooled_prompt_embeds"]),
    )


@pytest.fixture(scope="module")
def edit():
    pipe = small_pipeline()

    def run(shown: TextStates, wanted: TextStates, begin: float = 1.0, mask=None, numbers=(0, 1)):
        some = list(numbers)
        request = Request(16, 16, 3, some, source=Source(LATENTS[some], begin, None if mask is None else mask[some]))
        picked = [TextStates(x.embeds[some], x.pooled[some]) for x in (wanted, shown)]
        networks = Networks(pipe.model, Renoise())
        chosen = Texts(picked[0], texts()[1], picked[1])
        edited = edited_stages(pipe.sampler, networks, chosen, pipe.settings(), request, UNWATCHED)
        return [latents for _, latents in edited]

    return run


def test_the_same_text_changes_nothing(edit):
    wanted, _ = texts()
    stages = edit(wanted, wanted)
    np.testing.assert_allclose(stages[-1], LATENTS, atol=1e-4)  # two programs of one network round differently
    assert [stage.shape[1] for stage in stages] == [4, 8, 16]


def test_another_text_changes_the_picture_more_from_an_earlier_time(edit):
    (shown, _), (wanted, _) = texts(0), texts(1)
    changes = [float(np.abs(edit(shown, wanted, begin)[-1] - LATENTS).mean()) for begin in (1.0, 0.75, 0.39)]
    assert changes == sorted(changes, reverse=True)
    assert changes[-1] > 1e-3


def test_outside_a_mask_the_latents_stay_bit_for_bit(edit):
    (shown, _), (wanted, _) = texts(0), texts(1)
    mask = np.zeros((2, 16, 16, 1), bool)
    mask[:, :8] = True
    edited = edit(shown, wanted, mask=mask)[-1]
    np.testing.assert_array_equal(edited[:, 8:], LATENTS[:, 8:])
    assert float(np.abs(edited - LATENTS)[:, :8].mean()) > 1e-3


def test_a_picture_s_edit_does_not_depend_on_the_others(edit):
    (shown, _), (wanted, _) = texts(0), texts(1)
    together, alone = edit(shown, wanted)[-1], edit(shown, wanted, numbers=(1,))[-1]
    np.testing.assert_allclose(together[1:], alone, atol=1e-3)  # other matrix shapes


def test_a_callback_is_not_called_and_so_refused():
    with pytest.raises(ConfigError, match=r"callback_on_step_end = .*: is not called while a picture is edited"):
        small_pipeline()(**states(), image=np.zeros((16, 16, 3)), edit="red", callback_on_step_end=lambda *_: None)
