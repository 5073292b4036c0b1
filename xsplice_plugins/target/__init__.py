# SPDX-License-Identifier: Apache-2.0
"""The writer's facts: Xen's payload format, its special sections, and each machine."""
