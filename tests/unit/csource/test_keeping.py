# SPDX-License-Identifier: Apache-2.0
"""Memory that a function takes: does it give it back on each way out?"""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.keeping import allocations
from xsplice_plugins.csource.uses import tokens

HEAD = "int f(struct domain *d, unsigned int n)"
GET = "p = xmalloc_bytes(n)"
CHECK = "if ( !p ) return -ENOMEM;"


def _is_kept(body: str) -> bool:
    ((_, _, found),) = allocations(tokens(f"{HEAD} {{ {body} }}"))
    return found


@pytest.mark.parametrize(
    "body",
    [
        f"char *p; {GET}; {CHECK} use(p); xfree(p); return 0;",
        f"char *q, *p = NULL; {GET}; if ( p == NULL ) return 0; use(p); xfree(p); return rc;",
        f"char *{GET}; {CHECK} if ( use(p) ) goto out; rc = 0; out: xfree(p); return rc;",
        f"char *{GET}; if ( use(p) ) {{ xfree(p); return rc; }} xfree(p); return 0;",
        f"for ( ; n; n-- ) {{ char *{GET}; use(p); xfree(p); }} return 0;",
        "char *p; if ( (p = xmalloc_bytes(n)) == NULL ) return 0; XFREE(p); return 0;",
        "char *p; if ( !(p = (char *)xmalloc_bytes(n)) ) return n; xfree(p); return 0;",
        "struct page *p = alloc_domheap_pages(d, n, 0); use(p); free_domheap_pages(p, 1);",
        "struct s s = { 0 }; s.p = xmalloc_bytes(n); use(&s); xfree(s.p); return 0;",
        "char *p = n ? xmalloc_bytes(n) : NULL; use(p); xfree(p); return 0;",
        f"n = 1; {{ char *{GET}; use(p); xfree(p); }}",
        "d = xmalloc_bytes(n); use(d); xfree(d); return 0;",
        f"char *{GET}; if ( !p ) {{ rc = 1; goto out; }} xfree(p); out: return rc;",
        f"char *{GET}; use(&p[1], &p->x, p); xfree(p); return 0;",
    ],
)
def test_what_is_freed_on_each_way_out_is_not_kept(body: str) -> None:
    assert not _is_kept(body)


@pytest.mark.parametrize(
    "body",
    [
        "d->p = xmalloc_bytes(n); xfree(d->p); return 0;",
        f"char **p = &d->p; *{GET}; xfree(p); return 0;",
        "if ( (*d->p = xmalloc_bytes(n)) == NULL ) return 0; return 1;",
        "per_cpu(p, n) = xmalloc_bytes(n); return 0;",
        "d->p[n] = xmalloc_bytes(n); return 0;",
        f"{GET}; xfree(p); return 0;",  # no variable of this function's
        f"d->q = p; {GET}; xfree(p); return 0;",
        f"static char *p; {GET}; xfree(p); return 0;",
        "return xmalloc_bytes(n);",
        "insert(d, xmalloc_bytes(n)); return 0;",
        f"char *{GET}; {CHECK} insert(d, p); return 0;",
        f"char *{GET}; {CHECK} if ( insert(d, p) ) xfree(p); return 0;",
        f"char *{GET}; {CHECK} if ( insert(d, p) ) {{ xfree(p); return 1; }} return 0;",
        f"char *{GET}; {CHECK} if ( !insert(d, p) ) return 0; xfree(p); return 1;",
        f"char *{GET}; {CHECK} if ( n ) {{ insert(d, p); return 0; }} xfree(p); return 1;",
        f"char *{GET}; {CHECK} if ( p && insert(d, p) ) return 0; xfree(p); return 1;",
        f"char *{GET}; if ( use(p) ) goto bad; d->p = p; return 0; bad: xfree(p); return 1;",
        f"char *{GET}; if ( use(p) ) goto done; xfree(p); done: return 0;",
        f"char *{GET}; d->p = p; p = NULL; xfree(p); return 0;",
        f"char *{GET}, *q = d->p; xfree(q); return 0;",
        f"char *{GET}; if ( n ) {{ xfree(p); return 1; }} d->p = p; return 0; bad: xfree(p);",
        f"char *{GET}; if ( n ) {{ xfree(p); return 1; }} add(d, p); return 0; bad: xfree(p);",
        f"char *{GET}; if ( n ) {{ if ( d ) xfree(p); return 1; }} xfree(p); return 0;",
        f"char *{GET}; SWAP(d->p, p); xfree(p); return 0;",
        f"char *{GET}; exchange(d, &p); xfree(p); return 0;",
        f"char *{GET}; d->p = p; if ( n ) d->p = NULL; xfree(p); return 0;",
    ],
)
def test_what_is_not_understood_is_kept(body: str) -> None:
    assert _is_kept(body)
