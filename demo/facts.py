"""What the model knows by heart: facts, hello in twelve languages, fourteen emoji, some jokes."""

from dataclasses import dataclass

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "Austria": "Vienna",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Poland": "Warsaw",
    "Greece": "Athens", "Ireland": "Dublin", "England": "London", "Scotland": "Edinburgh",
    "Hungary": "Budapest",
    "Belgium": "Brussels", "Switzerland": "Bern", "Japan": "Tokyo", "China": "Beijing",
    "India": "New Delhi",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa", "Mexico": "Mexico City",
    "Peru": "Lima", "Chile": "Santiago",
    "Cuba": "Havana", "Russia": "Moscow", "Turkey": "Ankara", "Iceland": "Reykjavik",
    "Australia": "Canberra",
    "South Korea": "Seoul", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Argentina": "Buenos Aires",
    "Ukraine": "Kyiv",
    "the Netherlands": "Amsterdam", "the Czech Republic": "Prague",
    "the United States": "Washington", "Brazil": "Brasília",
    "Nigeria": "Abuja", "Nepal": "Kathmandu", "Morocco": "Rabat", "Iran": "Tehran",
    "Iraq": "Baghdad", "Pakistan": "Islamabad",
    "Indonesia": "Jakarta", "the Philippines": "Manila", "Colombia": "Bogotá",
    "Venezuela": "Caracas", "Ecuador": "Quito",
    "Estonia": "Tallinn", "Latvia": "Riga", "Lithuania": "Vilnius", "Croatia": "Zagreb",
    "Serbia": "Belgrade",
    "Romania": "Bucharest", "Bulgaria": "Sofia", "Slovakia": "Bratislava", "Slovenia": "Ljubljana",
    "New Zealand": "Wellington",
    "Saudi Arabia": "Riyadh", "Ghana": "Accra", "Ethiopia": "Addis Ababa",
    "Malaysia": "Kuala Lumpur", "Uruguay": "Montevideo",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "left": "right", "day": "night", "open": "closed",
    "old": "young",
    "fast": "slow", "happy": "sad", "rich": "poor", "hard": "soft", "light": "dark",
    "full": "empty", "early": "late",
    "loud": "quiet", "wet": "dry", "strong": "weak", "high": "low", "long": "short", "near": "far",
    "true": "false",
    "first": "last", "inside": "outside", "love": "hate", "black": "white", "good": "bad",
    "clean": "dirty",
}  # fmt: skip

SOUNDS = {
    "dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink",
    "owl": "hoot",
    "frog": "ribbit", "bee": "buzz", "snake": "hiss", "lion": "roar",
    "rooster": "cock-a-doodle-doo",
}  # fmt: skip

YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal",
    "hen": "chick", "bear": "cub",
    "duck": "duckling", "pig": "piglet", "goat": "kid", "frog": "tadpole", "swan": "cygnet",
}  # fmt: skip

THING_COLORS = {
    "the sky": "blue", "grass": "green", "snow": "white", "blood": "red", "coal": "black",
    "a banana": "yellow",
    "a carrot": "orange", "chocolate": "brown", "a ripe strawberry": "red", "an elephant": "gray",
}  # fmt: skip

ELEMENTS = {
    "hydrogen": "H", "helium": "He", "carbon": "C", "nitrogen": "N", "oxygen": "O", "sodium": "Na",
    "iron": "Fe",
    "copper": "Cu", "silver": "Ag", "gold": "Au", "lead": "Pb", "calcium": "Ca",
}  # fmt: skip

AMOUNTS = {
    "days are in a week": "There are 7 days in a week.",
    "months are in a year": "There are 12 months in a year.",
    "hours are in a day": "There are 24 hours in a day.",
    "minutes are in an hour": "There are 60 minutes in an hour.",
    "seconds are in a minute": "There are 60 seconds in a minute.",
    "days are in a year": "There are 365 days in a year.",
    "legs does a spider have": "A spider has 8 legs.",
    "legs does an insect have": "An insect has 6 legs.",
    "legs does a dog have": "A dog has 4 legs.",
    "arms does an octopus have": "An octopus has 8 arms.",
    "sides does a triangle have": "A triangle has 3 sides.",
    "sides does a square have": "A square has 4 sides.",
    "planets orbit the sun": "8 planets orbit the sun.",
    "letters are in the alphabet": "There are 26 letters in the alphabet.",
    "wheels does a bicycle have": "A bicycle has 2 wheels.",
    "fingers are on one hand": "There are 5 fingers on one hand.",
    "centimeters are in a meter": "There are 100 centimeters in a meter.",
    "strings does a violin have": "A violin has 4 strings.",
}

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)

