# SPDX-License-Identifier: Apache-2.0
"""The first and only program of our dom0: it boots, waits, and drives the real xen-livepatch.

It runs under busybox's shell. What it reads is made by :mod:`.results`, which lets only plain
words through; what it prints is read there too.
"""

from collections.abc import Sequence

from xsplice_plugins.verify.qemu.results import MARK

#: Applets that the script uses; each becomes a link to busybox.
APPLETS = (
    "blockdev",
    "cat",
    "echo",
    "grep",
    "insmod",
    "ln",
    "mkdir",
    "mount",
    "poweroff",
    "rm",
    "sh",
    "sleep",
    "stty",
    "tar",
    "true",
)
TRIES_MAX = 8

_SCRIPT = """#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/hvc0 >/dev/hvc0 2>&1
stty -echo -opost </dev/hvc0
for module in @MODULES@; do insmod /modules/$module.ko; done
mkdir -p /proc/xen
mount -t xenfs xenfs /proc/xen
version=/sys/hypervisor/version
TOOL="/lib64/ld-linux-x86-64.so.2 --library-path /xen/lib /xen/xen-livepatch"
# One run before the machine is saved: what it reads stays in memory.
$TOOL list >/dev/null 2>&1

say() { echo "@MARK@ $*"; }

extra() { read -r value <$version/extra; echo "$value"; }

tell() { # mark, file
    while IFS= read -r line || [ -n "$line" ]; do echo "@MARK@ $1 $line"; done <"$2"
}

step() { # number, verb, words
    number=$1; verb=$2; shift 2
    say "begin $number"
    status=0; tries=1
    case $verb in
    extra) : >/tmp/out ;;
    build-id) cat /sys/hypervisor/buildid >/tmp/out 2>&1; status=$? ;;
    read) cat "$1" >/tmp/out 2>&1; status=$? ;;
    list) $TOOL list >/tmp/out 2>&1; status=$? ;;
    tool) $TOOL "$@" >/tmp/out 2>&1; status=$? ;;
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
    read -r value <$version/extra
    say "end $number status=$status tries=$tries extra=<$value>"
}

say ready
read -r go
# The disk was changed while the machine was saved: forget what was read of it.
blockdev --flushbufs /dev/vda
mkdir -p /job
cd /job
tar xf /dev/vda
while read -r line; do
    set -- $line
    step "$@"
done </job/steps
say finished
sleep 1000000
"""


def init_script(modules: Sequence[str]) -> str:
    """Return dom0's ``/init``.

    Args:
        modules: Kernel modules to load, in order, without suffix.
    """
    return (
        _SCRIPT.replace("@MODULES@", " ".join(modules))
        .replace("@MARK@", MARK)
        .replace("@TRIES@", str(TRIES_MAX))
    )
