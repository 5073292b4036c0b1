# SPDX-License-Identifier: Apache-2.0
"""Every code a refusal can carry, documented as data (``xsplice explain CODE``)."""

from __future__ import annotations

from msgspec import Struct


class RefusalDoc(Struct, frozen=True, kw_only=True):
    """What a refusal's code means and what can be done about it."""

    code: str
    title: str
    explanation: str
    hint: str
    word: str = ""  #: what ``ACCEPT=`` answers, where a report asks for it; "": nothing


#: A code with its title, the explanation, behind ``=>`` the hint, and behind another one the word.
_DOCS = """\
INIT_CODE: code that runs only at boot was changed beside other code
The function lies in an .init or .exit section. Its memory is freed once the hypervisor runs, so it
cannot be replaced; worse, something else may live there by now. The rest of the fix may rely on
what the edited boot code would have left behind. Boot code alone is no refusal: it waits for boot.
=> do at run time what the fixed boot code would have done: a load hook that corrects the state it
left; or leave that part out of the patch
=> ACCEPT=INIT_CODE:function leaves it to the next boot, on your word that the rest of the fix does
without it; none is taken where code that runs would use it, or where nothing else changes

INIT_DATA: data that is used only at boot was changed or added beside other code
Data in .init sections is read once, before a live patch can exist: command-line parameters, init
calls, tables of boot-time operations.
=> set the run-time state that the boot code derived from it in a load hook
=> ACCEPT=INIT_DATA:name leaves it to the next boot, on your word that the rest of the fix does
without it; none is taken for new functions that only boot would have handed on

GENERATED: a file that the build generates would change
Offsets of structures for assembler (asm-offsets), and the linker script, went into assembler code
and into the place of everything in the image. Neither can be replaced while it runs: assembler code
would read a field where it was.
=> leave that part of the patch out, or change headers so that assembler code reads what it did: new
names for C code beside the old ones, new fields as shadow variables

REMOVED: an object would no longer be part of the image
What it set up at boot stays set up, and its code and data stay in memory: a payload can replace
functions, and take none out.
=> leave that part of the patch out; change the functions that shall do nothing any more

VERSION: the Makefile's version lines were changed
The build stamps them into compile.h. Boot code holds them, and so do the functions that tell the
version; tools and payloads go by what the running image says.
=> leave these lines out of the patch; change what xen_extra_version() returns if a fix shall show

DATA_VALUE: the initial value of existing data was changed
The variable is in memory already, with whatever value it has by now. A live patch replaces code;
it does not write to data on its own. A constant table counts too if its address was stored, passed
or compared: objects that exist keep the old one. A table that is only read through is copied.
=> `xsplice values` writes the fix again with hooks that set the new value and put the old one back
(docs/values.md); if code only needs the new constant, let the changed function use a new variable

DATA_SIZE: the size of existing data was changed
The variable in memory has the old size and the old neighbours; code compiled for the new size
would reach into them.
=> keep the old variable and attach the new content by a shadow variable, or give the new one
another name and fill it in a load hook

DATA_ALIGNMENT: existing data must be aligned more than before
The variable stays where it is in memory, and code compiled for the new alignment may count on low
bits of its address that are not 0 there. A constant that code only reads through is copied.
=> leave the alignment out of the live patch; if code needs it, use a new variable that a load hook
fills, or let the code round the address

DATA_SECTION: existing data moved to another kind of section
Data changed between writable, read-only, read-only after boot, per-CPU or init. The variable in
memory stays where it is, with the protection it has.
=> leave the attributes as they are in the live patch if no function that runs after boot writes the
variable, for what is read-only after boot faults then; else use a new variable that a load hook
fills

LAYOUT: the layout of a structure that unchanged code also uses was changed
Instances in memory have the old layout. Code of the live patch would read and write them by the
new one.
=> keep the structure and hang the new members on it by a shadow variable: `xsplice shadow` writes
the fix again so
=> none is taken for members that lie elsewhere; ACCEPT=LAYOUT:structure.member is, for a member in
a hole of objects that exist (@other behind it if it shares memory with another one), on your word
that what they hold there is what the new code expects

PERCPU: per-CPU data was added or changed
Per-CPU areas were laid out and allocated at boot; a payload's .percpu section would be one
ordinary copy, reached through each CPU's offset: a wild access.
=> `xsplice percpu` makes an array of a new one, indexed by the CPU's number (docs/values.md); one
that exists must stay as it is

REGISTRY: an entry of a list that is made at link time was added, changed or removed
The linker script collects such entries from all objects, between two symbols, and code walks them
at boot or later. No code names them: the section's name tells, or that nothing in the object refers
to the entry and the compiler keeps it nevertheless. An entry in a payload is never seen.
=> call the function that registers it, or undoes it, from a load hook; where the list is walked
later, change the function that walks it

ASSEMBLER: assembler source was changed, or a header that changes what it is assembled to
Hand-written assembler has entry points, fall-through and data that no rule of the compiler
guarantees; replacing parts of it is not known to be safe.
=> fix the C caller instead, or overwrite the instructions in an apply hook of your own; keep what C
code needs of a header, and what assembler code reads of it as it was

LINK: how the image is linked was changed
Its objects are the same, or change besides, and the linker places or treats them otherwise. A
payload replaces functions; it links nothing again.
=> leave that part of the patch out

GROUPED: a section of a group (COMDAT) was changed or added
The linker keeps one of several equal groups; which object's copy runs is not visible in this
object.
=> make the function or datum static, or keep it out of the patch

TOO_SHORT: a function is too short for the jump that replaces it
The first bytes of the old function are overwritten by a jump, behind its ENDBR64 if it has one.
This function's bytes do not hold it.
=> change the functions that call it instead, so that they no longer need it

PATCHING_PATH: a function that runs while code is being replaced was changed
The CPUs that apply a live patch are inside this function, or return through it; overwriting it
under them crashes the host.
=> this fix needs a reboot

AMBIGUOUS: it is undecided which running variable the new code means
Several static variables share one source name, and no unchanged code proves which is which. A
wrong choice would give new code another variable's state.
=> give the static variables distinct names in the patch, or leave the code that uses them
unchanged

AMBIGUOUS_NAME: a name stands for several things in the image
The payload must refer to existing content by name, and the object defines that name more than
once.
=> refer to the content through a function or variable with a name of its own

UNNAMED_DATA: new code refers to existing writable data that has no name
The hypervisor resolves names only. This content has none, and a copy would be another variable.
=> give the datum a name, or compile with -fdata-sections

ALIAS: a name stands for another thing than before
A function or variable becomes another name of a second one, or gets a body of its own. Objects that
the fix does not reach ask for it by that name, and what the image has under it stays.
=> leave the names as they are: let the one function call the other

ASM_LABEL: a changed function has a second entry inside it
Another symbol lies within the function: an alias, a label of inline assembler, or an entry made
with asm(). Only the function's first bytes get a jump; who enters at the label would run old code.
=> change the function without touching the part behind the label, or replace its callers

SHARED_SECTION: a changed function jumps to a neighbour in its section
The assembler filled in the distance, and no relocation tells where the jump leads. Taken out of its
section, the function would jump into whatever lies there.
=> compile the object with -ffunction-sections; where a built tree is given, that is done without
asking, so the function shares a section that its source names: take the attribute away

SYMBOL_VERSION: a changed symbol is versioned, indirect or thread-local
The hypervisor's loader knows plain functions and data only.
=> give the function a plain name

UNEXPLAINED: the objects differ in something no rule explains
Every difference must be accounted for by a changed, new or removed item. This one is not: a
section of an unknown kind, unnamed content, or a table entry without owner.
=> add a row for the section to the profile, or keep the change out of the live patch
"""


def _read(block: str) -> RefusalDoc:
    head, _, body = block.partition("\n")
    code, title = head.split(": ", 1)
    explanation, hint, *word = body.replace("\n", " ").split(" => ")
    return RefusalDoc(
        code=code, title=title, explanation=explanation, hint=hint, word="".join(word)
    )


REFUSALS = {doc.code: doc for doc in map(_read, _DOCS.strip().split("\n\n"))}
