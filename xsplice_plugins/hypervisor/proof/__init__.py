# SPDX-License-Identifier: Apache-2.0
"""What is asked of a loaded payload, and what is reported."""
