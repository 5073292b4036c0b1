/* SPDX-License-Identifier: Apache-2.0 */
/* What a live patch adds to STRUCTURE; `of` tells whose it is. */
struct xsplice_TAG_shadow
{
    struct xsplice_TAG_shadow *next;
    const STRUCTURE *of;
    unsigned int number; /* of the next one, in the reserve */
MEMBERS};
struct xsplice_TAG_shadow *xsplice_TAG_shadow(const STRUCTURE *of);
void xsplice_TAG_drop(const STRUCTURE *of);
