"""Measures aurora-swarm, a careful Python client and the engine alone over the same rows on one GPU. See gpu-bench.sh.

Every process has a deadline and is ended with its process group. The result is one file of JSON and a table.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
MODEL = "measured"
PORT = 8000
CLIENTS = [
    "uniform: swarm",
    "uniform: aiohttp 1024",
    "uniform: aiohttp 256",
    "heavy: swarm",
    "heavy: aiohttp 1024",
    "short: swarm",
    "short: aiohttp 256",
    "uniform: swarm --api chat",
    "uniform: swarm --concurrency 256",
    "uniform: swarm --concurrency 512",
    "uniform: swarm --concurrency 1024",
    "uniform: swarm --concurrency 2048",
    "short: swarm --no-batch",
    "uniform: 4 swarm",
]


def engine_options(arguments):
    """The engine's arguments, the same for the server and for the engine alone."""
    options = {
        "model": str(arguments.work / "model"),
        "load_format": "dummy",
        "dtype": "bfloat16",
        "max_model_len": 4096,
        "max_num_seqs": arguments.slots,
        "max_num_batched_tokens": 8192,
        "enable_prefix_caching": False,  # every client sends the same prompts
        "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"},
    }
    if arguments.cache_gib:
        options["kv_cache_memory_bytes"] = int(arguments.cache_gib * 2**30)
    if arguments.memory:
        options["gpu_memory_utilization"] = arguments.memory
    if arguments.eager:
        options["enforce_eager"] = True
        del options["compilation_config"]
    return options


def server_flags(options):
    """The same arguments as flags of `vllm serve`."""
    flags = [options["model"]]
    for name, value in options.items():
        flag = name.replace("_", "-")
        if name == "model":
            continue
        if isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{flag}")
        else:
            flags += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags


class Child:
    """A process in its own process group with its output in a file."""

    def __init__(self, command, log):
        self.log = log
        self.out = open(log, "w")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.out, stderr=subprocess.STDOUT, start_new_session=True
        )

    def alive(self):
        return self.process.poll() is None

    def end(self):
        for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            until = time.monotonic() + patience
            while time.monotonic() < until and group_lives(self.process.pid):
                self.process.poll()
                time.sleep(0.2)
        self.process.wait(timeout=15)
        self.out.close()

    def tail(self, lines=30):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def fetch(path):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{PORT}{path}", timeout=5) as reply:
        return reply.read().decode()


def counters():
    """Sums of the server's counters over its engines; empty where the server has no metrics."""
    wanted = {"vllm:generation_tokens_total": "generated", "vllm:num_preemptions_total": "preemptions"}
    sums = dict.fromkeys(wanted.values(), 0.0)
    try:
        for line in fetch("/metrics").splitlines():
            name = line.split("{")[0]
            if name in wanted:
                sums[wanted[name]] += float(line.split()[-1])
    except OSError:
        pass
    return sums


def wait_until(ready, children, seconds, what):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if ready():
            return
        for child in children:
            if not child.alive():
                sys.exit(f"gpu-bench: {what} ended before it was ready:\n{child.tail(60)}")
        time.sleep(0.3)
    sys.exit(f"gpu-bench: {what} was not ready after {seconds} s:\n{children[0].tail(60)}")


def server_is_ready():
    try:
        fetch("/health")
        return True
    except OSError:
        return False


def start_engine(arguments, options):
    file = arguments.work / "engine.json"
    file.write_text(json.dumps(options))
    (arguments.work / "engine.ready").unlink(missing_ok=True)
    (arguments.work / "go").unlink(missing_ok=True)
    command = [arguments.python, str(HERE / "engine_only.py"), str(arguments.work), str(file)]
    command += [str(arguments.work / "engine.ready"), str(arguments.work / "go"), *arguments.sets]
    return Child(command, arguments.work / "engine.log")


