"""Which channels are predicted, and what is painted over what."""

import pytest

from atlas.errors import SpecError
from atlas.predict.select import paint_order, select
from atlas.spec import load_taxonomy
from atlas.spec.training import PostprocessSpec

CHANNELS = ("aorta", "kidney_right", "kidney_tumor", "liver_tumor", "kidney_left", "liver")


def test_all_of_the_model_in_its_order(taxonomy):
    chosen = select(CHANNELS, None, taxonomy, PostprocessSpec(organ_margin=3, sides=True))
    assert chosen.classes == CHANNELS
    assert chosen.rows == (0, 1, 2, 3, 4, 5)
    assert chosen.helpers == ()


def test_in_the_order_asked_for_and_once(taxonomy):
    chosen = select(CHANNELS, ["liver", "aorta", "liver"], taxonomy, PostprocessSpec())
    assert chosen.classes == ("liver", "aorta")
    assert chosen.rows == (5, 0)


def test_rules_bring_the_organs_they_need(taxonomy):
    def helpers(wanted, **spec):
        return set(select(CHANNELS, wanted, taxonomy, PostprocessSpec(**spec)).helpers)

    assert helpers(["liver_tumor"]) == set()
    assert helpers(["liver_tumor"], organ_margin=3.0) == {"liver"}
    assert helpers(["liver_tumor"], organ_margin=0.0) == {"liver"}
    assert helpers(["liver_tumor"], sides=True) == set()
    assert helpers(["kidney_tumor"], organ_margin=3.0) == {"kidney_left", "kidney_right"}
    assert helpers(["kidney_left"], sides=True) == {"kidney_right"}
    assert helpers(["kidney_left"], organ_margin=3.0) == set()
    chosen = select(CHANNELS, ["kidney_tumor", "liver"], taxonomy, PostprocessSpec(organ_margin=1.0, sides=True))
    assert [CHANNELS[row] for row in chosen.rows] == list(chosen.predicted)
    assert chosen.predicted[:2] == ("kidney_tumor", "liver")


@pytest.mark.parametrize(("name", "told"), [("livr", "liver"), ("kidney_lef", "kidney_left"), ("zzz", "aorta, kidney")])
def test_unknown_class_lists_what_there_is(name, told, taxonomy):
    with pytest.raises(SpecError, match=name) as error:
        select(CHANNELS, ["liver", name], taxonomy, PostprocessSpec())
    assert told in str(error.value)


def test_no_class_at_all(taxonomy):
    with pytest.raises(SpecError, match="no class"):
        select(CHANNELS, [], taxonomy, PostprocessSpec())


def test_wholes_are_painted_before_their_parts():
    taxonomy = load_taxonomy()
    names = tuple(reversed(taxonomy.names))
    order = paint_order(names, taxonomy)
    assert sorted(order) == list(range(len(names)))
    place = {names[index]: n for n, index in enumerate(order)}
    for name in names:
        for whole in taxonomy.wholes(name):
            for bit in taxonomy.target_bits(whole):
                assert place[taxonomy.classes[bit].name] < place[name]


def test_equals_are_painted_in_the_order_given(taxonomy):
    assert paint_order(("liver_tumor", "aorta", "liver"), taxonomy) == [1, 2, 0]
