# SPDX-License-Identifier: Apache-2.0
"""C text cut into declarations, merged headers, and which objects a difference can reach."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.csource.meaning import judge_merged, judge_texts
from xsplice_plugins.csource.merging import LINE_WORD, merged_text

HEADER = """#ifndef H
#define H
/* words; with { braces */
struct domain
{
    int id;
    char name[16];
};
static inline int twice(int a)
{
    return a * 2; /* } */
}
extern int total;
int f(const char *s);
#endif
"""


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("static inline int f(int a) { return a; }", ChunkKind.STATIC_FUNCTION, "f"),
        ("static int __attribute__((noinline)) f(void) { }", ChunkKind.STATIC_FUNCTION, "f"),
        ("int f(void) { return g(); }", ChunkKind.FUNCTION, "f"),
        ("int f(void) __attribute__((cold));", ChunkKind.PROTOTYPE, "f"),
        ("extern int total;", ChunkKind.PROTOTYPE, "total"),
        ("extern struct a *table[16];", ChunkKind.PROTOTYPE, "table"),
        ("struct a { int b; };", ChunkKind.RECORD, "struct a"),
        ("struct __attribute__((packed)) a { int b; };", ChunkKind.RECORD, "struct a"),
        ("typedef struct { int b; } a_t;", ChunkKind.RECORD, "a_t"),
        ("typedef struct __attribute__((packed)) a { int b; } a_t;", ChunkKind.RECORD, "struct a"),
        ("enum e { A, B };", ChunkKind.ENUM, "enum e"),
        ("struct a;", ChunkKind.PROTOTYPE, "struct a"),
        ("typedef unsigned long ul;", ChunkKind.TYPEDEF, "ul"),
        ("typedef int (*hook)(void);", ChunkKind.TYPEDEF, "hook"),
        # What defines data, or is not understood, is never silent.
        ("struct a { int b; } c = { 1 };", ChunkKind.OTHER, ""),
        ("struct a { int b; } c;", ChunkKind.OTHER, ""),
        ("static int (*hook)(void);", ChunkKind.OTHER, ""),
        ("static foo_t (*hook)(void);", ChunkKind.OTHER, ""),
        ("int total = f(1);", ChunkKind.OTHER, ""),
        ('static int x __attribute__((section("a")));', ChunkKind.OTHER, ""),
        ('asm(".text");', ChunkKind.OTHER, ""),
        ("extern int total = 1;", ChunkKind.OTHER, ""),
    ],
)
def test_declarations_are_told_apart(text: str, kind: ChunkKind, name: str) -> None:
    found = declaration(text)
    assert (found.kind, found.name) == (kind, name)


def is_same(old: str, new: str) -> bool:
    """Tell whether two preprocessed texts are found to be equal."""
    return judge_texts(old, new).note == "preprocessed text equal, not compiled"


def test_chunks_joined_are_the_text_and_lines_are_right() -> None:
    pieces = chunks(HEADER)
    assert "".join(piece.text for piece in pieces) == HEADER
    assert [declaration(piece.text).kind for piece in pieces if piece.text.strip()] == [
        ChunkKind.DIRECTIVE, ChunkKind.DIRECTIVE, ChunkKind.RECORD, ChunkKind.STATIC_FUNCTION,
        ChunkKind.PROTOTYPE, ChunkKind.PROTOTYPE, ChunkKind.DIRECTIVE,
    ]  # fmt: skip
    line = 1
    for piece in pieces:
        assert piece.line == line
        line += piece.text.count("\n")


def test_a_text_cut_inside_a_structure_does_not_end_complete() -> None:
    assert not chunks("struct a { int b;")[-1].is_complete
    assert chunks("struct a { int b; };")[-1].is_complete


def test_line_markers_and_indentation_do_not_count() -> None:
    assert is_same('# 1 "a.h"\nint a;\n', '# 9 "b.h"\n\n   int a;\n')
    assert not is_same("int a;\n", "int b;\n")


def test_spaces_inside_a_string_count() -> None:
    """Comparing words only would call these equal and drop the change silently."""
    assert not is_same('char *a = "x y";\n', 'char *a = "x  y";\n')


UNUSED = "static inline int f(int a) { return a; }\n"
CARRIERS = """static inline int g(void) { return f(1); }
static inline int h(void) { return g(); }
"""
CHANGED = UNUSED.replace("return a;", "return a + 1;")


@pytest.mark.parametrize(
    ("rest", "is_affected"),
    [
        ("int g(void) { return 1; }\n", False),
        ("int g(void) { return f(1); }\n", True),
        ("int g(void) { return not_f(1) + f2(1); }\n", False),
        ("static inline int g(void) { return f(1); }\n", False),
        ("static inline int g(void) { return f(1); }\nint h(void) { return g(); }\n", True),
        (CARRIERS + "int i(void) { return 2; }\n", False),
        (CARRIERS + "int i(void) { return h(); }\n", True),
        ("static int (*hook)(int) = f;\n", True),
        ('asm ("call f");\n', True),
        ("static int __attribute__((used)) g(void) { return f(1); }\n", True),
    ],
)
def test_an_object_is_affected_if_a_live_part_mentions_the_name(
    rest: str, *, is_affected: bool
) -> None:
    for text in (UNUSED + "\n" + rest, "int before;\n" + UNUSED + rest):
        assert judge_texts(text, text.replace(UNUSED, CHANGED)).is_affected is is_affected


def test_a_static_function_that_is_kept_is_live() -> None:
    old = "static __attribute__((used)) int f(void) { return 1; }\n"
    assert judge_texts(old, old.replace("1", "2")).is_affected


@pytest.mark.parametrize(
    "new",
    ["int g(void) { return 2; }\n", "int g(void) { return 1; }\nint total = 3;\n", ""],
    ids=["function", "data", "removed"],
)
def test_what_emits_code_or_data_is_always_compiled(new: str) -> None:
    assert judge_texts("int g(void) { return 1; }\n", new).is_affected


def test_a_new_declaration_of_a_used_name_is_compiled() -> None:
    """A second prototype can carry ``noreturn`` and change every caller."""
    text = "int g(void) { return f(); }\n"
    assert judge_texts(text, "int f(void) __attribute__((noreturn));\n" + text).is_affected
    assert not judge_texts(text, "int other(void);\n" + text).is_affected


STRUCT = "struct domain\n{\n    int id;\n    struct { int a; } in;\n    char name[16];\n};\n"
USER = "int g(struct domain *d) { return d->id; }\n"


@pytest.mark.parametrize(
    ("new", "refused"),
    [
        (STRUCT.replace("int id;", "int id; int foo;"), "struct domain: field foo"),
        (STRUCT.replace("name[16];", "name[16]; int foo;"), "struct domain: field foo"),
        (STRUCT.replace("    int id;\n", ""), "struct domain: field id"),
        (STRUCT.replace("int id", "long id"), "struct domain: field id"),
        (STRUCT.replace("name[16]", "name[17]"), "struct domain: field name"),
        (STRUCT.replace("int a;", "long a;"), "struct domain: field"),
        (STRUCT.replace("};", "} __attribute__((packed));"), "struct domain: attributes"),
        (STRUCT.replace("int id", "int number"), ""),
        (STRUCT.replace("    int", "\tint"), ""),
        (STRUCT + "struct new_one { int a; };\n", ""),
    ],
    ids=["added", "appended", "removed", "type", "size", "nested", "packed", "renamed", "spaces",
         "new structure"],
)  # fmt: skip
def test_a_changed_layout_is_refused_by_field(new: str, refused: str) -> None:
    names = [r.name for r in judge_texts(STRUCT + USER, new + USER).refused]
    assert len(names) == bool(refused)
    assert all(name.startswith(refused) for name in names)


def test_every_place_of_a_structures_difference_is_seen() -> None:
    """The first differing line lies inside the structure: the window must grow to its start."""
    long = "struct big {\n" + "".join(f"    int f{n};\n" for n in range(50)) + "};\n"
    text = "int a;\n" + long + "int b;\n"
    for number in (0, 25, 49):
        new = text.replace(f"int f{number};", f"long f{number};")
        (refusal,) = judge_texts(text, new).refused
        assert refusal.name == f"struct big: field f{number}"
        assert refusal.code == "LAYOUT"


def test_attributes_on_a_line_of_their_own_belong_to_the_structure() -> None:
    old = "struct a {\n    int b;\n}\n__attribute__((aligned(8)));\nint g(void) { return 1; }\n"
    (refusal,) = judge_texts(old, old.replace("8", "16")).refused
    assert refusal.name == "struct a: attributes"


def test_a_brace_in_a_literal_is_none() -> None:
    """Counting it would move the borders into the structure below."""
    old = "const char *a = \"{\";\nint c = '}';\nstruct a {\n    int b;\n    int c;\n};\n"
    (refusal,) = judge_texts(old, old.replace("int c;", "long c;")).refused
    assert refusal.name == "struct a: field c"


def test_enumerations_may_grow_at_their_end_only() -> None:
    old = "enum e { A, B };\nint g(void) { return A; }\n"
    assert not judge_texts(old, old.replace("A, B", "A, B, C")).is_affected
    assert not judge_texts(old, old.replace("A, B", "A, B, C")).refused
    (refusal,) = judge_texts(old, old.replace("A, B", "C, A, B")).refused
    assert refusal.name == "enum e: constant C"


def test_a_type_name_that_changes_is_refused() -> None:
    """No structure's text changes, yet every one with such a field may."""
    old = "typedef int id_t;\nstruct a { id_t id; };\n"
    (refusal,) = judge_texts(old, old.replace("int id_t", "long id_t")).refused
    assert refusal.name.startswith("typedef id_t")


