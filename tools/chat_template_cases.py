"""Small templates for tools/make_chat_template_fixtures.py: each is rendered by jinja2 as transformers sets it up,
with CONTEXT. Where the result is an error, the renderer here has to refuse as well."""

CONTEXT = {
    "n": 7, "neg": -7, "x": 2.5, "s": "Hello, World", "u": "Zürich ß 🙂 ΑΣ", "sp": "  \n a b \t", "e": "",
    "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "d": {"a": 1, "b": [1, {"c": None}], "items": 5, "ü": True},
    "o": [{"n": "x", "v": 2, "t": {"k": 1}}, {"n": "Y", "v": 1, "t": {"k": 2}}, {"n": "x", "v": 3, "t": {}}],
    "t": True, "f": False, "no": None, "q": "it's \"q\"\n\\", "lines": "a\n\nb\r\nc", "outer": 3, "html": "<a & 'b'>",
}

EXPRESSIONS = r"""
1 + 2 * 3|1 - -1|7 // 2|-7 // 2|7 % 3|-7 % 3|7 % -3|7.5 // 2|-7.5 % 2|2 ** 10|2 ** -1|-2 ** 2|2 ** 3 ** 2|7 / 2|6 / 3|1 / 0|1 // 0|1 % 0|1.0 / 0
1e3|1e16|1e15|123456789012345678.0|0.1 + 0.2|1e-4|1e-5|1.5e300 * 1e10|1e400|-0.0|5.0|100000.0|3.14159|1_000|0x1F|0b101|0o17|1_0.5_0|9223372036854775807|1.0e0
n + x|n * "ab"|"ab" * neg|[1] * 3|l + [4]|l + (1,)|(1, 2) + (3,)|"a" + 1|1 + "a"|none + 1|s + e|true + 1|true * 3|-true|+x|-s|not n|not e|not not l
1 < 2 < 3|1 < 2 > 5|1 == 1.0|1 == true|"a" < "b"|"a" < 1|none < 1|[1, 2] < [1, 3]|[1] == (1,)|l == [3, 1, 2]|d == d|1 != 2|none == false|missing == missing|missing == none|"a" in s|"H" in s|1 in l|4 not in l|"a" in d|"a" in no|1 in "1"|missing in l|1 in missing|none in [none]|"" in s
true and 5|0 and 5|0 or "x"|none or e or 0|1 if t|1 if f|(1 if f) is defined|1 if f else 2|1 if f else 2 if f else 3|n and s
s[0]|s[-1]|s[100]|s[1:4]|s[::-1]|s[::2]|s[-5:]|s[5:1]|s[:-1]|s[1:-1:2]|s[::0]|u[0]|u[-1]|u[1:3]|u[::-1]|l[0]|l[-1]|l[9]|l[1:]|l[::-1]|l[:100]|l[-100:2]|l["a"]|l[none]|d["a"]|d["zz"]|d.a|d.zz|d.items|d["items"]|d.b[1].c|d.b.1|d.b.0|l.0|s.0|no.x|no["x"]|missing.x|missing["x"]|missing[0]|n.x|d[[1]]|d[1:2]|(1, 2)[0]|range(5)[2]|range(5)[-1]
missing|missing is defined|missing ~ "a"|missing + "a"|missing|default("z")|e|default("z")|e|default("z", true)|no|d("z")|no|default("z", boolean=true)|missing|length|missing|list|missing|string|missing|int|missing|upper|missing|first|missing|last|missing|join|missing|tojson|missing|items|list|missing|map("upper")|list|missing|trim|missing()|missing is none|missing is string|missing is iterable|missing is sequence|missing is mapping|missing is callable|missing is number
s.upper()|s.lower()|s.title()|s.capitalize()|u.upper()|u.lower()|u.title()|u.capitalize()|"ǆ".title()|"ŉ".upper()|"İ".lower()|"ΑΣΑ ΑΣ".lower()|"ﬁx".capitalize()|s|upper|s|lower|u|title|"foo-bar (baz) [q] <z> {k}"|title|s|capitalize|sp.strip()|sp.lstrip()|sp.rstrip()|sp|trim|s.strip("Hd")|"xxaxx"|trim("x")|"\u00a0\u2003 a\u3000".strip()
s.split()|s.split(",")|s.split(", ", 1)|"a  b   c".split(" ")|"a  b   c".split()|" a  b ".split(none, 1)|"a,b,c".rsplit(",", 1)|" a b c ".rsplit(none, 1)|"a,b,c".rsplit(",", maxsplit=1)|s.split("")|lines.splitlines()|lines.splitlines(true)|"a\x0bb\x1cc\x85d".splitlines()|"".splitlines()|"".split()|"".split(",")
s.startswith("He")|s.startswith(("x", "H"))|s.startswith("l", 2)|s.endswith("ld")|s.endswith("x")|s.startswith(1)|s.find("o")|s.find("o", 5)|s.rfind("o")|s.find("zz")|u.find("🙂")|s.index("W")|s.index("zz")|s.count("l")|s.count("")|s.count("o", 5)|s.replace("l", "L")|s.replace("l", "L", 1)|s.replace("", "-")|"abc".replace("b", "")|s|replace("l", "_")|s|replace("l", "_", 2)|n|replace(7, 8)|s.removeprefix("Hel")|s.removesuffix("ld")|s.removeprefix("x")|s.partition(", ")|s.rpartition("o")|s.partition("zz")|"7".zfill(3)|"-7".zfill(4)|"a".ljust(3) ~ "|"|"a".rjust(3, "*")|"ab".center(5, "*")|"abc".center(6, "-")
"12".isdigit()|"1²".isdigit()|"a1".isalnum()|"ab".isalpha()|"é".isalpha()|" \t".isspace()|"".isspace()|"AB".isupper()|"Ab".isupper()|"ab1".islower()|"Ab Cd".istitle()|"aB".istitle()|"12".isdecimal()|"abc".isascii()|u.isascii()
",".join(w)|",".join([1])|",".join("abc")|l|join|l|join(", ")|o|join(", ", attribute="n")|o|map(attribute="v")|join("-")|[none, true, 1.5]|join("|")
l|length|d|length|s|length|u|length|n|length|range(3)|length|l|count|l|first|e|first is defined|l|last|[]|last is defined|d|first|d|list|s|list|(1, 2)|list|n|list|no|list|d|last|l|map("string")|first|l|map("string")|last|l|map("string")|length
l|sort|l|sort(reverse=true)|w|sort|w|sort(case_sensitive=true)|o|sort(attribute="v")|map(attribute="n")|list|o|sort(attribute="n,v")|map(attribute="v")|list|o|sort(attribute="t.k")|[1, "a"]|sort|w|unique|list|[1, 1.0, true, 2]|unique|list|o|unique(attribute="n")|list|length|l|min|l|max|w|max|o|min(attribute="v")|[]|min is defined|l|sum|[0.1, 0.2]|sum|o|sum(attribute="v")|l|sum(start=10)|["a"]|sum|l|reverse|list|s|reverse|d|reverse|list
d|items|list|d|dictsort|{"b": 1, "A": 2}|dictsort|{"b": 1, "A": 2}|dictsort(true)|{"b": 1, "A": 2}|dictsort(by="value")|{"b": 1, "a": 2}|dictsort(reverse=true)|d.items()|list|d.keys()|list|d.values()|list|d.get("a")|d.get("zz")|d.get("zz", 4)|{"x": 1}.items()|{"x": 1}.keys()|{"x": 1}.values()|{"x": 1}.items()|length|{"x": 1}.items()[0]|d.pop("a")|d.update({})|d.clear|d.pop is defined|l.append(1)|l.append is defined|l.index(1)|l.index(9)|l.count(1)|l.copy()
l|select("odd")|list|l|reject("odd")|list|l|select|list|[0, 1, none, "a"]|select|list|o|selectattr("n", "equalto", "x")|map(attribute="v")|list|o|rejectattr("n", "==", "x")|map(attribute="v")|list|o|selectattr("t.k")|list|length|o|selectattr("t.k", "defined")|list|length|o|map(attribute="zz", default="-")|list|w|map("upper")|list|w|map("replace", "a", "z")|list|l|map("nope")|list|l|select("nope")|list|l|map|list|o|groupby("n")|list|length|o|groupby("n")|map(attribute="grouper")|list|o|groupby("v")|first|l|batch(2)|list|l|batch(2, 0)|list|l|slice(2)|list|range(7)|slice(3, "x")|list
"%s-%d" % ("a", 5)|"%05.2f|%5s|%-5s|%+d" % (3.14159, "ab", "c", 4)|"%x %X %o %e %g" % (255, 255, 8, 12345.678, 0.0001)|"%%" % ()|"%s" % n|"%s %s" % (1,)|"%d" % "a"|"%(a)s" % d|"%r" % q|"%s" % none|"%d" % 3.9|"%5.1s|" % "abc"|"%s"|format(n)|"%s %s"|format("a", "b")|"%(k)s"|format(k=1)
"{} {}".format(1, "b")|"{1}{0}".format(1, 2)|"{a}".format(a=5)|"{0[a]} {0.b}".format(d)|"{:>5}|{:<5}|{:^5}".format("a", "b", "c")|"{:05d} {:,} {:+}".format(42, 1234567, 3)|"{:.2f} {:e} {:%}".format(3.14159, 12345.678, 0.25)|"{!r}".format("a")|"{{}}".format()|"{}".format()|"{:x} {:#x} {:b}".format(255, 255, 5)|"{:*^9.3}".format("abcdef")|"{".format()|"{:d}".format("a")
n is odd|n is even|n is divisibleby 7|n is divisibleby(2)|n is number|x is number|t is number|s is number|n is integer|t is integer|x is float|s is string|l is sequence|d is sequence|s is sequence|n is sequence|d is mapping|l is mapping|l is iterable|n is iterable|no is none|no is not none|t is true|f is false|t is boolean|n is boolean|s is lower|"ab" is lower|"AB" is upper|n is eq 7|n is gt 5|n is lt 5|n is ge(7)|n is le 6|n is ne 7|n is in [7]|"z" is in d|n is sameas n|no is sameas none|t is sameas true|"upper" is filter|"nope" is filter|"odd" is test|s is callable|range is callable|s.upper is callable|"a" is nope|n is not odd and t|s is escaped|(s|safe) is escaped
d|tojson|o|tojson|q|tojson|u|tojson|u|tojson(ensure_ascii=true)|d|tojson(indent=2)|d|tojson(2)|[]|tojson(indent=2)|{}|tojson(indent=2)|[[]]|tojson(indent=4)|d|tojson(sort_keys=true)|d|tojson(separators=(",", ":"))|x|tojson|1e20|tojson|{1: 2, none: 3, true: 4, 1.5: 5}|tojson|(1, 2)|tojson|none|tojson|html|tojson|range(3)|tojson|"\x7f\x01"|tojson|"\x7f\x01é😀"|tojson(ensure_ascii=true)|d|tojson(indent="--")
q|string|[q]|[u, "\x00\x7f\u200b\ud7ff"]|[1.0, none, true, {"a": (1,)}, ()]|{"a": [], 1: {}}|(1,)|[missing]|range(3)|range(1, 9, 2)|"a" "b"|'\x41\u00e9\n\t\\\'\q\101'|"\é"|d|string|l|string
"a\nb\n\nc"|indent|"a\nb"|indent(2, true)|"a\n\nb"|indent(2, blank=true)|"a\nb"|indent("> ")|"hello world foo"|truncate(9)|"hello world foo"|truncate(9, true)|"hello world foo"|truncate(9, leeway=0)|"hello world foo"|truncate(9, false, "", 0)|"a b, c-d"|wordcount|"a"|center(5) ~ "|"|html|e|html|escape|html|safe|(html|safe) + "<"|"<" + (html|safe)|html|e|e|html|forceescape|(html|e) ~ "<"|(html|e).split()|(html|e)|list|(html|e).upper()|[(html|safe).strip()]|["<"]|join|e
"42"|int|"42.7"|int|"x"|int|"x"|int(5)|"0x1f"|int(0, 16)|"ff"|int(base=16)|" 7 "|int|"1_000"|int|none|int|3.9|int|-3.9|int|true|int|[]|int|"1e3"|int|"12"|float|"x"|float|"x"|float(1.5)|"1e3"|float|"nan"|float|"inf"|float|none|float|3|float|2.5|round|3.5|round|2.675|round(2)|1234.5678|round(1)|2.1|round(0, "ceil")|2.9|round(0, "floor")|1.25|round(1, method="ceil")|7|round|25|round(-1)|35|round(-1)|"a"|round|-3|abs|-2.5|abs|"a"|abs
dict(a=1, b=2)|dict([("a", 1)])|dict({"a": 1}, b=2)|dict(1)|namespace(a=1).a|namespace(a=1).zz is defined|namespace(_a=1)|range(0)|list|range(5, 0, -2)|list|range(1000000)|length|range(1, 2, 0)|range("a")|range()|cycler("a", "b").next()|joiner()()|lipsum is defined|raise_exception("no")|raise_exception(5)|strftime_now("%Y-%m-%d %H:%M:%S %f %A %d %B %j %y %p %%")|strftime_now("%-d %b %Y")|s.__class__|s.__class__ is defined|d.__len__|d._x|loop is defined|self is defined|caller is defined
*l|f(*l)|dict(**d)|dict(**{"a": 1})|range(*[1, 4])|list|s.upper(1)|s.nope()|n()|d.get()|s|nope|s|upper(1)|l|join(1, 2, 3)|"a" if|1 +|(1|[1|{"a" 1}|{"a": 1,}|[1, 2,]|()|1,|1, 2|a b|1..2|x.|"abc|'|@|$|1 = 2|not|in|is|{{ 1 }}|s is|5 is divisibleby|l | first | string|- 5 | abs|-5|abs|2 * 3 | string|"a" ~ 1 ~ none ~ 2.0|1 ~ 2 + 3|not 1 == 2|1 in [1] and 2|n is odd == true
"""


