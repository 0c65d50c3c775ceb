"""What the servers must answer, and whether a run's answers are that.

    judge.py expect URL PROMPTS MAX_TOKENS EXPECTED     asks a server itself, all prompts in one request
    judge.py compare EXPECTED ANSWERS HOSTS SERVERS     in order, each once, right, and by so many hosts and servers
"""

import json
import sys
import urllib.request


def expect(url, prompts, max_tokens, expected):
    texts = open(prompts, encoding="utf-8").read().splitlines()
    body = {"prompt": texts, "max_tokens": int(max_tokens), "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    # An endpoint is asked directly, whatever proxy the environment names.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=30) as answer:
        choices = json.load(answer)["choices"]
    said = {choice["index"]: choice for choice in choices}
    assert len(choices) == len(said) == len(texts), "the server does not answer each prompt once"
    rows = [
        {"id": str(at), "index": at, "prompt": text, "response": said[at]["text"], "finish_reason": said[at]["finish_reason"]}
        for at, text in enumerate(texts)
    ]
    assert len({row["response"] for row in rows}) == len(rows), "prompts of the same answer prove nothing"
    json.dump(rows, open(expected, "w", encoding="utf-8"))


def compare(expected, answers, hosts, servers):
    expected = json.load(open(expected, encoding="utf-8"))
    rows = [json.loads(line) for line in open(answers, encoding="utf-8")]
    if len(rows) != len(expected):
        sys.exit(f"{len(rows)} answers to {len(expected)} prompts")
    for row, right in zip(rows, expected):
        wrong = {key: row.get(key) for key in right if row.get(key) != right[key]}
        if wrong or not row["success"]:
            sys.exit(f"prompt {right['index']}: {wrong or row['error']} instead of {right}")
    used = {(row["served"]["host"], row["served"]["endpoint"]) for row in rows}
    if (len({host for host, _ in used}), len(used)) != (int(hosts), int(servers)):
        sys.exit(f"{hosts} hosts with {servers} servers should have answered; these did: {sorted(used)}")


{"expect": expect, "compare": compare}[sys.argv[1]](*sys.argv[2:])
