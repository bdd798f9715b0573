"""Random templates with what Jinja2, set up as transformers does, makes of them: one JSON object per line.

    python tests/tokenizer/templates/random_templates.py COUNT SEED > cases.jsonl
    HADAL_TEMPLATE_CASES=cases.jsonl build/release/tests/tokenizer/test_template

Needs transformers (its version and Jinja2's are in the header line).  Cases whose text depends on addresses are left out.
"""
import json
import random
import sys

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

CONTEXT = {"a": 3, "b": -7, "f": 2.5, "g": 1e22, "s": "Hello, World", "t": " \tx y\n", "u": "Straße ΑΣ ǆ 你", "e": "", "n": None, "yes": True,
           "no": False, "xs": [3, 1, 2, 1], "ys": ["b", "A", "c", "a"], "d": {"k": 1, "items": [1, 2], "z y": {"q": "r"}, "3": None}, "em": [], "ed": {},
           "ms": [{"role": "user", "content": "hi", "n": 2}, {"role": "tool", "content": None, "n": 1}, {"role": "user", "x": "<&>"}]}
NAMES = list(CONTEXT) + ["nope"]
FILTERS = ["abs", "capitalize", "count", "d('z')", "default(1, true)", "dictsort", "first", "float", "indent", "indent(2, true)", "int", "items", "join",
           "join(', ')", "last", "length", "list", "lower", "map('upper')", "map(attribute='role')", "max", "min", "reject", "rejectattr('content')",
           "replace('l', 'LL')", "reverse", "round", "round(1)", "round(1, 'floor')", "select", "selectattr('role', 'equalto', 'user')", "sort",
           "sort(reverse=true)", "string", "sum", "title", "tojson", "tojson(indent=2)", "tojson(ensure_ascii=true)", "trim", "unique", "upper",
           "trim('x \n')", "select('odd')", "map('string')", "dictsort(by='value')", "selectattr('content', 'none')", "map('int')", "list|last",
           "selectattr('n')|list|length", "format(1, 2)", "safe", "tojson(separators=(',', ':'), sort_keys=true)"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "true", "false", "odd",
         "even", "divisibleby 3", "equalto 3", "in xs", "lower", "upper", "callable", "gt 1", "sameas none", "not none", "not defined"]
METHODS = ["upper()", "lower()", "strip()", "lstrip()", "rstrip('d')", "split()", "split(',')", "split('l', 1)", "rsplit('l', 1)", "split(None, 1)", "title()",
           "startswith('H')", "endswith(('d', 'x'))", "replace('l', '')", "find('o')", "rfind('o')", "count('l')", "items()", "keys()", "values()", "get('k')",
           "get('zz', 5)", "index('l')", "isdigit()", "isupper()", "islower()", "capitalize()", "splitlines()", "partition('o')", "join(ys)", "append(1)",
           "k", "items", "role", "format(1, x=2)", "copy()", "rpartition('l')", "count(1)", "index(1)", "isspace()", "rsplit(None, 1)", "find('l', 4)"]
STRINGS = ["'x'", '"y z"', "''", "'a\\n\\tb'", "'%s-%d' ", "'\\u00e9\\x41'", "'{} {x}'", "'l'", "'ab' 'cd'", "'3'", "' 4.5 '", "'it\\'s \"q\"'"]


def atom(r):
    k = r.randrange(12)
    if k < 5:
        return r.choice(NAMES)
    if k < 7:
        return str(r.choice([0, 1, 2, 3, 7, 10, 100, 0x7F, "1_000", "0x1F", "2.5", "1e3", "0.1", "1.0", "3.14e-7", "12345678901234567"]))
    if k < 9:
        return r.choice(STRINGS)
    return r.choice(["true", "False", "none", "[]", "()", "{}", "range(3)", "namespace(p=1)", "dict(a=1)"])


def expr(r, depth):
    if depth <= 0:
        return atom(r)
    e = lambda: expr(r, depth - 1 - r.randrange(2))
    k = r.randrange(21)
    if k < 2:
        return atom(r)
    if k < 5:
        return f"{e()} {r.choice(['+', '-', '*', '/', '//', '%', '**', '~'])} {e()}"
    if k < 6:
        return f"({e()} {r.choice(['+', '~', '*', '-'])} {e()})"
    if k < 7:
        return f"{e()} {r.choice(['==', '!=', '<', '<=', '>', '>=', 'in', 'not in'])} {e()}"
    if k < 8:
        return f"({e()} {r.choice(['and', 'or'])} {e()})"
    if k < 9:
        return f"not {e()}"
    if k < 12:
        return f"{e() if r.random() < .3 else atom(r)}|{r.choice(FILTERS)}"
    if k < 13:
        return f"{atom(r)} is {r.choice(TESTS)}"
    if k < 15:
        return f"{atom(r)}.{r.choice(METHODS)}"
    if k < 16:
        i = [r.choice(["", "0", "1", "-1", "2", "-3", "10", "a"]) for _ in range(3)]
        return f"{r.choice(NAMES)}[{i[0]}:{i[1]}{':' + r.choice(['', '1', '2', '-1', '-2']) if r.random() < .4 else ''}]"
    if k < 17:
        return f"{atom(r)}[{e()}]"
    if k < 18:
        return f"[{e()}, {e()}]" if r.random() < .6 else f"({e()}, {e()})"
    if k < 19:
        return "{" + f"{r.choice(STRINGS)}: {e()}, {atom(r)}: {e()}" + "}"
    if k < 20:
        return f"({e()} if {e()}" + (f" else {e()})" if r.random() < .8 else ")")
    return f"-{atom(r)}" if r.random() < .5 else f"({e()})"