def run_engine(arguments, engine, figures):
    """Lets the loaded engine run and reads its lines."""
    wait_until((arguments.work / "engine.ready").exists, [engine], arguments.ready, "the engine")
    (arguments.work / "go").touch()
    try:
        engine.process.wait(timeout=600)
    except subprocess.TimeoutExpired:
        print("gpu-bench: the engine alone took more than 600 s", flush=True)
    for line in engine.log.read_text(errors="replace").splitlines():
        if line.startswith('{"set"'):
            row = json.loads(line)
            figures["engine"][row["set"]] = row
            print(f"engine alone, {row['set']}: {row['seconds']:.2f} s, {row['generated'] / row['seconds']:.0f} tokens/s", flush=True)
    engine.end()


def start_server(arguments, options):
    if arguments.server:
        command = shlex.split(arguments.server.replace("{port}", str(PORT)))
    else:
        command = [arguments.python, "-m", "vllm.entrypoints.cli.main", "serve", *server_flags(options)]
        command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(PORT), *shlex.split(arguments.server_flags)]
    return Child(command, arguments.work / "server.log")


def client_command(arguments, name, words, out):
    rows = arguments.work / f"{name}.jsonl"
    if words[0] == "aiohttp":
        return [arguments.python, str(HERE / "aiohttp_client.py"), f"http://127.0.0.1:{PORT}", str(rows), str(out), words[1]]
    ranks = words.pop(0) if words[0].isdigit() else "1"
    command = [arguments.mpiexec, "-n", ranks, arguments.swarm, "run", str(rows), "--output", str(out), "--endpoint"]
    command += [f"http://127.0.0.1:{PORT}", "--temperature", "0", "--extra-body", '{"ignore_eos":true}', "--progress", "none"]
    return command + ([] if "--api" in words else ["--api", "completions"]) + words[1:]


def asking_seconds(words, out, log):
    """Seconds between the first request and the last answer, as the client tells them."""
    if words[0] == "aiohttp":
        return json.loads(log.read_text().splitlines()[-1])["asking_s"]
    rates = json.loads((out.parent / f"{out.name}.run" / "summary.json").read_text())["rates"]
    return rates["ramp_s"] + rates["steady_s"] + rates["tail_s"]


def median_in_flight(out):
    samples = out.parent / f"{out.name}.run" / "samples.jsonl"
    if not samples.exists():
        return None
    values = [json.loads(line)["in_flight"] for line in samples.read_text().splitlines() if line.strip()]
    return int(statistics.median(values)) if values else None


def measure_client(arguments, text, figures):
    """Runs one client, `SET: CLIENT`, and checks that each row has its answer with all its tokens."""
    name, _, client = text.partition(": ")
    words = shlex.split(client)
    rows = [json.loads(line) for line in (arguments.work / f"{name}.jsonl").open()]
    number = len(figures["clients"])
    out, log = arguments.work / f"client-{number}.jsonl", arguments.work / f"client-{number}.log"
    out.unlink(missing_ok=True)  # of an earlier measurement in the same folder
    shutil.rmtree(out.parent / f"{out.name}.run", ignore_errors=True)
    command = client_command(arguments, name, list(words), out)
    before, began = counters(), time.perf_counter()
    child = Child(command, log)
    timer = time.monotonic() + arguments.client_limit
    usage = None
    while time.monotonic() < timer:
        pid, _, usage = os.wait4(child.process.pid, os.WNOHANG)
        if pid:
            child.process.returncode = 0
            break
        usage = None
        time.sleep(0.02)
    wall = time.perf_counter() - began
    row = {"set": name, "client": client, "wall_s": wall}
    if usage is None:
        child.end()
        row["error"] = f"not finished after {arguments.client_limit} s"
    else:
        after = counters()
        row |= {"cpu_us_per_prompt": (usage.ru_utime + usage.ru_stime) * 1e6 / len(rows)}
        row |= {key: after[key] - before[key] for key in after}
        try:
            answers = [json.loads(line) for line in out.open()]
            missing = len({r["id"] for r in rows} - {a["id"] for a in answers})
            tokens = sum(a["usage"]["completion_tokens"] for a in answers)
            row |= {"missing": missing, "tokens": tokens, "wanted_tokens": sum(r["max_tokens"] for r in rows)}
            if missing or tokens != row["wanted_tokens"]:
                row["error"] = f"{missing} answers are missing, {tokens} of {row['wanted_tokens']} tokens"
            row["asking_s"] = asking_seconds(words, out, log)
            row["in_flight"] = median_in_flight(out)
            bound = figures["engine"].get(name)
            if bound:
                row["share"] = bound["seconds"] / row["asking_s"]
        except (OSError, ValueError, KeyError, IndexError) as error:
            row["error"] = f"{type(error).__name__}: {error}; {child.tail(8)}"
    figures["clients"].append(row)
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


