"""The command `gridpact`: consumer and operator groups on the SDK, and the development stack.

Commands import what is heavy inside themselves, so that `gridpact --help` stays quick. Read
`main.py` first; other packages join by the entry-point group `gridpact.commands`.
"""
