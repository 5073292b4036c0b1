# SPDX-License-Identifier: Apache-2.0
"""A tool in front of the model: the real tool's commands, and tables of scenarios."""