def expressions():
    """One '|' between two cases would be a filter: cases are split at '|' only where both sides stand alone."""
    import jinja2
    env = jinja2.Environment()
    filters = set(env.filters)
    cases = []
    for line in EXPRESSIONS.strip().splitlines():
        parts = line.split("|")
        case = parts[0]
        for part in parts[1:]:
            name = part.strip().split("(")[0].split(" ")[0].split("[")[0].split(".")[0]
            quoted = case.count('"') % 2 == 1 or case.count("(") > case.count(")")
            if quoted or name in filters or name == "nope":
                case += "|" + part
            else:
                cases.append(case)
                case = part
        cases.append(case)
    return [c for c in dict.fromkeys(cases) if c]


TEMPLATES = [
    "a\n", "a\n\n", "a\r\nb\rc", "{# c #}x", "a {#- c -#} b", "a\n{# c #}\nb", "  {# c #}\n b", "{#", "{{ '{{' }}",
    "{% if t %}\n a\n{% endif %}\nb", "  {% if t %}\n  a\n  {% endif %}\n  b", "a  {%- if t -%}  b  {%- endif -%}  c",
    "a {%+ if t +%} b {%+ endif %}\n c", "x  {{- 1 -}}  y", "x {{+ 1 }} y", "{% if t -%}\n\n a {%- endif %}", "{{ 1 }}\n{{ 2 }}\n",
    "\n  {{ 1 }}\n", "{% raw %}{{ x }}{% endraw %}z", "{%- raw -%} {{ x }} {%- endraw -%} z", "  {% raw %}\n{% y %}\n  {% endraw %}\n z",
    "{% raw %}", "{%raw%}a{%endraw%}", "{% if t %}a{% elif n %}b{% else %}c{% endif %}", "{% if f %}a{% elif n %}b{% else %}c{% endif %}",
    "{% if f %}a{% elif e %}b{% else %}c{% endif %}", "{% if t %}", "{% endif %}", "{% foo %}", "{% if %}a{% endif %}",
    "{% for i in l %}{{ i }}{% endfor %}", "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}", "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}", "{% for i in l if i > 1 %}{{ i }}{{ loop.last }}{{ loop.length }}{% else %}none{% endfor %}",
    "{% for i in l if i > 9 %}{{ i }}{% else %}none{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}",
    "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in ['xy'] %}{{ b }}{% endfor %}", "{% for i in n %}{% endfor %}",
    "{% for i in no %}{% endfor %}", "{% for i in missing %}x{% else %}y{% endfor %}", "{% for c in u %}{{ c }}.{% endfor %}", "{% for i in l %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "{% for i in [1] %}{% continue %}{% else %}E{% endfor %}", "{% for i in [1] %}{% break %}{% else %}E{% endfor %}", "{% break %}",
    "{% for i in l %}{% for j in l %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}", "{% for i in l %}{{ loop.nope is defined }}{% endfor %}{{ i is defined }}",
    "{% for i in range(3) %}{% for j in range(2) %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}", "{% for loop in l %}{% endfor %}", "{% for i in l %}{% set loop = 1 %}{% endfor %}",
    "{% for i in l recursive %}{{ i }}{% endfor %}", "{% for i in o|selectattr('v') %}{{ loop.length }}{{ loop.last }}{% endfor %}", "{% for i in l %}{{ loop }}{% endfor %}",
    "{% set x = 1 %}{{ x }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set x %}a{{ n }}{% endset %}{{ x }}!", "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x | replace('a', s) %}abc{% endset %}{{ x }}", "{% set x | replace('a', zz) %}abc{% endset %}{{ x }}",
    "{% set ns = namespace(a=1) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}", "{% set ns = 1 %}{% set ns.a = 2 %}", "{% set ns = namespace() %}{% set ns._a = 2 %}", "{% set ns = namespace(a=1) %}{% set ns.b, ns.c = 1, 2 %}{{ ns.b }}{{ ns.c }}{{ ns['a'] }}",
    "{% set d.a = 2 %}", "{% set 1 = 2 %}", "{% for i in l %}{% set y = i %}{% endfor %}{{ y }}", "{% set y = 0 %}{% for i in l %}{% set y = y + i %}{{ y }}{% endfor %}{{ y }}", "{% if f %}{% set outer = 1 %}{% endif %}{{ outer }}", "{% if t %}{% set outer = 1 %}{% endif %}{{ outer }}",
    "{{ outer }}{% set outer = 5 %}{{ outer }}", "{% for i in [1] %}{{ outer }}{% endfor %}{% set outer = 5 %}{{ outer }}", "{% macro m() %}{{ outer }}{% endmacro %}{{ m() }}{% set outer = 5 %}{{ m() }}", "{% macro m() %}{{ zz }}{% endmacro %}{% set zz = 5 %}{{ m() }}",
    "{% for i in l %}{% if i == 1 %}{% set outer = i %}{% endif %}{{ outer }}{% endfor %}{{ outer }}", "{% set outer = outer + 1 %}{{ outer }}", "{% for i in l %}{% if loop.first %}{% set zz = 1 %}{% endif %}{{ zz is defined }}{% endfor %}",
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m() }}{{ m(b=1, a=2) }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(z=2) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a, a) %}{% endmacro %}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, a=3) }}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{{ n }}{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}-{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}", "{% call s.upper() %}y{% endcall %}", "{% macro m(i) %}{{ i }}{% if i > 0 %}{{ m(i - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "{% macro m(i) %}{{ m(i) }}{% endmacro %}{{ m(1) }}",
    "{% macro m() %}x{% endmacro %}{{ m }}{{ m.name }}", "{% macro m() %} a {% endmacro %}{{ m()|trim|upper }}", "{% macro a() %}{% macro b() %}{{ n }}{% endmacro %}{{ b() }}{% endmacro %}{{ a() }}", "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "{% for i in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aa{% endfilter %}", "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with outer = outer + 1 %}{{ outer }}{% endwith %}{{ outer }}", "{% with a = 1, b = a %}{{ b }}{% endwith %}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}",
    "{% generation %}a{{ n }}{% set zz = 1 %}{% endgeneration %}{{ zz is defined }}", "{% generation %}a", "{% print 1, 2 %}", "{% do 1 %}", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% trans %}a{% endtrans %}",
    "{% set x = l|map('string') %}{{ x|list }}{{ x|list }}", "{% set it = l|select %}{% for i in it %}{{ i }}{% break %}{% endfor %}{% for i in it %}{{ i }}{% endfor %}", "{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}", "{% set j = joiner('|') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}",
    "{% if missing %}a{% endif %}{% if missing.x %}b{% endif %}", "{% if s|nope %}a{% endif %}", "{% if f %}{{ s|nope }}{% endif %}ok", "{{ 1 if t else (s|nope) }}", "{% for i in [] %}{{ s|nope }}{% endfor %}", "{% if f %}{% for i in [] %}{{ s|nope }}{% endfor %}{% endif %}",
    "{{ s }", "{{ s", "{{ }}", "{% set x = %}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{ {'a': {}}}}", "{% if t: %}a{% endif %}", "{{ 1 -}}\n\n x", "{{ [1,\n2] }}\n{{ nope.x }}",
    "{% set m = [] %}{% for i in l %}{% set m = m + [i] %}{% endfor %}{{ m }}", "{% set ns = namespace(l=[]) %}{% for i in l %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }}", "{%- for i in l -%}\n {{ i }},\n{%- endfor %}", "{{ ns.x if ns is defined else 'no' }}", "{{ loop }}", "{% for i in l %}{{ loop.index is divisibleby 2 }}{% endfor %}",
]