def print_table(figures):
    print(f"\n{figures['device']}")
    for name, row in figures["engine"].items():
        print(f"{name:8} engine alone{'':26} {row['seconds']:8.2f} s  share 1.000")
    for row in figures["clients"]:
        share = f"share {row['share']:.3f}" if "share" in row else row.get("error", "")[:60]
        cpu = f"{row['cpu_us_per_prompt']:6.0f} µs/prompt" if "cpu_us_per_prompt" in row else ""
        print(f"{row['set']:8} {row['client']:38} {row.get('asking_s', row['wall_s']):8.2f} s  {share}  {cpu}  in flight {row.get('in_flight')}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for inputs, answers and logs")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the file of JSON for the figures")
    parser.add_argument("--swarm", required=True, help="the aurora-swarm program")
    parser.add_argument("--mpiexec", default="mpiexec")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has vllm and aiohttp")
    parser.add_argument("--sets", nargs="*", default=["uniform", "heavy", "short"])
    parser.add_argument("--clients", nargs="*", default=CLIENTS, help="'SET: CLIENT', e.g. 'heavy: swarm --concurrency 512'")
    parser.add_argument("--engine", type=pathlib.Path, help="figures of an earlier run whose engine rows are used")
    parser.add_argument("--together", action="store_true", help="load the engine beside the server; needs memory for both")
    parser.add_argument("--server", help="another server's command with {port}; the engine is not run alone")
    parser.add_argument("--server-flags", default="", help="more flags for vllm serve")
    parser.add_argument("--slots", type=int, default=1024, help="max_num_seqs")
    parser.add_argument("--cache-gib", type=float, default=44.0, help="size of the KV cache; 0 leaves it to vLLM")
    parser.add_argument("--memory", type=float, help="gpu_memory_utilization")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--ready", type=float, default=300, help="seconds until a server must be ready")
    parser.add_argument("--client-limit", type=float, default=300, help="seconds for one client")
    parser.add_argument("--stop-after", type=float, default=0, help="seconds after which no further client is started")
    return parser.parse_args()


def device_name():
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "no NVIDIA device"


def main():
    arguments = parse_arguments()
    began = time.monotonic()
    os.environ |= {"no_proxy": "*", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    options = engine_options(arguments)
    figures = {"device": device_name(), "engine": {}, "clients": [], "options": options}
    if arguments.engine:
        figures["engine"] = json.loads(arguments.engine.read_text())["engine"]
    run_alone = not (arguments.engine or arguments.server)
    children = []
    try:
        if run_alone:
            children.append(engine := start_engine(arguments, options))
            if not arguments.together:
                run_engine(arguments, engine, figures)
        children.append(server := start_server(arguments, options))
        wait_until(server_is_ready, [server], arguments.ready, "the server")
        print(f"the server is ready after {time.monotonic() - began:.0f} s", flush=True)
        if run_alone and arguments.together:
            run_engine(arguments, engine, figures)
        for text in arguments.clients:
            if arguments.stop_after and time.monotonic() - began > arguments.stop_after:
                print(f"gpu-bench: not measured, {arguments.stop_after:.0f} s are over: {text}", flush=True)
                continue
            measure_client(arguments, text, figures)
            arguments.out.write_text(json.dumps(figures, indent=1))
    finally:
        for child in children:
            child.end()
    print_table(figures)


if __name__ == "__main__":
    main()
