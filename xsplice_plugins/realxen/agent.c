/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fast agent in dom0: drives the hypervisor's live-patch operations by raw hypercalls.
 *
 * The real tool sleeps 60 ms in every action and hides some verdicts behind checks of its own;
 * this program does neither, so that thousands of payloads can be tried and each hypercall's own
 * result is seen. It is freestanding: no C library, so that it is small and starts at once.
 *
 * It reads /job/steps ("number verb words...") and answers on standard output; results.py reads
 * the answers.
 *
 * Source: xen/include/public/sysctl.h (XEN_SYSCTL_livepatch_op), xen/include/public/version.h,
 * Linux include/uapi/xen/privcmd.h; layouts for Xen 4.14 and later.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#ifdef __aarch64__
enum { NR_read = 63, NR_write = 64, NR_openat = 56, NR_close = 57, NR_mmap = 222, NR_ioctl = 29 };
enum { NR_nanosleep = 101, NR_exit = 93, NR_clone = 220, NR_kill = 129, NR_wait4 = 260 };
enum { NR_sched_setaffinity = 122, NR_sched_getaffinity = 123 };
#else
enum { NR_read = 0, NR_write = 1, NR_openat = 257, NR_close = 3, NR_mmap = 9, NR_ioctl = 16 };
enum { NR_nanosleep = 35, NR_exit = 60, NR_clone = 56, NR_kill = 62, NR_wait4 = 61 };
enum { NR_sched_setaffinity = 203, NR_sched_getaffinity = 204 };
#endif
enum { AT_FDCWD = -100 };
enum { HYPERCALL_xen_version = 17, HYPERCALL_sysctl = 35 };
enum { SYSCTL_livepatch_op = 27, OP_UPLOAD = 0, OP_GET = 1, OP_LIST = 2, OP_ACTION = 3 };
enum { ACTION_UNLOAD = 1, ACTION_REVERT = 2, ACTION_APPLY = 3, ACTION_REPLACE = 4 };
enum { STATE_CHECKED = 1, STATE_APPLIED = 2 };
enum { E_NOENT = 2, E_AGAIN = 11, E_ACCES = 13, E_BUSY = 16 };
enum { IOCTL_PRIVCMD_HYPERCALL = 0x305000 };
enum { NODEPS = 1 };
enum { SIGKILL = 9, SIGCHLD = 17 };
/* 4.14 has 0x13; the last is far from what any release has. */
enum { VERSION_FIRST = 0x13, VERSION_LAST = 0x40 };

#define BUFFER_BYTES (4ul << 20)
#define STEPS_BYTES (4ul << 20)
#define WORDS_MAX 8
#define LISTED_MAX 256
#define TRIES_MAX 8
#define POLLS_MAX 5000
#define TIMEOUT_NS 300000000u
#define WORKERS_MAX 64
#define ANSWERS_MAX 4

struct name { u64 text; u16 size; u16 pad[3]; };
struct livepatch {
    u32 cmd, flags;
    union {
        struct { struct name name; u64 size, payload; } upload;
        struct { struct name name; u32 state; int rc; } get;
        struct { u32 version, idx, nr, pad, names_bytes, metadata_bytes;
                 u64 status, names, lengths, metadata, metadata_lengths; } list;
        struct { struct name name; u32 cmd, timeout, flags, pad; } action;
    };
};
struct sysctl { u32 cmd, version; union { struct livepatch op; u8 room[128]; }; };
struct status { u32 state; int rc; };

/* What the hypervisor reads lies in this page-locked memory. */
struct shared {
    struct sysctl sysctl;
    char name[256];
    char extra[64];
    u8 build_id[64];
    struct status status[LISTED_MAX];
    u32 lengths[LISTED_MAX], metadata_lengths[LISTED_MAX];
    char names[LISTED_MAX * 128];
    char metadata[65536];
};

/* A process that keeps one virtual CPU busy, and what its hypercalls answered. */
struct worker { u64 cpu, calls, answers; long pid, answer[ANSWERS_MAX]; };

