#!/usr/bin/env python3
"""Writes tests/data/templates: what transformers renders, for tests without Python.

expressions.json: small templates (tools/chat_template_cases.py) with their output, or null where they fail.
chat.json: for every template in tests/data/templates/chat and every conversation the SHA-256 of the rendered text, or
null where the template refuses. The templates are those of models with open licences: tests/data/templates/SOURCES.md.

usage: tools/make_chat_template_fixtures.py   (needs the packages transformers >= 5 and jinja2)
"""
import datetime
import hashlib
import json
import pathlib
import sys

from transformers.utils import chat_template_utils

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import chat_template_cases as cases  # noqa: E402

DATA = pathlib.Path(__file__).parent.parent / "tests/data/templates"


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2025, 11, 28, 14, 26, 40, 123456)


chat_template_utils.datetime = FixedTime


def rendered(template, context):
    try:
        return chat_template_utils._cached_compile_jinja_template(template).render(**context)
    except Exception:
        return None


def chat(template, request):
    request = {**request}
    messages = chat_template_utils._normalize_chat_messages(request.pop("messages"))
    continued = request.pop("continue_final_message", False)
    variables = {**cases.SPECIAL_TOKENS, **request.pop("chat_template_kwargs", {})}
    prompt = request.pop("add_generation_prompt", not continued)
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[messages], chat_template=template, continue_final_message=continued,
            add_generation_prompt=prompt, **request, **variables)
        return hashlib.sha256(texts[0].encode()).hexdigest()
    except Exception:
        return None


def main():
    small = ["{{ " + e + " }}" for e in cases.expressions()] + cases.TEMPLATES
    small = [t for t in small if t not in cases.REFUSED]
    lines = [json.dumps([t, rendered(t, cases.CONTEXT)], ensure_ascii=True) for t in small]
    (DATA / "expressions.json").write_text(
        '{"context": ' + json.dumps(cases.CONTEXT) + ',\n"cases": [\n' + ",\n".join(lines) + "\n],\n\"refused\": "
        + json.dumps(cases.REFUSED, indent=0) + "}\n")
    files = sorted((DATA / "chat").glob("*.jinja"))
    lines = []
    for file in files:
        results = {name: chat(file.read_text(), request) for name, request in cases.CONVERSATIONS.items()}
        lines.append(json.dumps(file.name) + ": " + json.dumps(results, indent=0))
    (DATA / "chat.json").write_text(
        '{"special_tokens": ' + json.dumps(cases.SPECIAL_TOKENS) + ',\n"requests": '
        + json.dumps(cases.CONVERSATIONS, indent=0) + ',\n"sha256": {\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{len(small)} small templates, {len(files)} chat templates x {len(cases.CONVERSATIONS)} conversations")


if __name__ == "__main__":
    main()
