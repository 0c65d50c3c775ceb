#!/usr/bin/env python3
"""Holds the answers to a batch file against the server's own, with the types of the real `openai` package.

    batch_client.py write FILE                        writes a batch file
    batch_client.py check URL FILE ANSWERS [WANTED…]  asks URL each request of FILE itself; the body of each line of
                                                      ANSWERS must be the same, and the package's types must take it

WANTED names fields (`tool_calls`, `refusal`, `reasoning`, `logprobs`) that some body must have. The file asks for
tools, log-probabilities, several sequences, token ids and a refusal (of a text with FORBIDDEN, which only a simulator
gives).
The exit code is 1 if anything differs.
"""
import json
import math
import sys

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("count", "clock")]
CALL = '<tool_call>\n{"name": "%s", "arguments": {"n": 1, "ok": true}}\n</tool_call>'


def says(text):
    """Any model says this, and any server with a Hermes parser makes calls of it."""
    return {"structured_outputs": {"choice": [text]}, "max_tokens": 300}


def user(text):
    return [{"role": "user", "content": text}]


def requests():
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    history = user("What time is it?") + [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    chat = {
        "plain": {"messages": user("plain")},
        "tools": {"messages": user("tools"), "tools": TOOLS, **says(CALL % "count")},
        "two-calls": {
            "messages": user("two"),
            "tools": TOOLS,
            **says("Let me see. " + CALL % "count" + CALL % "clock"),
        },
        "cut-call": {"messages": user("cut"), "tools": TOOLS, **says(CALL % "count"), "max_tokens": 12},
        "after-a-call": {"messages": history, "tools": TOOLS, "tool_choice": "none"},
        "logprobs": {"messages": user("logprobs"), "logprobs": True, "top_logprobs": 2},
        "four": {"messages": user("four"), "n": 4, "temperature": 1, "seed": 7, "logprobs": True},
        "refusal": {"messages": user("a FORBIDDEN text"), "max_tokens": 60},
        "ids": {"messages": user("ids"), "return_token_ids": True, "prompt_logprobs": 1},
        "stop": {"messages": user("stop"), "stop_token_ids": list(range(300, 1400)), "max_tokens": 40},
    }
    texts = {
        "text": {"prompt": "a text"},
        "text-logprobs": {"prompt": "logprobs", "logprobs": 2},
        "text-four": {"prompt": "four", "n": 4, "temperature": 1, "seed": 7, "logprobs": 1},
        "text-ids": {"prompt": "ids", "return_token_ids": True, "prompt_logprobs": 0},
    }
    default = {"max_tokens": 8, "temperature": 0}
    for url, bodies in ((CHAT, chat), (COMPLETIONS, texts)):
        for name, body in bodies.items():
            yield {"custom_id": name, "method": "POST", "url": url, "body": {**default, **body}}


def lasting(value, name=None):
    """A body without what differs each time: ids and the time. Nulls mean absent."""
    if isinstance(value, dict):
        dropped = ("id", "created")
        return {key: lasting(it, key) for key, it in value.items() if key not in dropped and it is not None}
    if isinstance(value, list):
        return [lasting(it) for it in value]
    return value


def same(one, other):
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, abs_tol=1e-3)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def names(value):
    """The names of all fields that have a value."""
    if isinstance(value, dict):
        for key, it in value.items():
            if it:
                yield key
            yield from names(it)
    elif isinstance(value, list):
        for it in value:
            yield from names(it)


def check(url, batch, answers, wanted):
    import openai
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0)
    model = client.models.list().data[0].id
    with open(batch, encoding="utf-8") as rows, open(answers, encoding="utf-8") as lines:
        pairs = list(zip(map(json.loads, rows), map(json.loads, lines), strict=True))
    wrong, found, ids = [], set(), set()
    for row, line in pairs:
        name, kind = row["custom_id"], ChatCompletion if row["url"] == CHAT else Completion
        if list(line) != ["id", "custom_id", "response", "error"] or line["custom_id"] != name or line["error"]:
            wrong.append(f"{name}: the line is {line}")
            continue
        body = line["response"]["body"]
        parsed = kind.model_validate(body)
        if len(parsed.choices) != row["body"].get("n", 1) or not parsed.created or not parsed.usage:
            wrong.append(f"{name}: {body}")
        sent = client.post(row["url"].removeprefix("/v1"), body={**row["body"], "model": model}, cast_to=object)
        if not same(lasting(body), lasting(sent)):
            wrong.append(f"{name}:\n  file   {json.dumps(lasting(body))}\n  server {json.dumps(lasting(sent))}")
        found |= set(names(body))
        ids |= {body["id"], line["id"]}
    wrong += [f"no body has {name}" for name in wanted if name not in found]
    if len(ids) != 2 * len(pairs):
        wrong.append("ids are not unique")
    for what in wrong:
        print(f"WRONG {what}", file=sys.stderr)
    print(f"openai batch: {len(pairs)} bodies, {len(wrong)} wrong, with {', '.join(sorted(wanted))}")
    sys.exit(1 if wrong else 0)


if sys.argv[1] == "write":
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in requests())
else:
    check(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
