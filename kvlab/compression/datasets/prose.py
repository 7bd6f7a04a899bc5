"""The haystack: an endless chronicle of a harbour town, seeded, in varied sentences without a single digit."""

import random
from collections.abc import Iterator

_PEOPLE = (
    "the harbour master", "an old pilot", "the schoolteacher", "a travelling surveyor", "the baker's daughter",
    "the lighthouse keeper", "a retired judge", "the ferryman", "one of the rope makers", "the town clerk",
    "a visiting botanist", "the organist", "the night watchman", "a fisherman's widow", "the young doctor",
)  # fmt: skip
_PLACES = (
    "the customs house", "the upper mill", "the chapel on the hill", "the fish market", "the old quarry",
    "the western pier", "the reading room", "the orchard behind the inn", "the clock tower", "the ferry landing",
    "the glass works", "the village green", "the toll bridge", "the salt sheds", "the observatory",
)  # fmt: skip
_THINGS = (
    "a crate of oranges", "two letters without a stamp", "a map of the northern coast", "a borrowed ladder",
    "the minutes of the last meeting", "a basket of wool", "a telescope in its leather case", "a bundle of reeds",
    "the keys to the boathouse", "a cracked bell", "a jar of lamp oil", "a drawing of the new dam",
)  # fmt: skip
_DEEDS = (
    "mended the nets", "argued about the price of timber", "counted the passing sails", "repainted the shutters",
    "waited for the evening post", "sang until the lamps were lit", "sorted the seed potatoes",
    "measured the depth of the channel", "read the newspaper aloud", "carried stones up from the beach",
)  # fmt: skip
_TIMES = (
    "At first light", "Towards noon", "On the day of the fair", "After the long frost", "In the week of the spring tide",
    "Before the bells had stopped", "Late in the autumn", "While the roads were flooded", "During the summer drought",
    "Shortly after the election", "When the fog lifted", "On the last Sunday of the month",
)  # fmt: skip
_WEATHER = (
    "the wind turned to the east", "rain ran down the gutters", "the sea lay flat as slate", "a thin snow began to fall",
    "the swallows came back", "clouds piled up over the headland", "the river froze along its edges",
    "heat shimmered above the roofs", "thunder rolled behind the moor",
)  # fmt: skip
_VIEWS = (
    "nobody thought much of it at the time", "the matter was soon forgotten", "it was talked about for years",
    "the children found it very funny", "opinion in the town was divided", "it cost more than anyone had expected",
    "the council promised to look into it", "that was the end of a long quarrel", "few people understood why",
)  # fmt: skip
_FRAMES = (
    "{time}, {person} brought {thing} to {place}, and {view}.",
    "{Person} had {deed} near {place} when {weather}.",
    "It is said that {person} once left {thing} at {place}.",
    "{time} {weather}, so {person} and {other} took shelter in {place}.",
    "Although {weather}, {person} {deed} as if nothing had happened.",
    "{Person} asked {other} about {thing}, but {view}.",
    "From {place} one could see how {person} {deed}.",
    "{time}, {thing} was found beside {place}; {view}.",
    "Whenever {weather}, {person} walked from {place} to {elsewhere} and back.",
    "There was a dispute over {thing}, and {person} {deed} instead of answering.",
    "{Person} never liked {place}, which is why {other} looked after {thing}.",
    "The road between {place} and {elsewhere} was closed, because {weather}.",
    "{time}, {other} {deed}, while {person} kept an eye on {place}.",
)  # fmt: skip


def sentences(seed: int) -> Iterator[str]:
    """Yield sentences without end, the same for the same seed.

    The frame changes from each sentence to the next.
    """
    draw = random.Random(seed)  # noqa: S311 - prose, not cryptography
    last = ""
    while True:
        last = draw.choice([frame for frame in _FRAMES if frame != last])
        person, other = draw.sample(_PEOPLE, 2)
        place, elsewhere = draw.sample(_PLACES, 2)
        yield last.format(
            person=person,
            Person=person[0].upper() + person[1:],
            other=other,
            place=place,
            elsewhere=elsewhere,
            thing=draw.choice(_THINGS),
            deed=draw.choice(_DEEDS),
            time=draw.choice(_TIMES),
            weather=draw.choice(_WEATHER),
            view=draw.choice(_VIEWS),
        )


def prose(seed: int, characters: int) -> str:
    """Return whole sentences of at least so many characters."""
    parts, length = list[str](), 0
    for sentence in sentences(seed):
        parts.append(sentence)
        length += len(sentence) + 1
        if length > characters:
            return " ".join(parts)
    raise AssertionError("sentences() does not end")
