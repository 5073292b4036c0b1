# SPDX-License-Identifier: Apache-2.0
"""Proofs about a payload: the model, the running image, a real Xen."""