static struct shared *shared;
static struct worker *workers;
static u32 workers_count;
static u8 *buffer;
static int privcmd;
static u32 interface_version;
static char line[8192];
static u32 line_bytes;

#ifdef __aarch64__
static long sys6(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;

    __asm__ volatile("svc #0" : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}

__asm__(".globl _start\n_start:\n\tbl agent_main\n\tbrk #0\n");
#else
static long sys6(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long ret;

    __asm__ volatile("syscall" : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

__asm__(".globl _start\n_start:\n\tand $-16, %rsp\n\tcall agent_main\n\thlt\n");
#endif

static long sys3(long n, long a, long b, long c) { return sys6(n, a, b, c, 0, 0, 0); }

static int open(const char *path, int flags)
{
    return sys6(NR_openat, AT_FDCWD, (long)path, flags, 0, 0, 0);
}

void *memset(void *to, int value, u64 count)
{
    u8 *p = to;

    while ( count-- )
        *p++ = value;
    return to;
}

void *memcpy(void *to, const void *from, u64 count)
{
    u8 *p = to;
    const u8 *q = from;

    while ( count-- )
        *p++ = *q++;
    return to;
}

static u64 length(const char *s)
{
    u64 n = 0;

    while ( s[n] )
        n++;
    return n;
}

static int same(const char *a, const char *b)
{
    while ( *a && *a == *b )
        a++, b++;
    return *a == *b;
}

static int begins(const char *text, const char *with)
{
    while ( *with && *text == *with )
        text++, with++;
    return !*with;
}

static void put(const char *s)
{
    while ( *s && line_bytes < sizeof(line) - 2 )
    {
        u8 c = *s++;

        line[line_bytes++] = c >= ' ' && c < 127 ? c : '?';
    }
}

static void put_number(long value)
{
    char digits[24];
    int n = sizeof(digits) - 1;
    u64 left = value < 0 ? -(u64)value : (u64)value;

    digits[n] = 0;
    do
        digits[--n] = '0' + left % 10;
    while ( left /= 10 );
    if ( value < 0 )
        digits[--n] = '-';
    put(digits + n);
}

static void put_hex(const u8 *bytes, u64 count)
{
    for ( ; count--; bytes++ )
    {
        char text[3] = { "0123456789abcdef"[*bytes >> 4], "0123456789abcdef"[*bytes & 15], 0 };

        put(text);
    }
}

static void start(const char *mark) { line_bytes = 0; put("@xsplice "); put(mark); }

static void finish(void)
{
    line[line_bytes++] = '\n';
    sys3(NR_write, 1, (long)line, line_bytes);
}

static long hypercall(u64 number, u64 a, u64 b)
{
    u64 call[6] = { number, a, b, 0, 0, 0 };

    return sys3(NR_ioctl, privcmd, IOCTL_PRIVCMD_HYPERCALL, (long)call);
}

static struct livepatch *prepare(u32 cmd)
{
    memset(&shared->sysctl, 0, sizeof(shared->sysctl));
    shared->sysctl.cmd = SYSCTL_livepatch_op;
    shared->sysctl.version = interface_version;
    shared->sysctl.op.cmd = cmd;
    return &shared->sysctl.op;
}

static long issue(void) { return hypercall(HYPERCALL_sysctl, (u64)&shared->sysctl, 0); }

static void set_name(struct name *name, const char *text)
{
    u64 bytes = length(text);

    if ( bytes > sizeof(shared->name) - 1 )
        bytes = sizeof(shared->name) - 1;
    memset(shared->name, 0, sizeof(shared->name));
    memcpy(shared->name, text, bytes);
    name->text = (u64)shared->name;
    name->size = bytes + 1;
}

static long get(const char *name, struct status *status)
{
    struct livepatch *op = prepare(OP_GET);
    long ret;

    set_name(&op->get.name, name);
    ret = issue();
    status->state = op->get.state;
    status->rc = op->get.rc;
    return ret;
}

static long upload(const char *name, const char *path)
{
    int fd = open(path, 0);
    u64 bytes = 0;
    long got;
    struct livepatch *op;

    if ( fd < 0 )
        return fd;
    while ( bytes < BUFFER_BYTES &&
            (got = sys3(NR_read, fd, (long)(buffer + bytes), BUFFER_BYTES - bytes)) > 0 )
        bytes += got;
    sys3(NR_close, fd, 0, 0);
    op = prepare(OP_UPLOAD);
    set_name(&op->upload.name, name);
    op->upload.size = bytes;
    op->upload.payload = (u64)buffer;
    return issue();
}

/* Wait until the scheduled work is done: rc is -EAGAIN until then. */
static void settle(const char *name)
{
    struct status status;
    u64 wait[2] = { 0, 1000000 };

    for ( int polls = 0; polls < POLLS_MAX; polls++ )
    {
        if ( get(name, &status) || status.rc != -E_AGAIN )
            return;
        sys3(NR_nanosleep, (long)wait, 0, 0);
    }
}

/* In 1 ns hardly any other CPU can come: a first try with it ends as one on a busy host may. */
static long action(const char *name, u32 cmd, u32 flags, u32 first_ns, int *tries)
{
    struct livepatch *op;
    struct status status;
    long ret;

    for ( *tries = 1; ; ++*tries )
    {
        op = prepare(OP_ACTION);
        set_name(&op->action.name, name);
        op->action.cmd = cmd;
        op->action.timeout = first_ns && *tries == 1 ? first_ns : TIMEOUT_NS;
        op->action.flags = flags;
        ret = issue();
        if ( ret )
            return ret;
        settle(name);
        /* Only the quiesce timeout leaves -EBUSY as the result of the work itself. */
        if ( *tries >= TRIES_MAX || get(name, &status) || status.rc != -E_BUSY )
            return ret;
    }
}

static long list(void)
{
    struct livepatch *op = prepare(OP_LIST);
    const char *name = shared->names;
    long count;

    op->list.nr = LISTED_MAX;
    op->list.names_bytes = sizeof(shared->names);
    op->list.metadata_bytes = sizeof(shared->metadata);
    op->list.status = (u64)shared->status;
    op->list.names = (u64)shared->names;
    op->list.lengths = (u64)shared->lengths;
    op->list.metadata = (u64)shared->metadata;
    op->list.metadata_lengths = (u64)shared->metadata_lengths;
    count = issue();
    for ( long n = 0; n < count && n < LISTED_MAX; name += shared->lengths[n++] )
    {
        u32 state = shared->status[n].state;

        start("lst ");
        put(name);
        put(" | ");
        put(state == STATE_CHECKED ? "CHECKED" : state == STATE_APPLIED ? "APPLIED" : "UNKNOWN");
        if ( shared->status[n].rc )
        {
            put(" (");
            put_number(shared->status[n].rc);
            put(", )");
        }
        finish();
    }
    return count < 0 ? count : 0;
}

static long build_id(void)
{
    long ret;

    *(u32 *)shared->build_id = sizeof(shared->build_id) - 4;
    ret = hypercall(HYPERCALL_xen_version, 10, (u64)shared->build_id);
    if ( ret < 0 )
        return ret;
    start("out ");
    put_hex(shared->build_id + 4, ret);
    finish();
    return 0;
}

/* Print the lines of a file; only plain words come here, see results.py. */
static long show(const char *path)
{
    int fd = open(path, 0);
    long got;
    char *text = (char *)buffer;

    if ( fd < 0 )
        return fd;
    got = sys3(NR_read, fd, (long)text, BUFFER_BYTES - 1);
    sys3(NR_close, fd, 0, 0);
    if ( got < 0 )
        return got;
    text[got] = 0;
    while ( *text )
    {
        char *end = text;

        while ( *end && *end != '\n' )
            end++;
        got = *end;
        *end = 0;
        start("out ");
        put(text);
        finish();
        text = end + (got != 0);
    }
    return 0;
}

/* Say that we stand still, and wait for a line: meanwhile our host reads the machine's memory. */
static void pause(const char *number)
{
    char byte = 0;

    start("paused ");
    put(number);
    put(" .");
    finish();
    while ( byte != '\n' && sys3(NR_read, 0, (long)&byte, 1) == 1 )
        ;
}

/* Ask for the version for ever; the answers show which of two functions was entered. */
static void work(struct worker *own)
{
    char text[64];

    for ( ; ; own->calls++ )
    {
        long answer = hypercall(HYPERCALL_xen_version, 0, 0);
        u64 n = 0;

        hypercall(HYPERCALL_xen_version, 1, (u64)text);
        while ( n < own->answers && own->answer[n] != answer )
            n++;
        if ( n == own->answers && n < ANSWERS_MAX )
        {
            own->answer[n] = answer;
            own->answers++;
        }
    }
}

/* Keep every virtual CPU of ours in hypercalls; -EAGAIN if one of them does not begin. */
static long busy(void)
{
    u64 cpus[16] = { 0 }, wait[2] = { 0, 1000000 };
    long pid = sys3(NR_sched_getaffinity, 0, sizeof(cpus), (long)cpus);

    if ( pid < 0 )
        return pid;
    for ( u64 cpu = 0; cpu < 8 * sizeof(cpus) && workers_count < WORKERS_MAX; cpu++ )
    {
        struct worker *own = workers + workers_count;
        u64 alone[16] = { 0 };

        if ( !(cpus[cpu / 64] >> cpu % 64 & 1) )
            continue;
        memset(own, 0, sizeof(*own));
        own->cpu = cpu;
        pid = sys6(NR_clone, SIGCHLD, 0, 0, 0, 0, 0);
        if ( pid < 0 )
            return pid;
        if ( !pid )
        {
            alone[cpu / 64] = 1ul << cpu % 64;
            sys3(NR_sched_setaffinity, 0, sizeof(alone), (long)alone);
            work(own);
        }
        own->pid = pid; /* not above: the child has this memory too */
        workers_count++;
    }
    for ( u32 n = 0; n < workers_count; n++ )
        for ( int polls = 0; !*(volatile u64 *)&workers[n].calls; polls++ )
        {
            if ( polls >= POLLS_MAX )
                return -E_AGAIN;
            sys3(NR_nanosleep, (long)wait, 0, 0);
        }
    return 0;
}

/* End what keeps the CPUs busy, and tell what it saw. */
static long idle(void)
{
    for ( ; workers_count; workers_count-- )
    {
        struct worker *own = workers + workers_count - 1;

        sys3(NR_kill, own->pid, SIGKILL, 0);
        sys6(NR_wait4, own->pid, 0, 0, 0, 0, 0);
        start("out cpu=");
        put_number(own->cpu);
        put(" calls=");
        put_number(own->calls);
        put(" answers=");
        for ( u64 n = 0; n < own->answers; n++ )
        {
            put(n ? "," : "");
            put_number(own->answer[n] >> 16);
            put(".");
            put_number(own->answer[n] & 0xffff);
        }
        finish();
    }
    return 0;
}

static u32 number_of(const char *text)
{
    u32 value = 0;

    while ( *text >= '0' && *text <= '9' )
        value = value * 10 + *text++ - '0';
    return value;
}

static void step(int words, char **word)
{
    const char *verb = word[1], *name = words > 2 ? word[2] : "";
    const char *flag = words > 3 ? word[words - 1] : "";
    u32 flags = same(flag, "--nodeps") ? NODEPS : 0;
    u32 first_ns = begins(flag, "--first=") ? number_of(flag + 8) : 0;
    struct status status = { 0, 0 };
    int tries = 1;
    long ret, version;

    if ( same(verb, "pause") )
    {
        pause(word[0]);
        return;
    }
    start("begin ");
    put(word[0]);
    finish();
    if ( same(verb, "upload") && words > 3 )
        ret = upload(name, word[3]);
    else if ( same(verb, "apply") )
        ret = action(name, ACTION_APPLY, flags, first_ns, &tries);
    else if ( same(verb, "revert") )
        ret = action(name, ACTION_REVERT, flags, first_ns, &tries);
    else if ( same(verb, "unload") )
        ret = action(name, ACTION_UNLOAD, flags, first_ns, &tries);
    else if ( same(verb, "replace") )
        ret = action(name, ACTION_REPLACE, flags, first_ns, &tries);
    else if ( same(verb, "list") )
        ret = list();
    else if ( same(verb, "build-id") )
        ret = build_id();
    else if ( same(verb, "read") )
        ret = show(name);
    else if ( same(verb, "busy") )
        ret = busy();
    else if ( same(verb, "idle") )
        ret = idle();
    else
        ret = same(verb, "extra") ? 0 : -38; /* ENOSYS: only the other agent can do it */
    if ( *name && !same(verb, "read") && get(name, &status) )
        status.state = 0;
    /* What a payload did to a function shows only when it is called: ask for the version too. */
    version = hypercall(HYPERCALL_xen_version, 0, 0);
    memset(shared->extra, 0, sizeof(shared->extra));
    hypercall(HYPERCALL_xen_version, 1, (u64)shared->extra);
    start("end ");
    put(word[0]);
    put(" status=");
    put_number(ret != 0);
    put(" tries=");
    put_number(tries);
    put(" ret=");
    put_number(ret);
    put(" state=");
    put(status.state == STATE_CHECKED ? "CHECKED" : status.state == STATE_APPLIED ? "APPLIED" : "");
    put(" rc=");
    put_number(status.rc);
    put(" version=");
    put_number(version >> 16);
    put(".");
    put_number(version & 0xffff);
    put(" extra=<");
    put(shared->extra);
    put(">");
    finish();
}

/* The interface version differs between releases; a wrong one is refused before all else. */
static void find_interface(void)
{
    for ( interface_version = VERSION_FIRST; interface_version < VERSION_LAST; interface_version++ )
    {
        prepare(OP_LIST);
        if ( issue() != -E_ACCES )
            return;
    }
}

static void run_steps(char *text)
{
    char *word[WORDS_MAX];

    while ( *text )
    {
        int words = 0;

        while ( *text && *text != '\n' )
        {
            while ( *text == ' ' )
                *text++ = 0;
            if ( *text && *text != '\n' && words < WORDS_MAX )
                word[words++] = text;
            while ( *text && *text != ' ' && *text != '\n' )
                text++;
        }
        if ( *text )
            *text++ = 0;
        if ( words > 1 )
            step(words, word);
    }
}

static void *map(int fd, u64 bytes)
{
    /* PROT_READ | PROT_WRITE; MAP_SHARED, and MAP_ANONYMOUS without a file */
    return (void *)sys6(NR_mmap, 0, bytes, 3, fd < 0 ? 0x21 : 0x01, fd, 0);
}

void agent_main(void)
{
    int memory = open("/dev/xen/hypercall", 2);
    int fd = open("/job/steps", 0);
    char *steps = map(-1, STEPS_BYTES);
    u64 bytes = 0;
    long got;

    privcmd = open("/dev/xen/privcmd", 2);
    shared = map(memory, (sizeof(*shared) + 4095) & ~4095ul);
    buffer = map(memory, BUFFER_BYTES);
    workers = map(-1, WORKERS_MAX * sizeof(*workers));
    /* On arm64 the kernel lets a page be written only once its owner has, and Xen is refused too. */
    memset(shared, 0, sizeof(*shared));
    while ( bytes < STEPS_BYTES - 1 &&
            (got = sys3(NR_read, fd, (long)(steps + bytes), STEPS_BYTES - 1 - bytes)) > 0 )
        bytes += got;
    find_interface();
    run_steps(steps);
    sys3(NR_exit, 0, 0, 0);
}
