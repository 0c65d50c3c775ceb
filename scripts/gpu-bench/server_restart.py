"""Kills one of two servers that a run started on one GPU, and tells when its memory is free and when it answers again.

The API server is killed with SIGKILL together with the shell that started it, so that only the engine's process is left with
the memory. The model has few layers, so that servers start quickly. Prints one line of JSON and the run's log.
"""

import argparse
import json
import os
import pathlib
import shlex
import signal
import subprocess
import time
import urllib.request

BASE_PORT = 8100


def used_mib():
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0])


def pids_of_port(port):
    """Processes whose command line starts vLLM with this port: the shell and the API server."""
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if "vllm" in command and f"--port {port}" in command and "aurora-swarm" not in command:
                found.add(int(entry.name))
    return found


def answers_health(port):
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
            return reply.status == 200
    except OSError:
        return False


def count_answers(run_folder):
    return sum(path.read_bytes().count(b"\n") for path in run_folder.glob("shards/*.jsonl"))


def start_run(arguments, log):
    rows = arguments.work / "restart-rows.jsonl"
    with rows.open("w") as out:
        for copy in range(4):
            for line in (arguments.work / "uniform.jsonl").open():
                row = json.loads(line)
                out.write(json.dumps(row | {"id": f"{row['id']}-{copy}", "max_tokens": 600}) + "\n")
    serve = [arguments.python, "-m", "vllm.entrypoints.cli.main", "serve", str(arguments.work / "model")]
    serve += ["--served-model-name", "measured", "--host", "127.0.0.1", "--load-format", "dummy", "--dtype", "bfloat16"]
    serve += ["--max-model-len", "4096", "--enforce-eager", "--max-num-seqs", "256", "--no-enable-prefix-caching"]
    serve += ["--gpu-memory-utilization", str(arguments.memory), "--kv-cache-memory-bytes", str(arguments.cache_gib << 30)]
    serve += ["--hf-overrides", json.dumps({"num_hidden_layers": arguments.layers})]
    command = [arguments.mpiexec, "-n", "1", arguments.swarm, "run", str(rows), "--output", str(arguments.work / "restart.jsonl")]
    command += ["--overwrite", "--serve", shlex.join(serve) + " --port {port}", "--base-port", str(BASE_PORT)]
    command += ["--endpoints-per-node", "2", "--serve-stagger", "1s", "--ready-timeout", "3m", "--min-endpoints", "2"]
    command += ["--api", "completions", "--progress", "none", "--extra-body", '{"ignore_eos":true}']
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def watch(arguments, run):
    """Kills the second server once answers come, and watches until it answers again."""
    run_folder, began = arguments.work / "restart.jsonl.run", time.monotonic()
    result, victims = {"used_mib": []}, set()
    while run.poll() is None and time.monotonic() - began < arguments.limit:
        time.sleep(0.25)
        now = round(time.monotonic() - began, 2)
        result["used_mib"].append((now, used_mib()))
        if not victims:
            if count_answers(run_folder) >= 300:
                victims = pids_of_port(BASE_PORT + 1)
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
                result |= {"killed_s": now, "killed_pids": len(victims)}
        elif "started_again_s" not in result:
            if pids_of_port(BASE_PORT + 1) - victims:
                result |= {"started_again_s": now, "used_mib_then": used_mib()}
        elif answers_health(BASE_PORT + 1):
            result["answers_again_s"] = now
            break
    time.sleep(3)
    result["answers"] = count_answers(run_folder)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--swarm", required=True)
    parser.add_argument("--mpiexec", default="mpiexec")
    parser.add_argument("--python", required=True)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--memory", type=float, default=0.4, help="gpu_memory_utilization of each server")
    parser.add_argument("--cache-gib", type=int, default=12, help="KV cache of each server")
    parser.add_argument("--limit", type=float, default=300, help="seconds")
    arguments = parser.parse_args()
    log_path = arguments.work / "restart.log"
    with log_path.open("w") as log:
        run = start_run(arguments, log)
        try:
            result = watch(arguments, run)
        finally:
            if run.poll() is None:
                run.send_signal(signal.SIGTERM)
            try:
                run.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
    result["exit"] = run.poll()
    print(json.dumps(result))
    print(log_path.read_text(errors="replace")[-6000:])


if __name__ == "__main__":
    main()