def sign(r):
    return r.choice(["", "", "", "", "-", "+"])


def tag(r, inner):
    return "{%" + sign(r) + " " + inner + " " + sign(r) + "%}"


def text(r):
    return r.choice(["", " ", "\n", "x", "  \n", "\n  ", " a\n  ", "\t", "\n\n", "}} ", "é", "{ ", "%} "])


def body(r, depth, loop):
    return "".join(piece(r, depth, loop) for _ in range(r.randrange(1, 4)))


def piece(r, depth, loop):
    out = text(r)
    if depth <= 0:
        return out
    k = r.randrange(15)
    b = lambda inner=loop: body(r, depth - 1, inner)
    if k < 4:
        close = "-}}" if r.random() < .2 else "}}"
        out += ("{{-" if r.random() < .2 else "{{") + " " + expr(r, r.randrange(3)) + " " + close
    elif k < 6:
        out += tag(r, f"set {r.choice(['v', 'a', 's', 'w'])} = {expr(r, 2)}")
    elif k < 8:
        out += tag(r, f"if {expr(r, 2)}") + b()
        if r.random() < .3:
            out += tag(r, f"elif {expr(r, 1)}") + b()
        if r.random() < .5:
            out += tag(r, "else") + b()
        out += tag(r, "endif")
    elif k < 11:
        target, seq = r.choice([("i", r.choice(["xs", "ys", "range(4)", "ms", "em", "s", "d", "nope", "xs|reverse", "ms|selectattr('n')", expr(r, 1)])),
                                ("i, j", r.choice(["d.items()", "[(1, 2), (3, 4)]", "d|items", "d|dictsort"]))])
        out += tag(r, f"for {target} in {seq}" + (f" if {r.choice(['i', 'i != 1', 'i is defined', expr(r, 1)])}" if r.random() < .3 else ""))
        out += b(True)
        if r.random() < .7:
            out += "{{ " + r.choice(["loop.index", "loop.first", "loop.last", "loop.length", "loop.revindex0", "loop.nextitem", "loop.previtem", "i", "loop.index0 * 2",
                                     "loop.cycle('o', 'p')", "loop.changed(i)", "loop.depth"]) + " }}"
        if r.random() < .2:
            out += tag(r, "else") + b()
        out += tag(r, "endfor")
    elif k == 11:
        name = r.choice(["m1", "m2"])
        out += tag(r, f"macro {name}(p, q={expr(r, 1)})") + "{{ p }}" + b(False) + "{{ q }}" + tag(r, "endmacro")
        out += "{{ " + name + r.choice(["(1)", "(p=a)", "(1, 2)", "(q=s)", "()", "(1, 2, 3)", "(*xs[:2])", "(**{'p': 9})"]) + " }}"
    elif k == 12:
        out += r.choice([tag(r, "set v" + r.choice(["", " | upper", " | trim | length"])) + b() + tag(r, "endset") + "{{ v }}",
                         tag(r, f"set ns = namespace(x={expr(r, 1)})") + tag(r, f"for i in xs") + tag(r, "set ns.x = ns.x ~ i") + tag(r, "endfor") + "{{ ns.x }}",
                         tag(r, f"with v = {expr(r, 1)}") + b() + "{{ v }}" + tag(r, "endwith"), tag(r, "filter upper") + b() + tag(r, "endfilter"),
                         tag(r, "generation") + b(False) + tag(r, "endgeneration"), "{% macro c() %}<{{ caller() }}>{% endmacro %}{% call c() %}" + b(False) + "{% endcall %}"])
    elif k == 13:
        out += r.choice(["{# c #}", "{#- c -#}", "{#+ c\n+#}\n", "{% raw %} {{ x }} {% endraw %}", "  {%- raw -%}\n {% y\n {%- endraw +%}\n", "{# {{ #}\n"])
    elif loop:
        out += tag(r, f"if {r.choice(['loop.index > 2', 'i == 1', 'loop.last', 'no'])}") + tag(r, r.choice(["break", "continue"])) + tag(r, "endif")
    return out + text(r)


def render(template, context):
    compiled = _compile_jinja_template(template)
    blocks, spans = [], []
    with compiled.environment.activate_tracker(blocks, spans):
        for block in compiled.generate(**context):
            blocks.append(block)
    out = "".join(blocks)
    out.encode()
    return out, spans


def main():
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    r = random.Random(seed)
    print(json.dumps({"made_by": "random_templates.py", "transformers": transformers.__version__, "jinja2": jinja2.__version__, "seed": seed}))
    while count > 0:
        template = body(r, 3, False) if r.random() < .5 else "{{ " + expr(r, 4) + " }}"
        case = {"template": template, "context": CONTEXT}
        try:
            case["output"], spans = render(template, CONTEXT)
            if " at 0x" in case["output"] or "<Macro" in case["output"] or "<LoopContext" in case["output"]:
                continue
            if len(spans) > 0 and "{% macro" not in template:
                case["spans"] = [[len(case["output"][:x].encode()) for x in span] for span in spans]
        except Exception as e:  # whatever Python raises is a refusal
            case["error"] = f"{type(e).__name__}: {e}"[:200]
        print(json.dumps(case, ensure_ascii=False))
        count -= 1


main()
