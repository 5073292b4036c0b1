# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's memory as it is after boot."""
