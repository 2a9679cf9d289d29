import dataclasses

from frontload.kvcache.codec.baselines.cachegen_quantize import PUBLISHED, CacheGenSettings
from frontload.kvcache.codec.baselines.cachegen_search import (
    ANY,
    BEST,
    DIRECT,
    WITH_ANCHORS,
    best,
    search,
)


def _bits(settings: CacheGenSettings) -> float | None:
    """Flat bins pay only before rotary embedding; groups of 80 hit no level."""
    if settings.group_tokens == 80:
        return None
    flat = settings.bins == (1.0, 1.0, 1.0)
    return 4.0 - settings.undo_rotary - 0.5 * flat * settings.undo_rotary


def test_choices_that_pay_only_after_another_are_found_in_a_later_round():
    trials = search(_bits)
    assert best(trials).settings == dataclasses.replace(
        PUBLISHED, undo_rotary=True, bins=(1.0, 1.0, 1.0)
    )


def test_no_settings_are_scored_twice_and_the_first_are_the_start():
    asked = []
    trials = search(lambda settings: asked.append(repr(settings)) or _bits(settings))
    assert len(asked) == len(set(asked)) == len(trials)
    assert trials[0].settings == PUBLISHED


def test_a_level_set_goes_with_its_unit_and_anchors_can_only_be_left_out_on_request():
    trials = search(lambda settings: 1.0 + settings.group_tokens)
    assert min(trial.settings.group_tokens for trial in trials) == 5
    assert all((t.settings.deltas == "token") == (t.settings.levels[0] < 1) for t in trials)
    freely = search(lambda settings: 1.0 + settings.group_tokens, moves=ANY)
    assert best(freely).settings.group_tokens == 0
    assert set(WITH_ANCHORS) == set(ANY)


def test_what_was_found_lies_within_what_is_searched():
    for settings, moves in ((BEST, WITH_ANCHORS), (DIRECT, ANY)):
        for alternatives in moves.values():
            assert any(
                all(getattr(settings, name) == value for name, value in change.items())
                for change in alternatives
            )
