/* SPDX-License-Identifier: GPL-2.0-only */
/* T9: as action.c, in a payload without function records. */
#define WITHOUT_RECORDS
#include "action.c"
