"""What the local Gemini says in the demonstration: a few answers, an overload, a lost connection, an unknown model."""

from __future__ import annotations

from gemini_streams.testing import Failure, LocalGemini, Reply

__all__ = ["BEES", "LONGITUDE", "RAIN", "SALT", "TIDES", "script"]


TIDES = (
    "The Moon pulls harder on the side of the Earth that faces it, and the water there rises. On the far side it"
    " pulls less than on the Earth itself, so the water is left behind and rises too. The Earth turns under these"
    " two bulges once a day, and a coast passes both: two high tides, about twelve hours and twenty-five minutes"
    " apart."
)
RAIN = (
    "A thousand small hammers, and none of them strong,\nthe roof learns the weather and sings it along;\n"
    "the gutter keeps time and the barrel keeps score,\nand nobody asks it for silence any more."
)
LONGITUDE = (
    "Longitude is a difference of time: an hour between noon at home and noon on board is fifteen degrees. The sun"
    " gave the ship's noon; home's had to be carried along, and no clock kept it at sea until John Harrison's H4"
    " crossed the Atlantic in 1761 and lost five seconds. Others measured the Moon's distance from a star, and"
    " reckoned for hours."
)
SALT = (
    "Salt tightens the gluten, so the dough holds its gas and its shape. It slows the yeast, which gives flavour"
    " time to grow, and it keeps the crust from going pale, since sugar is left over to brown. And bread without it"
    " tastes of nothing much."
)
BEES = (
    "A bee that has found flowers dances on the comb. She runs straight ahead, waggling, then circles back and"
    " runs again. The angle of the run against the vertical is the angle of the flight against the sun, and how"
    " long she waggles says how far it is: about a kilometre a second. The others follow her in the dark, and go."
)


def script(gemini: LocalGemini) -> None:
    """Tell the local Gemini what to answer; one word is one event."""
    gemini.on("tides", Reply(TIDES, pace=0.065))
    gemini.on("rain", Reply(RAIN, pace=0.11, headers_delay=0.4))
    gemini.on(
        "longitude", Reply(LONGITUDE, pace=0.06, end="reset", end_after=24), Reply(LONGITUDE, pace=0.055)
    )
    overloaded = Failure(503, "The model is overloaded. Please try again later.", headers_delay=0.7)
    gemini.on("salt", overloaded, Reply(SALT, pace=0.06))
    unknown = "models/gemini-no-such-model is not found for API version v1beta."
    gemini.on("hello", Failure(404, unknown, headers_delay=1.2))
    gemini.on("bees", Reply(BEES, pace=0.075, headers_delay=0.2))
