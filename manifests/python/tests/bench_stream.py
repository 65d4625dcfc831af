"""Streaming beside curl, on the same server in the same run: the time to the first token, and tokens per second.

    python tests/bench_stream.py URL [ROUNDS] [TOKENS]

LLCUDA_API_KEY has the server's key. The two take turns, so that what else the machine does meets both; medians are
compared. It prints a ratio for each, and fails where llcuda takes more than 1.1 times as long to the first token, or has
less than 0.98 of curl's tokens per second.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

from llcuda import InferenceEngine

PROMPT = "Write a long story about a lighthouse keeper and the sea."

FIRST_TOKEN = 1.1
THROUGHPUT = 0.98


def measured(pieces: Iterable[object], began: float) -> tuple[float, float]:
    """Seconds to the first piece, and pieces per second after it."""
    first, count = 0.0, 0
    for _ in pieces:
        count += 1
        first = first or time.perf_counter()
    ended = time.perf_counter()
    return first - began, (count - 1) / (ended - first)


def with_llcuda(url: str, tokens: int) -> tuple[float, float]:
    engine = InferenceEngine(url)
    began = time.perf_counter()
    asked = {"ignore_eos": True, "cache_prompt": False}
    return measured(engine.stream(PROMPT, max_tokens=tokens, temperature=0, **asked), began)


def with_curl(url: str, tokens: int) -> tuple[float, float]:
    body = {"prompt": PROMPT, "n_predict": tokens, "temperature": 0, "top_p": 0.9, "top_k": 40, "stop": []}
    body |= {"seed": -1, "ignore_eos": True, "cache_prompt": False, "stream": True}
    header = f"Authorization: Bearer {os.environ.get('LLCUDA_API_KEY', '')}"
    args = ["curl", "-sN", "--noproxy", "*", "-w", "%{stderr}%{time_total}"]
    args += ["-H", header, "-d", json.dumps(body), f"{url}/completion"]
    began = time.perf_counter()
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        assert curl.stderr is not None
        lines = (line for line in curl.stdout if line.startswith(b"data:") and b'"stop":false' in line)
        first, rate = measured(lines, began)
        ended = time.perf_counter() - began
        return first - (ended - float(curl.stderr.read())), rate  # less what starting the process took


def main() -> int:
    url = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    tokens = int(sys.argv[3]) if len(sys.argv) > 3 else 128
    ways: dict[str, Callable[[str, int], tuple[float, float]]] = {"curl": with_curl, "llcuda": with_llcuda}
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for way in ways.values():  # the first request of a server is slower
        way(url, 8)
    for turn in range(rounds):
        for name in sorted(ways, reverse=bool(turn % 2)):
            took[name].append(ways[name](url, tokens))
    first = {name: statistics.median(t[0] for t in times) for name, times in took.items()}
    rate = {name: statistics.median(t[1] for t in times) for name, times in took.items()}
    for name in ways:
        print(f"{name:<8}first token {first[name] * 1000:8.2f} ms   {rate[name]:8.1f} tokens/s")
    slower, fast = first["llcuda"] / first["curl"], rate["llcuda"] / rate["curl"]
    print(f"ratio   first token {slower:8.3f}      throughput {fast:6.3f}")
    return 0 if slower <= FIRST_TOKEN and fast >= THROUGHPUT else 1


if __name__ == "__main__":
    sys.exit(main())
