# SPDX-License-Identifier: Apache-2.0
"""What the hypervisor keeps: payloads, requests, the waiting CPUs."""
