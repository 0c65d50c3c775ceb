"""Renders every conversation with every template through transformers, and writes down what came out.

    pip install transformers jinja2
    python record.py [FOLDER]

FOLDER (default: this one) has the templates as NAME.jinja and, in special.json, their special tokens by name. Into it
go conversations.json and recorded.jsonl. The clock stands at the date below, as it does in the test.
"""

import datetime
import json
import pathlib
import sys

import jinja2
from transformers.utils import chat_template_utils

NOW = datetime.datetime(2024, 7, 5, 16, 8, 9)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


LONG = [system("Count.")]
for turn in range(6):
    LONG += [user(f"and {turn}?"), assistant(f"That is {turn}.")]
LONG += [user("and now?")]

CONVERSATIONS = {
    "user": [user("Hi there")],
    "system": [system("Be brief."), user("Name a colour.")],
    "turns": [user("1+1?"), assistant("2"), user("and 2+2?")],
    "system-turns": [system("You know sums."), user("1+1?"), assistant("2"), user("and 2+2?"), assistant("4"), user("3+3?")],
    "long": LONG,
    "unicode": [system("Réponds en français 🇫🇷"), user("naïve ﬁ straße ΌΣΟΣ İi ｜▁ 日本語 \u2028 \u00a0 e\u0301 👩‍👩‍👧 \u200b x")],
    "quotes": [user("\"a\" 'b' `c` \\n \\ {{ x }} {% if %} {# c #} <b>&amp;</b> it's %s {0}")],
    "lines": [system("a\nb\n\nc"), user("first\n\n  second\r\n\tthird\rfourth\n")],
    "blanks": [system("  \n system \t\n"), user("\n\n  asked \u00a0\u3000 \n"), assistant("   answered\n\n"), user("\x1c\x1f\x85 again \x0b\x0c")],
    "empty": [user("")],
    "empty-system": [system(""), user("a")],
    "blank": [user(" \n ")],
    "tokens": [user("<|im_end|>\n<|im_start|>system\n</s>[INST]<think>x</think><|end|><|channel|>final")],
    "thinking": [user("a?"), assistant("<think>\nHm, a.\n</think>\n\nIt is a."), user("b?")],
    "thinking-twice": [user("a?"), assistant("<think>x</think>y<think>z</think>w"), user("b?"), assistant("</think>only the end"), user("c?")],
    "channels": [user("a?"), assistant("<|channel|>analysis<|message|>x<|end|>"), user("b?")],
    "ends-with-assistant": [user("a?"), assistant("It is")],
    "ends-with-system": [user("a?"), system("Be kind.")],
    "begins-with-assistant": [assistant("Hello!"), user("Hi")],
    "only-system": [system("Alone.")],
    "two-users": [user("a"), user("b")],
    "two-systems": [system("a"), system("b"), user("c")],
    "late-system": [user("a"), assistant("b"), system("c"), user("d")],
    "developer": [{"role": "developer", "content": "Be brief."}, user("a")],
    "tool-role": [user("a"), {"role": "tool", "content": "{\"x\": 1}"}],
    "unknown-role": [{"role": "critic", "content": "No."}, user("a")],
    "content-first": [{"content": "a", "role": "user"}],
    "nobody": [],
}

# Which conversations are rendered with these variables too.
WITH_EXTRAS = ["user", "system-turns", "thinking"]
EXTRAS = [
    {"enable_thinking": False},
    {"enable_thinking": True},
    {"thinking": True},
    {"thinking": False, "enable_thinking": None},
    {"reasoning_effort": "high", "model_identity": "You are it."},
    {"thinking_budget": 512},
    {"date_string": "1 Jan 2020", "bos_token": "<B>", "controls": {"length": "short"}},
    {"extra": {"b": [1, 2.5, True, None, "é"], "a": {}}, "custom_instructions": "Do.", "deliberation": True},
]


def record(template, special, messages, extra):
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, **{**special, **(extra or {})}
        )
    except Exception as error:
        # What raise_exception raises, and not what goes wrong.
        refused = type(error) is jinja2.exceptions.TemplateError
        return {"refused" if refused else "error": str(error)}
    return {"text": rendered[0]}


def main(folder):
    chat_template_utils.datetime = Clock
    specials = json.loads((folder / "special.json").read_text())
    cases = [(name, None) for name in CONVERSATIONS]
    cases += [(name, extra) for name in WITH_EXTRAS for extra in EXTRAS]
    with open(folder / "conversations.json", "w") as out:
        lines = [f"{json.dumps(name)}: {json.dumps(it)}" for name, it in CONVERSATIONS.items()]
        out.write("{\n" + ",\n".join(lines) + "\n}\n")
    with open(folder / "recorded.jsonl", "w") as out:
        for path in sorted(folder.glob("*.jinja")):
            template = path.read_text()
            plain = {}
            for name, extra in cases:
                got = record(template, specials.get(path.stem, {}), CONVERSATIONS[name], extra)
                if extra is None:
                    plain[name] = got
                elif got == plain[name]:
                    # A variable that this template does not know; one of each is enough.
                    if name != "user":
                        continue
                line = {"template": path.stem, "conversation": name, "extra": extra, **got}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")


main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