def test_a_merged_header_holds_both_versions_of_what_changed() -> None:
    text = merged_text(HEADER, HEADER.replace("a * 2", "a * 3"))
    assert text is not None
    assert text.count("struct domain") == 1
    assert "a * 2" in text
    assert "a * 3" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#define H\n", "#define H 1\n"),
        ("extern int total;", "#define TOTAL 1\nextern int total;"),
        ("return a * 2;", "\n#define TWO 2\nreturn a * TWO;"),
        ("extern int total;", "#include <a.h>\nextern int total;"),
        ("#endif", "#if 1\n#endif\n#endif"),
    ],
    ids=["changed define", "new define", "define inside", "include", "conditional"],
)
def test_a_header_whose_directives_change_is_not_merged(old: str, new: str) -> None:
    assert merged_text(HEADER, HEADER.replace(old, new)) is None


def test_merged_text_gives_the_verdict_of_two_texts() -> None:
    header = HEADER.replace("#ifndef H\n#define H\n", "").replace("#endif\n", "")
    changed = header.replace("a * 2", "a * 3")
    merged = merged_text(header, changed)
    assert merged is not None
    for rest in ("int g(void) { return 1; }\n", "int g(void) { return twice(1); }\n"):
        two = judge_texts(header + rest, changed + rest)
        assert judge_merged(merged + rest).is_affected is two.is_affected
    struct = merged_text(header, header.replace("int id;", "long id;"))
    assert struct is not None
    assert [r.name for r in judge_merged(struct).refused] == ["struct domain: field id"]


