#!/usr/bin/env python3
"""Holds `swiftprune serve` under overload with good and bad clients, and checks that no answer is lost or mixed.

    tools/soak_server.py build/release/swiftprune MODEL [--requests 100000] [--clients 24] [--processes 1] [--seconds 3600]

MODEL: a small folder with a tokenizer. First every prompt is answered alone (greedy: the right answer); then the
clients send, each from a list drawn by its seed: completions whole and streamed, their bodies in pieces, several
requests in one packet, streams that are read slowly or given up, connections that are left half open, bodies that are
not JSON, fields that do not exist, prompts that are too long, /metrics and /health. What must hold: an answer is the
right one or 429; a bad request gets its 4xx; the server lives, its memory stays flat, and a last request of each prompt
is answered as the first was. Needs the standard library alone.
"""
import argparse
import concurrent.futures
import http.client
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time

PROMPTS = ["The sun is", "abc", "Once upon a time there was", "x", "numbers 1 2 3 4", "Why", "a b c d e f g h", "Zebra"]


class Server:
    def __init__(self, program, model, threads):
        self.process = subprocess.Popen(
            [program, "serve", model, "--threads", str(threads), "--port", "0", "--batch", "8", "--queue", "8", "--timeout", "20", "--max-body", "20kB"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in self.process.stdout:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                break
        else:
            sys.exit("the server did not start")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024


def call(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def body_of(prompt, **more):
    return json.dumps({"prompt": prompt, "max_tokens": 12, "temperature": 0, **more})


def raw_request(prompt, connection):
    body = body_of(prompt).encode()
    return (f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode(), body


class Client(threading.Thread):
    def __init__(self, port, right, seed, count, end):
        super().__init__()
        self.port, self.right, self.random, self.count, self.end = port, right, random.Random(seed), count, end
        self.seen, self.wrong, self.seconds = {}, [], []

    def run(self):
        kinds = [self.whole] * 8 + [self.streamed] * 4 + [self.pieces, self.together, self.given_up, self.slow, self.half_open, self.bad_json,
                                                       self.bad_field, self.too_long, self.too_large, self.metrics]
        for _ in range(self.count):
            if time.monotonic() > self.end:
                break
            kind = self.random.choice(kinds)
            try:
                outcome = kind()
            except (OSError, http.client.HTTPException) as error:
                outcome = f"{type(error).__name__}"
                self.wrong.append(f"{kind.__name__}: {error!r}")
            key = (kind.__name__, outcome)
            self.seen[key] = self.seen.get(key, 0) + 1

    def expect(self, condition, text):
        if not condition:
            self.wrong.append(text)

    def judge(self, prompt, status, data):
        if status == 200:
            text = json.loads(data)["choices"][0]["text"]
            self.expect(text == self.right[prompt], f"{prompt!r}: {text!r} for {self.right[prompt]!r}")
        else:
            self.expect(status == 429, f"{prompt!r}: status {status}: {data[:200]!r}")
        return status

    def whole(self):
        prompt = self.random.choice(PROMPTS)
        begin = time.monotonic()
        status, data = call(self.port, "POST", "/v1/completions", body_of(prompt))
        if status == 200:
            self.seconds.append(time.monotonic() - begin)
        return self.judge(prompt, status, data)

    def open_stream(self, prompt):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/v1/completions", body_of(prompt, stream=True), {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def streamed(self, pause=0.0):
        prompt = self.random.choice(PROMPTS)
        connection, answer = self.open_stream(prompt)
        with answer:
            if answer.status != 200:
                self.expect(answer.status == 429, f"stream: status {answer.status}")
                return answer.status
            text = ""
            for line in answer:
                time.sleep(pause)
                if line.startswith(b"data: {"):
                    choices = json.loads(line[6:])["choices"]
                    text += choices[0]["text"] if choices else ""
        connection.close()
        self.expect(text == self.right[prompt], f"stream {prompt!r}: {text!r} for {self.right[prompt]!r}")
        return 200

    def slow(self):
        return self.streamed(pause=0.02)

    def given_up(self):
        connection, answer = self.open_stream(self.random.choice(PROMPTS))
        answer.read(20)
        connection.close()
        return answer.status

    def raw(self, *parts, wait=0.0, read=True):
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(wait)
            data = b""
            while read:
                found = connection.recv(65536)
                data += found
                if not found:
                    break
            return data

    def pieces(self):
        prompt = self.random.choice(PROMPTS)
        head, body = raw_request(prompt, "close")
        cut = self.random.randrange(1, len(body))
        data = self.raw(head[:20], head[20:], body[:cut], body[cut:], wait=0.005)
        status = int(data.split(b" ", 2)[1])
        return self.judge(prompt, status, data.split(b"\r\n\r\n", 1)[1])

    # The answers must come in order.
    def together(self):
        prompts = self.random.choices(PROMPTS, k=3)
        requests = [raw_request(prompt, "close" if i == 2 else "keep-alive") for i, prompt in enumerate(prompts)]
        data = self.raw(b"".join(head + body for head, body in requests))
        statuses = []
        for prompt in prompts:
            head, _, data = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            if not length:
                self.wrong.append(f"{len(statuses)} answers to 3 requests in one packet, then {head[:100]!r}")
                break
            statuses.append(self.judge(prompt, int(head.split(b" ", 2)[1]), data[:int(length.group(1))]))
            data = data[int(length.group(1)):]
        return 429 if 429 in statuses else 200

    def half_open(self):
        self.raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{\"prompt\"", read=False)
        return "left"

    def refused(self, expected, data):
        status, answer = call(self.port, "POST", "/v1/completions", data)
        self.expect(status in expected, f"status {status} for {data[:40]!r}: {answer[:100]!r}")
        return status

    def bad_json(self):
        return self.refused((400,), '{"prompt": "x", ')

    def bad_field(self):
        return self.refused((400,), body_of("x", max_token=3))

    def too_long(self):
        return self.refused((400,), body_of("word " * 2000))

    def too_large(self):
        return self.refused((413,), body_of("word " * 8000))

    def metrics(self):
        status, data = call(self.port, "GET", self.random.choice(["/metrics", "/health", "/v1/models"]))
        self.expect(status == 200, f"GET: {status}")
        return status


def run_clients(port, right, seeds, count, end):
    clients = [Client(port, right, seed, count, end) for seed in seeds]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    seen = {}
    for client in clients:
        for key, number in client.seen.items():
            seen[key] = seen.get(key, 0) + number
    return seen, [text for client in clients for text in client.wrong], [s for client in clients for s in client.seconds]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=100000)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--processes", type=int, default=1, help="that the clients are threads of")
    parser.add_argument("--threads", type=int, default=0,
                        help="of the server (1 with the preset tsan: OpenMP's library is not built for the sanitizer)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="it ends then, whatever was sent")
    arguments = parser.parse_args()
    server = Server(arguments.program, arguments.model, arguments.threads)
    try:
        right = {}
        for prompt in PROMPTS:
            status, data = call(server.port, "POST", "/v1/completions", body_of(prompt))
            assert status == 200, data
            right[prompt] = json.loads(data)["choices"][0]["text"]
        begin = time.monotonic()
        seeds = [range(first, arguments.clients, arguments.processes) for first in range(arguments.processes)]
        with concurrent.futures.ProcessPoolExecutor(arguments.processes) as pool:
            parts = [pool.submit(run_clients, server.port, right, some, arguments.requests // arguments.clients,
                                 begin + arguments.seconds) for some in seeds]
            memory = []
            while not all(part.done() for part in parts):
                time.sleep(2)
                memory.append(server.memory())
        took = time.monotonic() - begin
        seen, wrong, seconds = {}, [], []
        for part in parts:
            part_seen, part_wrong, part_seconds = part.result()
            for key, count in part_seen.items():
                seen[key] = seen.get(key, 0) + count
            wrong += part_wrong
            seconds += part_seconds
        seconds.sort()
        for prompt in PROMPTS:
            status, data = call(server.port, "POST", "/v1/completions", body_of(prompt))
            if status != 200 or json.loads(data)["choices"][0]["text"] != right[prompt]:
                wrong.append(f"behind it all, {prompt!r}: {status} {data[:200]!r}")
        for (kind, outcome), count in sorted(seen.items(), key=str):
            print(f"{kind:<12}{outcome!s:<24}{count}")
        quarter = max(1, len(memory) // 4)
        print(f"{sum(seen.values())} requests in {took:.0f} s; whole answers: median {statistics.median(seconds) * 1000:.0f} ms, "
              f"p99 {seconds[int(len(seconds) * 0.99)] * 1000:.0f} ms; memory {statistics.median(memory[:quarter]):.1f} MB "
              f"in the first quarter, {statistics.median(memory[-quarter:]):.1f} MB in the last")
        print(f"{len(wrong)} wrong")
        for text in wrong[:20]:
            print("  " + text)
        alive = server.process.poll() is None
        sys.exit(0 if alive and not wrong else 1)
    finally:
        server.process.terminate()
        server.process.wait()


main()