# What jinja2 renders and the renderer here refuses by name.
REFUSED = [
    "{{ n is sameas n }}", "{{ self is defined }}", "{% for i in l recursive %}{{ i }}{% endfor %}",
    "{% for i in l %}{{ loop }}{% endfor %}", "{{ lipsum() }}", "{{ s|urlize }}", "{{ s|pprint }}", "{{ s.encode() }}",
    "{{ 2 ** 64 }}", "{{ 18446744073709551616 }}", "{{ (-8) ** 0.5 }}", "{{ l|map('string') }}", "{{ s.upper }}", "{{ range(3).index(1) }}", "{{ (s|safe).replace('a', 'b') }}",
    "{% block a %}x{% endblock %}", "{% autoescape true %}x{% endautoescape %}",
]

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

# Bodies of chat requests.
TOOLS = [{"type":"function","function":{"name":"get_weather","description":"Weather of a city: \"now\" & <here>","parameters":{"type":"object","properties":{"city":{"type":"string","description":"Name — größe"},"days":{"type":"integer","default":3,"enum":[1,3,7]},"opt":{"type":["string","null"]}},"required":["city"]},"return":{"type":"string"}}},
 {"type":"function","function":{"name":"add","description":"Adds.","parameters":{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"array","items":{"type":"number"}}},"required":["a","b"]}}}]
