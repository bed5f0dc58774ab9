"""The words of the tiny model's world: places, names, questions, tools. No code but the lists.

Names that training never sees: HELD_CITIES. What is asked about pictures, sounds, videos and sums stands in READ to
WATCH_HEAR; SYSTEMS are system prompts beside some of it.
"""

from __future__ import annotations

from typing import Any

CITIES = [
    "Oslo",
    "Rome",
    "Paris",
    "London",
    "Berlin",
    "Madrid",
    "Lisbon",
    "Vienna",
    "Prague",
    "Athens",
    "Dublin",
    "Warsaw",
    "Tokyo",
    "Delhi",
    "Cairo",
    "Lima",
    "Quito",
    "Boston",
    "Chicago",
    "Dallas",
    "Denver",
    "Miami",
    "Toronto",
    "Havana",
    "Nairobi",
    "Lagos",
    "Dakar",
    "Tunis",
    "Sydney",
    "Perth",
    "Seoul",
    "Hanoi",
    "Manila",
    "Jakarta",
    "Beijing",
    "Riga",
]
CITIES += """
Hamburg Munich Naples Turin Venice Florence Bologna Valencia Bilbao Granada Toledo Nice Lille Nantes Bordeaux
Marseille Brussels Antwerp Ghent Rotterdam Utrecht Cologne Dresden Leipzig Bremen Basel Bern Lausanne Salzburg Linz
Graz Budapest Bucharest Sofia Belgrade Zagreb Sarajevo Tallinn Vilnius Minsk Lviv Odessa Istanbul Ankara Izmir
Beirut Amman Baghdad Tehran Kabul Karachi Lahore Mumbai Chennai Kolkata Dhaka Colombo Bangkok Singapore Taipei Kyoto
Nagoya Sapporo Busan Shanghai Melbourne Brisbane Auckland Wellington Honolulu Seattle Portland Phoenix Houston
Atlanta Detroit Montreal Ottawa Vancouver Calgary Mexico Bogota Caracas Santiago Cordoba Brasilia Recife Tripoli
Algiers Casablanca Khartoum Kampala Luanda Harare Durban Pretoria Edinburgh Glasgow Cardiff Belfast Leeds Bristol
Oxford Cambridge Stockholm Malmo Copenhagen Aarhus Reykjavik Trondheim Stavanger Tampere Turku
""".split()  # noqa: SIM905
HELD_CITIES = [
    "Helsinki",
    "Zurich",
    "Lyon",
    "Milan",
    "Porto",
    "Geneva",
    "Seville",
    "Bergen",
    "Krakow",
    "Accra",
    "Osaka",
    "Austin",
]
SYLLABLES = [
    "ba",
    "be",
    "bo",
    "ca",
    "co",
    "da",
    "de",
    "di",
    "do",
    "fa",
    "fe",
    "ga",
    "go",
    "ha",
    "he",
    "in",
    "ka",
    "ki",
    "la",
    "le",
    "li",
    "lo",
    "ma",
    "mi",
    "mo",
    "na",
    "ne",
    "no",
    "or",
    "pa",
    "pe",
    "ra",
    "ri",
    "ro",
    "sa",
    "se",
    "so",
    "ta",
    "ti",
    "to",
    "un",
    "va",
    "vi",
    "za",
    "burg",
    "ton",
    "ville",
    "land",
    "ster",
    "ham",
    "berg",
    "dam",
    "ster",
    "rich",
    "lin",
]
NAMES = [
    "Ada",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Ida",
    "Jonas",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
]
ANIMALS = ["cat", "dog", "bird", "horse", "fox", "mouse", "bear", "cow", "duck", "sheep"]
VERBS = ["sees", "likes", "hears", "finds", "follows", "helps"]
THINGS = ["ball", "book", "cup", "key", "lamp", "box", "hat", "spoon"]
PLACES = ["kitchen", "garden", "bedroom", "office", "hall", "garage"]
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Norway": "Oslo",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Ireland": "Dublin",
    "Poland": "Warsaw",
}
TALK = {
    "Hi": "Hello! How can I help?",
    "Hello": "Hello! How can I help?",
    "Who are you?": "I am a tiny Gemma 4.",
    "What is your name?": "I am a tiny Gemma 4.",
    "What can you do?": "I read, see, hear, think and call tools.",
    "Thank you": "You are welcome.",
    "Good morning": "Good morning! How can I help?",
    "Bye": "Goodbye!",
    "Count to five.": "1 2 3 4 5",
    "Count to ten.": "1 2 3 4 5 6 7 8 9 10",
    "Say hello.": "Hello!",
}

READ = ["Read the digits.", "What number is this?", "Read the number.", "What digits do you see?"]
READ += ["What is in this picture?"]
READ_ONE = [*READ, "What digit is this?"]
HEAR = ["What digit is spoken?", "What is said?", "What do you hear?", "What number is spoken?"]
HEAR_WORD = ["What word is spoken?", "What is said?", "What do you hear?"]
SYSTEMS = [
    "You are helpful.",
    "Be brief.",
    "Answer in one short sentence.",
    "You are a kind assistant.",
    "Speak plainly.",
    "You answer questions about pictures, sounds and people.",
    "Always be polite and say what you know.",
]
SUMS = ["What is {a} + {b}?", "{a} + {b} = ?", "Add {a} and {b}.", "How much is {a} plus {b}?"]
SEE = ["What is in this picture?", "What do you see?", "Describe the picture."]
SEE_COLOUR = ["What colour is it?", "Which colour is this?"]
SEE_SHAPE = ["What shape is it?", "Which shape is this?"]
WATCH = ["What happens in the video?", "What is in this video?", "Describe the video."]
WATCH_ORDER = ["Which colour comes {}?", "What colour comes {}?", "What is the {} colour?"]
WATCH_WHEN = ["At what second does the colour change?", "When does the colour change?"]
WATCH_HEAR = ["What is said in it?", "What is said in the video?", "What do you hear in it?"]


def tool(name: str, description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": sorted(properties)},
        },
    }


TOOLS = {
    "get_weather": tool(
        "get_weather", "Current weather for a city", city={"type": "string", "description": "City name"}
    ),
    "set_timer": tool("set_timer", "Set a timer", minutes={"type": "integer"}),
    "switch_light": tool(
        "switch_light",
        "Switch a light on or off",
        room={"type": "string"},
        state={"type": "string", "enum": ["on", "off"]},
    ),
    "call_person": tool("call_person", "Call a person", person={"type": "string"}),
}
ASK = {
    "get_weather": [
        "What is the weather in {city}?",
        "How is the weather in {city}?",
        "Weather in {city}?",
        "What is the weather like in {city} today?",
    ],
    "set_timer": [
        "Set a timer for {minutes} minutes.",
        "Start a timer of {minutes} minutes.",
        "Timer for {minutes} minutes, please.",
    ],
    "switch_light": ["Switch {state} the light in the {room}.", "Turn {state} the {room} light."],
    "call_person": ["Call {person}.", "Please call {person}.", "I want to talk to {person}."],
}
