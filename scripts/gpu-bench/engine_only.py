"""Runs the rows through vLLM's engine in this process, without HTTP: the bound for any client of a server.

    engine_only.py FOLDER OPTIONS.json READY GO SET…

OPTIONS.json has the engine's arguments. The file READY is written when the engine is loaded; then the program waits for the
file GO, so that it can be loaded while a server on the same device is starting. It prints one line of JSON for each set.
"""

import json
import pathlib
import sys
import time


def main():
    from vllm import LLM, SamplingParams

    folder, options, ready, go = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4])
    engine = LLM(**json.loads(pathlib.Path(options).read_text()), disable_log_stats=True)
    engine.generate(["warm up"] * 64, SamplingParams(max_tokens=16, temperature=0, ignore_eos=True), use_tqdm=False)
    ready.touch()
    while not go.exists():
        time.sleep(0.1)
    for name in sys.argv[5:]:
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").open()]
        params = [SamplingParams(max_tokens=row["max_tokens"], temperature=0, ignore_eos=True) for row in rows]
        began = time.perf_counter()
        outputs = engine.generate([row["prompt"] for row in rows], params, use_tqdm=False)
        seconds = time.perf_counter() - began
        generated = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(json.dumps({"set": name, "seconds": seconds, "prompts": len(rows), "generated": generated}), flush=True)


if __name__ == "__main__":
    main()