def test_a_line_number_that_shifts_counts_where_it_is_used() -> None:
    """A BUG() in an inline function below the change records another line."""
    header = "int a;\n" + UNUSED.replace("return a;", "return __LINE__;")
    merged = merged_text(header, "int a;\n\nint b(void);\n" + header.removeprefix("int a;\n"))
    assert merged is not None
    expanded = merged.replace("__LINE__", LINE_WORD)
    assert judge_merged(expanded + "int g(void) { return f(1); }\n").is_affected
    assert not judge_merged(expanded + "int g(void) { return 1; }\n").is_affected
    calm = merged.replace("__LINE__", "1")
    assert not judge_merged(calm + "int g(void) { return f(1); }\n").is_affected


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("struct a { int b; char c; };", "struct d { char c; int b; };", "struct a: its name"),
        ("struct a { int b:3, c:5; };", "struct d { int c:5, b:3; };", "struct a: its name"),
        ("enum a { B, C };", "enum d { C, B };", "enum a: its name"),
        ("struct a { int b; };", "struct d { int b; };", ""),
        ("struct a { struct a *b; };", "struct d { struct d *b; };", ""),
        ("struct a { int b; };", "enum d { C };", ""),
        ("struct a { int b; };", "", ""),
        (
            "static struct { int b; char c; } x;",
            "static struct { char c; int b; } x;",
            "variable x: its type",
        ),
        (
            "static struct t { int b; } x[2][3] __read_mostly;",
            "static struct t { int b; } x[3][2] __read_mostly;",
            "variable x: its type",
        ),
        ("static struct { int b; } x = { 1 };", "static struct { int b; } x = { 2 };", ""),
        ("static struct { int b; } x;", "struct { int b; } x;", ""),
        ("static struct { int b; } x;", "static struct { int b; } y;", ""),
        ("static struct a *x;", "static struct b *y;", "variable x: its type"),
        ("static struct a *x;", "", ""),
        ("static unsigned int x[2];", "static unsigned long x[1];", "variable x: its type"),
        ("static unsigned char x[4][8];", "static unsigned char x[8][4];", "variable x: its type"),
        ("static struct a x = { 1 };", "static struct b x = { 1 };", "variable x: its type"),
        ("int *x;", "char *x;", "variable x: its type"),
        ("static int x = 1;", "int x __attribute__((used)) = 2;", ""),
        ("static int x;", "static const int x;", ""),
        ("enum { A, B };", "enum { B, A };", "constant A: its value"),
        ("enum { A, B };", "enum { A, B, C };", ""),
        ("enum e { A };", "enum __attribute__((packed)) e { A };", "enum e: attributes"),
        ("enum { A, B };", "enum { A };", "constant B: its value"),
        ("enum e { A };", "enum e { A, B = 7 };", ""),
        ("enum e { A };", "enum e { A, B = 0x100000000UL };", "enum e: constant B"),
        ("enum e { A };", "enum e { A, B = -1 };", "enum e: constant B"),
        ("enum { A } x;", "enum { A, B } x;", "variable x: its type"),
        ("static int (*x)(int);", "static int (**x)(int);", "variable x: its type"),
        ("static int (*x)(int) = f;", "static int (*x)(int) = 0;", ""),
        ("static int a = 1, *x;", "static int a = 1, **x;", "variable x: its type"),
        ("static int a, x[2];", "static int b, x[2];", ""),
        ("struct s { int a, b; };", "struct s { int a, c; };", "struct s: field b"),
        ("struct s { int a; int b; };", "struct s { int a; int c; };", ""),
        ("struct s { int a; int b; };", "struct s { int d; int c; };", "struct s: field b"),
    ],
)
def test_types_that_are_gone_and_types_of_variables(old: str, new: str, name: str) -> None:
    rest = "int f(void) { return 1; }"
    refused = judge_texts(f"{old}\n{rest}", f"{new}\n{rest}").refused
    assert [refusal.name for refusal in refused][:1] == ([name] if name else [])


