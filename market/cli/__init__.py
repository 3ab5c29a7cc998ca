"""The command `gridpact`; groups of other packages come by entry point."""
