#!/usr/bin/env python3
"""Checks a server with the real `openai` package: one PASS or FAIL line for each behaviour.

    openai_client.py http://127.0.0.1:8000/v1

It knows nothing of the simulator and can be pointed at a real vLLM as well.  The exit code is 1
when anything failed.
"""
import asyncio
import sys

import openai

BASE = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
CLIENT = {"base_url": BASE, "api_key": "none", "timeout": 60, "max_retries": 0}
PROMPTS = ["A shard is read in order", "The writer waits", "Two ranks split the work"]
CHECKS = []

client = openai.OpenAI(**CLIENT)
model = client.models.list().data[0].id
greedy = {"model": model, "max_tokens": 8, "temperature": 0, "extra_body": {"ignore_eos": True}}


def check(title):
    """Registers a function that returns whether the behaviour is there."""

    def register(function):
        CHECKS.append((title, function))
        return function

    return register


def ask(prompt, **more):
    return client.completions.create(prompt=prompt, **{**greedy, **more})


def chat(text="hello", **more):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(messages=messages, **{**greedy, **more})


def refused(kind, says, call):
    """Whether a call is refused with this kind of error and words in it."""
    try:
        call()
    except kind as error:
        return says in str(error)
    return False


@check("models: the list has an id and max_model_len")
def _():
    first = client.models.list().data[0]
    return bool(first.id) and first.max_model_len > 0


@check("completion: finish_reason is length and the usage adds up")
def _():
    answer = ask(PROMPTS[0])
    usage = answer.usage
    return (
        answer.choices[0].finish_reason == "length"
        and usage.completion_tokens == 8
        and usage.total_tokens == usage.prompt_tokens + 8
    )


@check("completion: the same prompt gets the same text")
def _():
    return ask(PROMPTS[1]).choices[0].text == ask(PROMPTS[1]).choices[0].text


@check("list: choices in order, each as if asked alone")
def _():
    choices = ask(PROMPTS).choices
    alone = [ask(prompt).choices[0].text for prompt in PROMPTS]
    return [c.index for c in choices] == [0, 1, 2] and [c.text for c in choices] == alone


@check("list with n=2: index is prompt * n + sample")
def _():
    choices = ask(PROMPTS, n=2, temperature=1, seed=5).choices
    return [c.index for c in choices] == list(range(6))


@check("seed: the same seed gives the same sample")
def _():
    texts = [ask(PROMPTS[0], temperature=1, seed=9).choices[0].text for _ in range(2)]
    return texts[0] == texts[1]


@check("token ids: lists of ids are taken and come back")
def _():
    body = {"return_token_ids": True, "ignore_eos": True}
    choices = ask([[300, 301], [302]], extra_body=body).choices
    return choices[0].prompt_token_ids == [300, 301] and len(choices[1].token_ids) == 8


@check("stop: the text ends before the stop string")
def _():
    whole = ask(PROMPTS[0]).choices[0].text
    stop = whole[-3:]
    cut = ask(PROMPTS[0], stop=[stop]).choices[0]
    return cut.finish_reason == "stop" and stop not in cut.text and whole.startswith(cut.text)


def streamed(prompt):
    texts, reasons, usage = {}, {}, None
    for chunk in ask(prompt, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
        usage = chunk.usage or usage
    return texts, reasons, usage


@check("stream of a list: the texts, reasons and usage of the plain answer")
def _():
    texts, reasons, usage = streamed(PROMPTS)
    plain = ask(PROMPTS)
    return (
        [texts[at] for at in range(3)] == [c.text for c in plain.choices]
        and set(reasons.values()) == {"length"}
        and usage.completion_tokens == plain.usage.completion_tokens
    )


@check("chat: a message of the assistant")
def _():
    answer = chat()
    message = answer.choices[0].message
    return message.role == "assistant" and message.content and answer.usage.completion_tokens == 8


@check("chat stream: the text of the plain answer")
def _():
    parts = [c.choices[0].delta.content or "" for c in chat(stream=True) if c.choices]
    return "".join(parts) == chat().choices[0].message.content


@check("chat: content in parts is the same as in one")
def _():
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    return chat(parts).choices[0].message.content == chat().choices[0].message.content


@check("chat: chat_template_kwargs change the prompt")
def _():
    off = {"chat_template_kwargs": {"enable_thinking": False}, "ignore_eos": True}
    return chat(extra_body=off).usage.prompt_tokens > chat().usage.prompt_tokens


@check("chat: a JSON schema is answered with an object")
def _():
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
    text = chat(response_format=wanted, max_tokens=100, extra_body={}).choices[0].message.content
    return text.lstrip().startswith("{")


@check("error: an unknown model is NotFoundError")
def _():
    call = lambda: client.completions.create(model="nobody", prompt="x")
    return refused(openai.NotFoundError, "does not exist", call)


@check("error: one prompt too long refuses the whole list")
def _():
    long = "the launcher reads " * 20000
    return refused(openai.BadRequestError, "maximum context length", lambda: ask([PROMPTS[0], long]))


@check("error: an empty list is BadRequestError")
def _():
    return refused(openai.BadRequestError, "at least one prompt", lambda: ask([]))


@check("error: n=2 at temperature 0 is BadRequestError")
def _():
    return refused(openai.BadRequestError, "greedy", lambda: ask(PROMPTS[0], n=2))


@check("error: a refused stream is an error and no stream")
def _():
    return refused(openai.BadRequestError, "max_tokens", lambda: ask("x", max_tokens=0, stream=True))


@check("100 at once: each has its own id and its own text")
def _():
    async def many():
        async with openai.AsyncOpenAI(**CLIENT) as several:
            calls = (several.completions.create(prompt=f"rank {n}", **greedy) for n in range(100))
            return await asyncio.gather(*calls)

    answers = asyncio.run(many())
    texts = {answer.choices[0].text for answer in answers}
    return len({answer.id for answer in answers}) == 100 and len(texts) == 100


passed = 0
for title, function in CHECKS:
    try:
        fine, why = bool(function()), ""
    except Exception as error:  # any failure of the client is a finding
        fine, why = False, f"  {type(error).__name__}: {str(error)[:200]}"
    passed += fine
    print(f"{'PASS' if fine else 'FAIL'} {title}{why}", flush=True)
print(f"openai client: {passed} of {len(CHECKS)}")
sys.exit(passed != len(CHECKS))
