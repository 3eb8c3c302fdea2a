"""The raw material of the dialogues: names, cities, colours and words, and what is held out.

Every value belongs to exactly one side of the split, decided by its CRC-32: training never sees a
held-out name, city, colour or wording, whatever the seed. Most names are invented from syllables,
so that the model learns to copy what it reads instead of remembering a list.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

Makers = tuple[Callable[[], str], ...]

HELD_OUT_SHARE = 10
"""One value in this many is kept for the evaluation."""

FIRST_NAMES = """
Ada Ben Clara David Emma Felix Grace Hugo Ines Jonas Karin Leo Mia Nina Oscar Paula Quentin Rosa
Sam Tina Uma Victor Wanda Xenia Yusuf Zoe Alice Bob Carol Dan Eve Frank Gina Henry Ivan Judy Kevin
Laura Mallory Niaj Olivia Peggy Rupert Sybil Trent Ursula Vera Walter Anna Peter Maria John Mary
James Linda Robert Susan Michael Sarah William Karen Thomas Lisa Mark Nancy Paul Betty Steven
Helen Andrew Sandra Brian Donna George Ruth Edward Sharon Ronald Michelle Jason Amy Sören Zoë Noël
Renée José Łukasz Chloé Björn
""".split()

CITIES = (
    """
Paris|London|Berlin|Madrid|Rome|Vienna|Oslo|Lisbon|Athens|Dublin|Prague|Warsaw|Tokyo|Kyoto|Seoul
Beijing|Delhi|Cairo|Nairobi|Lagos|Sydney|Toronto|Chicago|Boston|Seattle|Denver|Miami|Dallas
Houston|Austin|San Francisco|New York|Los Angeles|Mexico City|Lima|Bogota|Quito|Havana
Rio de Janeiro|Buenos Aires|Santiago|Munich|Hamburg|Cologne|Zurich|Geneva|Basel|Milan|Naples
Turin|Venice|Lyon|Nice|Porto|Seville|Valencia|Bilbao|Krakow|Budapest|Bucharest|Sofia|Belgrade
Zagreb|Riga|Tallinn|Helsinki|Stockholm|Gothenburg|Copenhagen|Bergen|Reykjavik|Istanbul|Ankara
Tehran|Baghdad|Dubai|Mumbai|Bangkok|Hanoi|Manila|Jakarta|Singapore|Osaka|Melbourne|Perth
Auckland|Cape Town|Accra|Tunis|Algiers|Casablanca|Zürich|São Paulo|Málaga|Kraków
""".strip()
    .replace("\n", "|")
    .split("|")
)
BEFORE_CITIES = "New Old Port Saint Lake North Upper".split()
AFTER_CITIES = "ville berg ton field mouth stad grad".split()

COLORS = """
red blue green yellow orange purple pink brown black white gray silver golden violet indigo
turquoise teal crimson scarlet maroon olive lime navy beige ivory cyan magenta amber coral copper
""".split()
SHADES = "dark light pale bright deep soft dusty warm cold faded".split()

NOUNS = """
fox robot dragon lighthouse baker teapot river mountain garden owl pirate castle violin clock
whale turtle rabbit painter sailor farmer king queen wizard giant mouse bear wolf horse spider
frog raven penguin astronaut doctor teacher gardener snowman cloud tree forest lake island bridge
tower village market train balloon boat bicycle kite lantern mirror key book letter map coin ring
hat coat scarf shoe umbrella cake apple pear lemon pumpkin mushroom rose sunflower star moon comet
planet storm desert cave tunnel attic piano drum flute puppet knight princess shepherd miller
blacksmith cook tailor fisherman hunter librarian inventor explorer dancer singer beetle butterfly
snail hedgehog squirrel otter badger deer goose swan crow parrot camel elephant lion tiger zebra
giraffe monkey crab octopus shark dolphin seal
""".split()

ADJECTIVES = """
small old brave quiet clever lonely curious happy tired gentle proud shy funny lazy careful wooden
golden broken hidden strange bright empty heavy narrow simple early silent friendly modern famous
warm cold green tall round distant local
""".split()

VERBS = """
opens finds carries follows paints watches builds repairs sells keeps measures counts moves closes
breaks cleans draws hides lifts washes reads answers visits crosses collects
""".split()

COMMON = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government number
night point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law car
city community name president team minute idea body information back parent face others level
office door health person art war history party result change morning reason research girl guy
moment air teacher force education foot boy age policy music process market sense nation plan
college interest death experience effect use class control field development role effort rate
heart drug show leader light voice wife police mind price report decision son view relationship
town road arm difference value building action season society tax director position player record
paper space ground form event official matter center couple site project activity star table need
court oil situation cost industry figure street image phone data picture practice piece land
product doctor wall news test movie north love step animal science box model cup code file list
key test run note path web page user server token
""".split()