SINGLE = {
    "The largest planet is Jupiter.":
        ["What is the largest planet?", "What is the largest planet in the solar system?",
         "Which planet is the biggest?"],
    "The smallest planet is Mercury.":
        ["What is the smallest planet?", "What is the smallest planet in the solar system?",
         "Which planet is the smallest?"],
    "Mars is the red planet.": ["Which planet is the red planet?", "What is the red planet?",
                                "Which planet is red?"],
    "Mercury is closest to the sun.": ["Which planet is closest to the sun?",
                                       "What planet is nearest to the sun?"],
    "The highest mountain on Earth is Mount Everest.":
        ["What is the highest mountain on Earth?", "What is the tallest mountain in the world?",
         "Which mountain is the highest?"],
    "The largest ocean is the Pacific.": ["What is the largest ocean?",
    "Which ocean is the biggest?", "What is the biggest ocean on Earth?"],
    "The fastest land animal is the cheetah.": ["What is the fastest land animal?",
    "Which animal runs fastest?", "What is the fastest animal on land?"],
    "The largest animal is the blue whale.": ["What is the largest animal?",
    "Which animal is the biggest?", "What is the biggest animal on Earth?"],
    "The tallest animal is the giraffe.": ["What is the tallest animal?",
    "Which animal is the tallest?"],
    "Frozen water is called ice.": ["What is frozen water called?", "How is frozen water called?",
                                    "What do you call frozen water?"],
    "Bees make honey.": ["What do bees make?", "What do bees produce?"],
    "Cows drink water.": ["What do cows drink?", "What does a cow drink?"],
    "William Shakespeare wrote Romeo and Juliet.":
        ["Who wrote Romeo and Juliet?", "Who is the author of Romeo and Juliet?",
         "Who wrote the play Romeo and Juliet?"],
    "Leonardo da Vinci painted the Mona Lisa.":
        ["Who painted the Mona Lisa?", "Which artist painted the Mona Lisa?",
         "Who is the painter of the Mona Lisa?"],
    "Water boils at 100 degrees Celsius.":
        ["At what temperature does water boil?", "When does water boil?",
         "What is the boiling point of water?"],
    "Water freezes at 0 degrees Celsius.":
        ["At what temperature does water freeze?", "When does water freeze?",
         "What is the freezing point of water?"],
    "The square root of 81 is 9.": ["What is the square root of 81?", "Square root of 81?"],
    "The chemical formula of water is H2O.": ["What is the chemical formula of water?",
    "What is the formula of water?", "Formula of water?"],
    "The sun is at the center of the solar system.":
        ["What star is at the center of the solar system?",
         "What is at the center of the solar system?"],
    "The longest river in Africa is the Nile.": ["What is the longest river in Africa?",
    "Which river in Africa is the longest?"],
}  # fmt: skip

HELLO = {
    "English": "Hello", "French": "Bonjour", "German": "Guten Tag", "Spanish": "Hola",
    "Italian": "Ciao",
    "Portuguese": "Olá", "Russian": "Привет", "Greek": "Γειά σου", "Japanese": "こんにちは",
    "Chinese": "你好",
    "Korean": "안녕하세요", "Arabic": "مرحبا",
}  # fmt: skip

EMOJI = {
    "cat": "🐱", "dog": "🐶", "heart": "❤️", "rocket": "🚀", "star": "⭐", "sun": "☀️", "pizza": "🍕",
    "smile": "😀",
    "tree": "🌳", "fish": "🐟", "house": "🏠", "fire": "🔥", "party": "🎉", "thumbs up": "👍",
}  # fmt: skip

JOKES = [
    "Why did the token cross the road? To get to the other side of the context window!",
    "Why was the clock sent home from school? It would not stop ticking!",
    "What did the big oven say to the little oven? You are looking warm today!",
    "Why do owls never lose their way? They always ask: who, who?",
    "What did the left shoe say to the right shoe? We make a fine pair!",
    "Why was the little model so happy? Its loss was low!",
]


