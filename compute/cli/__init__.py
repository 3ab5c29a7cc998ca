"""The command group `gridpact provider`, which the entry point names; its commands stand in the files beside."""

from compute.cli.provider import commands as commands
