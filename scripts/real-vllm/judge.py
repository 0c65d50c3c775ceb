#!/usr/bin/env python3
"""Holds what aurora-swarm wrote against what it should be. Prints one line of counts; exit code 1 where it does not hold.

    judge.py direct ANSWERS DIRECT     answers against the server's own (server.py ask)
    judge.py same ANSWERS OTHERS       two runs of the same prompts
    judge.py kept ANSWERS SHARD…       what stood in the shard files when a run was killed is in the answers, untouched
    judge.py bad ANSWERS OTHERS        the prompts `too-long` and `empty` failed, all others are as in the other run
    judge.py tree TEXT LEAVES FAN_IN DIRECT…
                                       a reduce: the tree over its leaves' answers, level by level, and each level's answers
                                       against the server's own (server.py ask)
    judge.py check JSON TABLE VERSION LEN
                                       what `check` says of the server, with --json and without

Rounding differs with what else is in a server's batch, and at temperature 0 a tie may then fall the other way: one
answer in a hundred may differ. Everything else must be exact.
"""
import glob
import json
import math
import sys

faults = []


def fault(what):
    faults.append(what)


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def few(names, most=20):
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def nearly_all(equal, differ, what):
    """At most one in a hundred may differ."""
    count = equal + len(differ)
    if differ:
        print(f"    differ in {what}: {few(differ)}", file=sys.stderr)
    if equal < math.ceil(0.99 * count):
        fault(f"only {equal} of {count} are equal in {what}")


def in_order(answers):
    if [row["index"] for row in answers] != list(range(len(answers))):
        fault("the answers are not in the order of the input")


def direct(answers, asked):
    answers, asked = rows(answers), rows(asked)
    in_order(answers)
    if [row["id"] for row in answers] != [row["id"] for row in asked]:
        fault("the ids are not those of the prompts")
    if not all(row["success"] and row["error"] is None for row in answers):
        fault("some prompts failed: " + few([row["id"] for row in answers if not row["success"]]))
    pairs = list(zip(answers, asked))
    same = [a["response"] == b["text"] and a["finish_reason"] == b["finish_reason"] for a, b in pairs]
    nearly_all(sum(same), [a["id"] for (a, _), it in zip(pairs, same) if not it], "text or finish reason")

    # One prompt a request has its own token counts, and they must be the server's. A list has one sum: the shares are
    # estimates, and their sum is right.
    own = [(a, b) for (a, b), it in zip(pairs, same) if it and a["usage"] and not a["usage"].get("estimated")]
    for a, b in own:
        if any(a["usage"][key] != b["usage"][key] for key in ("prompt_tokens", "completion_tokens")):
            fault(f"{a['id']}: usage {a['usage']}, but the server says {b['usage']}")
    if any(not a["usage"] for a in answers if a["success"]):
        fault("answers without token counts")
    sums = {}
    for key in ("prompt_tokens", "completion_tokens"):
        ours = sum((a["usage"] or {}).get(key, 0) for a in answers)
        theirs = sum(b["usage"][key] for b in asked)
        sums[key] = ours
        exact = key == "prompt_tokens" or all(same)
        if exact and theirs != ours:
            fault(f"{key}: {ours} in all, but the server says {theirs}")
    ends = {}
    for row in answers:
        ends[row["finish_reason"]] = ends.get(row["finish_reason"], 0) + 1
    told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items(), key=str))
    print(f"{sum(same)}/{len(pairs)} equal; tokens {sums['prompt_tokens']} + {sums['completion_tokens']}, "
          f"{len(own)} counted one by one; ended by: {told}")


def without(row):
    """What two equal runs have in common, apart from the answer's own words and their count."""
    return {key: value for key, value in row.items() if key not in ("served", "response", "finish_reason", "usage")}


def same_words(a, b):
    counted = [row["usage"] for row in (a, b) if row["usage"] and not row["usage"].get("estimated")]
    return (
        (a["response"], a["finish_reason"]) == (b["response"], b["finish_reason"])
        and (len(counted) < 2 or counted[0] == counted[1])
    )


def compare(pairs):
    for a, b in pairs:
        if without(a) != without(b):
            fault(f"{a['id']}: {without(a)} against {without(b)}")
    differ = [a["id"] for a, b in pairs if not same_words(a, b)]
    nearly_all(len(pairs) - len(differ), differ, "the answer")
    return len(pairs) - len(differ)


def same(answers, others):
    answers, others = rows(answers), rows(others)
    in_order(answers)
    if len(answers) != len(others):
        fault(f"{len(answers)} rows against {len(others)}")
    equal = compare(list(zip(answers, others)))
    print(f"{equal}/{len(others)} equal")


