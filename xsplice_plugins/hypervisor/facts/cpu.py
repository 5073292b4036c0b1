# SPDX-License-Identifier: Apache-2.0
"""CPU profiles: the facts about a processor that decide what its memory looks like.

Feature numbers are Xen's (word * 32 + bit), synthetic ones counted behind the ABI's 19 words, as in
each branch's newest release from 4.17 on. Source: asm/cpufeatures.h; ``init_ideal_nops`` in
arch/x86/alternative.c.
"""

from msgspec import Struct

_SYNTHETIC = 19 * 32

ALWAYS = 2 * 32 + 29  # LM, which every x86-64 processor has
#: Of the first word: FPU, TSC, MSR, PAE, CX8, PGE, CMOV, MMX, FXSR, SSE, SSE2, as every one has.
_BASELINE = frozenset({0, 4, 5, 6, 8, 13, 15, 23, 24, 25, 26, ALWAYS})
SMEP_XEN = _SYNTHETIC + 10
SMAP_XEN = _SYNTHETIC + 11
MFENCE_RDTSC = _SYNTHETIC + 9
SC_NO_LOCK_HARDEN = _SYNTHETIC + 12
SC_RSB_HVM = _SYNTHETIC + 19
XEN_SHSTK = _SYNTHETIC + 26
XEN_IBT = _SYNTHETIC + 27
XSAVEOPT = 4 * 32 + 0
BMI1 = 5 * 32 + 3
CLFLUSHOPT = 5 * 32 + 23

P6_NOPS = tuple(map(bytes.fromhex, (
    "90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000",
    "0f1f8000000000", "0f1f840000000000", "660f1f840000000000",
)))  # fmt: skip
K8_NOPS = tuple(map(bytes.fromhex, (
    "90", "6690", "666690", "66666690", "6666906690", "666690666690",
    "66666690666690", "6666669066666690", "666690666690666690",
)))  # fmt: skip


class CpuProfile(Struct, frozen=True, kw_only=True):
    """One kind of processor."""

    name: str  #: how a report calls it
    vendor: str  #: ``amd``, ``intel`` or ``other``
    family: int  #: CPUID family
    model: int  #: CPUID model
    features: frozenset[int]  #: the feature bits that are set

    def has(self, feature: int) -> bool:
        """Whether the boot CPU has a feature."""
        return feature in self.features or feature in _BASELINE


#: An emulated EPYC without SMAP, as the real-Xen judge boots it. With these features the model's
#: text differs from the file in the same functions as the text that was read out of that host.
EPYC = CpuProfile(
    name="epyc",
    vendor="amd",
    family=0x17,
    model=1,
    features=frozenset(
        {ALWAYS, BMI1, CLFLUSHOPT, MFENCE_RDTSC, SC_NO_LOCK_HARDEN, SC_RSB_HVM, SMEP_XEN, XSAVEOPT}
    ),
)
#: Tables of function pointers that every boot on a vendor's processors fills in from another table:
#: (destination, source), by the end of their names.
BOOT_TABLES = {
    "amd": (("hvm_funcs", "#svm_function_table"), ("#ucode_ops", "amd_ucode_ops")),
    "intel": (("hvm_funcs", "#vmx_function_table"), ("#ucode_ops", "intel_ucode_ops")),
}
#: A recent Intel server with control-flow enforcement: ENDBR64 of unused targets is sealed.
INTEL_CET = CpuProfile(
    name="intel-cet",
    vendor="intel",
    family=6,
    model=0x8F,
    features=frozenset({ALWAYS, SMEP_XEN, SMAP_XEN, XSAVEOPT, XEN_SHSTK, XEN_IBT}),
)
#: An early Opteron: the K8 sequence of NOPs.
K8 = CpuProfile(name="k8", vendor="amd", family=0xF, model=5, features=frozenset({ALWAYS}))
PROFILES = {profile.name: profile for profile in (EPYC, INTEL_CET, K8)}
DEFAULT_CPU = EPYC


def ideal_nops(cpu: CpuProfile, length_bytes: int) -> bytes:
    """Fill a length with the NOPs Xen chooses on this processor: nines first, then the rest."""
    table = P6_NOPS
    if cpu.vendor == "amd" and cpu.family <= 0xF:
        table = K8_NOPS
    if cpu.vendor == "intel" and cpu.family == 6:
        model = cpu.model
        if 0x0F <= model <= 0x1B or 0x1D <= model <= 0x25 or 0x28 <= model <= 0x2F:
            table = K8_NOPS
    nines, rest = divmod(max(length_bytes, 0), 9)
    return table[8] * nines + (table[rest - 1] if rest else b"")
