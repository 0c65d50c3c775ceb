#!/usr/bin/env python3
"""Speaks to the server without aurora-swarm: the other witness. Needs the standard library only.

    server.py port                                  a free port of the loopback
    server.py wait URL PID SECONDS                  until it is ready; fails when PID ends or the time is over
    server.py served URL                            how many prompts it has finished so far, when it has come to rest
    server.py cached URL                            how many tokens of prompts it has found in its prefix cache so far
    server.py ask URL completions|chat PROMPTS OUT  one prompt a request, a few at a time
"""
import concurrent.futures
import http.client
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.parse

ROUTES = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
THREADS = 4
LIMIT = 120  # seconds a request


def open_connection(url, limit=LIMIT):
    return http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=limit)  # asks no proxy


def get(url, path, limit=10):
    connection = open_connection(url, limit)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        print(free.getsockname()[1])


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait(url, pid, seconds):
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        if not alive(pid):
            sys.exit("the server has ended")
        try:
            if get(url, "/health")[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass  # refused while it loads
        time.sleep(0.5)
    sys.exit(f"the server was not ready in {seconds} s")


def counted(url):
    """Its counters, summed up by name."""
    text = get(url, "/metrics")[1]
    return lambda name: sum(float(it) for it in re.findall(rf"^vllm:{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def cached(url):
    print(int(counted(url)("prefix_cache_hits_total")))


def served(url):
    for _ in range(300):
        total = counted(url)
        if total("num_requests_running") + total("num_requests_waiting") == 0:
            print(int(total("request_success_total")))
            return
        time.sleep(0.1)
    sys.exit("the server is still at work on prompts that nobody waits for")


def ask(url, api, prompts, out):
    with open(prompts, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    own = threading.local()

    def one(row):
        body = {"model": "tiny", "max_tokens": 32, "temperature": 0}
        if api == "chat":
            body["messages"] = [{"role": "user", "content": row["prompt"]}]
        else:
            body["prompt"] = row["prompt"]
        if not hasattr(own, "connection"):
            own.connection = open_connection(url)
        own.connection.request("POST", ROUTES[api], json.dumps(body), {"Content-Type": "application/json"})
        response = own.connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            sys.exit(f"{row['id']}: the server says {response.status}: {answer}")
        (choice,) = answer["choices"]
        text = choice["message"]["content"] if api == "chat" else choice["text"]
        return {"id": row["id"], "text": text, "finish_reason": choice["finish_reason"], "usage": answer["usage"]}

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool, open(out, "w", encoding="utf-8") as file:
        for answer in pool.map(one, rows):
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")


def main():
    name, given = sys.argv[1], sys.argv[2:]
    {"port": port, "wait": wait, "served": served, "cached": cached, "ask": ask}[name](*given)
    sys.stdout.flush()
    os._exit(0)  # a start of Python that ends at once: nothing here needs its end


main()
