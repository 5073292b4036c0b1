# SPDX-License-Identifier: Apache-2.0
"""Data without behaviour: releases, machines, processors, error numbers, notes."""