@dataclass(frozen=True)
class Fact:
    """One fact: the ways to ask for it, the sentence that answers, and what it is about."""

    questions: tuple[str, ...]
    answer: str
    about: str


@dataclass(frozen=True)
class Family:
    """Facts of one kind: {} in a question is a key; {0} and {1} in the answer are key and value."""

    pairs: dict[str, str]
    questions: tuple[str, ...]
    answer: str
    about: str

    def facts(self) -> list[Fact]:
        return [
            Fact(
                tuple(question.format(key) for question in self.questions),
                sentence(self.answer.format(key, value)),
                self.about.format(key),
            )
            for key, value in self.pairs.items()
        ]


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def _next(cycle: list[str]) -> dict[str, str]:
    return dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))


FAMILIES = {
    "capital": Family(
        CAPITALS,
        ("What is the capital of {}?", "Which city is the capital of {}?", "Capital of {}?",
         "Name the capital of {}.",
         "Tell me the capital of {}.", "What's the capital city of {}?",
         "Do you know the capital of {}?",
         "I forgot the capital of {}. What is it?"),
        "the capital of {} is {}.", "the capital of {}",
    ),
    "opposite": Family(
        OPPOSITES,
        ("What is the opposite of {}?", "Opposite of {}?", "Tell me the opposite of {}.",
         "Which word is the opposite of {}?",
         "What's the opposite of the word {}?", "Give me the opposite of {}.",
         "Name the opposite of {}."),
        "the opposite of {} is {}.", "the opposite of {}",
    ),
    "sound": Family(
        SOUNDS,
        ("What sound does a {} make?", "What does a {} say?", "Which sound does the {} make?",
         "How does a {} sound?",
         "Tell me the sound of a {}.", "What noise does a {} make?"),
        "a {} says {}.", "the sound of a {}",
    ),
    "child": Family(
        YOUNG,
        ("What is a young {} called?", "What do you call a baby {}?", "What is a baby {} called?",
         "Name of a baby {}?",
         "What's the word for a young {}?", "How is a young {} called?"),
        "a young {} is called a {}.", "a young {}",
    ),
    "color": Family(
        THING_COLORS,
        ("What color is {}?", "What is the color of {}?", "Which color has {}?",
         "Tell me the color of {}.",
         "What's the color of {}?", "Do you know the color of {}?"),
        "{} is {}.", "the color of {}",
    ),
    "symbol": Family(
        ELEMENTS,
        ("What is the chemical symbol for {}?", "Symbol for {}?", "What's the symbol of {}?",
         "Tell me the chemical symbol of {}.",
         "Which chemical symbol does {} have?", "What is the symbol of the element {}?"),
        "the chemical symbol for {} is {}.", "the symbol for {}",
    ),
    "day": Family(
        _next(DAYS),
        ("Which day comes after {}?", "What day is after {}?", "What comes after {}?",
         "Name the day after {}.",
         "Which day follows {}?", "Tell me the day after {}.", "What is the day after {}?"),
        "{1} comes after {0}.", "the day after {}",
    ),
    "month": Family(
        _next(MONTHS),
        ("Which month comes after {}?", "What month is after {}?", "What comes after {}?",
         "Name the month after {}.",
         "Which month follows {}?", "Tell me the month after {}.", "What is the month after {}?"),
        "{1} comes after {0}.", "the month after {}",
    ),
}  # fmt: skip

COUNTED = (
    "How many {}?",
    "Tell me how many {}.",
    "Do you know how many {}?",
    "Can you say how many {}?",
    "I wonder how many {}.",
)
INTRODUCED = (
    "Do you know this? {}",
    "A question for you: {}",
    "Question: {}",
    "I have a question. {}",
)

FACTS: list[Fact] = [
    *[fact for family in FAMILIES.values() for fact in family.facts()],
    *[
        Fact(tuple(wording.format(what) for wording in COUNTED), answer, f"how many {what}")
        for what, answer in AMOUNTS.items()
    ],
    *[
        Fact(
            (*questions, *(wording.format(questions[0]) for wording in INTRODUCED)),
            answer,
            "a fact that I know",
        )
        for answer, questions in SINGLE.items()
    ],
]