HELPERS = """
the a and of to in is it that for on with as at by from this be or are not have has was were will
can if when then than but they we he she you all one two so up out into over after before about
very more most some any each every other
""".split()

LATIN = """
lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore
et dolore magna aliqua
""".split()

ONSETS = """
b c d f g h j k l m n p r s t v w x z br ch cl cr dr fl fr gl gr kr pl pr qu sh sk sl sm sn sp st
th tr tw vl zh
""".split()
VOWELS = "a e i o u a e i o u ai ea ee ei ia io oa oo ou y".split()
CODAS = [""] * 10 + "n r l s t m k x d b p g th nd rt lt ng sh ck st rn mp rk lm zz ff".split()


def is_held_out(value: str) -> bool:
    """Whether training must never see this value."""
    return zlib.crc32(value.lower().encode()) % HELD_OUT_SHARE == 0


class Draw:
    """A seeded source of material that keeps to one side of the split."""

    def __init__(self, seed: int | str, held_out: bool = False) -> None:
        self.random = random.Random(seed)
        self.held_out = held_out

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def between(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return self.random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        """One option, from all of them: for what need not be split."""
        return options[int(self.random.random() * len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        return self.random.sample(options, count)

    def split(self, make: Callable[[], str]) -> str:
        """Call make until its text lies on this source's side of the split."""
        while True:
            text = make()
            if is_held_out(text) == self.held_out:
                return text

    def invented(self, shortest: int = 1, longest: int = 3) -> str:
        """A word that no language has, in lower case, of that many syllables."""
        syllables = self.between(shortest, longest)
        return "".join(
            self.pick(ONSETS) + self.pick(VOWELS) + self.pick(CODAS) for _ in range(syllables)
        )

    def name(self) -> str:
        """A person's name: mostly invented, sometimes common, seldom in lower case."""
        return self.split(self._name)

    def _name(self) -> str:
        kind = self.random.random()
        if kind < 0.70:
            return self.invented(1, 3).capitalize()
        if kind < 0.85:
            return self.pick(FIRST_NAMES)
        if kind < 0.92:
            return f"{self.pick(FIRST_NAMES)} {self.invented(1, 3).capitalize()}"
        if kind < 0.95:
            return self.invented(1, 2).capitalize() + self.invented(1, 2).capitalize()
        return (self.pick(FIRST_NAMES) if self.chance(0.5) else self.invented(1, 2)).lower()

    def city(self) -> str:
        return self.split(self._city)

    def _city(self) -> str:
        kind = self.random.random()
        if kind < 0.62:
            return self.invented(2, 3).capitalize()
        if kind < 0.70:
            return f"{self.pick(BEFORE_CITIES)} {self.invented(1, 2).capitalize()}"
        if kind < 0.75:
            return self.invented(1, 2).capitalize() + self.pick(AFTER_CITIES)
        return self.pick(CITIES)

    def color(self) -> str:
        return self.split(self._color)

    def _color(self) -> str:
        color = self.pick(COLORS)
        return f"{self.pick(SHADES)} {color}" if self.chance(0.6) else color

    def number(self, longest: int = 4) -> int:
        """A number of up to that many digits."""
        return int(self.split(lambda: str(self.between(0, 10 ** self.between(1, longest) - 1))))

    def noun(self) -> str:
        return self.split(lambda: self.pick(NOUNS))

    def word(self) -> str:
        """Any lower-case word, common or invented."""
        kind = self.random.random()
        if kind < 0.40:
            return self.pick(COMMON)
        if kind < 0.60:
            return self.pick(NOUNS)
        if kind < 0.70:
            return self.pick(ADJECTIVES)
        return self.invented(1, 3)

    def split_word(self) -> str:
        """Any word of this side of the split."""
        return self.split(self.word)

    def words(self, count: int) -> str:
        return " ".join(self.word() for _ in range(count))
