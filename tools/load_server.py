#!/usr/bin/env python3
"""Measures OpenAI-compatible servers under load: throughput, time to the first token, time between tokens.

    tools/load_server.py dense=http://127.0.0.1:8080 packed=http://127.0.0.1:8081 [--clients 1 4 16 64] [--long-tokens 2000]

Each server is asked by so many clients at once, who stream one answer after another; the servers take turns, `--rounds`
times for each number of clients, so that what else the machine does meets all of them. Prompts are random token ids
(`--prompt-tokens` of them, none alike), answers are greedy and as long as asked for (`--tokens`). With `--long-tokens`
one more client sends prompts of so many tokens all the while, one after another; its requests are not counted. Times
between tokens are those between the pieces of a stream. Needs the standard library alone.
"""
import argparse
import asyncio
import json
import os
import random
import statistics
import time
import urllib.parse


async def ask(address, body):
    """Streams one answer: times of its pieces (seconds from the request on) and the number of its tokens."""
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 20)
    try:
        data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
        begin = time.monotonic()
        writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{address.netloc}: {status.decode().strip()} {(await reader.read(2000)).decode()[-300:]}")
        times, tokens = [], 0
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(f"{address.netloc}: {chunk['error']}")
                if any(choice.get("text") for choice in chunk["choices"]):
                    times.append(time.monotonic() - begin)
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        return times, tokens
    finally:
        writer.close()


def body_of(draw, length, tokens, vocabulary):
    return {"prompt": [draw.randrange(vocabulary // 4, vocabulary) for _ in range(length)], "max_tokens": tokens,
            "temperature": 0, "ignore_eos": True}


class Round:
    """What one server did for so many clients."""

    def __init__(self, options, address, clients, seed):
        self.options, self.address, self.clients, self.draw = options, address, clients, random.Random(seed)
        self.first, self.between, self.tokens, self.longs = [], [], 0, 0

    async def client(self):
        for _ in range(self.options.requests):
            times, tokens = await ask(self.address, body_of(self.draw, self.options.prompt_tokens, self.options.tokens,
                                                            self.options.vocabulary))
            if not times:
                continue
            self.first.append(times[0])
            self.between += [after - before for before, after in zip(times, times[1:])]
            self.tokens += tokens

    async def long_prompts(self):
        while True:
            await ask(self.address, body_of(self.draw, self.options.long_tokens, 1, self.options.vocabulary))
            self.longs += 1

    async def run(self):
        begin = time.monotonic()
        long_prompts = asyncio.create_task(self.long_prompts()) if self.options.long_tokens else None
        await asyncio.gather(*(self.client() for _ in range(self.clients)))
        self.seconds = time.monotonic() - begin
        if long_prompts:
            failed = long_prompts.done() and long_prompts.exception()
            long_prompts.cancel()
            if failed:
                raise failed
        return self


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1000 if ordered else float("nan")


def row(name, clients, rounds):
    first = [t for r in rounds for t in r.first]
    between = [t for r in rounds for t in r.between]
    speeds = [r.tokens / r.seconds for r in rounds]
    median, worst = quantile(between, 0.5), quantile(between, 0.99)
    return (f"{name:<16}{clients:>8}{statistics.median(speeds):>10.1f}{min(speeds):>9.1f}{max(speeds):>8.1f}"
            f"{quantile(first, 0.5):>12.0f}{quantile(first, 0.95):>8.0f}{quantile(first, 0.99):>8.0f}"
            f"{median:>12.1f}{worst:>8.1f}{worst / median:>7.1f}{sum(r.longs for r in rounds):>7}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="+", metavar="NAME=URL")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--requests", type=int, default=2, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--long-tokens", type=int, default=0, help="of prompts that arrive all the while; 0: none")
    parser.add_argument("--vocabulary", type=int, default=40000, help="ids below it are drawn")
    options = parser.parse_args()
    servers = [(name, urllib.parse.urlsplit(url)) for name, url in (text.split("=", 1) for text in options.servers)]
    print(f"prompts of {options.prompt_tokens} tokens, answers of {options.tokens}, {options.requests} requests a client, "
          f"{options.rounds} rounds, long prompts of {options.long_tokens}")
    print(f"{'':16}{'clients':>8}{'tokens/s':>10}{'least':>9}{'most':>8}{'first: p50':>12}{'p95':>8}{'p99':>8}"
          f"{'next: p50':>12}{'p99':>8}{'ratio':>7}{'longs':>7}   (ms)")
    for clients in options.clients:
        rounds = {name: [] for name, _ in servers}
        load = os.getloadavg()[0]
        for number in range(options.rounds):
            for name, address in servers:
                rounds[name].append(asyncio.run(Round(options, address, clients, f"{number} {clients} {name}").run()))
        for name, _ in servers:
            print(row(name, clients, rounds[name]), flush=True)
        print(f"{'':16}load {load:.1f} before, {os.getloadavg()[0]:.1f} behind", flush=True)


if __name__ == "__main__":
    main()
