"""Writes chats.jsonl (conversations through the templates of this folder) and syntax.jsonl (small templates), each with what
transformers makes of it.  The templates are this project's own, after the formats that the models document.

    python tests/tokenizer/templates/make_templates.py

conversations.json holds the messages by name, the tools, and the context of syntax.jsonl.  A line of chats.jsonl: template (a file
here), conversation, options of hd_chat_render ("tools": true adds them), and output with spans in bytes, or error.  A line of
syntax.jsonl: template (text), output or error.  The first line of each names the versions.
"""
import json
import logging
import pathlib
import sys
import warnings

import jinja2
import transformers
from transformers.utils import chat_template_utils as chat

from conversations import CONVERSATIONS, TOOL_A, TOOL_B
from syntax import SYNTAX, CONTEXT

HERE = pathlib.Path(__file__).parent
VERSIONS = {"transformers": transformers.__version__, "jinja2": jinja2.__version__, "python": sys.version.split()[0]}
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
VARIANTS = [{}, {"add_generation_prompt": True}, {"add_generation_prompt": True, "tools": [TOOL_A, TOOL_B]}, {"continue_final_message": True},
            {"add_generation_prompt": True, "names": {"thinking": True, "enable_thinking": False, "date_string": "1 May"}}, {"keep_nulls": True}]


def in_bytes(text, spans):
    return [[len(text[:i].encode()) for i in span] for span in spans]


def render(template, messages, variant):
    """What tokenizer.apply_chat_template does, with the spans that it turns into a mask."""
    names = {"bos_token": BOS, "eos_token": EOS, **variant.get("names", {})}
    if not variant.get("keep_nulls"):
        messages = chat._normalize_chat_messages(messages)
    resumes = variant.get("continue_final_message", False)
    rendered, spans = chat.render_jinja_template([messages], tools=variant.get("tools"), chat_template=template, return_assistant_tokens_mask=not resumes,
                                                 continue_final_message=resumes, add_generation_prompt=variant.get("add_generation_prompt", False), **names)
    return rendered[0], in_bytes(rendered[0], spans[0]) if spans else []


def is_relevant(name, variant):
    """Which of the combinations are kept: a variant that changes nothing for a template would be a second copy."""
    uses = (HERE / name).read_text(encoding="utf-8")
    if variant.get("tools") and "tools" not in uses:
        return False
    return not variant.get("names") or any(n in uses for n in variant["names"])


def chats():
    for path in sorted(HERE.glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        for label, messages in CONVERSATIONS.items():
            for variant in VARIANTS:
                has_null = any(v is None for message in messages for v in message.values())
                if not is_relevant(path.name, variant) or (variant.get("keep_nulls") and not has_null):
                    continue
                options = {k: True if k == "tools" else v for k, v in variant.items()}
                case = {"template": path.name, "conversation": label, "options": options}
                try:
                    case["output"], spans = render(template, messages, variant)
                    if spans:
                        case["spans"] = spans
                except Exception as e:
                    case["error"] = type(e).__name__
                yield case


def syntax():
    names = {k: v for k, v in CONTEXT.items() if k != "messages"}
    for template in SYNTAX:
        case = {"template": template}
        try:
            compiled = chat._compile_jinja_template(template)
            case["output"], spans = chat._render_with_assistant_indices(compiled, CONTEXT["messages"], None, None, False, **names)
            if spans:
                case["spans"] = in_bytes(case["output"], spans)
        except Exception as e:
            case["error"] = type(e).__name__
        yield case


def write(name, cases):
    with open(HERE / name, "w", encoding="utf-8") as f:
        print(json.dumps({"made_by": "make_templates.py", **VERSIONS}), file=f)
        for case in cases:
            print(json.dumps(case, ensure_ascii=False), file=f)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with open(HERE / "conversations.json", "w", encoding="utf-8") as f:
        context = {**CONTEXT, "tools": None, "documents": None, "add_generation_prompt": False}
        json.dump({"conversations": CONVERSATIONS, "tools": [TOOL_A, TOOL_B], "context": context}, f, ensure_ascii=False, indent=1)
        f.write("\n")
    write("chats.jsonl", chats())
    write("syntax.jsonl", syntax())