def test_a_function_with_an_odd_head_is_searched_too() -> None:
    text = "int (*f(int a))(int)\n{\n static short x;\n}\n"
    (refusal,) = judge_texts(text, text.replace("short", "char")).refused
    assert refusal.name == "variable x: its type"


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("static short x = 0; x++;", "static char x[2]; x[1]++;", "variable x: its type"),
        ("if (f) { static short x; }", "if (f) { static int x; }", "variable x: its type"),
        ("{ static int x; } { static char x; }", "{ static int x; } { static short x; }",
         "variable x: its type"),
        ("const static struct s { int b; } x;", "const static struct s { char b; } x;",
         "variable x: its type"),
        ("struct s { int b; }; static struct s x;", "struct s { char b; }; static struct s x;",
         "variable x: its type"),
        ("typedef short t; static t x;", "typedef unsigned short t; static t x;",
         "variable x: its type"),
        ("short y; static typeof(y) x;", "char y[2]; static typeof(y) x;", "variable x: its type"),
        ("{ static int x; } { static short x; }", "{ static short x; } { static int x; }",
         "variable x: its type"),
        ("struct s { int b; } x; static int y;", "struct s { int b; } x; static int y; y++;", ""),
        ("static int x = 1; short y;", "static int x = 2; long y;", ""),
        ('g("; static int x;");', 'g("; static char x;");', ""),
        ("int g(int a[static 3]);", "int g(char a[static 3]);", ""),
        ("enum { A, B }; g(A);", "enum { B, A }; g(A);", "constant A: its value"),
        ("{ enum e { A, B } x; }", "{ enum e { A, C, B } x; }", "constant B: its value"),
        ("enum { A, B }; g(A);", "enum { A }; g(A);", "constant B: its value"),
        ("enum { A, B }; g(A);", "enum { A, B, C }; g(C);", ""),
        ("enum { A, B }; g(A);", "g(0);", ""),
        ("enum e x = A;", "enum e x = B;", ""),
    ],
)  # fmt: skip
def test_what_outlives_a_call_keeps_its_meaning(old: str, new: str, name: str) -> None:
    """Static variables and enumerations in functions, at any depth, are as those outside."""
    texts = [f"static inline int f(int f)\n{{\n{body}\n}}\n" for body in (old, new)]
    refused = judge_texts(texts[0], texts[1]).refused
    assert [refusal.name for refusal in refused][:1] == ([name] if name else [])
