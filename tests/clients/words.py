"""An independent client: stores or checks every word of a list through a ringway URL.

usage: words.py put|check URL WORDS [--every N] [--jobs N]

The value of a word is its SHA-256 in hex and the word itself, so that no two are alike. Prints one JSON line; exits 1
when anything is not as it should be.
"""
import argparse
import hashlib
import json
import multiprocessing
import sys
import urllib.parse

import requests


def value_of(word):
    return (hashlib.sha256(word.encode()).hexdigest() + " " + word).encode()


def work(arguments):
    action, url, words = arguments
    session = requests.Session()
    session.trust_env = False
    wrong = []
    for word in words:
        target = url + "/kv/" + urllib.parse.quote(word, safe="")
        if action == "put":
            answer = session.put(target, data=value_of(word), timeout=60)
            good = answer.status_code in (201, 204)
        else:
            answer = session.get(target, timeout=60)
            good = answer.status_code == 200 and answer.content == value_of(word)
        if not good:
            wrong.append([word, answer.status_code, answer.text[:200]])
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["put", "check"])
    parser.add_argument("url")
    parser.add_argument("words")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=8)
    options = parser.parse_args()
    with open(options.words, encoding="utf-8") as file:
        words = file.read().split("\n")
    words = [word for word in words if word][:: options.every]
    parts = [(options.action, options.url, words[job :: options.jobs]) for job in range(options.jobs)]
    with multiprocessing.Pool(options.jobs) as pool:
        wrong = [row for part in pool.map(work, parts) for row in part]
    print(json.dumps({"action": options.action, "words": len(words), "wrong": len(wrong), "first": wrong[:3]}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
