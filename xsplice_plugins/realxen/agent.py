# SPDX-License-Identifier: Apache-2.0
"""The programs that run in our dom0: one that boots and waits, and two that do the work.

The first is part of the saved machine. The agents come with each job: one is a shell script that
drives the real ``xen-livepatch``, the other does raw hypercalls (``agent.c``), which is fast and
shows each hypercall's own result. What they read is made by :mod:`.results`, which lets only
plain words through; what they print is read there too.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from xsplice_plugins.cache import locked
from xsplice_plugins.realxen.platforms import Platform
from xsplice_plugins.realxen.results import MARK
from xsplice_plugins.system import debian
from xsplice_plugins.system.process import run_logged

#: Applets that the scripts use; each becomes a link to busybox.
APPLETS = (
    *("blockdev", "cat", "dd", "echo", "grep", "insmod", "mkdir"),
    *("mount", "sh", "sleep", "stty", "tar", "true"),
)
TRIES_MAX = 8

_INIT = """#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/hvc0 >/dev/hvc0 2>&1
stty -echo -opost </dev/hvc0
for module in @MODULES@; do insmod /modules/$module.ko; done
mkdir -p /proc/xen
mount -t xenfs xenfs /proc/xen
# One run before the machine is saved: what it reads stays in memory.
/@LOADER@ --library-path /xen/lib /xen/xen-livepatch list >/dev/null 2>&1
mkdir -p /job
cd /job
echo "@MARK@ ready"
read -r pages
# The disk was changed while the machine was saved: forget what was read of it.
blockdev --flushbufs /dev/vda
# busybox's tar would read the disk to its end, which takes seconds.
dd if=/dev/vda bs=4096 count="$pages" 2>/dev/null | tar xf -
/job/agent
echo "@MARK@ finished"
sleep 1000000
"""

_TOOL_AGENT = """#!/bin/sh
TOOL="/@LOADER@ --library-path /xen/lib /xen/xen-livepatch"

tell() { # mark, file
    while IFS= read -r line || [ -n "$line" ]; do echo "@MARK@ $1 $line"; done <"$2"
}

step() { # number, verb, words
    number=$1; verb=$2; shift 2
    echo "@MARK@ begin $number"
    status=0; tries=1
    case $verb in
    extra) : >/tmp/out ;;
    build-id) cat /sys/hypervisor/buildid >/tmp/out 2>&1; status=$? ;;
    read) cat "$1" >/tmp/out 2>&1; status=$? ;;
    list) $TOOL list >/tmp/out 2>&1; status=$? ;;
    *)
        while :; do
            $TOOL "$verb" "$@" >/tmp/out 2>&1; status=$?
            # Busy is tried again only where the last action's own result is -16, which is
            # the quiesce timeout; a refusal with -EBUSY leaves no such result.
            [ $status = 2 ] && [ $tries -lt @TRIES@ ] || break
            $TOOL list 2>&1 | grep -q "^$1 .*| [A-Z]* *(-*16," || break
            tries=$((tries + 1))
        done ;;
    esac
    tell out /tmp/out
    case $verb in extra|build-id|read) ;; *)
        $TOOL list >/tmp/lst 2>&1
        tell lst /tmp/lst ;;
    esac
    cd /sys/hypervisor/version
    read -r major <major; read -r minor <minor; read -r extra <extra
    cd /job
    echo "@MARK@ end $number status=$status tries=$tries version=$major.$minor extra=<$extra>"
}

while read -r line; do
    set -- $line
    step "$@"
done </job/steps
"""


def init_script(modules: Sequence[str], platform: Platform) -> str:
    """Return dom0's ``/init``, which loads kernel modules (without suffix) in order."""
    text = _INIT.replace("@MODULES@", " ".join(modules)).replace("@MARK@", MARK)
    return text.replace("@LOADER@", platform.loader)


def tool_agent(platform: Platform) -> bytes:
    """Return the agent that drives the real tool."""
    text = _TOOL_AGENT.replace("@MARK@", MARK).replace("@TRIES@", str(TRIES_MAX))
    return text.replace("@LOADER@", platform.loader).encode()


def hypercall_agent(cache: Path, platform: Platform) -> bytes:
    """Return the agent that does raw hypercalls, compiled once per version of its source.

    Raises:
        ConfigError: There is no compiler, or it failed.
    """
    source = Path(__file__).with_name("agent.c")
    key = hashlib.sha256(source.read_bytes() + " ".join(platform.compiler).encode()).hexdigest()[
        :12
    ]
    folder = cache / "qemu" / f"agent-{key}"
    program = folder / "agent"
    with locked(folder):
        if not program.is_file():
            debian.require_packages("fast agent for dom0", platform.compiler_packages, {})
            partial = folder / "agent.partial"
            command = [*platform.compiler, "-o", str(partial), str(source)]
            run_logged(command, log=folder / "compile.log")
            partial.rename(program)
    return program.read_bytes()