S={"role":"system","content":"You are brief."}
U={"role":"user","content":"Hi there"}
A={"role":"assistant","content":"Hello! <b>&"}
call=lambda args:{"role":"assistant","content":"","tool_calls":[{"id":"abcdefghi","type":"function","function":{"name":"get_weather","arguments":args}}]}
T={"role":"tool","tool_call_id":"abcdefghi","name":"get_weather","content":"{\"t\": 21.5}"}
CONVERSATIONS = {
 'user':dict(messages=[U]),
 'user_no_prompt':dict(messages=[U],add_generation_prompt=False),
 'system':dict(messages=[S,U]),
 'turns':dict(messages=[S,U,A,{"role":"user","content":"More?"}]),
 'turns_end':dict(messages=[U,A],add_generation_prompt=False),
 'spaces':dict(messages=[{"role":"user","content":"  \n Hi \t\n"},{"role":"assistant","content":" yes \n"},{"role":"user","content":"x  "}]),
 'unicode':dict(messages=[{"role":"system","content":"日本語 🙂 ß"},{"role":"user","content":"Ünïcødé\u2028\u00a0"}]),
 'tools':dict(messages=[S,U],tools=TOOLS),
 'toolcall':dict(messages=[S,U,call({"city":"Zürich","days":3,"x":None,"y":[1.5,True]}),T,{"role":"assistant","content":"21.5"},{"role":"user","content":"ok"}],tools=TOOLS),
 'toolcall_str':dict(messages=[U,call("{\"city\": \"Rome\"}"),T],tools=TOOLS),
 'twocalls':dict(messages=[U,{"role":"assistant","content":"I look.","tool_calls":[{"id":"callone11","type":"function","function":{"name":"add","arguments":{"a":1,"b":[2,3.0]}}},{"id":"calltwo22","type":"function","function":{"name":"add","arguments":{"a":-0.5,"b":[]}}}]},T,T],tools=TOOLS),
 'think_on':dict(messages=[U],chat_template_kwargs=dict(enable_thinking=True)),
 'think_off':dict(messages=[S,U],chat_template_kwargs=dict(enable_thinking=False)),
 'reasoning':dict(messages=[U,{"role":"assistant","content":"4","reasoning_content":"2+2\n","thinking":"2+2\n"},{"role":"user","content":"and?"},{"role":"assistant","content":"<think>\nhm\n</think>\n\n5"},{"role":"user","content":"z"}]),
 'parts':dict(messages=[{"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]}]),
 'image':dict(messages=[{"role":"user","content":[{"type":"image"},{"type":"text","text":"two"}]}]),
 'docs':dict(messages=[U],documents=[{"title":"T","text":"body"},{"title":"Z","text":"b2"}]),
 'badrole':dict(messages=[{"role":"weird","content":"x"}]),
 'alternate':dict(messages=[U,U]),
 'no_content':dict(messages=[U,{"role":"assistant"},U]),
 'misc':dict(messages=[S,U],chat_template_kwargs=dict(reasoning_effort="high",tools_in_user_message=False,date_string="1 Jan 2025",model_identity="I")),
 'continue':dict(messages=[U,{"role":"assistant","content":"The sun "}],continue_final_message=True),
 'continue_parts':dict(messages=[U,{"role":"assistant","content":[{"type":"text","text":"The moon"}]}],continue_final_message=True),
 'nulls':dict(messages=[U,{"role":"assistant","content":"x","tool_calls":None,"reasoning":None},U]),
}