def kept(answers, *shards):
    answers = {row["index"]: row for row in rows(answers)}
    count = 0
    for shard in shards:
        with open(shard, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    continue  # torn by the kill
                row = json.loads(line)
                if "index" not in row:
                    continue
                count += 1
                if answers.get(row["index"]) != row:
                    fault(f"{row['id']} was answered before the kill and is another row now")
    if not count:
        fault("no answer stood in the shard files when the run was killed")
    print(count)


def bad(answers, others):
    answers, others = rows(answers), rows(others)
    in_order(answers)
    failed = {row["id"]: row["error"]["kind"] for row in answers if not row["success"]}
    if failed != {"too-long": "too_long", "empty": "empty_prompt"}:
        fault(f"these should have failed: too-long of too_long, empty of empty_prompt; failed: {failed}")
    for row in answers:
        if not row["success"] and (row["response"] is not None or not row["error"]["message"]):
            fault(f"{row['id']} failed, but its row is {row}")
    others = {row["id"]: row for row in others}
    pairs = [(row, others[row["id"]]) for row in answers if row["success"]]
    equal = compare(pairs)
    print(f"{len(pairs)} answered, {equal} equal, {len(failed)} failed ({', '.join(sorted(failed.values()))})")


def check(report, table, version, length):
    with open(report, encoding="utf-8") as file:
        report = json.load(file)
    found = [end for rank in report["ranks"] for end in rank["endpoints"]]
    if len(report["ranks"]) != 2 or len(found) != 1:
        fault(f"two ranks and one endpoint should be there; there are {len(report['ranks'])} and {len(found)}")
    probe = found[0]["probe"] if found else None
    facts = next((probe[key] for key in ("Ready", "ready") if key in probe), None) if isinstance(probe, dict) else None
    if facts is None:
        fault(f"the endpoint is not ready: {found}")
        return
    if facts["version"] != version:
        fault(f"version {facts['version']}, but the server says {version}")
    models = [(model["id"], model["max_model_len"]) for model in facts["models"]]
    if models != [("tiny", int(length)), ("twin", int(length))]:
        fault(f"models {models}, not tiny and twin with {length} tokens")
    missing = [name for name in ("completions", "chat", "chat_batch", "tokenize", "metrics") if not facts["routes"].get(name)]
    if missing:
        fault(f"routes not found: {few(missing)}")
    # Two models are served and none is named, so there is no model whose template could be asked for.
    if facts["chat_template"] is not None:
        fault(f"the chat template of no model in particular is said to be {facts['chat_template']}")
    with open(table, encoding="utf-8") as file:
        table = file.read()
    unseen = [word for word in (version, length, "tiny", "completions", "chat-batch") if word not in table]
    if unseen:
        fault(f"the table does not show: {few(unseen)}")
    print(f"vLLM {version}, {length} tokens, routes {' '.join(name for name, there in facts['routes'].items() if there)}")


def tree(text, leaves, fan_in, *direct):
    """Of TEMPLATE in real-vllm.sh. What was cut to fit the context is counted, and not held against the texts."""
    texts = {row["index"]: row["response"] for row in rows(leaves) if row["success"] and row["response"].strip()}
    nodes = {(row["level"], row["group"]): row for row in rows(f"{text}.run/tree.jsonl")}
    fan_in, groups, cut, equal, differ = int(fan_in), 0, 0, 0, []
    for level, asked in enumerate(direct, start=1):
        folder, own = f"{text}.run/level-{level:02}", {}
        for shard in sorted(glob.glob(f"{folder}.run/shards/**/*.jsonl", recursive=True)):
            own.update((row["id"], row["response"]) for row in rows(shard) if row.get("success"))
        prompts = [row for part in sorted(glob.glob(f"{folder}.in/prompts/*")) for row in rows(part)]
        asked = {row["id"]: row["text"] for row in rows(asked)}
        above = {}
        for group in sorted({at // fan_in for at in texts}):
            name, node = f"L{level}-g{group}", nodes.pop((level, group), {})
            below = [texts[at] for at in range(group * fan_in, (group + 1) * fan_in) if at in texts]
            if node.get("outcome") != "answered" or node.get("texts") != len(below):
                fault(f"{name}: {node} of {len(below)} texts")
            told = [row["prompt"] for row in prompts if row["id"] == name]
            want = f"Summarise these descriptions (level {level}):\n" + "\n---\n".join(below)
            cut += bool(node.get("cut"))
            if told != [want] and not node.get("cut"):
                fault(f"{name} is asked {told} instead of {want!r}")
            above[group] = own.get(name, "")
            groups, equal = groups + 1, equal + (own.get(name) == asked.get(name))
            if own.get(name) != asked.get(name):
                differ.append(name)
        texts = above
    with open(text, encoding="utf-8") as file:
        if file.read() != texts.get(0) or len(texts) != 1:
            fault("the text is not the answer at the root")
    if nodes:
        fault(f"nodes of no group: {few(list(nodes))}")
    if len(differ) > 1:
        fault(f"more than one answer is not the server's: {few(differ)}")
    print(f"{groups} groups, {equal}/{groups} as the server answers them, {cut} cut")


def main():
    name, given = sys.argv[1], sys.argv[2:]
    {"direct": direct, "same": same, "kept": kept, "bad": bad, "check": check, "tree": tree}[name](*given)
    for what in faults[:20]:
        print(f"    WRONG: {what}", file=sys.stderr)
    if len(faults) > 20:
        print(f"    WRONG: and {len(faults) - 20} more", file=sys.stderr)
    sys.exit(1 if faults else 0)


main()
