"""A careful plain client: aiohttp with a fixed number of requests in flight, answers appended to a file.

    aiohttp_client.py BASE_URL ROWS.jsonl OUT.jsonl IN_FLIGHT

Prints one line of JSON with the seconds between the first request and the last answer.
"""

import asyncio
import json
import sys
import time

import aiohttp


async def ask_all(base_url, rows_path, out_path, in_flight):
    rows = iter([json.loads(line) for line in open(rows_path)])
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        with open(out_path, "w") as out:

            async def worker():
                for row in rows:
                    body = {"model": "measured", "temperature": 0, "ignore_eos": True}
                    body |= {"prompt": row["prompt"], "max_tokens": row["max_tokens"]}
                    async with session.post(f"{base_url}/v1/completions", json=body) as reply:
                        reply.raise_for_status()
                        answer = await reply.json()
                    text = answer["choices"][0]["text"]
                    tokens = answer["usage"]["completion_tokens"]
                    out.write(json.dumps({"id": row["id"], "response": text, "usage": {"completion_tokens": tokens}}) + "\n")

            began = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(in_flight)))
            print(json.dumps({"asking_s": time.perf_counter() - began}))


if __name__ == "__main__":
    asyncio.run(ask_all(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
