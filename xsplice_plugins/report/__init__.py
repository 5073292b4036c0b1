# SPDX-License-Identifier: Apache-2.0
"""What people and machines read: text, JSON, HTML."""
